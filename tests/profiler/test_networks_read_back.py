"""Networks of both dialects in ONNX Runtime on this machine: what each node really ran in."""

import numpy as np
import onnx
import pytest

from lightnas_edge.graph import Arithmetic, model_bytes, network_model
from lightnas_edge.space import Architecture, load_space
from profiler import backends


def network(space, dialect):
    """Without the writer's word on its dialect, by which the backend refuses the other runtime's graphs."""
    space = load_space(space)
    chosen = Architecture.random(space, np.random.default_rng(0))
    model = network_model(space, chosen, arithmetic=Arithmetic("int8", dialect))
    del model.metadata_props[:]
    return model_bytes(model)


def heavy_nodes(model):
    """(quantised, in float by design): names of convolutions and linear layers."""
    names = [node.name for node in onnx.load_model_from_string(model).graph.node if node.op_type in ("Conv", "Gemm")]
    return [name for name in names if ".squeeze." not in name], [name for name in names if ".squeeze." in name]


def read_back(model):
    return backends.open_backend("onnxruntime", "int8", 1, 1, "/nowhere").load(model).ran_in(model)


@pytest.mark.parametrize("space", ["tiny", "tiny-se"])
def test_in_the_runtime_s_own_dialect_every_quantised_node_runs_in_int8(space):
    model = network(space, "ort")
    quantised, in_float = heavy_nodes(model)

    found = read_back(model)

    assert found.counts == {"int8": len(quantised), **({"fp32": len(in_float)} if in_float else {})}
    assert found.fell_back == []


@pytest.mark.parametrize("space", ["tiny", "tiny-se"])
def test_in_the_other_dialect_none_does_and_each_is_named_as_fallen_back(space):
    """Squeeze-and-excitation is in float by design: it is counted and did not fall back."""
    model = network(space, "tensorrt")
    quantised, in_float = heavy_nodes(model)

    found = read_back(model)

    assert found.counts == {"fp32": len(quantised) + len(in_float)}
    assert found.fell_back == quantised

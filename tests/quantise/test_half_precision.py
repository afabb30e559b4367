"""A float32 graph that computes what half precision computes between its nodes."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from lightnas_edge.graph import model_bytes, network_model
from lightnas_edge.quantise.half_precision import rounded_to_half
from lightnas_edge.space import Architecture
from tests.search.problems import SPACE


def computed(model, images):
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(["output"], {"input": images})[0]


def convolutions(*factors):
    """1x1 convolutions of one channel in a row; between them a sum of each value with itself."""
    nodes, weights, last = [], [], "input"
    for index, factor in enumerate(factors):
        weights.append(numpy_helper.from_array(np.full((1, 1, 1, 1), factor, np.float32), f"w{index}"))
        nodes.append(helper.make_node("Conv", [last, f"w{index}"], [f"c{index}"]))
        last = f"c{index}"
        if index < len(factors) - 1:
            nodes.append(helper.make_node("Add", [last, last], [f"s{index}"]))
            last = f"s{index}"
    nodes[-1].output[0] = "output"
    shape = [1, 1, 1, 1]
    graph = helper.make_graph(
        nodes, "row",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, shape)], weights,
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def image(value):
    return np.full((1, 1, 1, 1), value, np.float32)


def test_a_value_between_nodes_overflows_where_half_precision_has_no_room():
    model = convolutions(300.0, 1e-4)

    assert computed(model, image(300.0)).item() == pytest.approx(18.0)
    assert computed(rounded_to_half(model), image(300.0)).item() == np.inf


def test_a_value_between_nodes_is_rounded():
    """2 * 1024.5 needs 12 bits; half has 11."""
    assert computed(rounded_to_half(convolutions(1.0, 1.0)), image(1024.5)).item() == 2048.0


def test_a_weight_beyond_half_precision_is_infinite():
    assert computed(rounded_to_half(convolutions(1e5, 1e-4)), image(1.0)).item() == np.inf


def test_a_network_keeps_its_file_and_computes_nearly_the_same():
    model = network_model(SPACE, Architecture.from_indices(SPACE, [0, 1, 2, 0]), batch=2)
    before = model_bytes(model)
    images = np.random.default_rng(0).standard_normal((2, 3, 16, 16)).astype(np.float32)

    floats, halves = computed(model, images), computed(rounded_to_half(model), images)

    assert model_bytes(model) == before
    onnx.checker.check_model(rounded_to_half(model), full_check=True)
    assert 0 < np.abs(halves - floats).max() < 0.01 * np.abs(floats).max()

"""Every operator and ten networks of each space are parsed and built by NVIDIA's builder, in three precisions.

This proves that the graphs build and in what type convolutions run in it. It is not the builder of a Jetson, and it judges
neither the placement of Q/DQ nor speed: docs/tensorrt.md.
"""

import json
from pathlib import Path

import numpy as np
import pytest

from lightnas_edge.graph import Arithmetic, model_bytes, network_model, operator_model
from lightnas_edge.space import Architecture, load_space
from profiler.errors import MeasureError
from tests.tensorrt_rtx.real_builder import build

SPACES = ["lightnas", "lightnas-se", "tiny"]
PRECISIONS = ["fp32", "fp16", "int8"]
NETWORKS = 10
TABLE = Path(__file__).with_name("kernels.json")
WRITE = False  # True rewrites the table: a new version of the builder, or of the graphs
MORE = 0.05  # that operators alone may have more kernels than their network
PADDED = (
    16  # channels of an int8 tensor between two kernels; the builder unpads the input of an operator alone, in one more
)

every = pytest.mark.parametrize(
    ("name", "precision"),
    # One process for each precision: what is built for one test is used by the next.
    [
        pytest.param(space, each, marks=pytest.mark.xdist_group(each), id=f"{space}-{each}")
        for each in PRECISIONS
        for space in SPACES
    ],
)


def arithmetic(precision):
    return Arithmetic.for_backend("tensorrt", precision)


def network(space, seed):
    return Architecture.random(space, np.random.default_rng(seed))


def whole(space, seed, precision):
    return build(model_bytes(network_model(space, network(space, seed), arithmetic=arithmetic(precision))), precision)


_OPERATORS = {}


def alone(shaped, precision):
    """Built once: the spaces share operators."""
    key = shaped.key, precision
    if key not in _OPERATORS:
        model = model_bytes(operator_model(shaped, arithmetic=arithmetic(precision)))
        _OPERATORS[key] = build(model, precision)._replace(plan=b"")
    return _OPERATORS[key]


@every
def test_every_operator_builds_and_its_convolutions_run_in_its_precision(name, precision):
    for shaped in load_space(name).shaped_operators():
        built = alone(shaped, precision)
        gates = 2 * shaped.block.endswith("_se") if precision == "int8" else 0  # squeeze-and-excitation stays in float
        others = sum(count for kind, count in built.convolutions.items() if kind != precision)
        assert others <= gates, f"{shaped.key}: {built.convolutions}"
        assert built.convolutions.get(precision, 0) >= (1 if shaped.block in ("stem", "skip", "head") else 2), (
            shaped.key
        )


@every
def test_ten_networks_build_and_have_the_kernels_of_their_operators(name, precision):
    """An operator alone must not pay for reformatting that its network does not pay."""
    space = load_space(name)
    for seed in range(NETWORKS):
        of_network = whole(space, seed, precision)
        chain = [each for each in space.chain(network(space, seed)) if not each.is_identity]
        kernels = sum(len(alone(each, precision).kernels) for each in chain)
        padded = sum(each.in_channels % PADDED > 0 for each in chain[1:]) if precision == "int8" else 0
        reformats = sum(alone(each, precision).reformats for each in chain) - of_network.reformats
        unpadding = max(0, min(padded, reformats))

        assert kernels - unpadding <= (1 + MORE) * len(of_network.kernels), f"network {seed}"


@every
def test_the_table_of_kernels_is_current(name, precision, version):
    space = load_space(name)
    of_network = whole(space, 0, precision)
    parts = [alone(each, precision) for each in space.chain(network(space, 0)) if not each.is_identity]
    found = {
        "operators": len(parts),
        "kernels of operators": sum(len(part.kernels) for part in parts),
        "reformats of operators": sum(part.reformats for part in parts),
        "kernels of network": len(of_network.kernels),
        "reformats of network": of_network.reformats,
        "convolutions of network": of_network.convolutions,
        "activation bytes of network": of_network.activation_bytes,
    }
    table = json.loads(TABLE.read_text()) if TABLE.exists() else {"builder": version, "rows": {}}
    if WRITE:
        table["rows"][f"{name} {precision}"] = found
        TABLE.write_text(json.dumps(table, indent=1) + "\n")
    assert table["builder"] == version
    assert found == table["rows"][f"{name} {precision}"]


def test_the_dialect_of_onnx_runtime_is_refused():
    shaped = load_space("tiny").stem
    model = model_bytes(operator_model(shaped, arithmetic=Arithmetic("int8", "ort")))

    with pytest.raises(MeasureError, match="cannot parse the model") as caught:
        build(model, "int8")
    assert caught.value.code == "load"


@pytest.mark.parametrize(
    ("written", "measured"), [("fp32", "fp16"), ("fp16", "fp32"), ("fp32", "int8"), ("int8", "fp32")]
)
def test_a_graph_in_another_precision_is_refused(written, measured):
    space = load_space("tiny")
    model = model_bytes(network_model(space, network(space, 0), arithmetic=arithmetic(written)))

    with pytest.raises(MeasureError, match="model"):
        build(model, measured)


def test_what_is_no_model_is_refused_in_the_words_of_the_parser():
    with pytest.raises(MeasureError, match="cannot parse the model"):
        build(b"not a model", "fp32")

"""What is measured per operator and what is deployed are built by the same lines, and this is what they build."""

import hashlib

import numpy as np
import onnx
import onnxruntime
import pytest

from lightnas_edge.errors import ExportError
from lightnas_edge.graph import model_bytes, network_model, operator_model, weight_shapes
from lightnas_edge.space import Architecture, Operator, ShapedOperator, Space, load_space

OPSETS = [11, 13, 15, 17, 19, 21]
SE_SPACE = {
    "schema": 1, "name": "se", "input_size": 16, "classes": 4, "stem": {"channels": 8, "stride": 1},
    "first": {"operator": "mbconv_k3_e1", "channels": 8},
    "operators": ["mbconv_k3_e3_se", "mbconv_k5_e6", "skip"],
    "layers": [{"channels": 8, "stride": 2}, {"channels": 8, "stride": 1}],
    "head": {"channels": 32, "features": 16},
}  # fmt: skip


@pytest.fixture(scope="module")
def tiny() -> Space:
    return load_space("tiny")


def run(model: onnx.ModelProto, images: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model_bytes(model), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(["output"], {"input": images})[0])


def kinds(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def network(space: Space, *names: str) -> Architecture:
    return Architecture.from_names(space, names)


@pytest.mark.parametrize("opset", OPSETS)
def test_every_operator_of_a_space_passes_the_checker_and_runs(tiny, opset):
    for shaped in tiny.shaped_operators():
        model = operator_model(shaped, opset=opset)
        onnx.checker.check_model(model, full_check=True)
        assert model.opset_import[0].version == opset
    side = tiny.head.input_size
    output = run(operator_model(tiny.head, batch=2, opset=opset), np.ones((2, 80, side, side), np.float32))
    assert output.shape == (2, 10)


@pytest.mark.parametrize("opset", OPSETS)
def test_a_network_computes_the_same_at_every_opset(tiny, opset):
    architecture = Architecture.random(tiny, np.random.default_rng(1))
    images = np.random.default_rng(2).standard_normal((2, 3, 32, 32)).astype(np.float32)
    model = network_model(tiny, architecture, batch=2, opset=opset)
    onnx.checker.check_model(model, full_check=True)

    expected = run(network_model(tiny, architecture, batch=2), images)

    np.testing.assert_array_equal(run(model, images), expected)


def test_no_graph_needs_more_than_onnxruntime_1_10_reads(tiny):
    """It documents IR version 7; opset 11 came with 6."""
    assert {opset: operator_model(tiny.stem, opset=opset).ir_version for opset in (11, 13, 15, 21)} == {
        11: 6, 13: 7, 15: 7, 21: 7,
    }  # fmt: skip


def test_an_mbconv_is_expand_depthwise_project_and_adds_its_input_only_when_it_keeps_the_shape():
    keeps = ShapedOperator("mbconv_k5_e6", 8, 8, 1, 14)
    halves = ShapedOperator("mbconv_k5_e6", 8, 8, 2, 14)

    assert kinds(operator_model(keeps)) == ["Conv", "Clip", "Conv", "Clip", "Conv", "Add"]
    assert kinds(operator_model(halves)) == ["Conv", "Clip", "Conv", "Clip", "Conv"]


def test_expansion_one_has_no_expanding_convolution():
    assert kinds(operator_model(ShapedOperator("mbconv_k3_e1", 16, 8, 1, 14))) == ["Conv", "Clip", "Conv"]


def test_squeeze_and_excitation_comes_before_the_clip_of_the_depthwise_convolution():
    model = operator_model(ShapedOperator("mbconv_k3_e3_se", 8, 16, 1, 14))

    assert kinds(model) == [
        "Conv", "Clip", "Conv", "GlobalAveragePool", "Conv", "Relu", "Conv", "Sigmoid", "Mul", "Clip", "Conv",
    ]  # fmt: skip
    reduce, expand = (node for node in model.graph.node if "squeeze" in node.name and node.op_type == "Conv")
    assert len(reduce.input) == len(expand.input) == 2  # no bias


def test_a_skip_that_changes_the_shape_is_a_convolution_and_one_that_does_not_is_nothing(tiny):
    shaped = ShapedOperator("skip", 16, 24, 2, 32)
    assert kinds(operator_model(shaped)) == ["Conv", "Clip"]
    assert run(operator_model(shaped), np.ones((1, 16, 32, 32), np.float32)).shape == (1, 24, 16, 16)

    with pytest.raises(ExportError, match="nothing to measure"):
        operator_model(ShapedOperator("skip", 24, 24, 1, 16))

    skips = network(tiny, *["skip"] * 8)
    assert not [name for name in weight_shapes(tiny, skips) if name.startswith("layers.1.")]


def test_a_network_is_the_chain_of_its_operators(tiny):
    """The nodes of the whole are the nodes of the parts, one after the other: the premise of a LUT."""
    architecture = Architecture.random(tiny, np.random.default_rng(3))

    parts = [kinds(operator_model(shaped)) for shaped in tiny.chain(architecture) if not shaped.is_identity]

    assert kinds(network_model(tiny, architecture)) == [kind for part in parts for kind in part]


def test_the_weights_given_are_the_weights_used():
    """A 1x1 skip with weight 2 and bias 1 turns ones into 3, and 5 into the 6 where ReLU6 ends."""
    space = Space.from_json(SE_SPACE)
    architecture = network(space, "skip", "skip")
    weights = {name: np.zeros(shape, np.float32) for name, shape in weight_shapes(space, architecture).items()}
    for name in ("stem.conv", "layers.0.conv"):
        weights[f"{name}.bias"][:] = 1.0
    weights["first.project.bias"][:] = 1.0  # the first block adds its input: 1 + 1
    weights["layers.0.conv.weight"][:, 0] = 2.0  # 2 * 2 + 1 = 5
    weights["head.conv.weight"][:, 0] = 2.0  # 10, clipped to 6
    weights["head.linear.weight"][:, 0] = 0.5  # 3
    weights["head.classifier.weight"][2, 0] = 1.0

    logits = run(network_model(space, architecture, weights=weights), np.ones((1, 3, 16, 16), np.float32))

    np.testing.assert_allclose(logits, [[0, 0, 3, 0]])


def test_all_faults_of_given_weights_come_in_one_message():
    space = Space.from_json(SE_SPACE)
    architecture = network(space, "mbconv_k3_e3_se", "skip")
    weights = {name: np.zeros(shape, np.float32) for name, shape in weight_shapes(space, architecture).items()}
    del weights["stem.conv.bias"]
    weights["head.conv.weight"] = np.zeros((1, 1), np.float32)
    weights["extra"] = np.zeros(1, np.float32)
    weights["first.depthwise.bias"][0] = np.nan

    with pytest.raises(ExportError) as caught:
        network_model(space, architecture, weights=weights)

    for fault in ("extra: unknown", "stem.conv.bias: it is missing", "found (1, 1)", "first.depthwise.bias: has"):
        assert fault in str(caught.value)


def test_the_weight_names_are_those_of_the_contract():
    space = Space.from_json(SE_SPACE)

    assert weight_shapes(space, network(space, "mbconv_k3_e3_se", "skip")) == {
        "stem.conv.weight": (8, 3, 3, 3), "stem.conv.bias": (8,),
        "first.depthwise.weight": (8, 1, 3, 3), "first.depthwise.bias": (8,),
        "first.project.weight": (8, 8, 1, 1), "first.project.bias": (8,),
        "layers.0.expand.weight": (24, 8, 1, 1), "layers.0.expand.bias": (24,),
        "layers.0.depthwise.weight": (24, 1, 3, 3), "layers.0.depthwise.bias": (24,),
        "layers.0.squeeze.reduce.weight": (6, 24, 1, 1), "layers.0.squeeze.expand.weight": (24, 6, 1, 1),
        "layers.0.project.weight": (8, 24, 1, 1), "layers.0.project.bias": (8,),
        "head.conv.weight": (32, 8, 1, 1), "head.conv.bias": (32,),
        "head.linear.weight": (16, 32), "head.linear.bias": (16,),
        "head.classifier.weight": (4, 16), "head.classifier.bias": (4,),
    }  # fmt: skip


def test_the_same_arguments_give_the_same_bytes_and_other_seeds_other_weights(tiny):
    shaped = tiny.at(3, Operator("mbconv", 5, 6))

    def digest(**arguments: int) -> str:
        return hashlib.sha256(model_bytes(operator_model(shaped, **arguments))).hexdigest()

    assert digest() == digest(seed=0, batch=1, opset=13)
    assert len({digest(), digest(seed=1), digest(batch=2), digest(opset=11)}) == 4


@pytest.mark.parametrize("name", ["tiny", "lightnas", "lightnas-se"])
def test_random_weights_keep_activations_alive_and_bounded(name):
    """Dead or denormal activations would be timed at another speed than real ones."""
    space = load_space(name)
    size = space.input_size
    images = np.random.default_rng(0).standard_normal((1, 3, size, size)).astype(np.float32)
    for architecture in (
        Architecture.random(space, np.random.default_rng(4)),
        Architecture.from_indices(space, [0] * len(space.layers)),
    ):
        model = network_model(space, architecture)
        probes = [node.output[0] for node in model.graph.node if node.op_type in ("Conv", "Add", "Gemm")]
        model.graph.output.extend(onnx.ValueInfoProto(name=probe) for probe in probes if probe != "output")
        session = onnxruntime.InferenceSession(model_bytes(model), providers=["CPUExecutionProvider"])

        strength = [float(np.sqrt(np.mean(np.square(tensor)))) for tensor in session.run(None, {"input": images})]

        assert min(strength) > 0.05
        assert max(strength) < 50


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"opset": 10}, "opset 10"), ({"opset": 22}, "11 to 21"), ({"batch": 0}, "at least one image")],
)
def test_an_opset_or_batch_out_of_range_is_refused(tiny, arguments, message):
    with pytest.raises(ExportError, match=message):
        operator_model(tiny.stem, **arguments)

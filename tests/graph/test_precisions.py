"""The same lines write float32, float16 and int8 in both dialects. Rules and their sources: docs/graphs.md."""

import collections

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, numpy_helper

from lightnas_edge.errors import ExportError
from lightnas_edge.graph import Arithmetic, activation_ranges, model_bytes, network_model, operator_model, weight_shapes
from lightnas_edge.graph.arithmetic import Scale, quantise_weight, weight_scales
from lightnas_edge.space import Architecture, load_space

FP32, FP16 = Arithmetic(), Arithmetic("fp16")
TENSORRT, ORT = Arithmetic("int8", "tensorrt"), Arithmetic("int8", "ort")
ALL = [FP32, FP16, TENSORRT, ORT]
SPACES = ["nasbench-macro", "tiny", "tiny-se"]
FLOAT, HALF, INT8, UINT8 = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT8, TensorProto.UINT8


def name_of(arithmetic):
    return arithmetic.dialect or arithmetic.precision


every = pytest.mark.parametrize("arithmetic", ALL, ids=name_of)


class Graph:
    """A model with its edges."""

    def __init__(self, model):
        self.model, self.nodes = model, list(model.graph.node)
        self.writer = {output: node for node in self.nodes for output in node.output}
        self.readers = collections.defaultdict(list)
        for node in self.nodes:
            for name in node.input:
                self.readers[name].append(node)
        self.arrays = {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}

    def of(self, *kinds):
        return [node for node in self.nodes if node.op_type in kinds]

    def kind(self, tensor):
        return self.writer[tensor].op_type if tensor in self.writer else "input"

    def kinds_after(self, tensor):
        return {node.op_type for node in self.readers[tensor]}


def networks(space, count=3):
    return [Architecture.random(space, np.random.default_rng(seed)) for seed in range(count)]


def images(space, batch=1):
    shape = (batch, 3, space.input_size, space.input_size)
    return np.random.default_rng(5).standard_normal(shape).astype(np.float32)


def session(model, path=None):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if path is not None:
        options.optimized_model_filepath = str(path)
    return onnxruntime.InferenceSession(model_bytes(model), options, providers=["CPUExecutionProvider"])


def run(model, values):
    return np.asarray(session(model).run(["output"], {"input": values})[0])


@every
@pytest.mark.parametrize("space", SPACES)
def test_every_operator_passes_the_checker_and_runs(space, arithmetic):
    for shaped in load_space(space).shaped_operators():
        model = operator_model(shaped, arithmetic=arithmetic, batch=2)
        onnx.checker.check_model(model, full_check=True)
        source = session(model).get_inputs()[0]
        kind = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(int8)": np.int8}
        values = np.ones(source.shape).astype(kind.get(source.type, np.uint8))
        assert len(run(model, values)) == 2


@every
@pytest.mark.parametrize("space", SPACES)
def test_the_edges_of_an_operator_are_those_inside_a_network(space, arithmetic):
    space = load_space(space)
    inside = {"fp32": FLOAT, "fp16": HALF, "tensorrt": INT8, "ort": UINT8}[name_of(arithmetic)]
    for shaped in space.shaped_operators():
        graph = operator_model(shaped, arithmetic=arithmetic).graph
        source, target = (ends[0].type.tensor_type.elem_type for ends in (graph.input, graph.output))
        assert source == (FLOAT if shaped.block == "stem" else inside)
        assert target == (FLOAT if shaped.block == "head" else inside)


@every
@pytest.mark.parametrize("space", SPACES)
def test_a_network_has_the_nodes_of_its_operators(space, arithmetic):
    space = load_space(space)
    for architecture in networks(space):
        whole = collections.Counter(
            node.op_type for node in network_model(space, architecture, arithmetic=arithmetic).graph.node
        )
        parts = collections.Counter(
            node.op_type
            for shaped in space.chain(architecture)
            if not shaped.is_identity
            for node in operator_model(shaped, arithmetic=arithmetic).graph.node
        )
        assert whole == parts


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize(("arithmetic", "least"), [(FP16, 0.99999), (TENSORRT, 0.99), (ORT, 0.98)])
def test_a_network_computes_what_its_float32_twin_does(space, arithmetic, least):
    space = load_space(space)
    for architecture in networks(space):
        values = images(space, batch=4)
        ranges = activation_ranges(network_model(space, architecture, batch=4), values)
        found = run(network_model(space, architecture, batch=4, arithmetic=arithmetic, ranges=ranges), values)
        wanted = run(network_model(space, architecture, batch=4), values)

        assert found.dtype == np.float32
        cosine = (found * wanted).sum() / np.linalg.norm(found) / np.linalg.norm(wanted)
        assert cosine >= least


@pytest.mark.parametrize("space", SPACES)
def test_the_kernels_of_onnx_runtime_compute_what_an_int8_file_says(space):
    """Also on CPUs without VNNI, where two products of 8-bit numbers are added in 16 bits. Large weights and images fill the range."""
    space = load_space(space)
    for architecture in networks(space):
        values = 3 * images(space, batch=4)
        ranges = activation_ranges(network_model(space, architecture, batch=4), values)
        model = network_model(space, architecture, batch=4, arithmetic=ORT, ranges=ranges)
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL  # node by node, in float
        plain = onnxruntime.InferenceSession(model.SerializeToString(), options).run(["output"], {"input": values})[0]

        found = run(model, values)

        assert (found * plain).sum() / np.linalg.norm(found) / np.linalg.norm(plain) > 0.999


def test_half_is_everywhere_between_the_two_casts():
    space = load_space("tiny")
    graph = Graph(network_model(space, networks(space)[0], arithmetic=FP16))

    assert [node.name for node in graph.of("Cast")] == ["input.cast", "output.cast"]
    assert {array.dtype for array in graph.arrays.values()} == {np.dtype(np.float16)}


# -- the dialect of TensorRT ----------------------------------------------------------------------------------


@pytest.fixture(params=SPACES)
def space(request):
    return load_space(request.param)


@pytest.fixture
def symmetric(space):
    return [Graph(network_model(space, each, arithmetic=TENSORRT)) for each in networks(space)]


@pytest.fixture
def unsigned(space):
    return [Graph(network_model(space, each, arithmetic=ORT)) for each in networks(space)]


def in_squeeze(node):
    return ".squeeze." in node.name


def test_tensorrt_reads_quantised_values_in_every_convolution_and_linear_layer(symmetric):
    for graph in symmetric:
        for node in graph.of("Conv", "Gemm"):
            quantised = {graph.kind(name) for name in node.input[:2]}
            if in_squeeze(node):
                assert "DequantizeLinear" not in quantised
            else:
                assert quantised == {"DequantizeLinear"}


def test_tensorrt_takes_symmetric_int8_with_one_scale_per_output_channel(symmetric):
    for graph in symmetric:
        for node in graph.of("QuantizeLinear", "DequantizeLinear"):
            zero = graph.arrays[node.input[2]]
            assert zero.dtype == np.int8 and not zero.any()
        for node in graph.of("Conv", "Gemm"):
            if not in_squeeze(node):
                weights = graph.writer[node.input[1]]
                assert weights.attribute[0].name == "axis" and weights.attribute[0].i == 0
                assert graph.arrays[weights.input[1]].shape == (len(graph.arrays[f"{node.name}.weight"]),)


def test_tensorrt_gets_a_float_bias(symmetric):
    for graph in symmetric:
        biases = [graph.arrays[node.input[2]] for node in graph.of("Conv", "Gemm") if len(node.input) > 2]
        assert biases and {bias.dtype for bias in biases} == {np.dtype(np.float32)}


def test_tensorrt_finds_nothing_between_a_convolution_and_its_activation(symmetric):
    for graph in symmetric:
        for node in graph.of("Clip"):
            assert graph.kind(node.input[0]) in ("Conv", "Gemm", "Mul")


def test_tensorrt_quantises_the_identity_branch_alone_of_a_sum(symmetric):
    sums = [(graph, node) for graph in symmetric for node in graph.of("Add")]
    assert sums
    for graph, node in sums:
        assert sorted(graph.kind(name) for name in node.input) == ["Conv", "DequantizeLinear"]


def test_tensorrt_quantises_before_pooling_and_leaves_squeeze_and_excitation_in_float(symmetric):
    for graph in symmetric:
        for node in graph.of("GlobalAveragePool"):
            assert graph.kind(node.input[0]) == ("Conv" if in_squeeze(node) else "DequantizeLinear")
        for node in graph.of("Mul"):
            assert sorted(graph.kind(name) for name in node.input) == ["Conv", "Sigmoid"]


# -- the dialect of ONNX Runtime's CPU kernels ------------------------------------------------------------------


def test_onnx_runtime_gets_unsigned_activations_signed_weights_and_an_int32_bias(unsigned):
    for graph in unsigned:
        for node in graph.of("Conv", "Gemm"):
            if in_squeeze(node):
                continue
            activation, weights, bias = (graph.writer[name] for name in node.input)
            assert graph.arrays[activation.input[2]].dtype == np.uint8
            assert graph.arrays[weights.input[0]].dtype == np.int8 and not graph.arrays[weights.input[2]].any()
            assert graph.arrays[bias.input[0]].dtype == np.int32
            products = graph.arrays[activation.input[1]] * graph.arrays[weights.input[1]]
            np.testing.assert_array_equal(graph.arrays[bias.input[1]], products)


def test_onnx_runtime_gets_quantised_values_on_both_sides_of_a_sum(unsigned):
    for graph in unsigned:
        for node in graph.of("Add"):
            assert {graph.kind(name) for name in node.input} == {"DequantizeLinear"}
            assert graph.kinds_after(node.output[0]) == {"QuantizeLinear"}


def test_the_end_of_an_unsigned_range_replaces_the_activation(space, unsigned):
    largest = 6 if space.activation == "relu6" else np.inf
    for graph in unsigned:
        assert not graph.of("Clip") and not [node for node in graph.of("Relu") if ".squeeze." not in node.name]
        for node in graph.of("Conv"):
            gated = any(other.name == f"{node.name.removesuffix('.depthwise')}.squeeze.scale" for other in graph.nodes)
            is_linear_skip = (
                not space.skip_activation and node.name.startswith("layers.") and node.name.endswith(".conv")
            )
            if in_squeeze(node) or node.name.endswith(".project") or gated or is_linear_skip:
                continue
            (quantise,) = graph.readers[node.output[0]]
            scale, zero = (graph.arrays[name] for name in quantise.input[1:])
            assert zero == 0 and 255 * float(scale) <= largest


def test_every_convolution_runs_in_int8_in_onnx_runtime(space, tmp_path):
    for number, architecture in enumerate(networks(space)):
        model = network_model(space, architecture, arithmetic=ORT)
        floats = sum(in_squeeze(node) for node in model.graph.node if node.op_type == "Conv")
        path = tmp_path / f"{number}.onnx"
        session(model, path)

        kinds = collections.Counter(node.op_type for node in onnx.load(path).graph.node)

        assert kinds["QLinearConv"] == sum(node.op_type == "Conv" for node in model.graph.node) - floats
        assert kinds["Conv"] + kinds["FusedConv"] == floats
        assert kinds["QGemm"] == len(space.head.hidden_channels) and not kinds["Gemm"]


# -- scales -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dialect", "found", "wanted"),
    [
        ("tensorrt", (-2.0, 1.0), (2 / 127, 0)),
        ("tensorrt", (0.5, 6.0), (6 / 127, 0)),
        ("ort", (0.5, 6.0), (6 / 255, 0)),
        ("ort", (-1.0, 1.55), (0.01, 100)),
        ("ort", (-3.0, -1.0), (3 / 255, 255)),
    ],
)
def test_zero_is_exact_and_the_range_is_covered(dialect, found, wanted):
    scale = Scale.of(found, dialect)
    assert scale.scale == pytest.approx(wanted[0], rel=1e-6) and scale.zero_point == wanted[1]


@pytest.mark.parametrize("found", [(1.0, -1.0), (float("nan"), 1.0), (0.0, float("inf"))])
def test_what_is_no_range_is_refused(found):
    with pytest.raises(ExportError, match="an activation's range is"):
        Scale.of(found, "ort")


def test_a_tensor_of_zeros_has_a_scale_that_divides():
    assert Scale.of((0.0, 0.0), "tensorrt").scale > 0
    assert (weight_scales(np.zeros((3, 2, 1, 1), np.float32), "ort") > 0).all()


def test_weights_are_quantised_as_onnx_runtime_quantises_them():
    weight = np.random.default_rng(0).standard_normal((4, 3, 2, 2)).astype(np.float32)
    scales = weight_scales(weight, "tensorrt")
    nodes = [onnx.helper.make_node("QuantizeLinear", ["input", "scale", "zero"], ["output"], axis=0)]
    graph = onnx.helper.make_graph(
        nodes, "q", [onnx.helper.make_tensor_value_info("input", FLOAT, weight.shape)],
        [onnx.helper.make_tensor_value_info("output", INT8, weight.shape)],
        [numpy_helper.from_array(scales, "scale"), numpy_helper.from_array(np.zeros(4, np.int8), "zero")],
    )  # fmt: skip
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=7)

    np.testing.assert_array_equal(quantise_weight(weight, scales, "tensorrt"), run(model, weight))


# -- what is refused --------------------------------------------------------------------------------------------


def test_a_range_that_is_missing_is_named():
    space = load_space("tiny")
    architecture = networks(space)[0]
    ranges = activation_ranges(network_model(space, architecture), images(space))
    del ranges["first.project.out"]

    with pytest.raises(ExportError, match=r"the range of activation first\.project\.out is missing"):
        network_model(space, architecture, arithmetic=ORT, ranges=ranges)


def test_an_opset_without_scales_per_channel_is_refused_for_int8():
    with pytest.raises(ExportError, match="opset 12 has no per-channel QuantizeLinear"):
        operator_model(load_space("tiny").stem, arithmetic=ORT, opset=12)


@pytest.mark.parametrize("words", [("int8",), ("int8", "openvino"), ("fp32", "ort"), ("bf16",)])
def test_an_arithmetic_that_does_not_exist_is_refused(words):
    with pytest.raises(ExportError):
        Arithmetic(*words)


@pytest.mark.parametrize(
    ("backend", "dialect"),
    [("onnxruntime", "ort"), ("tensorrt", "tensorrt"), ("onnxruntime-tensorrt", "tensorrt"), ("simulated", "tensorrt")],
)
def test_the_dialect_follows_the_backend(backend, dialect):
    assert Arithmetic.for_backend(backend, "int8") == Arithmetic("int8", dialect)
    assert Arithmetic.for_backend(backend, "fp16") == FP16


def test_float32_graphs_are_unchanged_by_what_int8_needs():
    space = load_space("tiny")
    assert not {node.op_type for node in network_model(space, networks(space)[0]).graph.node} & {
        "Cast",
        "QuantizeLinear",
    }


def test_a_channel_without_weights_keeps_its_bias_in_onnx_runtime():
    """A batch norm that died leaves such a channel when it is folded."""
    space = load_space("tiny")
    architecture = networks(space)[0]
    generator = np.random.default_rng(0)
    weights = {
        name: (generator.standard_normal(shape) * 0.2).astype(np.float32)
        for name, shape in weight_shapes(space, architecture).items()
    }
    weights["stem.conv.weight"][0], weights["stem.conv.bias"][0] = 0.0, 3.0
    weights["stem.conv.weight"][1], weights["stem.conv.bias"][1] = 1e-6, 3.0
    model = network_model(space, architecture, weights=weights, arithmetic=ORT)
    graph = Graph(model)

    stored, unit = graph.arrays["stem.conv.bias"], graph.arrays["stem.conv.bias.scale"]

    np.testing.assert_allclose(stored[:2] * unit[:2], 3.0, rtol=1e-6)


@every
def test_a_model_says_what_it_computes_in(arithmetic):
    props = {
        each.key: each.value for each in operator_model(load_space("tiny").stem, arithmetic=arithmetic).metadata_props
    }
    wanted = {"fp32": None, "fp16": "fp16", "tensorrt": "int8 tensorrt", "ort": "int8 ort"}[name_of(arithmetic)]
    assert props.get("lightnas_edge.arithmetic") == wanted

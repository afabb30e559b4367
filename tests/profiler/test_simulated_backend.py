"""Models of any kind on a virtual board: their kernels, their layers, and real outputs."""

import json

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from devices.virtual import make_board
from lightnas_edge.graph import Arithmetic, model_bytes, network_model
from lightnas_edge.space import Architecture, load_space
from profiler.backends import onnx_file
from profiler.backends.simulated import Simulated
from profiler.backends.simulated_halves import in_half_precision
from profiler.backends.simulated_kernels import FREE, read_kernels
from profiler.errors import BackendError, MeasureError
from profiler.system import System
from tests.profiler.tensorrt import standin
from tests.profiler.test_onnxruntime_backend import LIGHT, image, model_of, residual_model


@pytest.fixture
def backend(tmp_path):
    make_board(tmp_path / "board", "jetson-nano")
    return Simulated("fp32", None, 1, System(str(tmp_path / "board")))


def test_several_inputs_and_outputs_are_timed_and_evaluated(backend):
    engine = backend.load(standin.token_model())

    before_s = backend.clock()
    engine.run(3)

    assert backend.clock() > before_s and engine.peak_memory_mb() > 0
    standin.check_tokens(engine.evaluate(standin.tokens()))
    with pytest.raises(MeasureError, match="one inference needs 36"):
        engine.evaluate(b"")


def test_a_model_has_its_own_shapes_where_no_batch_is_given(backend):
    assert backend.fingerprint()["batch"] is None
    one, eight = (backend.load(standin.conv_model(batch=batch, side=64)).true_latency_s() for batch in (1, 8))
    assert eight > one


def test_the_layers_are_the_kernels_of_the_latency(backend):
    profile = backend.layer_profile(residual_model(), 4)

    assert [(layer["type"], layer["onnx_nodes"]) for layer in profile["layers"]] == [
        ("Conv", ["a", "b"]), ("Conv", ["c", "d", "e"]), ("Conv", ["f"]), ("Transpose", ["g"]), ("Softmax", ["y"]),
    ]  # fmt: skip
    sync_ms = backend.runtime()["facts"]["sync_us"] / 1e3
    for run, total_ms in enumerate(profile["total_ms"]):
        layers_ms = sum(layer["times_ms"][run] for layer in profile["layers"])
        # The noise of a run is that of the whole: the ratio of the sum to the total is the true one.
        assert 0 < layers_ms < total_ms
        assert (total_ms - layers_ms) / sync_ms == pytest.approx(1, abs=0.5)
    assert len(set(profile["total_ms"])) > 1
    assert (profile["source"], profile["runs"], profile["warnings"]) == ("simulated", 4, ["every time is simulated"])
    stem = profile["layers"][0]
    assert stem["name"] == "a + b" and stem["precision"] == "fp32"
    assert stem["inputs"][0] == {"name": "x", "type": "fp32", "shape": [1, 3, 16, 16]}
    assert stem["outputs"] == [{"name": "b", "type": "fp32", "shape": [1, 16, 16, 16]}]


def test_an_operator_without_a_formula_costs_its_traffic():
    model = model_of([helper.make_node("Erf", ["x"], ["y"])], [image()], [image("y")])
    (kernel,) = read_kernels(model, None).kernels
    assert (kernel.macs, kernel.values) == (0, 2 * 16 * 16 * 16)


@pytest.mark.parametrize(
    ("node", "shapes", "macs"),
    [
        (helper.make_node("MatMul", ["x", "w"], ["y"]), ([2, 5, 7], [2, 7, 3], [2, 5, 3]), 2 * 5 * 7 * 3),
        (helper.make_node("Gemm", ["x", "w"], ["y"], transA=1), ([7, 5], [7, 3], [5, 3]), 5 * 7 * 3),
        (helper.make_node("ConvTranspose", ["x", "w"], ["y"], strides=[2, 2]), ([1, 4, 8, 8], [4, 6, 2, 2], [1, 6, 16, 16]),
         4 * 8 * 8 * 6 * 2 * 2),
    ],
)  # fmt: skip
def test_products_and_convolutions_cost_their_multiplications(node, shapes, macs):
    source, weight, target = ((name, TensorProto.FLOAT, shape) for name, shape in zip("xwy", shapes, strict=True))
    (kernel,) = read_kernels(model_of([node], [source, weight], [target]), None).kernels
    assert kernel.macs == macs


def test_what_does_not_depend_on_the_inputs_costs_nothing_but_memory():
    shape = ("shape", np.array([16, 16, 1, 1], np.int64))
    nodes = [helper.make_node("ConstantOfShape", ["shape"], ["w"]), helper.make_node("Conv", ["x", "w"], ["y"])]
    read = read_kernels(model_of(nodes, [image()], [image("y")], [shape]), None)
    assert [kernel.type for kernel in read.kernels] == ["Conv"]
    assert read.peak_values == 4 + 16 * 16 + 2 * 16 * 16 * 16


def test_a_shape_that_is_missing_from_the_file_is_inferred_through_computed_shapes():
    """Flattening by Shape, Gather and Concat, as exporters write it."""
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Gather", ["s", "zero"], ["n"]),
        helper.make_node("Concat", ["n", "rest"], ["t"], axis=0),
        helper.make_node("Reshape", ["x", "t"], ["flat"]),
        helper.make_node("Softmax", ["flat"], ["y"]),
    ]
    constants = [("zero", np.array([0], np.int64)), ("rest", np.array([-1], np.int64))]
    read = read_kernels(model_of(nodes, [image()], [("y", TensorProto.FLOAT, ["a", "b"])], constants), None)
    assert [(kernel.type, kernel.values) for kernel in read.kernels][-1] == ("Softmax", 2 * 16 * 16 * 16)


def test_a_shape_that_depends_on_values_is_that_of_the_values_that_are_timed():
    nodes = [helper.make_node("NonZero", ["x"], ["i"]), helper.make_node("Neg", ["i"], ["y"])]
    read = read_kernels(model_of(nodes, [image()], [("y", TensorProto.INT64, [4, "n"])]), None)
    assert read.kernels[1].values == 2 * 4 * 16 * 16 * 16  # no drawn value is zero


def test_a_shape_that_stays_unknown_is_an_error_that_names_the_tensor(backend):
    open_input = model_of([helper.make_node("Relu", ["x"], ["y"])], [("x", TensorProto.FLOAT, ["n", 4])], [image("y")])
    with pytest.raises(MeasureError, match=r"the shape of x is not known: \['\?', 4\]") as caught:
        backend.load(open_input)
    assert caught.value.code == "load" and "--shape" in caught.value.remedy

    nodes = [helper.make_node("Mystery", ["x"], ["i"], domain="my.ops"), helper.make_node("Relu", ["i"], ["y"])]
    with pytest.raises(MeasureError, match="the shape of i is not known: nothing is known of it"):
        backend.load(model_of(nodes, [image()], [image("y")], domains=["my.ops"]))


def test_what_is_no_model_is_an_error(backend):
    with pytest.raises(MeasureError, match="this is no ONNX model"):
        backend.load(b"no model")


def test_an_operator_that_onnx_runtime_lacks_is_an_error_of_the_evaluation_alone(backend):
    node = helper.make_node("Mystery", ["x"], ["y"], name="n", domain="my.ops")
    engine = backend.load(model_of([node], [image()], [image("y")], domains=["my.ops"]))
    engine.run(1)
    with pytest.raises(MeasureError, match=r"has no operator Mystery of my\.ops opset 1, node n"):
        engine.evaluate(bytes(4 * 16 * 16 * 16))


@pytest.mark.parametrize("path", LIGHT, ids=[path.rsplit("light_", 1)[-1] for path in LIGHT])
def test_every_computing_node_of_a_light_model_is_in_exactly_one_kernel(backend, path):
    with open(path, "rb") as file:
        model = file.read()
    backend.load(model).run(1)

    found = [name for kernel in read_kernels(model, None).kernels for name in kernel.nodes]

    sent = onnx_file.read_graph(model)
    computed = set(sent.inputs)
    wanted = []
    for node in sent.nodes:
        if computed.intersection(node.inputs):
            computed.update(node.outputs)
            if node.op_type not in FREE:
                wanted.append(node.label)
    assert sorted(found) == sorted(wanted)


# What the TensorRT of such a board refuses


@pytest.fixture
def virtual(tmp_path):
    """Open a backend on a virtual board; `tensorrt` changes what its virtual.json says."""

    def open_backend(precision, board="jetson-agx-xavier", **tensorrt):
        make_board(tmp_path / "board", board)
        path = tmp_path / "board" / "virtual.json"
        spec = json.loads(path.read_text())
        path.write_text(json.dumps(dict(spec, tensorrt=dict(spec["tensorrt"], **tensorrt))))
        return Simulated(precision, None, 1, System(str(tmp_path / "board")))

    return open_backend


SPACES = {name: load_space(name) for name in ("tiny", "tiny-se")}


def network(precision, dialect=None, space="tiny"):
    chosen = Architecture.random(SPACES[space], np.random.default_rng(0))
    return model_bytes(network_model(SPACES[space], chosen, arithmetic=Arithmetic(precision, dialect)))


@pytest.mark.parametrize(
    ("precision", "model", "text"),
    [
        ("int8", ("fp32",), "has no QuantizeLinear or DequantizeLinear"),
        ("int8", ("fp16",), "has no QuantizeLinear or DequantizeLinear"),
        ("fp32", ("int8", "tensorrt"), "is quantised .* it would not compute in fp32"),
        ("fp16", ("int8", "tensorrt"), "is quantised .* it would not compute in fp16"),
        ("fp32", ("fp16",), "this model computes in fp16, not in fp32"),
        ("int8", ("int8", "ort"), r"TensorRT 8\.5\.2 cannot parse the model: node input.quantise .* non-zero zero points"),
    ],
)  # fmt: skip
def test_a_graph_in_another_precision_is_refused_as_tensorrt_does(virtual, precision, model, text):
    with pytest.raises(MeasureError, match=text) as caught:
        virtual(precision).load(network(*model))
    assert caught.value.code == "load" and caught.value.remedy


def test_a_bias_of_int32_is_refused_where_all_zero_points_are_zero(virtual):
    loaded = onnx.load_model_from_string(network("int8", "ort"))
    for tensor in loaded.graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        if values.dtype == np.uint8:
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.zeros_like(values), tensor.name))

    with pytest.raises(MeasureError, match=r"node stem.conv.bias.dequantise .* type int32 is not supported"):
        virtual("int8").load(loaded.SerializeToString())


def test_before_11_a_flag_makes_half_precision_of_float32_and_from_11_on_the_graph_decides(virtual):
    virtual("fp16").load(network("fp32")).run(1)
    virtual("fp16", version="11.4.0").load(network("fp16")).run(1)

    with pytest.raises(MeasureError, match=r"TensorRT 11\.4\.0 takes the precision from the model") as caught:
        virtual("fp16", version="11.4.0").load(network("fp32"))
    assert caught.value.remedy == "export it in fp16, or use --precision fp32"


@pytest.mark.parametrize("board", ["jetson-nano", "jetson-tx2"])
def test_boards_without_fast_int8_refuse_it_before_a_model_is_read(virtual, board):
    with pytest.raises(BackendError, match=f"virtual:{board} has no fast int8") as caught:
        virtual("int8", board)
    assert caught.value.remedy == "use --precision fp16"


def test_an_opset_above_what_its_tensorrt_reads_is_refused(virtual):
    """JetPack 4 has TensorRT 8.2.1, which reads opset 13."""
    node = helper.make_node("Relu", ["x"], ["y"])
    virtual("fp32", "jetson-nano").load(model_of([node], [image()], [image("y")], opset=13))

    with pytest.raises(MeasureError, match=r"TensorRT 8\.2\.1 reads opset 13 at most; the model has opset 14"):
        virtual("fp32", "jetson-nano").load(model_of([node], [image()], [image("y")], opset=14))


# What it runs in, and its outputs


def test_what_is_not_quantised_runs_in_half_precision_and_did_not_fall_back(virtual):
    model = network("int8", "tensorrt", "tiny-se")
    backend = virtual("int8")
    engine = backend.load(model)

    found = engine.ran_in(model)

    gates = sum(
        ".squeeze." in node.name for node in onnx.load_model_from_string(model).graph.node if node.op_type == "Conv"
    )
    assert gates > 0 and found.counts["fp16"] == gates
    assert set(found.counts) == {"int8", "fp16"} and found.fell_back == []
    precisions = {layer["name"]: layer["precision"] for layer in backend.layer_profile(model, 1)["layers"]}
    assert {precision for name, precision in precisions.items() if ".squeeze.reduce" in name} == {"fp16"}


def test_an_int8_network_is_slower_where_its_gates_stay_in_float(virtual):
    """The same arithmetic with every gate at the speed of 8 bits would be faster."""
    backend = virtual("int8")
    engine = backend.load(network("int8", "tensorrt", "tiny-se"))
    kernels = zip(engine.true_kernels_s(), engine.precisions, engine.kernels, strict=True)
    spec = backend.runtime()["facts"]

    for seconds, precision, kernel in kernels:
        bytes_per_value = {"int8": 1, "fp16": 2}[precision]
        least_s = kernel.values * bytes_per_value / (spec["bandwidth_gb_s"] * 1e9) * (1 - spec["context"])
        assert seconds > least_s + spec["launch_us"] * 1e-6


def product(factors, kind):
    """y = x times each factor in turn."""
    dtype = {TensorProto.FLOAT: np.float32, TensorProto.FLOAT16: np.float16}[kind]
    names = ["x", *(f"m{index}" for index in range(len(factors) - 1)), "y"]
    nodes = [helper.make_node("Mul", [names[index], f"w{index}"], [names[index + 1]]) for index in range(len(factors))]
    weights = [(f"w{index}", np.array([factor], dtype)) for index, factor in enumerate(factors)]
    return model_of(nodes, [("x", kind, [1])], [("y", kind, [1])], weights)


@pytest.mark.parametrize("kind", [TensorProto.FLOAT, TensorProto.FLOAT16])
def test_what_half_precision_cannot_hold_is_lost(virtual, kind):
    """300 x 300 is above 65504, and 1 + 2^-12 is 1: ONNX Runtime itself computes both graphs in float32."""
    engine = virtual("fp16").load(product([300, 300, 1e-4], kind))
    assert np.frombuffer(engine.evaluate(np.float32(1).tobytes()), "<f4")[0] == np.inf

    engine = virtual("fp16").load(product([1], kind))
    assert np.frombuffer(engine.evaluate(np.float32(1 + 2**-12).tobytes()), "<f4")[0] == 1


def test_fp32_is_not_rounded(virtual):
    engine = virtual("fp32").load(product([300, 300, 1e-4], TensorProto.FLOAT))
    assert np.frombuffer(engine.evaluate(np.float32(1).tobytes()), "<f4")[0] == pytest.approx(9)


def test_a_model_with_branches_is_not_evaluated_in_half_precision(virtual):
    branch = helper.make_graph(
        [helper.make_node("Neg", ["x"], ["o"])], "b", [], [helper.make_tensor_value_info("o", TensorProto.FLOAT, [2])]
    )
    node = helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)
    model = model_of(
        [node], [("c", TensorProto.BOOL, []), ("x", TensorProto.FLOAT, [2])], [("y", TensorProto.FLOAT, [2])]
    )
    engine = virtual("fp16").load(model)
    engine.run(1)

    with pytest.raises(MeasureError, match="does not evaluate a model with branches or loops in half precision"):
        engine.evaluate(bytes(9))


@pytest.mark.parametrize("path", LIGHT, ids=[path.rsplit("light_", 1)[-1] for path in LIGHT])
def test_every_light_model_has_the_same_outputs_in_half_precision_as_far_as_they_have_room(path):
    """Their weights are constants, with which some overflow half precision; what is finite is near float32."""
    with open(path, "rb") as file:
        model = file.read()
    sessions = [
        onnxruntime.InferenceSession(each, providers=["CPUExecutionProvider"])
        for each in (model, in_half_precision(model))
    ]
    (source,) = sessions[0].get_inputs()
    image = np.random.default_rng(0).normal(size=source.shape).astype(np.float32)

    wanted, found = (session.run(None, {source.name: image})[0] for session in sessions)

    assert found.shape == wanted.shape and found.dtype == wanted.dtype
    finite = np.isfinite(found)
    assert np.abs(found - wanted)[finite].max(initial=0) <= 0.05 * np.abs(wanted).max()


def test_int8_outputs_are_those_of_the_graph_node_by_node(virtual):
    """Without the CPU's own 8-bit kernels, in which sums may saturate."""
    model = network("int8", "tensorrt")
    side = SPACES["tiny"].input_size
    image = np.random.default_rng(0).normal(size=(1, 3, side, side)).astype(np.float32)

    found = np.frombuffer(virtual("int8").load(model).evaluate(image.tobytes()), "<f4")

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    (wanted,) = onnxruntime.InferenceSession(model, options).run(None, {"input": image})
    floats = onnxruntime.InferenceSession(network("fp32")).run(None, {"input": image})[0]
    np.testing.assert_array_equal(found, wanted.ravel())
    assert np.abs(found - floats.ravel()).max() > 0


def test_streams_share_the_gpu_until_it_is_always_busy(backend):
    """Two of them hide what each waits for; many of them run at the rate of the kernels, and each waits for the others."""
    space = load_space("tiny")
    network = network_model(space, Architecture.random(space, np.random.default_rng(0)), batch=1)
    engine = backend.load(model_bytes(network))
    latency_s = {count: engine.in_streams_at(100.0, count)[0] for count in (1, 2, 32, 64)}

    assert latency_s[1] <= latency_s[2] < 2 * latency_s[1]
    assert latency_s[64] == pytest.approx(2 * latency_s[32])
    assert engine.in_streams_at(100.0, 64)[1].gpu <= 1 + 1e-9


def test_every_stream_has_samples_of_its_own_in_the_time_of_the_board(backend):
    two = backend.load(standin.token_model()).in_streams(2)
    begin_s = backend.clock()

    streams = two.timed(3, 5, backend.clock)

    assert [len(each.samples_ms) for each in streams] == [5, 5]
    assert streams[0].samples_ms != streams[1].samples_ms
    mean_span_ms = sum(each.span_ms for each in streams) / 2
    assert mean_span_ms == pytest.approx(1e3 * (backend.clock() - begin_s))

"""Models of any kind on a virtual board: their kernels, their layers, and real outputs."""

import numpy as np
import pytest
from onnx import TensorProto, helper

from devices.virtual import make_board
from profiler.backends import onnx_file
from profiler.backends.simulated import Simulated
from profiler.backends.simulated_kernels import FREE, read_kernels
from profiler.errors import MeasureError
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

"""Any ONNX file in fp16 and int8, by ONNX Runtime's own tools."""

import importlib.util
import logging

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from lightnas_edge.errors import CalibrationError, ModelError
from lightnas_edge.models import random_inputs, read_model, reference_outputs
from lightnas_edge.quantise.any_model import to_fp16, to_int8
from tests.models import files
from tests.models_online import networks

METHODS = ["minmax", "entropy", "percentile"]
DIALECTS = ["ort", "tensorrt"]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The networks that PyTorch exports, by name."""
    folder = tmp_path_factory.mktemp("exported")

    def model(name):
        path = folder / f"{name}.onnx"
        if not path.exists():
            networks.export(name, path)
        return read_model(path, shapes={"input_ids": (1, 16)} if name == "transformer" else {})

    return model


def read(folder, made):
    return read_model(files.saved(folder, made))


def reread(folder, content):
    path = folder / "converted.onnx"
    path.write_bytes(content)
    return read_model(path)


def cosine(one, other):
    one, other = one.ravel().astype(np.float64), other.ravel().astype(np.float64)
    return one @ other / np.linalg.norm(one) / np.linalg.norm(other)


def agreement(folder, model, content, inputs):
    """The smallest cosine between outputs of the converted and the float model."""
    converted = reread(folder, content)
    ours, theirs = reference_outputs(converted, inputs), reference_outputs(model, inputs)
    assert list(ours) == list(theirs)
    return min(cosine(ours[name], theirs[name]) for name in ours)


def nodes(content):
    return onnx.load_model_from_string(content).graph.node


def product(weights=None, op="Gemm", beta=0.5, opset=17):
    """x (1, 4) times w (4, 3), plus half of c for a Gemm."""
    weights = np.arange(12).reshape(4, 3) - 5.0 if weights is None else weights
    gemm = op == "Gemm"
    node = helper.make_node(
        op, ["x", "w", "c"] if gemm else ["x", "w"], ["y"], name="product", **({"beta": beta} if gemm else {})
    )
    return files.model(
        [node],
        [files.value("x", [1, 4])],
        [files.value("y", [1, 3])],
        [files.constant("w", weights), files.constant("c", [[8, 4, 2]])],
        opset=opset,
    )


@pytest.mark.parametrize("name", ["resnet", "mobilenet", "transformer"])
def test_fp16_agrees_with_float32_and_keeps_the_types_at_its_ends(name, exported, tmp_path):
    model = exported(name)
    content = to_fp16(model)

    assert agreement(tmp_path, model, content, random_inputs(model, 2, 1)) > 0.9999
    converted = reread(tmp_path, content).facts
    assert converted.precision == "fp16"
    assert (converted.inputs, converted.outputs) == (model.facts.inputs, model.facts.outputs)


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("name", ["resnet", "mobilenet", "transformer"])
def test_int8_agrees_with_float32_in_both_dialects(name, dialect, exported, tmp_path):
    model = exported(name)
    content = to_int8(model, dialect, random_inputs(model, 4, 0), "minmax")

    assert agreement(tmp_path, model, content, random_inputs(model, 2, 1)) > 0.99
    assert reread(tmp_path, content).facts.precision == "int8"


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_method_of_calibration_agrees_with_float32(method, dialect, tmp_path):
    model = read(tmp_path, product(op="MatMul"))
    content = to_int8(model, dialect, random_inputs(model, 8, 0), method)

    assert agreement(tmp_path, model, content, random_inputs(model, 2, 1)) > 0.98


def test_the_dialect_of_tensorrt_has_symmetric_activations_float_weights_and_no_int32(exported):
    made = onnx.load_model_from_string(
        to_int8(exported("resnet"), "tensorrt", random_inputs(exported("resnet"), 2, 0), "minmax")
    )
    constants = {each.name: onnx.numpy_helper.to_array(each) for each in made.graph.initializer}
    pairs = [node for node in made.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]

    assert pairs
    assert all(constants[node.input[2]].dtype == np.int8 and not constants[node.input[2]].any() for node in pairs)
    assert not any(array.dtype == np.int32 for array in constants.values())
    makers = {name: node for node in made.graph.node for name in node.output}
    quantised = {node.input[0] for node in made.graph.node if node.op_type == "QuantizeLinear"}
    for node in made.graph.node:
        if node.op_type in ("Conv", "Gemm"):
            assert [makers[name].op_type for name in node.input[:2]] == ["DequantizeLinear"] * 2
            assert not set(node.output) & quantised, "what follows a convolution may be fused with it"


def test_the_convolutions_of_the_dialect_of_onnx_runtime_run_in_8_bits(exported, tmp_path):
    import onnxruntime

    content = to_int8(exported("resnet"), "ort", random_inputs(exported("resnet"), 2, 0), "minmax")
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 4
    onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    optimised = [node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node]

    convolutions = sum(node.op_type == "Conv" for node in nodes(content))
    assert optimised.count("QLinearConv") == convolutions == 12
    assert "Conv" not in optimised


def test_probabilities_are_not_rounded_to_8_bits(tmp_path):
    """A softmax over 1000 classes has values near 1/1000, below the step of uint8 between 0 and 1."""
    rng = np.random.default_rng(0)
    made = files.model(
        [helper.make_node("Gemm", ["x", "w"], ["logits"]), helper.make_node("Softmax", ["logits"], ["y"], axis=1)],
        [files.value("x", [1, 8])],
        [files.value("y", [1, 1000])],
        [files.constant("w", rng.standard_normal((8, 1000)) / 10)],
    )
    model = read(tmp_path, made)
    inputs = random_inputs(model, 4, 0)
    assert agreement(tmp_path, model, to_int8(model, "ort", inputs, "minmax"), inputs) > 0.999


@pytest.mark.parametrize("dialect", DIALECTS)
def test_the_factor_of_a_bias_is_kept(dialect, tmp_path):
    """The quantiser sets it to 1, which is right for a bias in int32 alone."""
    model = read(tmp_path, product())
    inputs = {"x": np.random.default_rng(0).uniform(-1, 1, (8, 1, 4)).astype(np.float32)}
    found = reference_outputs(reread(tmp_path, to_int8(model, dialect, inputs, "minmax")), inputs)["y"]
    np.testing.assert_allclose(found, reference_outputs(model, inputs)["y"], atol=0.2)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_an_old_file_that_lists_its_constants_as_inputs_is_converted(dialect, tmp_path):
    """Opset 9 and IR version 3, as files of 2018 have them; scales for each channel need opset 13."""
    made = files.convolution(shape=(1, 3, 8, 8), out=(1, 4, 6, 6))
    made.graph.input.extend(files.value(each.name, list(each.dims)) for each in made.graph.initializer)
    made.opset_import[0].version, made.ir_version = 9, 3
    model = read(tmp_path, made)
    inputs = random_inputs(model, 4, 0)

    content = to_int8(model, dialect, inputs, "minmax")
    assert onnx.load_model_from_string(content).opset_import[0].version == 13
    assert agreement(tmp_path, model, content, inputs) > 0.999
    assert agreement(tmp_path, model, to_fp16(model), inputs) > 0.9999


def test_nodes_without_names_are_quantised(tmp_path):
    model = read(tmp_path, product(op="MatMul"))
    inputs = random_inputs(model, 4, 0)
    content = to_int8(model, "ort", inputs, "minmax")
    assert agreement(tmp_path, model, content, inputs) > 0.999


def test_nothing_is_printed_and_no_logger_is_set_up(exported, capfd):
    before = list(logging.getLogger().handlers)
    to_int8(exported("transformer"), "ort", random_inputs(exported("transformer"), 2, 0), "percentile")
    to_fp16(exported("transformer"))
    assert logging.getLogger().handlers == before
    assert capfd.readouterr() == ("", "")


def test_the_files_of_the_tools_are_removed(exported, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    to_int8(exported("mobilenet"), "ort", random_inputs(exported("mobilenet"), 1, 0), "minmax")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "convert", [to_fp16, lambda model: to_int8(model, "ort", random_inputs(model, 1, 0), "minmax")]
)
def test_a_model_that_is_quantised_already_is_refused(convert, tmp_path):
    with pytest.raises(ModelError, match="computes in int8 already") as caught:
        convert(read(tmp_path, files.quantised()))
    assert "float32 file" in caught.value.hint


def test_a_model_in_half_precision_is_refused(exported, tmp_path):
    with pytest.raises(ModelError, match="computes in fp16 already"):
        to_int8(reread(tmp_path, to_fp16(exported("mobilenet"))), "ort", {}, "minmax")


def test_a_model_without_convolution_and_product_is_refused(tmp_path):
    made = files.model([helper.make_node("Relu", ["x"], ["y"])], [files.value("x", [2])], [files.value("y", [2])])
    with pytest.raises(ModelError, match="no convolution and no matrix product"):
        to_int8(read(tmp_path, made), "ort", {"x": np.ones((1, 2), np.float32)}, "minmax")


ROWS = np.random.default_rng(0).standard_normal((3, 1, 4)).astype(np.float32)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, "no calibration values for x"),
        ({"x": ROWS[:0]}, "no calibration inputs"),
        ({"x": ROWS[:, 0]}, r"are \[3, 4\]; 3 runs of it are \[3, 1, 4\]"),
        ({"x": ROWS[..., :3]}, r"are \[3, 1, 3\]"),
        ({"x": np.float32(1)}, "no calibration inputs"),
        ({"x": ROWS.astype(complex)}, "are complex64|are complex128"),
        ({"x": np.where(ROWS > 0, np.inf, ROWS)}, "not all finite"),
        ({"x": np.repeat(ROWS[:1], 3, axis=0)}, "the 3 calibration inputs .* all alike"),
        ({"x": ROWS * 0 + [[[1e38]], [[-3e38]], [[3e38]]]}, "not finite"),
        ({"x": ROWS[:1] * 0}, "is zero for every calibration input"),
    ],
)
def test_inputs_that_cannot_calibrate_are_refused(inputs, message, tmp_path):
    with pytest.raises(CalibrationError, match=message):
        to_int8(read(tmp_path, product(op="MatMul")), "ort", inputs, "minmax")


def test_weights_of_zero_are_refused_with_their_layer(tmp_path):
    model = read(tmp_path, product(np.zeros((4, 3))))
    with pytest.raises(CalibrationError, match=r"weights of product in .* are zero"):
        to_int8(model, "tensorrt", {"x": ROWS}, "minmax")


def test_what_a_tool_cannot_convert_is_named_with_its_file(tmp_path):
    made = files.model(
        [helper.make_node("Gemm", ["x", "w"], ["h"]), helper.make_node("Mystery", ["h"], ["y"], domain="my.ops")],
        [files.value("x", [1, 4])],
        [files.value("y", [1, 3])],
        [files.constant("w", np.ones((4, 3)))],
        domains=["my.ops"],
    )
    made.graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT
    model = read(tmp_path, made)
    for convert in (to_fp16, lambda each: to_int8(each, "ort", {"x": ROWS}, "minmax")):
        with pytest.raises(ModelError, match=r"ONNX Runtime .*net\.onnx.*Mystery"):
            convert(model)


def test_sizes_that_are_left_open_are_refused_when_the_file_is_read(tmp_path):
    with pytest.raises(ModelError, match="has no fixed shape"):
        read(tmp_path, files.convolution(shape=("N", 3, "H", "W"), out=("N", 4, "H2", "W2")))


@pytest.mark.parametrize("name", ["resnet", "mobilenet", "transformer"])
def test_nvidias_builder_takes_both_precisions(name, exported):
    if importlib.util.find_spec("tensorrt_rtx_bindings") is None:
        pytest.skip("NVIDIA's builder is not installed: `make test-tensorrt` installs it")
    pytest.importorskip("tensorrt_rtx_libs", reason="NVIDIA's builder does not load here", exc_type=ImportError)
    from tests.tensorrt_rtx import real_builder

    model = exported(name)
    products = sum(model.facts.operators.get(each, 0) for each in ("Conv", "Gemm"))
    int8 = real_builder.build(to_int8(model, "tensorrt", random_inputs(model, 2, 0), "minmax"), "int8", any_model=True)
    assert set(int8.convolutions) <= {"int8"}
    assert real_builder.build(to_fp16(model), "fp16", any_model=True).plan
    if name != "transformer":
        assert int8.convolutions["int8"] >= products - 1


@pytest.mark.parametrize("dialect", DIALECTS)
def test_the_bias_of_a_channel_without_weights_is_kept(tmp_path, dialect):
    """The quantiser gives such a channel a scale of 1: in units of the inputs, its bias would be rounded to nothing."""
    rng = np.random.default_rng(0)
    weights = rng.standard_normal((4, 3, 3, 3)) * 0.01
    weights[0] = 0.0
    made = files.model(
        [helper.make_node("Conv", ["images", "w", "b"], ["y"], name="stem")],
        [files.value("images", (1, 3, 8, 8))], [files.value("y", (1, 4, 6, 6))],
        [files.constant("w", weights), files.constant("b", np.full(4, 0.45))],
    )  # fmt: skip
    model = read(tmp_path, made)
    inputs = {"images": rng.uniform(0, 255, (8, 1, 3, 8, 8)).astype(np.float32)}

    quantised = reread(tmp_path, to_int8(model, dialect, inputs, "minmax"))

    outputs = reference_outputs(quantised, inputs)["y"]
    assert outputs[:, 0, 0] == pytest.approx(np.full((8, 6, 6), 0.45), abs=0.05)


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)], ids=str)
@pytest.mark.parametrize("dialect", DIALECTS)
def test_one_bias_for_all_outputs_is_brought_to_one_axis(tmp_path, dialect, shape):
    made = files.model(
        [helper.make_node("Gemm", ["x", "w", "c"], ["y"])],
        [files.value("x", (1, 4))], [files.value("y", (1, 3))],
        [files.constant("w", np.random.default_rng(0).standard_normal((4, 3))), files.constant("c", np.full(shape, 0.5))],
    )  # fmt: skip
    model = read(tmp_path, made)
    inputs = {"x": np.random.default_rng(1).standard_normal((32, 1, 4)).astype(np.float32)}

    quantised = reread(tmp_path, to_int8(model, dialect, inputs, "minmax"))

    assert reference_outputs(quantised, inputs)["y"] == pytest.approx(reference_outputs(model, inputs)["y"], abs=0.1)

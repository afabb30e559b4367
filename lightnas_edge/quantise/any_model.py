"""Any float32 ONNX file in float16 or int8, by ONNX Runtime's own tools.

Networks of a search space have a graph writer of their own, which knows every block (docs/graphs.md). A file of unknown
origin is converted by general rules: docs/precision.md.
"""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx
import onnx.version_converter
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from lightnas_edge.errors import CalibrationError, ModelError
from lightnas_edge.graph import Dialect, Range
from lightnas_edge.graph.arithmetic import QUANTISED_OPSET
from lightnas_edge.models import Model, walk
from lightnas_edge.models.reference import folded, load, run_once
from lightnas_edge.quantise._tools import import_tools
from lightnas_edge.quantise.calibration import METHODS
from lightnas_edge.records.plain_text import clean_text
from lightnas_edge.records.quantisation import CalibrationMethod

_OTHER_TOOLS = "convert it with the tools of the framework that it comes from, and give the result to `verify --model`"
_CONSTANTS_APART = 4  # IR version from which constants are not listed as inputs
_PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
# Largest weight of a channel, relative to those of the others: none at all, and too small to matter.
_DEAD, _SMALL = 1e-9, 1e-3


# Q and DQ around the weights, a float bias, no Q behind a convolution: "Rules of `tensorrt`" in docs/graphs.md.
_FOR_TENSORRT = MappingProxyType(
    {
        "ActivationSymmetric": True,
        "WeightSymmetric": True,
        "AddQDQPairToWeight": True,
        "QuantizeBias": False,
        "OpTypesToExcludeOutputQuantization": list(_PRODUCTS),
    }
)


def to_fp16(model: Model) -> bytes:
    """The model with float16 inside; inputs and outputs keep their types.

    Raises:
        ModelError: not float32, or a converter refuses it.
    """
    import_tools()
    from onnxruntime.quantization.onnx_model import ONNXModel
    from onnxruntime.transformers.float16 import convert_float_to_float16

    _refuse_converted(model)
    # Batch normalisation is folded first: its variances may be too small for float16.
    floats = _folded(model)
    with _quiet(), _refused(model, "convert", "float16"):
        halves = convert_float_to_float16(floats, keep_io_types=True)
        ONNXModel(halves).topological_sort()  # the converter appends its casts at the end
    return _finished(halves, model)


def to_int8(model: Model, dialect: Dialect, inputs: Mapping[str, NDArray[Any]], method: CalibrationMethod) -> bytes:
    """The model with QuantizeLinear and DequantizeLinear: 8-bit weights per output channel, 8-bit activations.

    In `ort` every operator that ONNX Runtime quantises reads and writes uint8, and the bias is int32. In `tensorrt` the
    inputs of convolutions and matrix products are symmetric int8, and everything else is float32.

    Args:
        inputs: by input, (runs, *shape): from which the ranges of the activations are read.

    Raises:
        CalibrationError: inputs that do not fit or are all alike, or a range without an end or of zero.
        ModelError: not float32, nothing to quantise, or ONNX Runtime refuses it.
    """
    import_tools()
    from onnxruntime import quantization

    _refuse_converted(model)
    if not set(model.facts.operators) & set(_PRODUCTS):
        raise ModelError(
            f"{model.path} has no convolution and no matrix product: int8 changes nothing",
            hint="deploy it in fp32 or fp16",
        )
    runs = _checked_inputs(model, inputs)
    floats = _prepared(model)
    quantised_types = list(_PRODUCTS) if dialect == "tensorrt" else None
    ranges = _ranges(floats, model, runs, method, quantised_types, symmetric=dialect == "tensorrt")
    with _quiet(), _refused(model, "quantise", f"int8 {dialect}"):
        quantiser = quantization.QDQQuantizer(
            floats,
            per_channel=True,
            reduce_range=dialect == "ort",  # 7-bit weights: the sums of CPUs without VNNI saturate with 8
            weight_qType=quantization.QuantType.QInt8,
            activation_qType=quantization.QuantType.QUInt8 if dialect == "ort" else quantization.QuantType.QInt8,
            tensors_range=ranges,
            nodes_to_quantize=[],
            nodes_to_exclude=_behind_products(floats.graph) if dialect == "ort" else [],
            op_types_to_quantize=quantised_types or _all_types(),
            extra_options=dict(_FOR_TENSORRT) if dialect == "tensorrt" else {},
        )
        quantiser.quantize_model()
        quantiser.model.topological_sort()
    quantised = quantiser.model.model
    _refuse_zeros(quantised, model)
    return _finished(quantised, model)


def _refuse_converted(model: Model) -> None:
    if model.facts.precision != "fp32":
        found = "several types" if model.facts.precision == "mixed" else model.facts.precision
        raise ModelError(
            f"{model.path} computes in {found} already; only a float32 model is converted",
            hint="give the float32 file that it was made from",
        )


def _checked_inputs(model: Model, inputs: Mapping[str, NDArray[Any]]) -> list[dict[str, NDArray[Any]]]:
    """What each run feeds, in the types of the model."""
    names = [value.name for value in model.facts.inputs]
    if missing := [name for name in names if name not in inputs]:
        raise CalibrationError(f"no calibration values for {', '.join(missing)}; {model.path} reads {', '.join(names)}")
    arrays = {value.name: np.asarray(inputs[value.name]) for value in model.facts.inputs}
    runs = min(len(array) if array.ndim else 0 for array in arrays.values())
    if not runs:
        raise CalibrationError(f"no calibration inputs for {model.path}", hint="give at least 100 of them")
    for value in model.facts.inputs:
        array = arrays[value.name]
        if array.shape != (runs, *value.shape):
            raise CalibrationError(
                f"calibration values of {value.name} are {list(array.shape)}; {runs} runs of it are {[runs, *value.shape]}",
                hint="the first axis counts the runs; each run has the shape of the input",
            )
        if not np.can_cast(array.dtype, value.type, "same_kind"):
            raise CalibrationError(
                f"calibration values of {value.name} are {array.dtype}; the model reads {value.type}"
            )
        if not np.isfinite(array).all():
            raise CalibrationError(f"calibration values of {value.name} are not all finite")
    if runs > 1 and all((array == array[:1]).all() for array in arrays.values()):
        raise CalibrationError(
            f"the {runs} calibration inputs of {model.path} are all alike",
            hint="give inputs as the model meets them in use",
        )
    return [
        {value.name: arrays[value.name][run].astype(value.type) for value in model.facts.inputs} for run in range(runs)
    ]


def _prepared(model: Model) -> onnx.ModelProto:
    """Folded, with named nodes, of an opset that has scales for each channel."""
    import_tools()
    from onnxruntime.quantization import quant_pre_process

    floats = _folded(model)
    if _opset(floats) < QUANTISED_OPSET:
        with _quiet(), _refused(model, "rewrite", f"opset {QUANTISED_OPSET}"), _folder() as folder:
            # Replaces Upsample, for which the converter of versions has no successor.
            quant_pre_process(floats, folder / "model.onnx", skip_optimization=True, skip_symbolic_shape=True)
            floats = onnx.version_converter.convert_version(onnx.load(folder / "model.onnx"), QUANTISED_OPSET)
            floats = onnx.shape_inference.infer_shapes(floats, data_prop=True)
    for node in floats.graph.node:
        if not node.name:  # the quantiser tells nodes apart by their names
            node.name = f"{node.op_type}_of_{node.output[0]}"
    _plain_biases(floats.graph)
    _fill_dead_channels(floats.graph)
    return floats


def _plain_biases(graph: onnx.GraphProto) -> None:
    """Constant biases of Gemm as (N,) and with their factor multiplied in.

    The quantiser takes no other shape, sets the factor to 1, and does not multiply by it.
    """
    constants = {each.name: numpy_helper.to_array(each) for each in graph.initializer}
    for node in graph.node:
        if node.op_type != "Gemm" or len(node.input) < 3 or node.input[2] not in constants:
            continue
        bias = constants[node.input[2]]
        weight = constants.get(node.input[1])
        if bias.size == 1 and weight is not None:
            bias = np.full(weight.shape[_output_axis(node)], bias.reshape(()), bias.dtype)
        elif bias.ndim == 2 and bias.shape[0] == 1:
            bias = bias[0]
        factor = next((each for each in node.attribute if each.name == "beta"), None)
        if factor is not None:
            bias = bias * np.float32(factor.f)
            factor.f = 1.0
        node.input[2] = f"bias_of_{node.output[0]}"
        graph.initializer.append(numpy_helper.from_array(bias, node.input[2]))
    read = {name for node in walk.nodes(graph) for name in node.input} | {value.name for value in graph.output}
    for constant in [each for each in graph.initializer if each.name not in read]:
        graph.initializer.remove(constant)


def _output_axis(node: onnx.NodeProto) -> int:
    """Of the weight of a Conv or a Gemm."""
    if node.op_type == "Conv":
        return 0
    return 0 if next((each.i for each in node.attribute if each.name == "transB"), 0) else 1


def _fill_dead_channels(graph: onnx.GraphProto) -> None:
    """Give output channels without weights, of which only the bias is left, one that is too small to matter.

    The quantiser gives such a channel a weight scale of 1, and a bias is stored in units of that times the scale of the inputs: what
    is below half of one would be lost.
    """
    constants = {each.name: each for each in graph.initializer}
    for node in graph.node:
        if node.op_type not in ("Conv", "Gemm") or len(node.input) < 3 or node.input[1] not in constants:
            continue
        weight = numpy_helper.to_array(constants[node.input[1]]).copy()
        channels = np.moveaxis(weight, _output_axis(node), 0)  # a view
        largest = np.abs(channels.reshape(len(channels), -1)).max(axis=1)
        dead = largest < _DEAD * largest.max()
        if dead.any() and not dead.all():
            channels[(dead, *[0] * (channels.ndim - 1))] = _SMALL * np.median(largest[~dead])
            constants[node.input[1]].CopyFrom(numpy_helper.from_array(weight, node.input[1]))


def _folded(model: Model) -> onnx.ModelProto:
    """With batch normalisation folded into weights, and constants computed; shapes are inferred."""
    content = model.content
    if model.facts.ir_version < _CONSTANTS_APART:
        listed = onnx.load_model_from_string(content)
        fed = walk.inputs(listed.graph)
        del listed.graph.input[:]
        listed.graph.input.extend(fed)
        listed.ir_version = _CONSTANTS_APART
        content = listed.SerializeToString()
    found = folded(content)
    if found is None:
        load(content, str(model.path))  # says why
        raise ModelError(f"ONNX Runtime cannot simplify {model.path}", hint=_OTHER_TOOLS)
    return found


def _ranges(
    floats: onnx.ModelProto,
    model: Model,
    runs: list[dict[str, NDArray[Any]]],
    method: CalibrationMethod,
    types: list[str] | None,
    *,
    symmetric: bool,
) -> Any:
    """TensorsData: the range of every tensor that these operators read or write."""
    import_tools()
    from onnxruntime import quantization
    from onnxruntime.quantization.calibrate import CalibrationMethod as Methods

    _check_outputs(model, runs)
    chosen = METHODS[method]
    with _quiet(), _refused(model, "calibrate", "int8"), _folder() as folder:
        onnx.save(floats, folder / "floats.onnx")
        calibrator = quantization.create_calibrator(
            folder / "floats.onnx",
            types or _all_types(),
            augmented_model_path=str(folder / "observed.onnx"),
            calibrate_method=getattr(Methods, chosen.name),
            extra_options={**chosen.settings, "symmetric": symmetric},
        )
        for run in runs:  # one at a time: the calibrator keeps all activations of what it is given
            calibrator.collect_data(_OneRun(run))
        ranges = calibrator.compute_data()
    for name, found in ranges.items():
        low, high = (float(np.ravel(end)[0]) for end in found.range_value)
        _check_range(name, (low, high), model)
    return ranges


class _OneRun:
    """Calibration data of a single run."""

    def __init__(self, values: dict[str, NDArray[Any]]) -> None:
        self._left: list[dict[str, NDArray[Any]]] = [values]

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        return self._left.pop() if self._left else None


def _check_outputs(model: Model, runs: list[dict[str, NDArray[Any]]]) -> None:
    """The calibrator passes over values that are not a number."""
    what = f"{model.path} on this machine"
    session = load(model.content, what)
    for place, run in enumerate(runs):
        for name, array in run_once(session, run, what).items():
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise CalibrationError(
                    f"output {clean_text(name, 100)} of {model.path} is not finite for calibration input {place}",
                    hint="check the weights of the model, and that its inputs are normalised as in training",
                )


def _check_range(name: str, found: Range, model: Model) -> None:
    shown = f"{clean_text(name, 200)} of {model.path}"
    if not np.isfinite(found).all():
        raise CalibrationError(
            f"the range of {shown} is not finite: {found[0]:g} to {found[1]:g}",
            hint="the float32 model overflows for these inputs: check that they are normalised as in training",
        )
    if found == (0.0, 0.0):
        raise CalibrationError(
            f"{shown} is zero for every calibration input: its range is not known",
            hint="calibrate on inputs that this part of the model reacts to, or deploy it in fp16",
        )


def _refuse_zeros(quantised: onnx.ModelProto, model: Model) -> None:
    """A constant that is zero everywhere: the layer computes nothing."""
    constants = {each.name: each for each in quantised.graph.initializer}
    makers = {name: node for node in quantised.graph.node for name in node.output}
    for node in quantised.graph.node:
        if node.op_type not in _PRODUCTS:
            continue
        for name in node.input[:2]:
            maker = makers.get(name)
            while maker is not None and maker.op_type in ("DequantizeLinear", "QuantizeLinear"):
                name, maker = maker.input[0], makers.get(maker.input[0])
            if name in constants and not numpy_helper.to_array(constants[name]).any():
                raise CalibrationError(
                    f"the weights of {clean_text(node.name, 200)} in {model.path} are zero in int8",
                    hint="a layer of zeros computes nothing: check the weights, or deploy the model in fp16",
                )


def _behind_products(graph: onnx.GraphProto) -> list[str]:
    """Nodes with no convolution or matrix product after them: probabilities, boxes. 8 bits cost accuracy there, and gain no time."""
    leading: set[str] = set()  # tensors that a product depends on
    behind = []
    for node in reversed(graph.node):
        if node.op_type in _PRODUCTS or any(name in leading for name in node.output):
            leading.update(node.input)
        else:
            behind.append(node.name)
    return behind


def _all_types() -> list[str]:
    """Every operator that ONNX Runtime quantises."""
    import_tools()
    from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

    return sorted({*QDQRegistry, *QLinearOpsRegistry})


def _opset(model: onnx.ModelProto) -> int:
    return next(int(each.version) for each in model.opset_import if each.domain in ("", walk.DEFAULT_DOMAIN))


def _finished(converted: onnx.ModelProto, model: Model) -> bytes:
    """Without what the tools leave in it: notes, operator sets that no node uses, an IR version of their own."""
    used = {walk.domain_of(node) for node in walk.nodes(converted.graph)} | {walk.DEFAULT_DOMAIN}
    imports = [
        helper.make_opsetid(each.domain, each.version)
        for each in converted.opset_import
        if (each.domain or walk.DEFAULT_DOMAIN) in used
    ]
    del converted.opset_import[:]
    converted.opset_import.extend(imports)
    del converted.metadata_props[:]
    converted.ir_version = max(model.facts.ir_version, helper.find_min_ir_version_for(imports, ignore_unknown=True))
    content: bytes = converted.SerializeToString(deterministic=True)
    return content


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="lightnas-edge-int8-") as folder:
        yield Path(folder)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The tools print progress, and warn through the root logger."""
    root = logging.getLogger()
    silent = logging.NullHandler()  # without any, the first warning would install one that prints
    root.addHandler(silent)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        root.removeHandler(silent)


@contextlib.contextmanager
def _refused(model: Model, verb: str, to: str) -> Iterator[None]:
    """What the tools raise has no common base."""
    try:
        yield
    except Exception as error:
        lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        raise ModelError(
            f"ONNX Runtime cannot {verb} {model.path} ({to}): {clean_text(lines[0], 300)}",
            hint=_OTHER_TOOLS,
        ) from error

"""Collects nodes and weights of a graph, in the numbers of its arithmetic."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from lightnas_edge.errors import ExportError
from lightnas_edge.graph.arithmetic import (
    QUANTISED_OPSET,
    Arithmetic,
    Range,
    Scale,
    quantise_weight,
    weight_scales,
)
from lightnas_edge.space import Activation

DEFAULT_OPSET = 13  # read by every runtime of lightnas_edge/graph/opsets.py, JetPack 4.6 included
MIN_OPSET = 11  # Clip takes its bounds as inputs since 11; before, the graph would need other nodes
MAX_OPSET = 21  # none of our nodes changes meaning up to here
MAX_IR_VERSION = 7  # what onnxruntime 1.10 documents; newer IR versions add only features that these graphs do not use

LARGEST_BIAS = 2.0**30  # of an int32 bias; the other half is left to the sum of products
WeightSource = Callable[[str, tuple[int, ...], float], np.ndarray]
_NUMPY = {TensorProto.FLOAT: np.float32, TensorProto.FLOAT16: np.float16}


ARITHMETIC = "lightnas_edge.arithmetic"  # key in a model's metadata; absent in float32


def add_property(model: onnx.ModelProto, key: str, value: str) -> None:
    """An entry of the model's metadata."""
    model.metadata_props.append(onnx.StringStringEntryProto(key=key, value=value))


class GraphWriter:
    """Every method appends and returns the name of the tensor it writes.

    A tensor is named after the node that writes it; a weight after its convolution: `layers.3.expand.weight`. Names do
    not depend on the arithmetic, so that the ranges of a float graph are those of its quantised twin.

    Args:
        ranges: of activations, by the names of their tensors; for int8.
        first_type: ONNX type of the input; `quantised`: the input holds quantised values already.
    """

    def __init__(
        self, weights: WeightSource, arithmetic: Arithmetic, ranges: Mapping[str, Range] | None = None
    ) -> None:
        self.arithmetic = arithmetic
        self._weights = weights
        self._ranges = dict(ranges or {})
        self._nodes: list[onnx.NodeProto] = []
        self._float = _NUMPY[arithmetic.float_type]
        self._initializers: list[onnx.TensorProto] = []
        self._has_bounds = False  # of Clip
        self._dequantised: dict[str, str] = {}  # tensor -> the same after quantising and back
        self._input_type = TensorProto.FLOAT

    # -- the edges --------------------------------------------------------------------------------------------

    def begin(self, *, inner: bool) -> str:
        """The input: float32 images, or with `inner` what a neighbouring block hands over."""
        if not inner:
            if self.arithmetic.float_type == TensorProto.FLOAT:
                return "input"
            return self.node("Cast", "input.cast", ["input"], to=self.arithmetic.float_type)
        self._input_type = self.arithmetic.activation_type
        if self.arithmetic.quantised:
            scale, zero = self._scale("input")
            self._dequantised["input"] = self.node("DequantizeLinear", "input.dequantise", ["input", scale, zero])
            return "input"
        return "input"

    def end(self, x: str, *, inner: bool) -> str:
        """The output: float32 logits, or with `inner` what a neighbouring block is given."""
        if not inner:
            if self.arithmetic.float_type == TensorProto.FLOAT:
                return x
            return self.node("Cast", "output.cast", [x], to=TensorProto.FLOAT)
        if self.arithmetic.quantised:
            scale, zero = self._scale(x)
            return self.node("QuantizeLinear", f"{x}.quantise", [x, scale, zero])
        return x

    # -- nodes ------------------------------------------------------------------------------------------------

    def node(self, kind: str, name: str, inputs: list[str], **attributes: object) -> str:
        self._nodes.append(helper.make_node(kind, inputs, [f"{name}.out"], name=name, **attributes))
        return f"{name}.out"

    def read(self, x: str) -> str:
        """What a convolution, a linear layer, a pooling or the identity branch of a sum reads: quantised in int8."""
        if not self.arithmetic.quantised:
            return x
        if x not in self._dequantised:
            scale, zero = self._scale(x)
            quantised = self.node("QuantizeLinear", f"{x}.quantise", [x, scale, zero])
            self._dequantised[x] = self.node("DequantizeLinear", f"{x}.dequantise", [quantised, scale, zero])
        return self._dequantised[x]

    def between(self, x: str) -> str:
        """What any other operator reads: quantised where every activation is."""
        return self.read(x) if self.arithmetic.everywhere else x

    def activate(self, name: str, x: str, activation: Activation) -> str:
        """ReLU6 or ReLU, in the spelling that all runtimes fuse into the convolution before it; nothing where it is linear.

        Where every activation is quantised it needs no node: quantised values end at the range's ends, 0 and, of a ReLU6,
        at most 6. ONNX Runtime fuses no convolution with a Clip before QuantizeLinear; its own quantiser leaves them out as well.
        """
        if activation == "linear":
            return x
        if self.arithmetic.everywhere:
            low, high = self._range(f"{name}.{activation}.out")
            self._ranges[x] = max(low, 0.0), min(high, 6.0) if activation == "relu6" else max(high, 0.0)
            return x
        if activation == "relu":
            return self.node("Relu", f"{name}.relu", [x])
        if not self._has_bounds:
            self._has_bounds = True
            for bound, value in (("zero", 0), ("six", 6)):
                self._initializer(bound, np.array(value, self._float))
        return self.node("Clip", f"{name}.relu6", [x, "zero", "six"])

    def conv(
        self,
        name: str,
        x: str,
        c_in: int,
        c_out: int,
        *,
        kernel: int = 1,
        stride: int = 1,
        groups: int = 1,
        bias: bool = True,
        gain: float = 2.0,
        in_float: bool = False,
    ) -> str:
        """`in_float`: not quantised, whatever the arithmetic."""
        inputs = self._weighted(name, x, (c_out, c_in // groups, kernel, kernel), gain, bias=bias, in_float=in_float)
        pad = kernel // 2  # as PyTorch: output side = ceil(input side / stride)
        return self.node(
            "Conv", name, inputs, kernel_shape=[kernel, kernel], strides=[stride, stride],
            pads=[pad] * 4, dilations=[1, 1], group=groups,
        )  # fmt: skip

    def linear(self, name: str, x: str, c_in: int, c_out: int) -> str:
        return self.node("Gemm", name, self._weighted(name, x, (c_out, c_in), 2.0), transB=1)

    def model(
        self,
        name: str,
        input_shape: tuple[int, ...],
        last: str,
        output_shape: tuple[int, ...],
        opset: int,
        *,
        inner: bool,
    ) -> onnx.ModelProto:
        """`inner`: the output is between two blocks."""
        if not MIN_OPSET <= opset <= MAX_OPSET:
            raise ExportError(
                f"opset {opset} is out of range: these graphs are written for {MIN_OPSET} to {MAX_OPSET}",
                hint=f"opset {DEFAULT_OPSET} is read by every supported runtime",
            )
        if self.arithmetic.quantised and opset < QUANTISED_OPSET:
            raise ExportError(
                f"opset {opset} has no per-channel QuantizeLinear", hint=f"int8 needs opset {QUANTISED_OPSET} or later"
            )
        if input_shape[0] < 1:
            raise ExportError(f"a batch has at least one image, found {input_shape[0]}")
        assert self._nodes[-1].name + ".out" == last
        self._nodes[-1].output[0] = "output"
        output_type = self.arithmetic.activation_type if inner else TensorProto.FLOAT
        graph = helper.make_graph(
            self._nodes,
            name,
            [helper.make_tensor_value_info("input", self._input_type, input_shape)],
            [helper.make_tensor_value_info("output", output_type, output_shape)],
            self._initializers,
        )
        opset_id = helper.make_opsetid("", opset)
        ir_version = min(MAX_IR_VERSION, helper.find_min_ir_version_for([opset_id]))
        # No producer version: a new release must not change the SHA-256 of an unchanged operator.
        model = helper.make_model(graph, opset_imports=[opset_id], ir_version=ir_version, producer_name="lightnas-edge")
        if self.arithmetic.precision != "fp32":
            add_property(model, ARITHMETIC, str(self.arithmetic))
        return model

    # -- weights ----------------------------------------------------------------------------------------------

    def _weighted(
        self, name: str, x: str, shape: tuple[int, ...], gain: float, *, bias: bool = True, in_float: bool = False
    ) -> list[str]:
        """The inputs of a convolution or linear layer."""
        weight = self._array(f"{name}.weight", shape, gain)
        biases = [self._array(f"{name}.bias", shape[:1], 0.0)] if bias else []
        if in_float or not self.arithmetic.quantised:
            names = [self._initializer(f"{name}.weight", weight.astype(self._float))]
            names += [self._initializer(f"{name}.bias", values.astype(self._float)) for values in biases]
            return [x, *names]
        dialect = self.arithmetic.dialect
        assert dialect is not None
        scales = weight_scales(weight, dialect)
        if dialect == "ort" and biases:  # a channel of tiny weights must not cut its bias off
            unit = np.float32(Scale.of(self._range(x), "ort").scale)
            scales = np.maximum(scales, np.abs(biases[0]) / unit / LARGEST_BIAS).astype(np.float32)
        scale = self._initializer(f"{name}.weight.scale", scales)
        zero = self._initializer(f"{name}.weight.zero_point", np.zeros(len(scales), np.int8))
        if dialect == "tensorrt":  # float weights with Q/DQ: versions before 10 fold no int8 weights
            stored = self._initializer(f"{name}.weight", weight)
            quantised = self.node("QuantizeLinear", f"{name}.weight.quantise", [stored, scale, zero], axis=0)
            weights = self.node("DequantizeLinear", f"{name}.weight.dequantise", [quantised, scale, zero], axis=0)
            return [self.read(x), weights, *(self._initializer(f"{name}.bias", values) for values in biases)]
        stored = self._initializer(f"{name}.weight", quantise_weight(weight, scales, dialect))
        weights = self.node("DequantizeLinear", f"{name}.weight.dequantise", [stored, scale, zero], axis=0)
        return [self.read(x), weights, *(self._int32_bias(name, x, values, scales) for values in biases)]

    def _int32_bias(self, name: str, x: str, bias: np.ndarray, scales: np.ndarray) -> str:
        """In units of what the kernel accumulates: the activation's scale times the weight's."""
        units = (np.float32(Scale.of(self._range(x), "ort").scale) * scales).astype(np.float32)
        values = np.clip(np.rint(bias.astype(np.float64) / units), -LARGEST_BIAS, LARGEST_BIAS).astype(np.int32)
        stored = self._initializer(f"{name}.bias", values)
        unit = self._initializer(f"{name}.bias.scale", units)
        zero = self._initializer(f"{name}.bias.zero_point", np.zeros(len(values), np.int32))
        return self.node("DequantizeLinear", f"{name}.bias.dequantise", [stored, unit, zero], axis=0)

    def _range(self, x: str) -> Range:
        if x not in self._ranges:
            raise ExportError(
                f"the range of activation {x} is missing: an int8 graph needs one for every tensor it reads"
            )
        return self._ranges[x]

    def _scale(self, x: str) -> tuple[str, str]:
        """Names of the scale and the zero point of an activation."""
        found = Scale.of(self._range(x), self.arithmetic.dialect)
        kind = np.uint8 if self.arithmetic.dialect == "ort" else np.int8
        names = f"{x}.scale", f"{x}.zero_point"
        if not any(each.name == names[0] for each in self._initializers):
            self._initializer(names[0], np.array(found.scale, np.float32))
            self._initializer(names[1], np.array(found.zero_point, kind))
        return names

    def _array(self, name: str, shape: tuple[int, ...], gain: float) -> np.ndarray:
        return np.ascontiguousarray(self._weights(name, shape, gain), dtype=np.float32)

    def _initializer(self, name: str, array: np.ndarray) -> str:
        self._initializers.append(numpy_helper.from_array(array, name))
        return name

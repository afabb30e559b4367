"""What can be counted in an ONNX graph: parameters, multiply-accumulates, the precision of its weights."""

from __future__ import annotations

import math

import onnx
from onnx import TensorProto

# Types that inputs are made up in and outputs are compared in.
TYPES: dict[int, str] = {
    TensorProto.FLOAT: "float32", TensorProto.FLOAT16: "float16", TensorProto.DOUBLE: "float64", TensorProto.UINT8: "uint8",
    TensorProto.INT8: "int8", TensorProto.UINT16: "uint16", TensorProto.INT16: "int16", TensorProto.INT32: "int32",
    TensorProto.INT64: "int64", TensorProto.UINT32: "uint32", TensorProto.UINT64: "uint64", TensorProto.BOOL: "bool",
}  # fmt: skip
_PRECISIONS = {
    TensorProto.FLOAT: "fp32", TensorProto.FLOAT16: "fp16", TensorProto.BFLOAT16: "bf16", TensorProto.DOUBLE: "fp64",
    TensorProto.INT8: "int8", TensorProto.UINT8: "int8",
}  # fmt: skip
_MOST = 2**62


def count_parameters(graph: onnx.GraphProto) -> int:
    """Numbers in initializers; bounded, because a damaged file may claim anything."""
    count: int = sum(math.prod(max(0, side) for side in tensor.dims) for tensor in graph.initializer)
    return min(_MOST, count)


def count_macs(graph: onnx.GraphProto) -> int | None:
    """Multiply-accumulates of convolutions and matrix products; None where a shape that they need is not known."""
    shapes: dict[str, tuple[int, ...]] = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for value in [*graph.input, *graph.value_info, *graph.output]:
        sides = value.type.tensor_type.shape.dim
        if value.type.tensor_type.HasField("shape") and all(side.HasField("dim_value") for side in sides):
            shapes.setdefault(value.name, tuple(side.dim_value for side in sides))
    total = 0
    for node in graph.node:
        if node.op_type in ("Conv", "ConvTranspose", "ConvInteger", "QLinearConv"):
            weight = shapes.get(node.input[3 if node.op_type == "QLinearConv" else 1] if len(node.input) > 1 else "")
            moved = shapes.get(node.input[0] if node.op_type == "ConvTranspose" else node.output[0])
            if not weight or moved is None:
                return None
            total += math.prod(moved) * math.prod(weight[1:])
        elif node.op_type in ("MatMul", "Gemm", "MatMulInteger"):
            first, made = shapes.get(node.input[0] if node.input else ""), shapes.get(node.output[0])
            if first is None or made is None or not first:
                return None
            transposed = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
            total += math.prod(made) * (first[0] if transposed else first[-1])
        if not 0 <= total < _MOST:
            return None
    return total


def precision_of(graph: onnx.GraphProto) -> str:
    """Of weights: fp32, fp16, int8, or mixed; int8 where the graph quantises."""
    if any(node.op_type in ("QuantizeLinear", "QLinearConv", "ConvInteger", "MatMulInteger") for node in graph.node):
        return "int8"
    found = {
        _PRECISIONS[tensor.data_type] for tensor in graph.initializer if tensor.data_type in _PRECISIONS and tensor.dims
    }
    if not found:
        kinds = {value.type.tensor_type.elem_type for value in graph.input}
        found = {_PRECISIONS[kind] for kind in kinds if kind in _PRECISIONS} or {"fp32"}
    return found.pop() if len(found) == 1 else "mixed"

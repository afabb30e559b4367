"""Counting what a graph contains: operators, parameters, multiply-accumulates, precision."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Literal, NamedTuple

import onnx
from onnx import TensorProto

from lightnas_edge.models import walk
from lightnas_edge.models.shapes import fixed_shape
from lightnas_edge.records.plain_text import clean_text

Precision = Literal["fp32", "fp16", "int8", "mixed"]
_SHOWN_NODES = 8
_PRODUCTS = {"Conv", "ConvTranspose", "Gemm", "MatMul", "ConvInteger", "MatMulInteger", "QLinearConv", "QLinearMatMul"}
_QUANTISED = {"ConvInteger", "MatMulInteger", "QLinearConv", "QLinearMatMul"}
# Operators of ONNX that multiply matrices too, and are not counted.
_NOT_COUNTED = {"Attention", "DeformConv", "Einsum", "GRU", "LSTM", "RNN"}
_FLOATS = {TensorProto.FLOAT: "fp32", TensorProto.FLOAT16: "fp16"}
_PARAMETER_TYPES = {
    TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE, TensorProto.INT8, TensorProto.UINT8,
    *(getattr(TensorProto, name) for name in ("INT4", "UINT4", "FLOAT8E4M3FN", "FLOAT8E5M2") if hasattr(TensorProto, name)),
}  # fmt: skip


class Value(NamedTuple):
    type: int
    shape: tuple[int, ...] | None


def operators(graph: onnx.GraphProto) -> dict[str, int]:
    """Operator -> number of nodes, the most frequent first."""
    counted = Counter(clean_text(walk.operator_of(node), 200) or "unnamed" for node in walk.nodes(graph))
    return dict(sorted(counted.items(), key=lambda item: (-item[1], item[0])))


def other_operators(model: onnx.ModelProto) -> dict[str, tuple[str, ...]]:
    """Operators that ONNX does not define at the model's opset -> names of some of their nodes."""
    versions = {each.domain or walk.DEFAULT_DOMAIN: each.version for each in model.opset_import}
    found: dict[str, list[str]] = {}
    for node in walk.nodes(model.graph):
        if walk.domain_of(node) == walk.DEFAULT_DOMAIN and _is_defined(node.op_type, versions[walk.DEFAULT_DOMAIN]):
            continue
        names = found.setdefault(clean_text(walk.operator_of(node), 200) or "unnamed", [])
        if len(names) < _SHOWN_NODES:
            names.append(clean_text(node.name or (node.output[0] if node.output else ""), 200))
    return {operator: tuple(names) for operator, names in sorted(found.items())}


def values(inferred: onnx.ModelProto) -> dict[str, Value]:
    """What is known of every value of the main graph, after shape inference."""
    graph = inferred.graph
    known = {
        value.name: Value(value.type.tensor_type.elem_type, fixed_shape(value))
        for value in (*graph.input, *graph.value_info, *graph.output)
        if value.type.HasField("tensor_type")
    }
    known |= {each.name: Value(each.data_type, tuple(each.dims)) for each in graph.initializer}
    return known


def parameters(graph: onnx.GraphProto, known: Mapping[str, Value]) -> int | None:
    """Values of floating-point and 8-bit constants with at least one axis; None where the size of one is unknown.

    Some files build their weights with ConstantOfShape from a constant shape: those count too.
    """
    total = 0
    for each in walk.graphs(graph):
        constants = {tensor.name for tensor in each.initializer}
        for tensor in each.initializer:
            total += _size(tensor)
        for sparse in each.sparse_initializer:
            total += math.prod(sparse.dims)
        for node in each.node:
            if node.op_type == "Constant":
                constants.update(node.output)
                total += sum(_size(attribute.t) for attribute in node.attribute if attribute.HasField("t"))
            elif node.op_type == "ConstantOfShape" and node.input and node.input[0] in constants:
                value = known.get(node.output[0]) if node.output else None
                if value is None or value.shape is None:
                    return None
                total += math.prod(value.shape) if value.type in _PARAMETER_TYPES and value.shape else 0
    return total


def not_counted(graph: onnx.GraphProto) -> str:
    """Why multiply-accumulates cannot be counted, from the operators alone; empty where they can."""
    for node in walk.nodes(graph):
        operator = walk.operator_of(node)
        if operator in _NOT_COUNTED or "." in operator:
            return f"operators of type {clean_text(operator, 100)} are not counted"
    inside = [node.op_type for node in graph.node for body in walk.bodies(node) if _has_products(body)]
    return f"how often the body of {inside[0]} runs depends on values" if inside else ""


def macs(graph: onnx.GraphProto, known: Mapping[str, Value]) -> int | None:
    """Multiply-accumulates of convolutions and matrix products; None where a shape is not known."""
    total = 0
    for node in graph.node:
        if node.op_type in _PRODUCTS:
            counted = _macs_of(node, known)
            if counted is None:
                return None
            total += counted
    return total


def precision(model: onnx.ModelProto, known: Mapping[str, Value]) -> Precision:
    """Of convolutions and matrix products; of all floating-point values where there is none."""
    graph = model.graph
    makers = {name: node.op_type for node in graph.node for name in node.output}
    found: set[str] = set()
    for node in walk.nodes(graph):
        if node.op_type in _QUANTISED:
            found.add("int8")
        elif node.op_type in _PRODUCTS:
            if all(makers.get(name) == "DequantizeLinear" for name in node.input[:2]):
                found.add("int8")
            else:
                types = {known[name].type for name in node.input[:2] if name in known}
                found |= {_FLOATS.get(each, "other") for each in types}
    if not found:
        found = {_FLOATS[value.type] for value in known.values() if value.type in _FLOATS} or {"fp32"}
    if len(found) > 1 or "other" in found:
        return "mixed"
    (only,) = found
    return "int8" if only == "int8" else "fp16" if only == "fp16" else "fp32"


def _macs_of(node: onnx.NodeProto, known: Mapping[str, Value]) -> int | None:
    places = {"QLinearConv": (0, 3), "QLinearMatMul": (0, 3)}.get(node.op_type, (0, 1))
    if len(node.input) <= places[1] or not node.output:
        return None
    data, weight = (known.get(node.input[place], Value(0, None)).shape for place in places)
    out = known.get(node.output[0], Value(0, None)).shape
    if data is None or weight is None or out is None:
        return None
    if node.op_type == "ConvTranspose":  # (N, C, ...) and (C, M/group, k, k): every input value meets M/group * k * k
        return math.prod(data) * math.prod(weight[1:])
    if "Conv" in node.op_type:  # (M, C/group, k, k): every output value is a sum of C/group * k * k
        return math.prod(out) * math.prod(weight[1:])
    if node.op_type == "Gemm":
        if len(data) != 2:
            return None
        transposed = any(each.name == "transA" and each.i for each in node.attribute)
        return math.prod(out) * data[0 if transposed else 1]
    return math.prod(out) * data[-1] if data else None


def _has_products(graph: onnx.GraphProto) -> bool:
    return any(node.op_type in _PRODUCTS for node in walk.nodes(graph))


def _size(tensor: onnx.TensorProto) -> int:
    return math.prod(tensor.dims) if tensor.data_type in _PARAMETER_TYPES and tensor.dims else 0


def _is_defined(operator: str, opset: int) -> bool:
    return bool(onnx.defs.has(operator, opset, ""))

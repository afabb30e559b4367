"""ONNX graphs of one operator and of a whole network, from plain data: what is measured is what is deployed."""

from lightnas_edge.graph.arithmetic import Arithmetic, Dialect, Precision, Range
from lightnas_edge.graph.build import FP32, model_bytes, network_model, operator_model, weight_shapes
from lightnas_edge.graph.ranges import activation_ranges
from lightnas_edge.graph.writer import DEFAULT_OPSET, MAX_OPSET, MIN_OPSET, add_property

__all__ = [
    "DEFAULT_OPSET",
    "FP32",
    "MAX_OPSET",
    "MIN_OPSET",
    "Arithmetic",
    "Dialect",
    "Precision",
    "Range",
    "activation_ranges",
    "add_property",
    "model_bytes",
    "network_model",
    "operator_model",
    "weight_shapes",
]

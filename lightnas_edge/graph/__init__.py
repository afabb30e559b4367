"""ONNX graphs of one operator and of a whole network, from plain data: what is measured is what is deployed."""

from lightnas_edge.graph.build import (
    DEFAULT_OPSET,
    MAX_OPSET,
    MIN_OPSET,
    model_bytes,
    network_model,
    operator_model,
    weight_shapes,
)

__all__ = [
    "DEFAULT_OPSET",
    "MAX_OPSET",
    "MIN_OPSET",
    "model_bytes",
    "network_model",
    "operator_model",
    "weight_shapes",
]

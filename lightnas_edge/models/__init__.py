"""Any ONNX file: read, given fixed shapes, ready to be sent to a board; its inputs and outputs as arrays."""

from lightnas_edge.models.exchange import inputs_bytes, outputs_from_bytes, random_inputs, reference_outputs
from lightnas_edge.models.read import Model, read_model
from lightnas_edge.models.readable import check_readable

__all__ = [
    "Model",
    "check_readable",
    "inputs_bytes",
    "outputs_from_bytes",
    "random_inputs",
    "read_model",
    "reference_outputs",
]

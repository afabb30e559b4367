"""Any ONNX file, made ready to be sent to a board: read, given fixed shapes, described, and fed."""

from lightnas_edge.models.exchange import inputs_bytes, outputs_from_bytes, random_inputs
from lightnas_edge.models.model import Model, key
from lightnas_edge.models.read import read_model
from lightnas_edge.models.readable import check_readable, depends_on_version
from lightnas_edge.models.reference import reference_outputs

__all__ = [
    "Model",
    "check_readable",
    "depends_on_version",
    "inputs_bytes",
    "key",
    "outputs_from_bytes",
    "random_inputs",
    "read_model",
    "reference_outputs",
]

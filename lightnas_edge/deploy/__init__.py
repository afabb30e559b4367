"""The network as a file, and the proof that it keeps its budget on the board."""

from lightnas_edge.deploy.compare import compare_outputs
from lightnas_edge.deploy.export import export_network, load_training_data
from lightnas_edge.deploy.judge import Evidence, Judgement, judge, result_line
from lightnas_edge.deploy.targets import DEFAULT_TARGET, opset_for
from lightnas_edge.deploy.verify import IMAGES, Verification, default_host, run_settings, verify_network

__all__ = [
    "DEFAULT_TARGET",
    "IMAGES",
    "Evidence",
    "Judgement",
    "Verification",
    "compare_outputs",
    "default_host",
    "export_network",
    "judge",
    "load_training_data",
    "opset_for",
    "result_line",
    "run_settings",
    "verify_network",
]

"""The network as a file, and the proof that it keeps its budget on the board."""

from lightnas_edge.deploy.compare import Agreement, compare_outputs
from lightnas_edge.deploy.export import ExportRecord, export_network
from lightnas_edge.deploy.judge import Estimate, Judgement, judge, result_line
from lightnas_edge.deploy.targets import DEFAULT_TARGET, opset_for
from lightnas_edge.deploy.verify import Verification, run_settings, verify_network

__all__ = [
    "DEFAULT_TARGET",
    "Agreement",
    "Estimate",
    "ExportRecord",
    "Judgement",
    "Verification",
    "compare_outputs",
    "export_network",
    "judge",
    "opset_for",
    "result_line",
    "run_settings",
    "verify_network",
]

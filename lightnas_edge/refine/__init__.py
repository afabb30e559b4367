"""Stage two: other channels for a network that was found, under the same budget."""

from lightnas_edge.refine.channels import Channels, Grid
from lightnas_edge.refine.latency import Latency
from lightnas_edge.refine.proxy import TrainingLossSum
from lightnas_edge.refine.refine import AccuracyComparison, RefineConfig, Refinement, refine_network

__all__ = [
    "AccuracyComparison",
    "Channels",
    "Grid",
    "Latency",
    "RefineConfig",
    "Refinement",
    "TrainingLossSum",
    "refine_network",
]

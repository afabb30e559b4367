"""The networks in PyTorch: one architecture, or all of them with shared weights."""

from lightnas_edge.nn.folding import folded_path_weights, folded_weights
from lightnas_edge.nn.inheriting import Fitted, estimate_statistics, fit_weights, pass_features_on, path_weights
from lightnas_edge.nn.network import Network
from lightnas_edge.nn.ranks import Ranks, joined_ranks
from lightnas_edge.nn.supernet import Supernet

__all__ = [
    "Fitted",
    "Network",
    "Ranks",
    "Supernet",
    "estimate_statistics",
    "fit_weights",
    "folded_path_weights",
    "folded_weights",
    "joined_ranks",
    "pass_features_on",
    "path_weights",
]

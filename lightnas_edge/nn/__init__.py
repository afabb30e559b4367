"""The networks in PyTorch: one architecture, or all of them with shared weights."""

from lightnas_edge.nn.folding import folded_path_weights, folded_weights
from lightnas_edge.nn.network import Network
from lightnas_edge.nn.ranks import Ranks, joined_ranks
from lightnas_edge.nn.supernet import Supernet

__all__ = ["Network", "Ranks", "Supernet", "folded_path_weights", "folded_weights", "joined_ranks"]

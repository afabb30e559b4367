"""Run directories: one search and everything that follows from it, as files."""

from lightnas_edge.runs.lock import LOCK, write_lock
from lightnas_edge.runs.run import NETWORKS, Export, Run, Weights, move_aside, predictor_name

__all__ = ["LOCK", "NETWORKS", "Export", "Run", "Weights", "move_aside", "predictor_name", "write_lock"]

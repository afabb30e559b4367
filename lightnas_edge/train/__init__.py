"""Training of a found network from scratch, and its weights for export."""

from lightnas_edge.train.config import TrainConfig
from lightnas_edge.train.train import TrainResult, load_network, train_architecture, train_network

__all__ = ["TrainConfig", "TrainResult", "load_network", "train_architecture", "train_network"]

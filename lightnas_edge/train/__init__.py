"""Training of a found network from scratch, its fine-tuning in 8 bits, and its weights for export."""

from lightnas_edge.train.config import TrainConfig
from lightnas_edge.train.quantise import dialect_of, fine_tune_quantised, fine_tuning_config
from lightnas_edge.train.train import TrainResult, load_network, train_architecture, train_network

__all__ = [
    "TrainConfig",
    "TrainResult",
    "dialect_of",
    "fine_tune_quantised",
    "fine_tuning_config",
    "load_network",
    "train_architecture",
    "train_network",
]

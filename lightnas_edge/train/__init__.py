"""Training of a found network, from scratch or from weights of its search, its fine-tuning in 8 bits, and its weights for export."""

from lightnas_edge.train.config import TrainConfig, fine_tuning_schedule
from lightnas_edge.train.distillation import Distillation, largest_of_supernet, trained_network
from lightnas_edge.train.initial import Initial, default_initial, from_file, from_supernet
from lightnas_edge.train.quantise import dialect_of, fine_tune_quantised, fine_tuning_config
from lightnas_edge.train.train import TrainResult, load_network, train_architecture, train_network

__all__ = [
    "Distillation",
    "Initial",
    "TrainConfig",
    "TrainResult",
    "default_initial",
    "dialect_of",
    "fine_tune_quantised",
    "fine_tuning_config",
    "fine_tuning_schedule",
    "from_file",
    "from_supernet",
    "largest_of_supernet",
    "load_network",
    "train_architecture",
    "train_network",
    "trained_network",
]

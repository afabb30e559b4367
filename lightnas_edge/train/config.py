"""What a user may set about training, with the published recipe as the default."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from lightnas_edge.errors import ConfigError


@dataclass(frozen=True)
class TrainConfig:
    """The recipe of LightNAS train_imagenet.py (commit 2f0e1d1): ImageNet, 360 epochs, batch 1024, learning rate 0.5.

    Args:
        epochs: of the whole training.
        batch: images of a step.
        lr: at the top of the schedule; None: as published for the batch, 0.5 * batch / 1024, at least 0.05.
        warmup_epochs: in which the learning rate rises from zero; None: 5 of 360 stretched to `epochs`, at least one.
        seed: of the first weights and of dropout; that of order and augmentation belongs to the data.
        augment: without it, images come as for validation.
        device: `auto`, `cpu` or `cuda`. Bit-identical resumption is promised on the CPU, with the same
            number of threads.
        checkpoint_s: seconds between checkpoints.
    """

    epochs: int = 360
    batch: int = 128
    lr: float | None = None
    warmup_epochs: int | None = None
    momentum: float = 0.9
    weight_decay: float = 4e-5  # none on biases and batch norm
    label_smoothing: float = 0.1
    clip_norm: float = 5.0
    augment: bool = True
    seed: int = 0
    device: str = "auto"
    checkpoint_s: float = 60.0

    def __post_init__(self) -> None:
        faults = []
        for name, least in (("epochs", 1), ("batch", 2), ("warmup_epochs", 0), ("seed", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                faults.append(f"{name}: expected at least {least}, found {value}")
        if self.lr is not None and not 0 < self.lr < math.inf:
            faults.append(f"lr: expected a number above 0, found {self.lr}")
        if faults:
            raise ConfigError(
                "the configuration of the training is invalid\n" + "\n".join(f"  {fault}" for fault in faults)
            )

    @property
    def peak_lr(self) -> float:
        return max(0.05, 0.5 * self.batch / 1024) if self.lr is None else self.lr

    def lr_at(self, progress: float) -> float:
        """Learning rate after `progress` epochs: a straight rise, then half a cosine."""
        warmup = max(1, round(self.epochs * 5 / 360)) if self.warmup_epochs is None else self.warmup_epochs
        warmup = min(warmup, self.epochs - 1)
        if progress < warmup:
            return self.peak_lr * progress / warmup
        return self.peak_lr * 0.5 * (1 + math.cos(math.pi * (progress - warmup) / (self.epochs - warmup)))


def fine_tuning_schedule(config: TrainConfig) -> TrainConfig:
    """The same training for weights that have learned already: without warm-up, unless one was set."""
    return config if config.warmup_epochs is not None else replace(config, warmup_epochs=0)

"""What a user may set about training, with the published recipe as the default."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

from lightnas_edge.errors import ConfigError
from lightnas_edge.nn.execution import PRECISIONS

Optimiser = Literal["sgd", "adamw"]
MAX_MAGNITUDE = 30  # of torchvision's RandAugment, which has 31 of them


@dataclass(frozen=True)
class TrainConfig:
    """By default the recipe of LightNAS train_imagenet.py (commit 2f0e1d1): ImageNet, 360 epochs, batch 1024, learning rate 0.5.

    Args:
        epochs: of the whole training.
        batch: images of a step, all processes together.
        lr: at the top of the schedule; None: as published for the batch, 0.5 * batch / 1024, at least 0.05; of AdamW 0.001 for a
            batch of 1024 (DeiT, ConvNeXt), by the square root of the batch (timm).
        warmup_epochs: in which the learning rate rises from zero; None: 5 of 360 stretched to `epochs`, at least one.
        weight_decay: none on biases and batch norm; None: 4e-5 as published, 0.05 with AdamW (DeiT, ConvNeXt).
        seed: of the first weights, of dropout and of mixing; that of order and augmentation belongs to the data.
        augment: without it, images come as for validation.
        device: `auto`, `cpu` or `cuda`. Bit-identical resumption is promised on the CPU, with the same
            number of threads.
        checkpoint_s: seconds between checkpoints.
        optimiser: `sgd` with momentum, or `adamw` with PyTorch's betas.
        ema: decay of averaged weights; None: the weights of the last step are validated and kept.
        mixup, cutmix: parameter of the beta distribution that shares are drawn from; with both, each step draws one of them.
        randaugment: operations for an image, in place of colour jitter.
        randaugment_magnitude: 0 to 30; None: 9.
        micro_batches: a process runs its share of a batch in this many parts, one after the other, to save memory; batch norm sees
            one part at a time.
        precision: of the passes: `fp32`, `bf16` under autocast, or `auto`, the fastest of both, channels last or first.
        sync_batch_norm: batch norm has the statistics of all processes; else each has those of its own share.
    """

    epochs: int = 360
    batch: int = 128
    lr: float | None = None
    warmup_epochs: int | None = None
    momentum: float = 0.9
    weight_decay: float | None = None
    label_smoothing: float = 0.1
    clip_norm: float = 5.0
    augment: bool = True
    seed: int = 0
    device: str = "auto"
    checkpoint_s: float = 60.0
    optimiser: Optimiser = "sgd"
    ema: float | None = None
    mixup: float | None = None
    cutmix: float | None = None
    randaugment: int | None = None
    randaugment_magnitude: int | None = None
    micro_batches: int = 1
    precision: str = "fp32"
    sync_batch_norm: bool = False

    def __post_init__(self) -> None:
        faults = []
        for name, least in (("epochs", 1), ("batch", 2), ("warmup_epochs", 0), ("seed", 0), ("micro_batches", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                faults.append(f"{name}: expected at least {least}, found {value}")
        if self.lr is not None and not 0 < self.lr < math.inf:
            faults.append(f"lr: expected a number above 0, found {self.lr}")
        faults += self._faults_of_recipe()
        if self.precision not in PRECISIONS:
            faults.append(f"precision: expected one of {', '.join(PRECISIONS)}, found {self.precision!r}")
        if self.micro_batches > 1 and self.micro_batches > self.batch // 2:
            faults.append(
                f"micro_batches: {self.micro_batches} micro-batches of {self.batch} images; batch norm needs two in each"
            )
        if faults:
            raise ConfigError(
                "the configuration of the training is invalid\n" + "\n".join(f"  {fault}" for fault in faults)
            )

    def _faults_of_recipe(self) -> list[str]:
        faults = []
        if self.optimiser not in get_args(Optimiser):
            faults.append(f"optimiser: expected one of {', '.join(get_args(Optimiser))}, found {self.optimiser!r}")
        if self.weight_decay is not None and not 0 <= self.weight_decay < math.inf:
            faults.append(f"weight_decay: expected a number from 0 on, found {self.weight_decay}")
        if self.ema is not None and not 0 < self.ema < 1:
            faults.append(f"ema: expected a number between 0 and 1, found {self.ema}")
        for name in ("mixup", "cutmix"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                faults.append(f"{name}: expected a number above 0, found {value}")
        if self.randaugment is not None and self.randaugment < 1:
            faults.append(f"randaugment: expected at least 1, found {self.randaugment}")
        if self.randaugment_magnitude is not None:
            if not 0 <= self.randaugment_magnitude <= MAX_MAGNITUDE:
                faults.append(
                    f"randaugment_magnitude: expected 0 to {MAX_MAGNITUDE}, found {self.randaugment_magnitude}"
                )
            if self.randaugment is None:
                faults.append("randaugment_magnitude: belongs to randaugment, which is not set")
        if self.randaugment is not None and not self.augment:
            faults.append("randaugment: does not go without augmentation")
        return faults

    @property
    def peak_lr(self) -> float:
        if self.lr is not None:
            return self.lr
        if self.optimiser == "adamw":
            return 1e-3 * math.sqrt(self.batch / 1024)
        return max(0.05, 0.5 * self.batch / 1024)

    @property
    def decay(self) -> float:
        """Of the weights."""
        if self.weight_decay is not None:
            return self.weight_decay
        return 0.05 if self.optimiser == "adamw" else 4e-5

    @property
    def magnitude(self) -> int:
        """Of RandAugment."""
        return 9 if self.randaugment_magnitude is None else self.randaugment_magnitude

    @property
    def resolved(self) -> dict[str, Any]:
        """All fields, as a record has them: with the numbers that the defaults stand for."""
        magnitude = None if self.randaugment is None else self.magnitude
        chosen = {"lr": self.peak_lr, "weight_decay": self.decay, "randaugment_magnitude": magnitude}
        return {**asdict(self), **chosen}

    def lr_of_step(self, step: int, steps: int, epoch: int) -> float:
        """Of one step, of as many in an epoch. The last one has none, so the only one of a training gets the highest rate."""
        return self.peak_lr if steps * self.epochs == 1 else self.lr_at(epoch + (step + 1) / steps)

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

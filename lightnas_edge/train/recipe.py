"""What a recipe adds to the loop: its optimiser, averaged weights, and mixed images."""

from __future__ import annotations

from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from lightnas_edge.data.transforms import RandAugment, drawn_from, torchvision_transforms
from lightnas_edge.train.config import TrainConfig

_Tensors: TypeAlias = tuple[Tensor, ...] | list[Tensor]
_MIXING = 2  # a stream of randomness; the loader has 0 and 1


def make_optimiser(network: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """SGD with momentum or AdamW; biases and batch norm are not decayed."""
    decayed = [weight for weight in network.parameters() if weight.dim() > 1]
    others = [weight for weight in network.parameters() if weight.dim() == 1]  # biases and batch norm
    groups = [{"params": decayed, "weight_decay": config.decay}, {"params": others, "weight_decay": 0.0}]
    if config.optimiser == "adamw":
        return torch.optim.AdamW(groups, lr=config.peak_lr, fused=True)
    return torch.optim.SGD(groups, lr=config.peak_lr, momentum=config.momentum, fused=True)


class Averaged(AveragedModel):
    """Exponential moving averages of a network's weights and of the running statistics of its norms; counters are copied.

    Args:
        decay: of an average with each step, once there are enough of them: the average of the first steps has
            (1 + steps) / (10 + steps), as in TensorFlow's ExponentialMovingAverage, so that random weights are forgotten.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        super().__init__(network, multi_avg_fn=self._average, use_buffers=True)
        self.decay = decay
        self.module.requires_grad_(False)

    @torch.no_grad()
    def _average(self, averages: _Tensors, values: _Tensors, _: Tensor | int) -> None:
        if averages[0].is_floating_point():
            steps = int(self.n_averaged)  # on the CPU: no device is waited for
            decay = min(self.decay, (1 + steps) / (10 + steps))
            get_ema_multi_avg_fn(decay)(averages, values, steps)  # type: ignore[no-untyped-call]  # torch has no type for it
        else:
            for average, value in zip(averages, values, strict=True):
                average.copy_(value)


class Mixing:
    """MixUp and CutMix of torchvision; with both, each step draws one of them.

    Images are mixed with others of the same step and process. What is drawn follows from the seed, the epoch, the step and the process.
    """

    def __init__(self, config: TrainConfig, classes: int) -> None:
        v2 = torchvision_transforms()
        each = []
        if config.mixup is not None:
            each.append(v2.MixUp(alpha=config.mixup, num_classes=classes))
        if config.cutmix is not None:
            each.append(v2.CutMix(alpha=config.cutmix, num_classes=classes))
        self._mix = v2.RandomChoice(each)
        self._seed = config.seed

    @classmethod
    def of(cls, config: TrainConfig, classes: int) -> Mixing | None:
        """None where the recipe mixes nothing.

        Raises:
            RunError: torchvision cannot be used.
        """
        return None if config.mixup is None and config.cutmix is None else cls(config, classes)

    def __call__(
        self, images: Tensor, labels: Tensor, *, epoch: int, step: int, process: int = 0
    ) -> tuple[Tensor, Tensor]:
        """(N, 3, S, S) and (N,) labels to mixed images, in the same memory format, and (N, classes) shares of the classes."""
        with drawn_from(self._seed, _MIXING, epoch, step, process):
            mixed, shares = self._mix(images, labels)
        return mixed, shares


def augmentation(config: TrainConfig) -> RandAugment | None:
    """The policy of a recipe; None: colour jitter, as published.

    Raises:
        RunError: torchvision cannot be used.
    """
    if config.randaugment is None:
        return None
    torchvision_transforms()
    return RandAugment(config.randaugment, config.magnitude)

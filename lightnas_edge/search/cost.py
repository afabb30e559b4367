"""What the rest of a search will cost: steps, and seconds from a trial of a few."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch

from lightnas_edge.nn.cost import seconds_of, trial_batch
from lightnas_edge.search.config import PUBLISHED
from lightnas_edge.search.state import SearchState
from lightnas_edge.search.steps import path_losses, weight_step


@dataclass(frozen=True)
class StepsLeft:
    """By phase."""

    warmup: int
    weights: int
    architecture: int

    @classmethod
    def of(cls, state: SearchState) -> StepsLeft:
        config, schedule = state.context.config, state.context.schedule
        weight_steps, architecture_steps = len(state.weight_batches), len(state.architecture_batches)
        left = dict.fromkeys(("warmup", "weights", "architecture"), 0)
        for epoch in range(state.epoch, config.epochs):
            warmup = schedule.is_warmup(epoch)
            left["warmup" if warmup else "weights"] += weight_steps
            left["architecture"] += 0 if warmup else architecture_steps
        if state.epoch < config.epochs:
            if state.phase == "architecture":
                left["weights"] -= weight_steps
                left["architecture"] -= state.step
            else:
                left["warmup" if schedule.is_warmup(state.epoch) else "weights"] -= state.step
        return cls(**left)

    @property
    def total(self) -> int:
        return self.warmup + self.weights + self.architecture


def estimated_seconds(state: SearchState, left: StepsLeft, compared_images: int) -> float:
    """From one step there and back and one forward, on a copy of the supernet.

    Args:
        compared_images: forward passes of an image that comparing the candidates takes in the end.
    """
    config, execution = state.context.config, state.context.execution
    pixels, labels, weights_wait_s = trial_batch(state.weight_batches)
    weight_batch = state.on_device(pixels, labels)
    pixels, labels, architecture_wait_s = trial_batch(state.architecture_batches)
    architecture_batch = state.on_device(pixels, labels)
    supernet = copy.deepcopy(state.supernet).requires_grad_(True)
    optimiser = torch.optim.SGD(supernet.parameters(), lr=0.0, momentum=PUBLISHED.momentum, foreach=True)
    paths = state.strategy.usual_paths()

    def train() -> None:
        weight_step(supernet, optimiser, *weight_batch, paths, micro_batches=config.micro_batches, execution=execution)

    train()  # memory is allocated and kernels are chosen at the first pass
    train_s = seconds_of(train, state.device) / len(paths)  # of one path
    look_s = seconds_of(lambda: path_losses(supernet, *architecture_batch, paths, execution=execution), state.device)
    look_s /= len(paths)
    learn_s = look_s * config.validation_passes
    warmup_passes, passes = state.strategy.passes_per_step
    return (
        left.warmup * (train_s * warmup_passes / 3 + weights_wait_s)
        + left.weights * (train_s * passes / 3 + weights_wait_s)
        + left.architecture * (learn_s + architecture_wait_s)
        + compared_images * look_s / len(architecture_batch[1])
    )

"""Blockwise distillation: every operator learns to do what the largest one of its layer does, and is judged in its place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lightnas_edge.nn import Supernet
from lightnas_edge.search.constraints import Budget
from lightnas_edge.search.entangled_strategy import largest_path
from lightnas_edge.search.evidence import uniform_path
from lightnas_edge.search.shared_strategy import SharedStrategy
from lightnas_edge.search.steps import Outcome, Path, imitation_step
from lightnas_edge.search.strategy import SearchContext


class BlockwiseStrategy(SharedStrategy):
    """The warm-up trains the largest network, the teacher; a trained network needs none. The other operators start as cuts of
    the teacher's. Then operators of uniform paths learn from its features.

    A validation batch runs the teacher, and networks that differ from it in one layer each: operator scores are what a layer costs
    alone, in the midst of the best operators (as in LANA, arXiv 2107.10624, and Puzzle, arXiv 2411.19146). What two small operators
    cost together is not measured.
    """

    def __init__(self, context: SearchContext, budgets: Sequence[Budget]) -> None:
        super().__init__(context, budgets)
        self._teacher = context.teacher or largest_path(context.space)
        self._begun = context.teacher is not None  # the other operators have been given what fits of the teacher's

    def usual_paths(self) -> list[Path]:
        return [list(self._teacher), *super().usual_paths()]

    def warmup_paths(self) -> list[Path]:
        return [list(self._teacher)]

    def train_weights(
        self, supernet: Supernet, optimiser: torch.optim.Optimizer, images: Tensor, labels: Tensor, *, warmup: bool
    ) -> tuple[Outcome, list[Path]]:
        if warmup:
            return super().train_weights(supernet, optimiser, images, labels, warmup=True)
        if not self._begun:
            supernet.start_as_cuts(self._teacher)
            self._begun = True
        context, path = self.context, uniform_path(self.context.space, self.context.generator)
        outcome = imitation_step(
            supernet, optimiser, images, labels, self._teacher, path, execution=context.execution, ranks=context.ranks,
            abandonable=context.abandonable, micro_batches=context.config.micro_batches,
        )  # fmt: skip
        return outcome, [path]

    def state(self) -> dict[str, Any]:
        return {**super().state(), "begun": self._begun}

    def restore(self, state: dict[str, Any]) -> None:
        super().restore(state)
        self._begun = state["begun"]

    @property
    def passes_per_step(self) -> tuple[int, int]:
        return 3, 4

    def validation_paths(self) -> list[Path]:
        operators, generator = len(self.context.space.operators), self.context.generator
        found = [list(self._teacher)]
        for layer in torch.randperm(len(self._teacher), generator=generator).tolist()[: self.context.config.paths - 1]:
            step = int(torch.randint(1, operators, (), generator=generator)) if operators > 1 else 0
            path = list(self._teacher)
            path[layer] = (path[layer] + step) % operators
            found.append(path)
        return found

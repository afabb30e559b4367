"""Which paths a search runs and what it learns from them: what every method has in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightnas_edge.nn import Ranks, Supernet
from lightnas_edge.nn.execution import Execution
from lightnas_edge.search.config import Schedule, SearchConfig
from lightnas_edge.search.constraints import Budget
from lightnas_edge.search.posterior import OperatorPosterior
from lightnas_edge.search.steps import Outcome, Path, sample_orderings, weight_step
from lightnas_edge.space import Space

Array = NDArray[np.float64]


@dataclass
class SearchContext:
    """What every step needs in addition to the batch."""

    space: Space
    config: SearchConfig
    schedule: Schedule
    generator: torch.Generator  # the same numbers on every rank
    ranks: Ranks
    chance: float  # accuracy on the validation images of always answering their most frequent class
    execution: Execution = field(default_factory=Execution)
    teacher: Path | None = None  # of a trained network that the supernet holds
    abandonable: Callable[[], AbstractContextManager[None]] = nullcontext  # for passes that Ctrl-C may stop anywhere


class SearchStrategy(ABC):
    """Chooses the paths of weight steps and learns from validation batches.

    An implementation guarantees: all ranks hold the same numbers; `state` is all that a resumed run needs.
    """

    # Candidates of a layer are cuts of one block, and the first path of a weight step teaches the others.
    entangled: ClassVar[bool] = False

    def __init__(self, context: SearchContext, budgets: Sequence[Budget]) -> None:
        self.context, self.budgets = context, tuple(budgets)

    def usual_paths(self) -> list[Path]:
        """Paths that together take as long as those of the search, on average; the same ones whenever asked."""
        space = self.context.space
        return [[layer % len(space.operators) for layer in range(len(space.layers))]]

    def warmup_paths(self) -> list[Path]:
        """Every operator of every layer once, in random order."""
        layers, operators = len(self.context.space.layers), len(self.context.space.operators)
        return sample_orderings(torch.zeros(layers, operators), self.context.generator)

    @abstractmethod
    def weight_paths(self) -> list[Path]:
        """The paths of a weight step after the warm-up."""

    def train_weights(
        self, supernet: Supernet, optimiser: torch.optim.Optimizer, images: Tensor, labels: Tensor, *, warmup: bool
    ) -> tuple[Outcome, list[Path]]:
        """One step of the weights on a training batch."""
        context, paths = self.context, self.warmup_paths() if warmup else self.weight_paths()
        outcome = weight_step(
            supernet, optimiser, images, labels, paths, distil=self.entangled, micro_batches=context.config.micro_batches,
            execution=context.execution, ranks=context.ranks, abandonable=context.abandonable,
        )  # fmt: skip
        return outcome, paths

    @property
    def passes_per_step(self) -> tuple[int, int]:
        """Forward passes of an image in a weight step during the warm-up, and after it; a pass there and back counts as three."""
        return 3 * len(self.context.space.operators), 3

    @abstractmethod
    def learn(self, supernet: Supernet, images: Tensor, labels: Tensor, epoch: int) -> tuple[Outcome, list[Path]]:
        """One step on a validation batch; moves no weight."""

    def end_epoch(self, epoch: int) -> None:  # noqa: B027  # nothing to do for a method that learns at every step
        """After the last step of an epoch."""

    @abstractmethod
    def probabilities(self, budget: int = 0) -> Array:
        """(L, K) probabilities of the operators for one budget; the published method samples its paths from them."""

    @abstractmethod
    def posterior(self) -> OperatorPosterior:
        """The operator scores that the selection maximises, with their uncertainty."""

    @abstractmethod
    def derived(self) -> list[Path]:
        """The most probable path of every budget, whether or not it keeps the budget."""

    @abstractmethod
    def multipliers(self) -> list[dict[str, float]]:
        """Of every budget: metric -> multiplier; above zero, the constraint binds."""

    def alpha_lr(self, epoch: int) -> float | None:
        """Step size of alpha where there is one."""
        return None

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """Tensors and plain values."""

    @abstractmethod
    def restore(self, state: dict[str, Any]) -> None:
        """Resume from `state`, with the same budgets."""

    @abstractmethod
    def load_finished(self, state: dict[str, Any]) -> None:
        """Load the posterior of a finished search, for other budgets."""

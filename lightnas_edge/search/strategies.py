"""What a search learns about operators, and which paths it runs to learn it: as published, and for many budgets at once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightnas_edge.errors import BudgetError, PredictorError
from lightnas_edge.nn import Ranks, Supernet
from lightnas_edge.predictor.base import one_hot_of
from lightnas_edge.search.config import PUBLISHED, Schedule, SearchConfig
from lightnas_edge.search.constraints import Budget, Constraint
from lightnas_edge.search.distribution import LinearCost, PathDistribution, nearest_within
from lightnas_edge.search.execution import Execution
from lightnas_edge.search.posterior import OperatorPosterior, PathLosses
from lightnas_edge.search.steps import (
    Multiplier,
    Outcome,
    Path,
    architecture_gradient,
    path_losses,
    sample_orderings,
    sample_path,
)
from lightnas_edge.space import Space

Array = NDArray[np.float64]

# How far the probabilities of the shared method lean towards what it has learned, at the end of the search: operators one
# standard deviation apart in worth stand in a ratio of e^2. By judgement; they are shown, and decide nothing.
LEAN = 2.0


@dataclass
class SearchContext:
    """What every step needs beside the batch."""

    space: Space
    config: SearchConfig
    schedule: Schedule
    generator: torch.Generator  # the same numbers on every rank
    ranks: Ranks
    execution: Execution = field(default_factory=Execution)


class SearchStrategy(ABC):
    """Chooses the paths of weight steps and learns from validation batches.

    An implementation guarantees: all ranks hold the same numbers; `state` is all that a resumed run needs.
    """

    def __init__(self, around: SearchContext, budgets: Sequence[Budget]) -> None:
        self.around, self.budgets = around, tuple(budgets)

    def warmup_paths(self) -> list[Path]:
        """Every operator of every layer once, in random order."""
        layers, operators = len(self.around.space.layers), len(self.around.space.operators)
        return sample_orderings(torch.zeros(layers, operators), self.around.generator)

    @abstractmethod
    def weight_paths(self) -> list[Path]:
        """The paths of a weight step after the warm-up."""

    @abstractmethod
    def learn(self, supernet: Supernet, images: Tensor, labels: Tensor, epoch: int) -> tuple[Outcome, list[Path]]:
        """One step on a validation batch; moves no weight."""

    def end_epoch(self, epoch: int) -> None:  # noqa: B027  # nothing to do for a method that learns at every step
        """After the last step of an epoch."""

    @abstractmethod
    def probabilities(self, budget: int = 0) -> Array:
        """(L, K) how probable each operator is for that budget; as published, paths are sampled so."""

    @abstractmethod
    def preference(self) -> OperatorPosterior:
        """What the selection maximises, with its doubt."""

    @abstractmethod
    def derived(self) -> list[Path]:
        """The most probable path of every budget, whatever it costs."""

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
        """Go on from `state`, with the same budgets."""

    @abstractmethod
    def take_over(self, state: dict[str, Any]) -> None:
        """What a finished search has learned, for other budgets."""


class LightNasStrategy(SearchStrategy):
    """The published rules: alpha by Adam, one multiplier per constraint by gradient ascent; one budget."""

    def __init__(self, around: SearchContext, budgets: Sequence[Budget]) -> None:
        super().__init__(around, budgets)
        (budget,) = budgets
        self.constraints = budget.constraints
        shape = len(around.space.layers), len(around.space.operators)
        self.alpha = PUBLISHED.alpha_init_deviation * torch.randn(shape, generator=around.generator)
        self.optimiser = torch.optim.Adam(
            [self.alpha],
            lr=around.schedule.first_alpha_lr,
            betas=PUBLISHED.alpha_betas,
            weight_decay=PUBLISHED.alpha_weight_decay,
        )
        two_sided = around.config.uses_budget
        self._multipliers = [
            # Only the first of several constraints is a target to be reached; the others are limits.
            Multiplier(around.schedule.lambda_lr, two_sided=two_sided and index == 0)
            for index in range(len(self.constraints))
        ]
        # The predictors are small: on the CPU, beside alpha, so that sampling a path never waits for a device.
        self._modules = [
            constraint.predictor.torch_module().float().cpu().requires_grad_(False) for constraint in self.constraints
        ]
        self._derived_values = predicted(self.constraints, self.derived())[0]

    def weight_paths(self) -> list[Path]:
        return [sample_path(self.alpha, self.around.generator)]

    def learn(self, supernet: Supernet, images: Tensor, labels: Tensor, epoch: int) -> tuple[Outcome, list[Path]]:
        costs = [
            (module, multiplier.lam, constraint.target)
            for module, multiplier, constraint in zip(self._modules, self._multipliers, self.constraints, strict=True)
        ]
        gradient, path, outcome = architecture_gradient(
            supernet, self.alpha, images, labels, costs, tau=self.around.schedule.tau(epoch),
            generator=self.around.generator, execution=self.around.execution,
        )  # fmt: skip
        self.around.ranks.average([gradient])
        self.alpha.grad = gradient
        self.optimiser.param_groups[0]["lr"] = self.alpha_lr(epoch)
        self.optimiser.step()
        self._derived_values = predicted(self.constraints, self.derived())[0]
        may_brake = self.around.schedule.may_brake(epoch)
        for multiplier, constraint, value in zip(
            self._multipliers, self.constraints, self._derived_values, strict=True
        ):
            multiplier.update(value, constraint.target, may_brake=may_brake)
        return outcome, [path]

    def alpha_lr(self, epoch: int) -> float:
        scheduled = self.around.schedule.alpha_lr(epoch)
        return self._multipliers[0].alpha_lr(scheduled, self._derived_values[0], self.constraints[0].target)

    def probabilities(self, budget: int = 0) -> Array:
        return np.asarray(torch.softmax(self.alpha.double(), -1).numpy())

    def preference(self) -> OperatorPosterior:
        logs = torch.log_softmax(self.alpha.double(), -1).numpy()
        return OperatorPosterior(logs, np.zeros((logs.size, 1)))

    def derived(self) -> list[Path]:
        return [[int(index) for index in self.alpha.argmax(-1)]]

    def multipliers(self) -> list[dict[str, float]]:
        return [
            {
                constraint.metric: multiplier.lam
                for constraint, multiplier in zip(self.constraints, self._multipliers, strict=True)
            }
        ]

    def state(self) -> dict[str, Any]:
        return {
            "alpha": self.alpha,
            "alpha_optimiser": self.optimiser.state_dict(),
            "lambda": [multiplier.lam for multiplier in self._multipliers],
            "braking": [multiplier.braking for multiplier in self._multipliers],
        }

    def restore(self, state: dict[str, Any]) -> None:
        self.alpha.copy_(state["alpha"])
        self.optimiser.load_state_dict(state["alpha_optimiser"])
        self._multipliers = [
            replace(multiplier, lam=lam, braking=braking)
            for multiplier, lam, braking in zip(self._multipliers, state["lambda"], state["braking"], strict=True)
        ]
        self._derived_values = predicted(self.constraints, self.derived())[0]

    def take_over(self, state: dict[str, Any]) -> None:
        raise BudgetError("the preferences of the published method hold the cost of one board and target")


class SharedStrategy(SearchStrategy):
    """One supernet for all budgets: every path is as likely as another, and their losses tell what operators are worth.

    What helps the images does not depend on a budget or a board, so there is one belief; what an operator costs does,
    so every budget has multipliers of its own. They shape what is probable for a budget, and not the paths that are
    trained: candidates that are trained less than others look worse than they are. With paths kept near the budgets the
    networks found were little better than chance (docs/search.md, against known truth).
    """

    def __init__(self, around: SearchContext, budgets: Sequence[Budget]) -> None:
        super().__init__(around, budgets)
        self.losses = PathLosses(around.space)
        self._costs = [[LinearCost.of(constraint) for constraint in budget.constraints] for budget in budgets]
        self._pending: list[tuple[list[Path], Tensor, int]] = []
        self._belief = self.losses.preference()
        self._distributions = self._solve(0.0)

    def weight_paths(self) -> list[Path]:
        return [self._path()]

    def _path(self) -> Path:
        layers, operators = len(self.around.space.layers), len(self.around.space.operators)
        path: Path = torch.randint(operators, (layers,), generator=self.around.generator).tolist()
        return path

    def learn(self, supernet: Supernet, images: Tensor, labels: Tensor, epoch: int) -> tuple[Outcome, list[Path]]:
        paths = [self._path() for _ in range(self.around.config.paths)]
        losses, outcome = path_losses(supernet, images, labels, paths, execution=self.around.execution)
        self._pending.append((paths, losses, epoch))  # read at the end of the epoch: a device need not be waited for
        return outcome, paths

    def end_epoch(self, epoch: int) -> None:
        if not self._pending:
            return
        losses = torch.stack([each.cpu() for _, each, _ in self._pending])
        self.around.ranks.average([losses])
        for (paths, _, when), row in zip(self._pending, losses.double().tolist(), strict=True):
            self.losses.add(paths, row, when)
        self._pending = []
        self._belief = self.losses.preference()
        schedule = self.around.schedule
        self._distributions = self._solve(
            (epoch + 1 - schedule.warmup_epochs) / (schedule.epochs - schedule.warmup_epochs)
        )

    def _solve(self, progress: float) -> list[PathDistribution]:
        spread = self._belief.spread
        lean = LEAN * progress / spread if spread > 0 else 0.0
        two_sided = self.around.config.uses_budget
        return [nearest_within(lean * self._belief.mean, costs, two_sided=two_sided) for costs in self._costs]

    def probabilities(self, budget: int = 0) -> Array:
        return self._distributions[budget].probabilities

    def preference(self) -> OperatorPosterior:
        return self._belief

    def derived(self) -> list[Path]:
        return [[int(index) for index in each.probabilities.argmax(axis=1)] for each in self._distributions]

    def multipliers(self) -> list[dict[str, float]]:
        return [
            {constraint.metric: lam for constraint, lam in zip(budget.constraints, found.multipliers, strict=True)}
            for budget, found in zip(self.budgets, self._distributions, strict=True)
        ]

    def state(self) -> dict[str, Any]:
        return {
            "losses": self.losses.state(),
            "pending": [(paths, losses.cpu(), when) for paths, losses, when in self._pending],
            "distributions": [
                (torch.from_numpy(each.probabilities.copy()), list(each.multipliers), list(each.expected))
                for each in self._distributions
            ],
        }

    def restore(self, state: dict[str, Any]) -> None:
        self.losses.restore(state["losses"])
        self._belief = self.losses.preference()
        self._pending = [(paths, losses, when) for paths, losses, when in state["pending"]]
        self._distributions = [
            PathDistribution(chances.numpy().copy(), tuple(lams), tuple(expected))
            for chances, lams, expected in state["distributions"]
        ]

    def take_over(self, state: dict[str, Any]) -> None:
        self.losses.restore(state["losses"])
        self._belief = self.losses.preference()
        self._distributions = self._solve(1.0)


def predicted(constraints: Sequence[Constraint], paths: Sequence[Path]) -> list[list[float]]:
    """Of every path, the prediction of every constraint's metric.

    Raises:
        PredictorError: one is not a finite number.
    """
    one_hot = one_hot_of(constraints[0].predictor.space, np.array(paths))
    columns = [constraint.predictor.predict(one_hot) for constraint in constraints]
    for constraint, column in zip(constraints, columns, strict=True):
        if not np.isfinite(column).all():
            raise PredictorError(f"the predictor of {constraint.metric} gives {column} for operators {list(paths)}")
    return [[float(value) for value in row] for row in np.stack(columns, axis=1)]

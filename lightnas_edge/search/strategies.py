"""Which paths a search runs and what it learns from them: as published, and for many budgets at once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
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

# Logits of the shared method's probabilities per standard deviation of the operator scores, at the end of the search:
# operators one standard deviation apart have probabilities in a ratio of e^2. A judgement; the probabilities are displayed
# and used for the derived network, the selection does not use them.
LOGIT_SCALE = 2.0


@dataclass
class SearchContext:
    """What every step needs in addition to the batch."""

    space: Space
    config: SearchConfig
    schedule: Schedule
    generator: torch.Generator  # the same numbers on every rank
    ranks: Ranks
    execution: Execution = field(default_factory=Execution)
    abandonable: Callable[[], AbstractContextManager[None]] = nullcontext  # for passes that Ctrl-C may stop anywhere


class SearchStrategy(ABC):
    """Chooses the paths of weight steps and learns from validation batches.

    An implementation guarantees: all ranks hold the same numbers; `state` is all that a resumed run needs.
    """

    def __init__(self, context: SearchContext, budgets: Sequence[Budget]) -> None:
        self.context, self.budgets = context, tuple(budgets)

    def warmup_paths(self) -> list[Path]:
        """Every operator of every layer once, in random order."""
        layers, operators = len(self.context.space.layers), len(self.context.space.operators)
        return sample_orderings(torch.zeros(layers, operators), self.context.generator)

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


class LightNasStrategy(SearchStrategy):
    """The published rules: alpha by Adam, one multiplier per constraint by gradient ascent; one budget."""

    def __init__(self, context: SearchContext, budgets: Sequence[Budget]) -> None:
        super().__init__(context, budgets)
        (budget,) = budgets
        self.constraints = budget.constraints
        shape = len(context.space.layers), len(context.space.operators)
        self.alpha = PUBLISHED.alpha_init_deviation * torch.randn(shape, generator=context.generator)
        self.optimiser = torch.optim.Adam(
            [self.alpha],
            lr=context.schedule.first_alpha_lr,
            betas=PUBLISHED.alpha_betas,
            weight_decay=PUBLISHED.alpha_weight_decay,
        )
        two_sided = context.config.is_two_sided
        self._multipliers = [
            # Only the first of several constraints is a target to be reached; the others are limits.
            Multiplier(context.schedule.lambda_lr, two_sided=two_sided and index == 0)
            for index in range(len(self.constraints))
        ]
        # The predictors are small: they stay on the CPU with alpha, so that sampling a path never waits for a device.
        self._modules = [
            constraint.predictor.torch_module().float().cpu().requires_grad_(False) for constraint in self.constraints
        ]
        self._derived_values = predicted(self.constraints, self.derived())[0]

    def weight_paths(self) -> list[Path]:
        return [sample_path(self.alpha, self.context.generator)]

    def learn(self, supernet: Supernet, images: Tensor, labels: Tensor, epoch: int) -> tuple[Outcome, list[Path]]:
        costs = [
            (module, multiplier.lam, constraint.target)
            for module, multiplier, constraint in zip(self._modules, self._multipliers, self.constraints, strict=True)
        ]
        with self.context.abandonable():
            gradient, path, outcome = architecture_gradient(
                supernet, self.alpha, images, labels, costs, tau=self.context.schedule.tau(epoch),
                generator=self.context.generator, execution=self.context.execution,
            )  # fmt: skip
        self.context.ranks.average([gradient])
        self.alpha.grad = gradient
        self.optimiser.param_groups[0]["lr"] = self.alpha_lr(epoch)
        self.optimiser.step()
        self._derived_values = predicted(self.constraints, self.derived())[0]
        may_brake = self.context.schedule.may_brake(epoch)
        for multiplier, constraint, value in zip(
            self._multipliers, self.constraints, self._derived_values, strict=True
        ):
            multiplier.update(value, constraint.target, may_brake=may_brake)
        return outcome, [path]

    def alpha_lr(self, epoch: int) -> float:
        scheduled = self.context.schedule.alpha_lr(epoch)
        return self._multipliers[0].alpha_lr(scheduled, self._derived_values[0], self.constraints[0].target)

    def probabilities(self, budget: int = 0) -> Array:
        return np.asarray(torch.softmax(self.alpha.double(), -1).numpy())

    def posterior(self) -> OperatorPosterior:
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

    def load_finished(self, state: dict[str, Any]) -> None:
        raise BudgetError("alpha of the published method contains the cost of one board and target")


class SharedStrategy(SearchStrategy):
    """One supernet for all budgets: paths are uniform, and their losses give one posterior over operator scores.

    An operator's effect on accuracy does not depend on the board or the budget; its cost does. So there is one posterior,
    and one Lagrange multiplier per constraint and budget. The multipliers shape the probabilities of a budget, not the
    paths that are trained: operators that are trained less than others score lower than they should. With paths sampled
    near the budgets, the networks found were little better than random (docs/search.md, benchmark with known truth).
    """

    def __init__(self, context: SearchContext, budgets: Sequence[Budget]) -> None:
        super().__init__(context, budgets)
        self.losses = PathLosses(context.space)
        self._costs = [[LinearCost.of(constraint) for constraint in budget.constraints] for budget in budgets]
        self._pending: list[tuple[list[Path], Tensor, int]] = []
        self._posterior = self.losses.posterior()
        self._distributions = self._solve(0.0)

    def weight_paths(self) -> list[Path]:
        return [self._path()]

    def _path(self) -> Path:
        layers, operators = len(self.context.space.layers), len(self.context.space.operators)
        path: Path = torch.randint(operators, (layers,), generator=self.context.generator).tolist()
        return path

    def learn(self, supernet: Supernet, images: Tensor, labels: Tensor, epoch: int) -> tuple[Outcome, list[Path]]:
        paths = [self._path() for _ in range(self.context.config.paths)]
        with self.context.abandonable():
            losses, outcome = path_losses(supernet, images, labels, paths, execution=self.context.execution)
        self._pending.append(
            (paths, losses, epoch)
        )  # read at the end of the epoch, so that no step waits for the device
        return outcome, paths

    def end_epoch(self, epoch: int) -> None:
        if not self._pending:
            return
        losses = torch.stack([each.cpu() for _, each, _ in self._pending])
        self.context.ranks.average([losses])
        for (paths, _, when), row in zip(self._pending, losses.double().tolist(), strict=True):
            self.losses.add(paths, row, when)
        self._pending = []
        self._posterior = self.losses.posterior()
        schedule = self.context.schedule
        self._distributions = self._solve(
            (epoch + 1 - schedule.warmup_epochs) / (schedule.epochs - schedule.warmup_epochs)
        )

    def _solve(self, progress: float) -> list[PathDistribution]:
        score_std = self._posterior.score_std
        scale = LOGIT_SCALE * progress / score_std if score_std > 0 else 0.0
        two_sided = self.context.config.is_two_sided
        return [nearest_within(scale * self._posterior.mean, costs, two_sided=two_sided) for costs in self._costs]

    def probabilities(self, budget: int = 0) -> Array:
        return self._distributions[budget].probabilities

    def posterior(self) -> OperatorPosterior:
        return self._posterior

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
        self._posterior = self.losses.posterior()
        self._pending = [(paths, losses, when) for paths, losses, when in state["pending"]]
        self._distributions = [
            PathDistribution(chances.numpy().copy(), tuple(lams), tuple(expected))
            for chances, lams, expected in state["distributions"]
        ]

    def load_finished(self, state: dict[str, Any]) -> None:
        self.losses.restore(state["losses"])
        self._posterior = self.losses.posterior()
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

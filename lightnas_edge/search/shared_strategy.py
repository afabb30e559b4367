"""One supernet for every budget: uniform paths, and operator scores fitted to validation images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lightnas_edge.nn import Supernet
from lightnas_edge.search.constraints import Budget
from lightnas_edge.search.distribution import LinearCost, PathDistribution, nearest_within
from lightnas_edge.search.evidence import begin_evidence, uniform_path
from lightnas_edge.search.posterior import OperatorPosterior, arithmetic_of, arithmetic_weight
from lightnas_edge.search.steps import Outcome, Path
from lightnas_edge.search.strategy import Array, SearchContext, SearchStrategy

# Logits of the shared method's probabilities per standard deviation of the operator scores, at the end of the search:
# operators one standard deviation apart have probabilities in a ratio of e^2. A judgement; the probabilities are displayed
# and used for the derived network, the selection does not use them.
LOGIT_SCALE = 2.0


class SharedStrategy(SearchStrategy):
    """One supernet for all budgets: paths are uniform, and validation images give one posterior over operator scores.

    An operator's effect on accuracy does not depend on the board or the budget; its cost does. So there is one posterior,
    and one Lagrange multiplier per constraint and budget. The multipliers shape the probabilities of a budget, not the
    paths that are trained: operators that are trained less than others score lower than they should. With paths sampled
    near the budgets, the networks found were little better than random (docs/search.md, benchmark with known truth).
    """

    def __init__(self, context: SearchContext, budgets: Sequence[Budget]) -> None:
        super().__init__(context, budgets)
        self.evidence = begin_evidence(context.space, context.config)
        self._costs = [[LinearCost.of(constraint) for constraint in budget.constraints] for budget in budgets]
        self._pending: list[tuple[list[Path], Tensor, int]] = []
        self._arithmetic = arithmetic_of(context.space)
        self._accuracy: float | None = None  # of the paths of the last epoch, on validation images
        self._posterior = self._fitted()
        self._distributions = self._solve(0.0)

    def weight_paths(self) -> list[Path]:
        return [uniform_path(self.context.space, self.context.generator)]

    def validation_paths(self) -> list[Path]:
        """What the next validation batch runs."""
        return self.evidence.draw(self.context.generator)

    def learn(self, supernet: Supernet, images: Tensor, labels: Tensor, epoch: int) -> tuple[Outcome, list[Path]]:
        drawn = self.validation_paths()
        with self.context.abandonable():
            values, outcome = self.evidence.measure(supernet, images, labels, drawn, self.context.execution)
        # Read at the end of the epoch, so that no step waits for the device.
        # With an accuracy of its own: that of the metrics is for display, and after a resume not the same on all ranks.
        accuracy = outcome.correct / outcome.images
        self._pending.append((drawn, torch.cat([values, accuracy.to(values).reshape(1)]), epoch))
        return outcome, drawn

    def end_epoch(self, epoch: int) -> None:
        if not self._pending:
            return
        values = torch.stack([each.cpu() for _, each, _ in self._pending])
        self.context.ranks.average([values])
        for (drawn, _, when), row in zip(self._pending, values[:, :-1].double().tolist(), strict=True):
            self.evidence.add(drawn, row, when)
        self._accuracy = float(values[:, -1].double().mean())
        self._pending = []
        self._posterior = self._fitted()
        schedule = self.context.schedule
        self._distributions = self._solve(
            (epoch + 1 - schedule.warmup_epochs) / (schedule.epochs - schedule.warmup_epochs)
        )

    def _fitted(self) -> OperatorPosterior:
        weight = 1.0 if self._accuracy is None else arithmetic_weight(self._accuracy, self.context.chance)
        return self.evidence.posterior().with_capacity(self._arithmetic, weight)

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
            "evidence": self.evidence.state(),
            "accuracy": self._accuracy,
            "pending": [(drawn, values.cpu(), when) for drawn, values, when in self._pending],
            "distributions": [
                (torch.from_numpy(each.probabilities.copy()), list(each.multipliers), list(each.expected))
                for each in self._distributions
            ],
        }

    def restore(self, state: dict[str, Any]) -> None:
        self.evidence.restore(state["evidence"])
        self._accuracy = state["accuracy"]
        self._posterior = self._fitted()
        self._pending = [(drawn, values, when) for drawn, values, when in state["pending"]]
        self._distributions = [
            PathDistribution(chances.numpy().copy(), tuple(lams), tuple(expected))
            for chances, lams, expected in state["distributions"]
        ]

    def load_finished(self, state: dict[str, Any]) -> None:
        self.evidence.restore(state["evidence"])
        self._accuracy = state["accuracy"]
        self._posterior = self._fitted()
        self._distributions = self._solve(1.0)

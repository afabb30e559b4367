"""Budgets: upper limits on metrics, each under its own predictor."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from lightnas_edge.errors import BudgetError
from lightnas_edge.predictor import Predictor


@dataclass(frozen=True)
class Constraint:
    """`predictor.metric` of the network must not exceed `target`, which is in the predictor's unit.

    Raises:
        BudgetError: the target is not a positive, finite number.
    """

    predictor: Predictor
    target: float

    def __post_init__(self) -> None:
        if not (isinstance(self.target, (int, float)) and math.isfinite(self.target) and self.target > 0):
            raise BudgetError(f"a budget for {self.metric} is a positive number of {self.unit}, found {self.target!r}")

    @property
    def metric(self) -> str:
        return self.predictor.metric

    @property
    def unit(self) -> str:
        return self.predictor.unit

    def __str__(self) -> str:
        return f"{self.metric} {self.target:g} {self.unit}"


@dataclass(frozen=True)
class Budget:
    """One network to be found: its name among those of a search, and what it must keep.

    The first constraint orders networks by cost. `board`: the name of its board, where a search has several.

    Raises:
        BudgetError: no constraint, two on the same metric, predictors of different spaces, or a name that cannot be a
            folder's.
    """

    name: str
    constraints: tuple[Constraint, ...]
    board: str | None = None

    def __post_init__(self) -> None:
        metrics = [constraint.metric for constraint in self.constraints]
        if not metrics:
            raise BudgetError("a search needs a budget", hint="for example --latency-ms 20")
        twice = sorted({metric for metric in metrics if metrics.count(metric) > 1})
        if twice:
            raise BudgetError(f"two budgets for {', '.join(twice)} of one network", hint="name each metric once")
        require_one_space(self.constraints)
        if self.name in ("", ".", "..") or set(self.name) & set("/\\\0"):
            raise BudgetError(f"the name of a budget becomes the name of a folder; {self.name!r} cannot be one")

    @property
    def targets(self) -> dict[str, float]:
        """Metric -> target, as run.json holds it."""
        return {constraint.metric: float(constraint.target) for constraint in self.constraints}

    def __str__(self) -> str:
        return ", ".join(map(str, self.constraints))


def require_one_space(constraints: Sequence[Constraint]) -> None:
    """Raises BudgetError when predictors are of different spaces."""
    hashes = {constraint.predictor.space.sha256 for constraint in constraints}
    if len(hashes) > 1:
        spaces = ", ".join(sorted({constraint.predictor.space.name for constraint in constraints}))
        raise BudgetError(
            f"the predictors are of different spaces: {spaces}",
            hint="one search is of one space: fit every predictor for it",
        )

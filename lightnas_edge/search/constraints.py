"""Budgets: upper limits on metrics, each under its own predictor."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args

import numpy as np

from lightnas_edge.errors import BudgetError, PredictorError
from lightnas_edge.graph import FP32, Arithmetic, Precision
from lightnas_edge.predictor import CountedPredictor, Predictor
from lightnas_edge.predictor.base import one_hot_of
from lightnas_edge.predictor.energy import ENERGY
from lightnas_edge.records.differences import UNIT

# Fields of a fingerprint that follow from the precision: predictors that differ in these alone are of one board.
_PRECISION_FIELDS = ("precision", "dialect", "int8_instructions")


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

    The first constraint orders networks by cost. `board`: the name of its board, where a search has several. `energy`: the predictor of
    `energy_mj` of its board, where there is one; the energy of the network is stated, limited or not.

    Raises:
        BudgetError: no constraint, two on the same metric, predictors of different spaces, or a name that cannot be a
            folder's.
    """

    name: str
    constraints: tuple[Constraint, ...]
    board: str | None = None
    energy: Predictor | None = None

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

    @property
    def energy_predictor(self) -> Predictor | None:
        """That of the limit, which may have learned since; `energy` where energy is not limited."""
        limited = [each.predictor for each in self.constraints if each.metric == ENERGY]
        return limited[0] if limited else self.energy

    @property
    def fingerprint(self) -> dict[str, Any]:
        """Of the board that the budget holds on; empty where every metric is counted."""
        return next((each.predictor.fingerprint for each in self.constraints if each.predictor.fingerprint), {})

    @property
    def arithmetic(self) -> Arithmetic:
        """In which the network computes on that board; float32 where the board names no precision."""
        return arithmetic_of_board(self.fingerprint)

    @property
    def question(self) -> str:
        """Equal for budgets of the same limits on the same board, whatever the precision: the best of their networks is
        handed over.
        """
        return question_of(self.board, self.fingerprint, self.targets)

    def __str__(self) -> str:
        return ", ".join(map(str, self.constraints))


def count_for(budgets: Sequence[Budget], classes: int) -> list[Budget]:
    """The budgets with what is counted counted for so many classes: the head of a table may have others."""
    return [
        replace(
            budget,
            constraints=tuple(
                Constraint(CountedPredictor(each.predictor.space, each.metric, classes), each.target)
                if isinstance(each.predictor, CountedPredictor)
                else each
                for each in budget.constraints
            ),
        )
        for budget in budgets
    ]


def require_one_space(constraints: Sequence[Constraint]) -> None:
    """Raises BudgetError when predictors are of different spaces."""
    hashes = {constraint.predictor.space.sha256 for constraint in constraints}
    if len(hashes) > 1:
        spaces = ", ".join(sorted({constraint.predictor.space.name for constraint in constraints}))
        raise BudgetError(
            f"the predictors are of different spaces: {spaces}",
            hint="one search is of one space: fit every predictor for it",
        )


def precision_of(fingerprint: Mapping[str, Any]) -> Precision | None:
    """The precision that a board was measured in; None where its fingerprint names none that we know."""
    found = fingerprint.get("precision")
    return found if found in get_args(Precision) else None


def arithmetic_of_board(fingerprint: Mapping[str, Any]) -> Arithmetic:
    """In which networks compute there; float32 where the fingerprint names no precision."""
    precision = precision_of(fingerprint)
    return FP32 if precision is None else Arithmetic.for_backend(str(fingerprint.get("backend")), precision)


def board_of(fingerprint: Mapping[str, Any]) -> str:
    """Equal for predictors of one model in one state, in any precision, of any unit."""
    kept = {name: value for name, value in fingerprint.items() if name not in (*_PRECISION_FIELDS, UNIT)}
    return json.dumps(kept, sort_keys=True)


def question_of(board: str | None, fingerprint: Mapping[str, Any], targets: Mapping[str, float]) -> str:
    """See `Budget.question`."""
    return json.dumps([board, board_of(fingerprint), dict(targets)], sort_keys=True)


def predicted(constraints: Sequence[Constraint], paths: Sequence[Sequence[int]]) -> list[list[float]]:
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

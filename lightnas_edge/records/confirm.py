"""confirm/*.json of a run: the networks that `search --confirm` measures on one board, each round written before it is measured."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from lightnas_edge.records.base import Name, Record, Sha256
from lightnas_edge.records.run import Metric, Operators


class PlannedMetric(Record):
    """What was predicted of a network when it was planned, in the metric's unit."""

    value: float
    upper: float | None  # bound at the confidence of the search


class PlannedNetwork(Record):
    """A network that one of the budgets would have handed over, or its next best one."""

    budget: Name
    operators: Operators
    predicted: dict[Metric, PlannedMetric]


class ConfirmPlan(Record):
    """Planned networks are written before they are measured, so that an interrupted confirmation resumes with them."""

    kind: Literal["confirm-plan"] = "confirm-plan"
    schema_: Literal[1] = Field(default=1, alias="schema")
    host: Name
    predictor_sha256: dict[Metric, Sha256]  # of the predictors before anything was measured
    rounds: tuple[tuple[PlannedNetwork, ...], ...] = ()

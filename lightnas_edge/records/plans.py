"""What further measuring would bring, as `fit` prints it: the error of a predictor against the time of the board."""

from __future__ import annotations

from typing import Literal

from lightnas_edge.records.base import Count, NonNegativeFloat, Record, Text
from lightnas_edge.records.run import Metric

PlanName = Literal["table only", "networks only", "both"]


class PlanPoint(Record):
    """One way to spend the time of a board, and the error that a predictor has after it."""

    plan: PlanName
    networks: Count
    board_minutes: NonNegativeFloat | None  # null where the tables do not say how long their visits took
    mape: (
        NonNegativeFloat | None
    )  # of networks that were not fitted, error of measuring included; null where none is known
    basis: Literal["held out", "extrapolated", "none"]


class MeasuringPlans(Record):
    """Points of three plans, by plan and number of networks.

    `table_gain`: what the table lowers the error by, as a share of the measured value, on the same held-out networks; below zero it
    raises it. Null without a table or with too few networks.
    """

    metric: Metric
    simulated: bool
    points: tuple[PlanPoint, ...]
    table_gain: float | None
    table_gain_error: NonNegativeFloat | None  # standard error
    table_helps: bool | None  # null where it is not known
    verdict: Text | None  # about the table, in words

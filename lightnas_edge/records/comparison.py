"""The comparison of two verifications: what changed, and whether it is more than noise and day-to-day differences."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from lightnas_edge.records.base import Name, PositiveFloat, Record, Sha256, Text
from lightnas_edge.records.deployment import Interval, Outcome, Verdict
from lightnas_edge.records.run import Confidence, Metric

Finding = Literal["worse", "better", "within day-to-day differences", "within noise", "unknown"]


class ComparedVerification(Record):
    """One side."""

    created: Text
    host: Name
    model_sha256: Sha256
    precision: Name
    verdict: Verdict


class MetricChange(Record):
    """A metric on both sides. `ratio` is new over old; for `accuracy` it is null, and the difference counts."""

    metric: Metric
    unit: Name
    old: float
    new: float
    ratio: PositiveFloat | None
    interval: Interval | None  # of the ratio, or of the difference for accuracy
    finding: Finding


class BudgetChange(Record):
    """A budget that was asked on at least one side; null where it was not."""

    metric: Metric
    old_target: float | None
    new_target: float | None
    old: Outcome | None
    new: Outcome | None
    headroom: float | None  # relative, of the new value within its target; below zero beyond it


class MachineSpeed(Record):
    """How much longer the sentinel operators take now; above 1, the machine is slower for every network."""

    ratio: PositiveFloat
    sentinels: dict[str, PositiveFloat]
    network_ratio: PositiveFloat  # of the median, with the machine's ratio corrected


class ComparisonReport(Record):
    """Two verifications, and what differs."""

    kind: Literal["comparison"] = "comparison"
    schema_: Literal[1] = Field(default=1, alias="schema")
    old: ComparedVerification
    new: ComparedVerification
    simulated: bool
    confidence: Confidence
    day_deviation: PositiveFloat  # relative standard deviation of one network between two days
    same_network: bool
    differences: tuple[Text, ...]  # of the board, its state and the way of measuring
    machine: MachineSpeed | None
    changes: tuple[MetricChange, ...]
    budgets: tuple[BudgetChange, ...]
    findings: tuple[Text, ...]  # in words, the most important first
    remedy: Text
    not_compared: tuple[Text, ...]

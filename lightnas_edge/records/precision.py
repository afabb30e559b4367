"""precision.json: one network in every precision of a board, measured, and which one to deploy."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from lightnas_edge.records.base import Name, Positive, PositiveFloat, Record, Sha256, Text
from lightnas_edge.records.deployment import Interval, LatencyEstimate, VerificationRecord
from lightnas_edge.records.quantisation import Dialect

PrecisionName = Literal["fp32", "fp16", "int8"]


class AccuracyDifference(Record):
    """Top-1 of a precision less that of fp32 on the same images: below zero, it lost. Paired interval."""

    difference: float
    interval: Interval
    images: Positive


class Speedup(Record):
    """How many times as fast as fp32: its p50 over that of this precision, both measured in turns."""

    ratio: PositiveFloat
    interval: Interval | None  # from how the passes differ; null with fewer than three


class PrecisionRow(Record):
    """One precision. Without a verification, `unavailable` says why."""

    precision: PrecisionName
    dialect: Dialect | None
    fine_tuned: bool
    calibrated_on: Positive | None  # images that the ranges of int8 were read from
    model_sha256: Sha256 | None
    model_bytes: Positive | None
    predicted: dict[Name, LatencyEstimate]  # metric of latency -> by the predictors of this precision; may be empty
    # With budgets, accuracy, energy, engine size, memory, cosines, layers that fell back.
    verification: VerificationRecord | None
    accuracy_difference: AccuracyDifference | None  # to fp32; null where it was not scored, and for fp32 itself
    speedup: Speedup | None  # null for fp32 itself, and where fp32 was not measured
    unavailable: Text | None
    remedy: Text = ""

    @model_validator(mode="after")
    def _is_measured_or_says_why(self) -> Self:
        if (self.verification is None) == (self.unavailable is None):
            raise ValueError("expected a verification or the reason why there is none")
        return self


class PrecisionChoice(Record):
    """Which precision to deploy, and why."""

    precision: PrecisionName | None  # null: none keeps the budgets, or nothing decides
    reason: Text
    findings: tuple[Text, ...]  # int8 slower than fp32, layers that fell back, accuracy not known


class PrecisionRecord(Record):
    """The same network in every precision of a board."""

    kind: Literal["precision"] = "precision"
    schema_: Literal[1] = Field(default=1, alias="schema")
    created: Text
    name: Name  # of the run or the model file
    host: Name
    targets: dict[Name, float]
    weights_sha256: Sha256 | None
    passes: Positive  # over the precisions, each measuring a part of the rounds, in turns
    rows: Annotated[tuple[PrecisionRow, ...], Field(min_length=1)]
    choice: PrecisionChoice
    simulated: bool

    @property
    def measured(self) -> tuple[PrecisionRow, ...]:
        """Those with a verification."""
        return tuple(row for row in self.rows if row.verification is not None)

"""precision.json: one network in every precision of a board, measured, and which one to deploy."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from lightnas_edge.records.base import Name, Positive, Record, Sha256, Text
from lightnas_edge.records.deployment import Interval, LatencyEstimate, VerificationRecord
from lightnas_edge.records.quantisation import Dialect

PrecisionName = Literal["fp32", "fp16", "int8"]


class AccuracyDifference(Record):
    """Top-1 of a precision less that of fp32 on the same images: below zero, it lost. Paired interval."""

    difference: float
    interval: Interval
    images: Positive


class PrecisionRow(Record):
    """One precision. Without a verification, `unavailable` says why."""

    precision: PrecisionName
    dialect: Dialect | None
    fine_tuned: bool
    model_sha256: Sha256 | None
    model_bytes: Positive | None
    predicted: dict[Name, LatencyEstimate]  # metric of latency -> by the predictors of this precision; may be empty
    verification: (
        VerificationRecord | None
    )  # with budgets, accuracy, energy, engine size, memory, cosine, layers that fell back
    accuracy_difference: AccuracyDifference | None  # to fp32; null where either was not scored, and for fp32 itself
    speedup: float | None  # p50 of fp32 over that of this precision, in the same session
    unavailable: Text | None
    remedy: Text = ""


class PrecisionChoice(Record):
    """Which precision to deploy, and why."""

    precision: PrecisionName | None  # null: none keeps the budgets, or nothing decides
    reason: Text
    findings: tuple[Text, ...]  # int8 slower than fp16, layers that fell back, accuracy not known


class PrecisionRecord(Record):
    """The same network in every precision of a board."""

    kind: Literal["precision"] = "precision"
    schema_: Literal[1] = Field(default=1, alias="schema")
    created: Text
    name: Name  # of the run or the model file
    host: Name
    targets: dict[Name, float]
    weights_sha256: Sha256 | None
    rows: Annotated[tuple[PrecisionRow, ...], Field(min_length=1)]
    choice: PrecisionChoice
    simulated: bool

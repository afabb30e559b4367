"""train/result.json, export/export.json and verify/verification.json: from weights to a verdict, each naming what it
was made from by hash.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from lightnas_edge.records.base import (
    Count,
    Fingerprint,
    Integer,
    Name,
    NonNegativeFloat,
    Positive,
    PositiveFloat,
    Record,
    Sha256,
    Share,
    Text,
)
from lightnas_edge.records.run import Confidence, DataRecord, Normalisation, Operators

Verdict = Literal["met", "missed", "inconclusive"]
Interval = tuple[float, float]


class TrainingRecord(Record):
    """A finished training and the weights of its best epoch."""

    kind: Literal["training"] = "training"
    schema_: Literal[2] = Field(default=2, alias="schema")
    space_sha256: Sha256  # with the head of these classes
    operators: Operators
    data: DataRecord
    weights_sha256: Sha256  # of weights.safetensors
    best_accuracy: Share
    best_epoch: Count
    last_accuracy: Share
    epochs: Positive
    elapsed_s: NonNegativeFloat
    note: Text
    config: dict[str, bool | Integer | float | Text | None]


class Agreement(Record):
    """How far an engine's logits are from PyTorch's. Worst image, except for the last field."""

    images: Positive
    max_abs_difference: NonNegativeFloat
    relative_difference: NonNegativeFloat  # the former over the largest logit of the reference
    cosine: float  # of the two logit vectors of an image
    top1_agreement: Share  # share of images on which both name the same class


class ExportRecord(Record):
    """An ONNX file: for which runtime, from which weights, and how far from PyTorch."""

    kind: Literal["export"] = "export"
    schema_: Literal[2] = Field(default=2, alias="schema")
    model: Literal["model.onnx"] = "model.onnx"
    target: Name
    opset: Positive
    ir_version: Positive
    batch: Positive
    precision: Literal["fp32", "fp16"]  # of the graph between its ends
    input_size: Positive  # the input is float32 (batch, 3, input_size, input_size)
    classes: Annotated[tuple[Text, ...], Field(min_length=2)]  # the output is float32 (batch, classes)
    normalisation: Normalisation
    operators: Operators
    space_sha256: Sha256
    weights_sha256: Sha256
    data_sha256: Sha256
    sha256: Sha256  # of the ONNX file
    size_bytes: Positive
    checked_with: dict[str, Text]
    max_relative_difference: PositiveFloat  # the limit
    agreement: Agreement


class LatencyEstimate(Record):
    """A centre with its interval; null where there were too few rounds to know one."""

    latency_ms: PositiveFloat
    interval_ms: Interval | None


LAUNCH_BOUND = 0.9  # enqueue time over GPU time, from which a network is called launch-bound


class MeasuredLatency(LatencyEstimate):
    """Median of all samples, as the machine was."""

    p95_ms: PositiveFloat
    n: Positive
    rounds: Positive
    spread: NonNegativeFloat | None  # relative, between rounds
    samples_ms: tuple[PositiveFloat, ...]
    enqueue_ms: NonNegativeFloat | None = None  # the host's time to hand one inference to the device
    gpu_ms: NonNegativeFloat | None = None  # one inference on the device, many being queued

    @property
    def launch_bound(self) -> bool:
        """The device waits for the host: handing an inference over takes as long as computing it.

        A device that waits is seen as busy between two events, so that its time is never below the host's by much.
        """
        return self.enqueue_ms is not None and self.gpu_ms is not None and self.enqueue_ms >= LAUNCH_BOUND * self.gpu_ms


class DriftRecord(Record):
    """How much slower (above 1) the sentinel operators ran than when the table was measured."""

    ratio: PositiveFloat
    interval: Interval
    confidence: Confidence
    sentinels: dict[str, PositiveFloat]


class PredictedLatency(LatencyEstimate):
    """What the run's predictor said, and the relative gap: above zero, the network is slower than predicted."""

    interval_ms: Interval
    gap: float


class AccuracyRecord(Record):
    """Top-1 accuracy on the same validation images."""

    top1: Share
    images: Positive
    pytorch_top1: Share


class EnergyRecord(Record):
    """Energy of one batch in steady state."""

    gross_mj: float
    gross_interval_mj: Interval | None
    net_mj: float | None
    net_interval_mj: Interval | None
    visits: Positive


class LatencyTarget(Record):
    latency_ms: PositiveFloat


class VerificationRecord(Record):
    """The exported network, measured on a board, and the verdict."""

    kind: Literal["verification"] = "verification"
    schema_: Literal[2] = Field(default=2, alias="schema")
    created: Text
    host: Name
    model_sha256: Sha256
    weights_sha256: Sha256
    data_sha256: Sha256
    predictor_sha256: Sha256 | None
    table_sha256: Sha256 | None
    verdict: Verdict
    reason: Text
    remedy: Text
    target: LatencyTarget
    violation: float
    confidence: Confidence
    measured: MeasuredLatency
    drift: DriftRecord | None
    corrected: LatencyEstimate | None
    predicted: PredictedLatency | None
    outputs: Agreement | None
    accuracy: AccuracyRecord | None
    energy: EnergyRecord | None
    batch: Positive
    precision: Name
    fingerprint: Fingerprint
    simulated: bool
    warnings: tuple[Text, ...]

"""train/result.json, export/export.json and verify/verification.json: from weights to a verdict, each naming what it
was made from by hash.
"""

from __future__ import annotations

from collections.abc import Mapping
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
from lightnas_edge.records.model import ModelRecord
from lightnas_edge.records.quantisation import CalibrationMethod, Dialect, QuantisedTraining
from lightnas_edge.records.run import Confidence, DataRecord, Metric, Normalisation, Operators

Verdict = Literal["met", "missed", "inconclusive"]
Outcome = Literal["met", "missed", "inconclusive", "not judged"]
Interval = tuple[float, float]


class InitialWeights(Record):
    """Weights that a training began with, other than random numbers. Running statistics of batch norm are not counted."""

    source: Literal[
        "supernet", "file"
    ]  # the path of this network in the supernet of the search, or a file of safetensors
    name: Text  # of the checkpoint or of the file
    sha256: Sha256  # of the checkpoint or of the file
    taken: Positive  # tensors that fitted by name and shape
    missing: tuple[Text, ...]  # of the network, not in the source
    other_shape: tuple[Text, ...]  # of the network, in another shape in the source
    unused: Count  # of the source, not in the network
    statistics: Literal["source", "training images"]  # where the running statistics of batch norm came from
    accuracy: Share  # top-1 on the validation images, before the first step

    @property
    def summary(self) -> str:
        """As a phrase: how many tensors came from where."""
        of = self.taken + len(self.missing) + len(self.other_shape)
        source = "the supernet of the search" if self.source == "supernet" else "a file"
        return f"{self.taken} of {of} tensors from {source} ({self.name}), batch-norm statistics from the {self.statistics}"


class TeacherRecord(Record):
    """The network that a training was distilled from."""

    name: Text
    sha256: Sha256 | None = None  # of the file that its weights come from; null in records of older versions
    accuracy: Share  # top-1 on the validation images
    weight: Share  # of its answers in the loss; the labels have the rest


def recipe_phrase(config: Mapping[str, object]) -> str:
    """The recipe of a training as a phrase; what the configuration of an older version does not have was not used."""
    parts = ["AdamW" if config.get("optimiser") == "adamw" else "SGD"]
    for name, words in (
        ("ema", "weights averaged with decay {:g}"), ("mixup", "mixup {:g}"), ("cutmix", "CutMix {:g}"),
        ("randaugment", "RandAugment {:g} of magnitude {randaugment_magnitude}"),
    ):  # fmt: skip
        if config.get(name) is not None:
            parts.append(words.format(config[name], **config))
    return ", ".join(parts)


class TrainingRecord(Record):
    """A finished training and the weights of its best epoch."""

    kind: Literal["training"] = "training"
    schema_: Literal[4] = Field(default=4, alias="schema")
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
    initial: InitialWeights | None = None  # null: random numbers
    teacher: TeacherRecord | None = None
    quantised: QuantisedTraining | None = None  # of a fine-tuning in 8 bits; its weights have batch norm folded in

    @property
    def recipe(self) -> str:
        """The optimiser and what differs from the published recipe, as a phrase."""
        return recipe_phrase(self.config)


class Agreement(Record):
    """How far an engine's logits are from PyTorch's. Worst image, except for the last field."""

    images: Positive
    max_abs_difference: NonNegativeFloat
    relative_difference: NonNegativeFloat  # the former over the largest logit of the reference
    cosine: float  # of the two logit vectors of an image
    top1_agreement: (
        Share | None
    )  # share of images on which both name the same class; null where the outputs are no logits


class Quantisation(Record):
    """How an int8 file was made. `calibration.json` in the same folder has the ranges."""

    dialect: Dialect
    method: CalibrationMethod
    images: Positive  # that the ranges were read from
    calibration_sha256: Sha256  # of the content of calibration.json
    fine_tuned: bool  # the weights were trained with rounding: `train --quantize int8`


class ExportRecord(Record):
    """An ONNX file: for which runtime, from which weights, and how far from PyTorch."""

    kind: Literal["export"] = "export"
    schema_: Literal[3] = Field(default=3, alias="schema")
    model: Literal["model.onnx"] = "model.onnx"
    target: Name
    opset: Positive
    ir_version: Positive
    batch: Positive
    precision: Literal["fp32", "fp16", "int8"]  # of the graph between its ends
    quantisation: Quantisation | None = None  # of int8, and of nothing else
    input_size: Positive  # the input is float32 (batch, 3, input_size, input_size)
    classes: Annotated[tuple[Text, ...], Field(min_length=2)]  # the output is float32 (batch, classes)
    normalisation: Normalisation
    operators: Operators
    space_sha256: Sha256
    weights_sha256: Sha256  # of the run's trained weights; those that a fine-tuning in 8 bits started from
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
# Metrics of latency -> the field of `MeasuredLatency` that holds the statistic, and its name in text.
LATENCY_FIELDS = {"latency_ms": "median", "mean_ms": "mean", "p90_ms": "p90", "p95_ms": "p95", "p99_ms": "p99"}


class ThroughputEstimate(Record):
    """Inferences per second of all streams together, with its interval; null where there were too few rounds to know one.

    A batch of 8 counts as 8.
    """

    per_s: PositiveFloat
    interval_per_s: Interval | None


class StreamLatency(Record):
    """Statistics of one of several streams that ran at the same time."""

    n: Positive  # samples
    mean: LatencyEstimate
    median: LatencyEstimate
    p90: LatencyEstimate
    p95: LatencyEstimate
    p99: LatencyEstimate


class MeasuredLatency(Record):
    """Statistics of single inferences in the state of the machine during the verification, named as trtexec names them.

    Of several streams each statistic is that of the stream where it is largest, so that a budget is kept where every stream
    keeps it. Numbers of samples, `min_ms`, `max_ms`, `spread` and `noise` are about all of them.

    Where the timer is too coarse for a single inference, a sample is the mean of `inferences_per_sample`.
    """

    min_ms: PositiveFloat
    max_ms: PositiveFloat
    mean: LatencyEstimate
    median: LatencyEstimate
    p90: LatencyEstimate
    p95: LatencyEstimate
    p99: LatencyEstimate
    n: Positive  # samples
    rounds: Positive
    inferences_per_sample: Positive
    spread: NonNegativeFloat | None  # relative, between rounds
    noise: NonNegativeFloat | None  # median over the first decile of the samples, less 1
    samples_ms: tuple[tuple[PositiveFloat, ...], ...]  # of each round
    enqueue_ms: NonNegativeFloat | None = None  # the host's time to hand one inference to the device
    gpu_ms: NonNegativeFloat | None = None  # one inference on the device, many being queued
    throughput: ThroughputEstimate | None = None  # null in records of older versions
    streams: tuple[StreamLatency, ...] = ()  # of several streams, each

    def statistic(self, metric: str) -> LatencyEstimate:
        """Of one of LATENCY_FIELDS."""
        found: LatencyEstimate = getattr(self, LATENCY_FIELDS[metric])
        return found

    @property
    def launch_bound(self) -> bool:
        """The device waits for the host: handing an inference over takes as long as computing it.

        A device that waits is seen as busy between two events, so that its time is never below the host's by much.
        """
        return self.enqueue_ms is not None and self.gpu_ms is not None and self.enqueue_ms >= LAUNCH_BOUND * self.gpu_ms


class BudgetVerdict(Record):
    """One budget that was asked, and whether it is kept. `accuracy` is at least its target, everything else at most.

    `value` and `interval` are measured or counted; null where they are not known, and `reason` says why.
    """

    metric: Metric
    unit: Name
    target: float
    verdict: Outcome
    value: float | None
    interval: Interval | None
    violation: float | None  # value / target - 1; target / value - 1 for what is at least; above 0 misses the budget
    predicted: float | None = None
    predicted_interval: Interval | None = None
    reason: Text
    remedy: Text  # what to do next; empty when met


class DriftRecord(Record):
    """How much slower (above 1) the sentinel operators ran than when the table was measured."""

    ratio: PositiveFloat
    interval: Interval
    confidence: Confidence
    sentinels: dict[str, PositiveFloat]


class ComparisonRecord(Record):
    """The prediction and the measurement under the same conditions, those of the table. The verdict does not use it.

    `corrected` is the statistic with the drift since the table was measured corrected; its interval contains how
    much a single network differs from day to day (`day_deviation`). Without a table it is null.
    """

    metric: Metric
    predicted: LatencyEstimate
    corrected: LatencyEstimate | None
    drift: DriftRecord | None
    day_deviation: NonNegativeFloat | None  # relative standard deviation of one network between two days
    gap: float  # corrected, or else measured, over predicted, less 1: above zero, the network is slower than predicted


class AccuracyRecord(Record):
    """Top-1 accuracy on the same validation images."""

    top1: Share
    interval: Interval
    images: Positive
    reference_top1: Share  # of PyTorch, or of the other reference that the verification names
    drop: float  # of PyTorch's, less the board's
    drop_interval: Interval  # paired: both on the same images
    images_sha256: Sha256 | None = None  # of the inputs and labels, in their order
    # A bit for each image, in hexadecimal; of a byte, the first image has the highest bit.
    right: Annotated[str, Field(pattern=r"^([0-9a-f]{2})*$")] | None = None


class EnergyRecord(Record):
    """Energy of one batch in steady state."""

    gross_mj: float
    gross_interval_mj: Interval | None
    net_mj: float | None
    net_interval_mj: Interval | None
    visits: Positive


class SustainedWindow(Record):
    """About a second under load: the median of its inferences, and the machine at its end."""

    t_s: NonNegativeFloat  # from the start of the load
    median_ms: PositiveFloat
    p95_ms: PositiveFloat
    temperature_c: float | None
    gpu_mhz: float | None
    cpu_mhz: float | None
    throttled_by: tuple[Text, ...] | None  # cooling devices at work; null where they cannot be read


class SustainedRecord(Record):
    """The network under load before it was judged. The first and the last minute, or the first and last third if it was shorter."""

    asked_s: PositiveFloat
    elapsed_s: NonNegativeFloat
    windows: tuple[SustainedWindow, ...]
    first_ms: PositiveFloat  # median of the windows of the first minute
    last_ms: PositiveFloat
    trend_per_minute: float | None  # relative, of the last part; null with too few windows

    @property
    def change(self) -> float:
        """Of the latency, last against first; above zero, slower."""
        return self.last_ms / self.first_ms - 1


class VerificationRecord(Record):
    """A network, measured on a board, and the verdict: met when every budget is.

    The network of a run has `weights_sha256` and `data_sha256`; a model file has `model` instead.
    """

    kind: Literal["verification"] = "verification"
    schema_: Literal[4] = Field(default=4, alias="schema")
    created: Text
    host: Name
    model: ModelRecord | None = None
    model_sha256: Sha256
    weights_sha256: Sha256 | None
    data_sha256: Sha256 | None
    predictor_sha256: Sha256 | None
    table_sha256: Sha256 | None
    verdict: Verdict
    reason: Text
    remedy: Text
    budgets: Annotated[tuple[BudgetVerdict, ...], Field(min_length=1)]
    confidence: Confidence
    measured: MeasuredLatency
    comparison: ComparisonRecord | None
    sustained: SustainedRecord | None = None
    outputs: Agreement | None
    reference: Text | None  # what the outputs were compared with: PyTorch, a file, the same int8 graph on this machine
    float_outputs: Agreement | None = None  # of an int8 graph, with PyTorch in float32: what the rounding costs
    accuracy: AccuracyRecord | None
    energy: EnergyRecord | None
    peak_memory_mb: PositiveFloat | None
    params_m: NonNegativeFloat | None  # millions
    macs_m: NonNegativeFloat | None  # millions, of one image
    batch: Positive | None
    precision: Name
    ran_in: dict[Name, Count] | None = (
        None  # precision -> convolutions and matrix products that ran in it; null: not known
    )
    fell_back: tuple[Text, ...] = ()  # nodes of the model that ran in more bits than were asked for
    engine_bytes: Positive | None = None  # of a built engine; null where the runtime builds none
    fingerprint: Fingerprint
    simulated: bool
    warnings: tuple[Text, ...]

    @property
    def accuracy_reference(self) -> str | None:
        """What the accuracy is compared with. An int8 graph is compared with itself in its outputs, with floats in accuracy."""
        if self.float_outputs is None:
            return self.reference
        return "PyTorch in float32" if self.model is None else "the float32 file"

    def budget(self, metric: str) -> BudgetVerdict | None:
        """The verdict about one metric; None where it was not asked."""
        return next((each for each in self.budgets if each.metric == metric), None)

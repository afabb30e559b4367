"""What a profiled model is in files: the layers as a board timed them, and the record that the report shows."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from lightnas_edge.records.base import (
    Count,
    Fingerprint,
    Name,
    NonNegativeFloat,
    Positive,
    PositiveFloat,
    Record,
    Share,
    Text,
)
from lightnas_edge.records.deployment import EnergyRecord, MeasuredLatency
from lightnas_edge.records.model import ModelRecord
from lightnas_edge.records.plain_text import Line

Source = Literal["onnxruntime", "tensorrt", "simulated", "trtexec"]
TimeKind = Literal["latency", "enqueue", "h2d", "gpu", "d2h"]

MAX_FILE_BYTES = 64 * 1024 * 1024
_MAX_LAYERS = 50_000
_MAX_RUNS = 100_000
_MAX_TENSORS = 10_000

DLA_COPY, DLA_WAIT = "copy to DLA", "wait for DLA"  # types of layers between the two devices

Milliseconds = Annotated[float, Field(ge=0, le=1e9)]  # sums of them stay finite
LayerName = Annotated[Line, Field(max_length=100_000)]  # TensorRT joins the names of all nodes that it fused
Tensors = Annotated[tuple["LayerTensor", ...], Field(max_length=_MAX_TENSORS)]
Nodes = Annotated[tuple[LayerName, ...], Field(max_length=_MAX_TENSORS)]


class LayerTensor(Record):
    """An input or an output of a layer; null where the runtime does not say."""

    name: LayerName
    type: Line | None
    shape: Annotated[tuple[Count, ...], Field(max_length=32)] | None


class TimedLayer(Record):
    """One layer in the file of a board."""

    name: LayerName
    type: Line | None
    precision: Line | None
    times_ms: Annotated[tuple[Milliseconds, ...], Field(max_length=_MAX_RUNS)]  # one per run
    onnx_nodes: Nodes
    is_reformat: bool | None
    inputs: Tensors
    outputs: Tensors


class LayerProfileFile(Record):
    """outputs/<key>.layers.json: what the agent measured with the profiler of its runtime, apart from the latency."""

    kind: Literal["layer-profile"] = "layer-profile"
    schema_: Literal[1] = Field(default=1, alias="schema")
    source: Literal["onnxruntime", "tensorrt", "simulated"]
    runs: Annotated[Positive, Field(le=_MAX_RUNS)]
    layers: Annotated[tuple[TimedLayer, ...], Field(max_length=_MAX_LAYERS)]
    # The whole inference in the mode in which the layers were timed.
    total_ms: Annotated[tuple[Milliseconds, ...], Field(max_length=_MAX_RUNS)] | None
    warnings: tuple[Line, ...]

    @model_validator(mode="after")
    def _one_time_per_run(self) -> Self:
        for layer in self.layers:
            if len(layer.times_ms) != self.runs:
                raise ValueError(
                    f"layer {layer.name[:80]!r} has {len(layer.times_ms)} times, there are {self.runs} runs"
                )
        if self.total_ms is not None and len(self.total_ms) != self.runs:
            raise ValueError(f"total_ms has {len(self.total_ms)} times, there are {self.runs} runs")
        return self


class TimeStatistics(Record):
    """As trtexec reports one of its times; null where the file does not hold it."""

    min_ms: NonNegativeFloat | None = None
    max_ms: NonNegativeFloat | None = None
    mean_ms: NonNegativeFloat | None = None
    median_ms: NonNegativeFloat | None = None
    p90_ms: NonNegativeFloat | None = None
    p95_ms: NonNegativeFloat | None = None
    p99_ms: NonNegativeFloat | None = None
    variation: NonNegativeFloat | None = None  # standard deviation over mean
    n: Positive | None = None


class LayerRecord(Record):
    """A layer of the engine. Times are null where the files list the layer without one."""

    name: LayerName
    type: Line | None
    precision: Line | None  # that it really ran in
    device: Literal["gpu", "dla", "cpu"] | None
    median_ms: NonNegativeFloat | None
    mean_ms: NonNegativeFloat | None
    spread: NonNegativeFloat | None  # between runs: interquartile range over median
    share: Share | None  # of the sum of all layers
    onnx_nodes: Nodes
    is_reformat: bool | None
    groups: Positive | None  # of a convolution
    inputs: Tensors
    outputs: Tensors

    @property
    def time_ms(self) -> float | None:
        """Median, or the mean where only that is known."""
        return self.mean_ms if self.median_ms is None else self.median_ms


class Finding(Record):
    """Something that the numbers show, with its threshold and what to do."""

    kind: Name
    title: Text
    text: Text  # numbers, threshold, where the threshold comes from
    layers: Nodes
    share: Share | None  # of the sum of all layers
    remedy: Text


class ModelProfileRecord(Record):
    """A model, its latency and its layers: profile.json.

    `measured` is from our agent, `reported` from trtexec; a record has one of them, or neither where only layers are known.
    """

    kind: Literal["model-profile"] = "model-profile"
    schema_: Literal[1] = Field(default=1, alias="schema")
    created: Text
    name: Name
    host: Name | None
    source: Source
    model: ModelRecord | None
    inputs: Tensors
    outputs: Tensors
    precision: Line | None  # that was asked for
    measured: MeasuredLatency | None
    reported: dict[TimeKind, TimeStatistics]
    throughput_per_s: PositiveFloat | None  # inferences; trtexec calls it qps
    energy: EnergyRecord | None
    peak_memory_mb: PositiveFloat | None
    build_s: NonNegativeFloat | None  # of the engine
    engine_mib: NonNegativeFloat | None
    layers: Annotated[tuple[LayerRecord, ...], Field(max_length=_MAX_LAYERS)]
    layer_runs: Positive | None
    layers_sum_ms: NonNegativeFloat | None
    profiled_ms: NonNegativeFloat | None  # the whole inference while its layers were timed
    layers_ratio: NonNegativeFloat | None  # sum of the layers over `inference_ms`, which was timed without a profiler
    findings: tuple[Finding, ...]
    files: tuple[Text, ...]  # names of those that it was made from
    fingerprint: Fingerprint
    simulated: bool
    warnings: tuple[Line, ...]

    def inference_ms(self) -> float | None:
        """The time that layers are part of: that of the device where it is known, otherwise the whole inference."""
        if self.measured is not None:
            return self.measured.gpu_ms or self.measured.median.latency_ms
        found = self.reported.get("gpu") or self.reported.get("latency")
        return found.median_ms or None if found else None

    @property
    def inference_is_of_gpu(self) -> bool:
        """Whether `inference_ms` is the time of the device, without that of the host and of copies."""
        return bool(self.measured.gpu_ms) if self.measured is not None else "gpu" in self.reported

"""The lines of a journal, which is the look-up table: one header, then one line per visit. Written by the agent."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, ConfigDict, Field, JsonValue, ValidationInfo, field_validator, model_validator

from lightnas_edge.records.base import Count, Fingerprint, FreeForm, Positive, Record, Sha256
from lightnas_edge.records.job import BoardSetup, Key, ProtocolRecord, require_one_subject, require_together
from lightnas_edge.records.plain_text import Line, Lines

# Bounds of what can be a measurement; beyond them, ratios and sums overflow.
Reading = Annotated[float, Field(gt=-1e12, lt=1e12)]
Duration = Annotated[float, Field(gt=1e-12, lt=1e12)]
ErrorSize = Annotated[float, Field(ge=0, lt=1e12)]
Session = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]


def _in_order(interval: tuple[float, float]) -> tuple[float, float]:
    if interval[0] > interval[1]:
        raise ValueError(f"expected [low, high], found {list(interval)}")
    return interval


ReadingInterval = Annotated[tuple[Reading, Reading], AfterValidator(_in_order)]


def _names_its_state(fingerprint: Fingerprint) -> Fingerprint:
    if not fingerprint:
        raise ValueError("expected a table of fields")
    batch = fingerprint.get("batch", 1)
    if batch is not None and (type(batch) is not int or batch < 1):
        raise ValueError(f"expected a whole number above zero as batch, found {batch!r}")
    return fingerprint


class Units(Record):
    """Of all numbers in a table. Other units are refused, not converted."""

    latency: Literal["ms"]
    energy: Literal["mJ"]


class SensorRecord(Record):
    """The power sensor: its rails, which of them add up to the total, and how it sees power.

    Further fields depend on the kind of sensor and are for people.
    """

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, JsonValue]

    sensor: Line
    rails: tuple[Line, ...]
    total: tuple[Line, ...] | None
    total_reason: Lines | None
    resolution_mw: dict[Line, Reading | None]
    tau_s: Reading | None  # of the sensor's low-pass filter
    min_period_s: Reading | None
    cumulative: bool


class EnergySource(Record):
    """Whether energy can be measured on the board: by what, or why not."""

    available: bool
    reason: Lines | None
    sensor: SensorRecord | None = None


class LutHeader(Record):
    """Line 1: what the numbers depend on. `board` and `runtime` are for people."""

    kind: Literal["lut"] = "lut"
    schema_: Literal[1] = Field(default=1, alias="schema")
    created: Line
    agent_version: Line
    space: Key | None  # it, its hash and its classes are null in a table about a model file
    space_sha256: Sha256 | None
    classes: Positive | None  # of the space: they set the head
    units: Units
    simulated: bool
    fingerprint: Annotated[Fingerprint, AfterValidator(_names_its_state)]
    board: FreeForm
    board_setup: BoardSetup | None = None
    runtime: FreeForm
    protocol: ProtocolRecord
    sentinels: tuple[Key, ...]
    energy: EnergySource

    @model_validator(mode="after")
    def _is_about_a_space_or_a_model(self) -> Self:
        require_together(space=self.space, space_sha256=self.space_sha256, classes=self.classes)
        return self


class MachineState(Record):
    """The machine before or after a visit; null where it cannot be read."""

    load1: Reading | None = None
    cpu_mhz: Reading | None = None
    gpu_mhz: Reading | None = None
    emc_mhz: Reading | None = None  # of the memory; root alone can read it
    temperature_c: Reading | None = None
    memory_available_mb: Reading | None = None
    swap_used_mb: Reading | None = None
    over_current_events: Count | None = None  # since boot
    throttled_by: tuple[Line, ...] | None = None  # cooling devices at work, fans left out
    foreign_cpu: Reading | None = None  # share of one core that other processes used, after the visit only


class EnergyWindows(Record):
    """[start, end] in seconds from the start of the busy window; null where there was none."""

    idle_before: tuple[Reading, Reading] | None
    busy: tuple[Reading, Reading]
    idle_after: tuple[Reading, Reading] | None


class EnergyErrorParts(Record):
    """The error of one visit's energy, as the combination of visits needs it: docs/energy.md."""

    random_mj: ErrorSize  # a standard error; differs from visit to visit
    freedom: Annotated[float, Field(ge=1, le=1e9)]  # its degrees of freedom
    shared_mj: Annotated[
        tuple[ErrorSize, ...], Field(max_length=20)
    ]  # bounds on errors that all visits of a load have alike, such as rounding


class EnergyEstimate(Record):
    """Energy of one batch, measured in one visit: docs/energy.md. What is not known is null, and `reason` says why."""

    gross_mj: Reading | None
    gross_interval_mj: ReadingInterval | None = None
    gross_error: EnergyErrorParts | None = None
    net_mj: Reading | None = None
    net_interval_mj: ReadingInterval | None = None
    net_error: EnergyErrorParts | None = None
    batch_ms: Reading | None = None
    runs: Count | None = None
    power_mw: Reading | None = None
    idle_before_mw: Reading | None = None
    idle_after_mw: Reading | None = None
    idle_drift_mw: Reading | None = None
    trend_mw_per_s: Reading | None = None
    resolution_mw: Reading | None = None
    tau_s: Reading | None = None
    samples: Count | None = None
    steady_s: Reading | None = None
    confidence: Reading | None = None
    reason: Lines | None = None
    warnings: tuple[Line, ...] = ()
    rails: tuple[Line, ...] | None = None
    windows: EnergyWindows | None = None


class VisitFailure(Record):
    """Why a visit has no samples."""

    code: Line
    message: Line
    remedy: Lines = ""

    def __str__(self) -> str:
        return f"{self.code}: {self.message}" + (f" ({self.remedy})" if self.remedy else "")


class OperatorFacts(Record):
    """What an operator is, for people; its key identifies it."""

    key: Key | None = None
    block: Key | None = None
    in_channels: Positive | None = None
    out_channels: Positive | None = None
    stride: Positive | None = None
    input_size: Positive | None = None
    hidden_channels: tuple[Positive, ...] | None = None
    activation: Key | None = None  # relu or linear; null: ReLU6


class StreamOfVisit(Record):
    """One of several streams in a visit."""

    samples: Positive  # how many of the samples are its own
    span_ms: Duration  # from the start of its first sample to the end of its last


class VisitDetails(Record):
    """What a visit holds for people, and what few numbers come from."""

    warmup_ms: tuple[Reading, ...] = ()
    energy: EnergyEstimate | None = None
    before: MachineState | None = None
    after: MachineState | None = None
    warnings: tuple[Line, ...] = ()
    streams: tuple[StreamOfVisit, ...] | None = None


def subject_of(
    operator: OperatorFacts | None, architecture: dict[str, Any] | None, model_file: dict[str, Any] | None
) -> dict[str, Any]:
    """What a visit ran, as plain JSON."""
    if operator is not None:
        return operator.model_dump(mode="json", exclude_none=True)
    return dict(architecture or model_file or {})


class Visit(Record):
    """One operator, network or model file, measured once, in one round of one session of the agent."""

    kind: Literal["visit"] = "visit"
    key: Key
    operator: OperatorFacts | None = None
    architecture: FreeForm | None = None  # checked by Architecture.from_json
    model_file: FreeForm | None = None
    session: Session
    round: Count
    phase: Literal["rounds", "sustained"] = "rounds"  # sustained: under load before the rounds, and numbered apart
    t_s: Reading | None = None  # start, monotonic, within the session
    repeats: Count | None = None  # inferences per sample
    warmup_ms: tuple[Reading, ...] = ()
    samples_ms: tuple[Duration, ...]  # every timed sample, in order; empty where `error` says why
    enqueue_ms: Reading | None = None  # the host's time to hand one inference to the device
    gpu_ms: Reading | None = None  # one inference on the device, many being queued
    peak_memory_mb: Annotated[float, Field(gt=0, lt=1e12)] | None = None
    # Precision -> convolutions and matrix products that run in it, read back from the runtime; null where it does not say.
    ran_in: dict[Line, Count] | None = None
    fell_back: tuple[Line, ...] = ()  # nodes of the model that run in more bits than the job asks for
    engine_bytes: Positive | None = None  # of a built engine; null where the runtime builds none
    energy: EnergyEstimate | None = None
    before: MachineState | None = None
    after: MachineState | None = None
    warnings: tuple[Line, ...] = ()
    # Streams that ran at the same time, in the order of their samples; null: one stream.
    streams: Annotated[tuple[StreamOfVisit, ...], Field(min_length=2, max_length=64)] | None = None
    error: VisitFailure | None = None

    @model_validator(mode="after")
    def _is_about_one_subject(self) -> Self:
        require_one_subject(None if self.operator is None else {}, self.architecture, self.model_file)
        return self

    @field_validator("error")
    @classmethod
    def _stands_for_missing_samples(cls, error: VisitFailure | None, others: ValidationInfo) -> VisitFailure | None:
        if "samples_ms" in others.data and bool(others.data["samples_ms"]) == (error is not None):
            raise ValueError("expected samples_ms or an error")
        return error

    @field_validator("streams")
    @classmethod
    def _share_the_samples(
        cls, streams: tuple[StreamOfVisit, ...] | None, others: ValidationInfo
    ) -> tuple[StreamOfVisit, ...] | None:
        own = None if streams is None else sum(stream.samples for stream in streams)
        if own is not None and own != len(others.data.get("samples_ms", ())):
            raise ValueError(f"expected streams of all samples, found {own}")
        return streams

    @property
    def group(self) -> tuple[str, int]:
        """Visits of one group are near each other in time and share the machine's drift."""
        return self.session, self.round

    @property
    def is_network(self) -> bool:
        """A whole network or a model file: timed inference by inference."""
        return self.operator is None

    @property
    def subject(self) -> dict[str, Any]:
        """The operator, the architecture or the facts of the model file as plain JSON."""
        return subject_of(self.operator, self.architecture, self.model_file)

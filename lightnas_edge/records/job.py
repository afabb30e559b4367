"""What the host asks of the agent on a board, and what the agent answers while it works.

manifest.json is written by `lightnas_edge.measuring`; status.json, agent.lock and the answers are written by the agent.
A board may be broken or somebody else's, so nothing that it wrote is used unchecked.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from lightnas_edge.records.base import Count, FreeForm, NonNegativeFloat, Positive, PositiveFloat, Record, Sha256
from lightnas_edge.records.plain_text import Line, Lines

# Keys, spaces, engines: parts of file names, here and on the board.
Key = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.@-]*$", max_length=200)]
JobName = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
Seconds = Annotated[float, Field(ge=0, le=1e9)]
BootId = Annotated[Line, Field(max_length=100)] | None
Ticks = Annotated[int, Field(ge=0, lt=2**63)] | None  # of the kernel's clock, from the boot to the start of a process
CommandHash = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")] | None  # the beginning of the SHA-256 of a command line
Purpose = Literal["profile", "sample", "verify", "model"]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
BuildTimeout = Annotated[float, Field(gt=1e-3, le=1e6)]
Streams = Annotated[int, Field(ge=1, le=64)]
Milliseconds = Annotated[float, Field(ge=0, le=1e12)]


def require_one_subject(*subjects: FreeForm | None) -> None:
    """Raises ValueError unless exactly one is there: operator, architecture, model file."""
    if sum(subject is not None for subject in subjects) != 1:
        raise ValueError("expected one of operator, architecture and model_file")


def require_together(**facts: object) -> None:
    """Raises ValueError where some of the facts are null and others are not."""
    if len({fact is None for fact in facts.values()}) > 1:
        raise ValueError(f"expected {', '.join(facts)}: values, or null for all of them about a model file")


class ProtocolRecord(Record):
    """How to measure. Only `version` is part of a table's fingerprint: more rounds are the same kind of number."""

    version: Positive
    seed: Seed
    rounds: Positive
    samples_per_visit: Positive
    warmup_ms: Milliseconds
    min_sample_ms: Milliseconds  # repetitions within a sample are calibrated so that one lasts at least this long
    timeout_s: PositiveFloat  # for one request to the measuring process: load, or one visit
    spread_limit: NonNegativeFloat | None = None  # what varies more between rounds gets extra visits
    extra_rounds: Count = 0  # the most extra visits of an operator
    inferences_per_visit: Positive = 10  # of a network, each timed alone: at least so many
    round_s: Annotated[float, Field(ge=0, le=60)] = 0.0  # the least time between two visits of a network
    sustained_s: Annotated[float, Field(ge=0, le=1e6)] = 0.0  # how long the network runs under load before the rounds


class EnergyRequest(Record):
    """Further rounds in which energy is measured too, and for how long the power must be steady."""

    rounds: Positive
    steady_s: Annotated[float, Field(ge=3, le=1e6)]


class BoardSetup(Record):
    """How the board is set while the job runs; it is put back afterwards."""

    lock_clocks: bool
    power_mode: Key | None


class Measurement(Record):
    """An operator, a whole network or a model file to measure."""

    key: Key
    model: Sha256
    operator: FreeForm | None = None
    architecture: FreeForm | None = None
    model_file: FreeForm | None = None
    rounds: Count | None = None  # the protocol's when None
    energy_rounds: Count | None = None  # the job's when None

    @model_validator(mode="after")
    def _is_about_one_subject(self) -> Self:
        require_one_subject(self.operator, self.architecture, self.model_file)
        return self

    @model_serializer(mode="wrap")
    def _without_the_other_subject(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """The agent takes the subject by the field that is there."""
        return {name: value for name, value in handler(self).items() if value is not None}


class Evaluation(Record):
    """A model to run over inputs; it is not timed."""

    key: Key
    model: Sha256
    inputs: Sha256
    runs: Positive  # inferences
    run_bytes: Positive  # of all inputs of one inference


class JobManifest(Record):
    """manifest.json: what an agent measures, and how."""

    kind: Literal["job"] = "job"
    schema_: Literal[1] = Field(default=1, alias="schema")
    job: JobName
    purpose: Purpose
    space: Key | None  # it, its hash and its classes are null in a job about a model file
    space_sha256: Sha256 | None
    classes: Positive | None
    backend: Key
    precision: Key
    batch: Positive | None  # null: a model file has its own shapes
    threads: Positive
    cuda_graph: bool = False  # an inference is the launch of one CUDA graph
    streams: Streams = 1  # every model runs in so many at once
    build_timeout_s: BuildTimeout = 3600.0  # of one engine
    protocol: ProtocolRecord
    energy: EnergyRequest | None = None
    board_setup: BoardSetup | None = None
    sentinels: tuple[Key, ...]
    measurements: tuple[Measurement, ...]
    evaluations: tuple[Evaluation, ...]
    layer_profiles: tuple[Key, ...] = ()  # of which the layers are timed apart

    @model_validator(mode="after")
    def _is_about_a_space_or_a_model(self) -> Self:
        require_together(space=self.space, space_sha256=self.space_sha256, classes=self.classes, batch=self.batch)
        if (self.space is None) != (self.purpose == "model"):
            raise ValueError("expected purpose model in a job without a space, and in no other")
        return self


class Status(Record):
    """status.json: how far the agent is.

    `done` and `total` count visits while measuring, engines while building, seconds under sustained load, models while
    layers are timed. `failed` counts keys.
    """

    kind: Literal["status"] = "status"
    schema_: Literal[1] = Field(default=1, alias="schema")
    state: Literal["running", "done", "failed", "interrupted"]
    phase: Literal["building", "sustained", "measuring", "layers"] = "measuring"
    session: Annotated[str, Field(pattern=r"^[0-9a-f]{1,64}$")]
    done: Count
    total: Count
    failed: Count
    key: Annotated[
        str, Field(pattern=r"^([A-Za-z0-9_][A-Za-z0-9_.@-]*)?$", max_length=200)
    ]  # empty before the first visit
    round: Count
    eta_s: Seconds | None
    elapsed_s: Seconds = 0.0  # of the present build or layer profile: grows as long as the agent lives
    pid: Positive
    boot_id: BootId
    start_ticks: Ticks
    command: CommandHash
    message: Line
    warning: Lines = ""  # about the board's settings after the run

    @property
    def final(self) -> bool:
        return self.state != "running"


class LockHolder(Record):
    """agent.lock: the agent at work on a board."""

    pid: Positive
    boot_id: BootId
    start_ticks: Ticks
    command: CommandHash
    job: JobName
    started: Annotated[Line, Field(max_length=100)]


class AgentFailure(Record):
    """The agent's own account of why it ended; further fields depend on the failure."""

    model_config = ConfigDict(extra="ignore")

    kind: Literal["error"] = "error"
    schema_: Literal[1] = Field(default=1, alias="schema")
    code: Key
    message: Line
    remedy: Lines = ""

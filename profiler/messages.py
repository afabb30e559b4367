"""The messages between the agent and its measuring process: one JSON object per line in each direction.

    request            answer        what the process does
    ConfigureRequest   Configured    opens the backend
    IsBuiltRequest     Built         looks for a model's engine among those that were built
    BuildRequest       Done          builds it and keeps it
    LoadRequest        Loaded        gets an engine ready
    VisitRequest       Visited       measures a loaded model once
    ReadBackRequest    ReadBack      reads from the runtime what a loaded model runs in; unloads others to make room
    RestRequest        Done          leaves the board idle
    CheckRequest       Done          checks a content-addressed file
    EvaluateRequest    Done          runs inputs through a model; appends to the file `output`
    ProfileLayersRequest  Profiled  unloads all models; times each layer of one into the file `output`, where it can
A request that fails is answered with a Failure.
"""

from typing import Callable, Dict, List, NamedTuple, Optional, Union

from profiler.clock_watch import ClockOfVisit
from profiler.energy import VisitEnergy
from profiler.errors import ErrorRecord
from profiler.fields import Fields, JsonObject, read_record
from profiler.state import VisitState


class ConfigureRequest(NamedTuple):
    backend: str
    precision: str
    batch: Optional[int]  # None: models have their own shapes
    threads: int
    cuda_graph: bool
    home: str
    root: str
    board: JsonObject  # the board's description
    power_mode: Optional[str]  # it and the clocks: as in the fingerprint
    clocks: Optional[str]
    min_sample_ms: float
    samples_per_visit: int
    min_single_ms: float  # an inference that is shorter is not timed alone
    inferences_per_visit: int
    streams: int = 1  # in which every model runs at once

    @classmethod
    def read(cls, fields: Fields) -> "ConfigureRequest":
        return cls(
            backend=fields.text("backend"),
            precision=fields.text("precision"),
            batch=fields.optional_whole("batch", 1),
            threads=fields.whole("threads"),
            cuda_graph=fields.flag("cuda_graph"),
            home=fields.text("home"),
            root=fields.text("root"),
            board=fields.table("board"),
            power_mode=fields.optional_text("power_mode"),
            clocks=fields.optional_text("clocks"),
            min_sample_ms=fields.number("min_sample_ms", 0),
            samples_per_visit=fields.whole("samples_per_visit", 1),
            min_single_ms=fields.number("min_single_ms", 0),
            inferences_per_visit=fields.whole("inferences_per_visit", 1),
            streams=fields.whole("streams", 1),
        )


class IsBuiltRequest(NamedTuple):
    model: str  # SHA-256
    path: str

    @classmethod
    def read(cls, fields: Fields) -> "IsBuiltRequest":
        return cls(fields.text("model"), fields.text("path"))


class BuildRequest(NamedTuple):
    model: str  # SHA-256
    path: str
    workspace_share: float  # of the usual workspace

    @classmethod
    def read(cls, fields: Fields) -> "BuildRequest":
        return cls(fields.text("model"), fields.text("path"), fields.number("workspace_share", 0, 1))


class LoadRequest(NamedTuple):
    model: str  # SHA-256
    path: str

    @classmethod
    def read(cls, fields: Fields) -> "LoadRequest":
        return cls(fields.text("model"), fields.text("path"))


class VisitRequest(NamedTuple):
    model: str
    repeats: Optional[int]  # None: calibrate
    energy_steady_s: Optional[float]  # None: latency alone
    warmup_ms: float
    one_by_one: bool  # time every inference alone, where the timer allows it

    @classmethod
    def read(cls, fields: Fields) -> "VisitRequest":
        return cls(
            fields.text("model"),
            fields.optional_whole("repeats", 1),
            fields.optional_number("energy_steady_s", 0),
            fields.number("warmup_ms", 0),
            fields.flag("one_by_one"),
        )


class ReadBackRequest(NamedTuple):
    model: str  # SHA-256
    path: str

    @classmethod
    def read(cls, fields: Fields) -> "ReadBackRequest":
        return cls(fields.text("model"), fields.text("path"))


class RestRequest(NamedTuple):
    seconds: float

    @classmethod
    def read(cls, fields: Fields) -> "RestRequest":
        return cls(fields.number("seconds", 0))


class CheckRequest(NamedTuple):
    path: str
    sha256: str

    @classmethod
    def read(cls, fields: Fields) -> "CheckRequest":
        return cls(fields.text("path"), fields.text("sha256"))


class EvaluateRequest(NamedTuple):
    model: str
    inputs: str
    offset: int  # in bytes, of the first batch
    size: int  # bytes of one batch
    batches: int
    output: str

    @classmethod
    def read(cls, fields: Fields) -> "EvaluateRequest":
        return cls(
            model=fields.text("model"),
            inputs=fields.text("inputs"),
            offset=fields.whole("offset", 0, 2**62),
            size=fields.whole("size", 1, 2**62),
            batches=fields.whole("batches", 1),
            output=fields.text("output"),
        )


class ProfileLayersRequest(NamedTuple):
    model: str  # SHA-256
    path: str
    runs: int
    output: str

    @classmethod
    def read(cls, fields: Fields) -> "ProfileLayersRequest":
        return cls(fields.text("model"), fields.text("path"), fields.whole("runs", 1), fields.text("output"))


Request = Union[
    ConfigureRequest,
    IsBuiltRequest,
    BuildRequest,
    LoadRequest,
    VisitRequest,
    ReadBackRequest,
    RestRequest,
    CheckRequest,
    EvaluateRequest,
    ProfileLayersRequest,
]
_READERS: Dict[str, Callable[[Fields], Request]] = {
    "configure": ConfigureRequest.read,
    "isbuilt": IsBuiltRequest.read,
    "build": BuildRequest.read,
    "load": LoadRequest.read,
    "visit": VisitRequest.read,
    "readback": ReadBackRequest.read,
    "rest": RestRequest.read,
    "check": CheckRequest.read,
    "evaluate": EvaluateRequest.read,
    "profilelayers": ProfileLayersRequest.read,
}


class Configured(NamedTuple):
    fingerprint: JsonObject  # the backend's part of a table's fingerprint
    runtime: JsonObject  # for people
    runtime_at: Optional[str]  # the folder of the runtime's library
    needs_build: bool  # before a model is loaded for the first time
    runtime_mb: Optional[float]  # memory that importing and opening the runtime took

    @classmethod
    def read(cls, fields: Fields) -> "Configured":
        return cls(
            fingerprint=fields.table("fingerprint"),
            runtime=fields.table("runtime"),
            runtime_at=fields.optional_text("runtime_at"),
            needs_build=fields.flag("needs_build"),
            runtime_mb=fields.optional_number("runtime_mb"),
        )

    def to_json(self) -> JsonObject:
        return dict(self._asdict())


class Built(NamedTuple):
    is_built: bool

    @classmethod
    def read(cls, fields: Fields) -> "Built":
        return cls(fields.flag("is_built"))

    def to_json(self) -> JsonObject:
        return dict(self._asdict())


class Loaded(NamedTuple):
    evicted: List[str]  # models that were unloaded to make room

    @classmethod
    def read(cls, fields: Fields) -> "Loaded":
        return cls(fields.texts("evicted"))

    def to_json(self) -> JsonObject:
        return dict(self._asdict())


class StreamOfVisit(NamedTuple):
    """One of several streams: how many of the samples are its own, and the time from its first to its last."""

    samples: int
    span_ms: float

    @classmethod
    def read(cls, fields: Fields) -> "StreamOfVisit":
        return cls(fields.whole("samples", 1), fields.number("span_ms"))


class Visited(NamedTuple):
    repeats: int
    warmup_ms: List[float]
    samples_ms: List[float]
    enqueue_ms: Optional[float]
    gpu_ms: Optional[float]
    timed_s: float  # inside timed loops
    peak_memory_mb: Optional[float]
    state: VisitState
    clock: Optional[ClockOfVisit]  # None: it cannot be read
    energy: Optional[VisitEnergy]
    streams: Optional[List[StreamOfVisit]] = None  # in the order of their samples; None: one stream

    @classmethod
    def read(cls, fields: Fields) -> "Visited":
        energy, clock = fields.optional_child("energy"), fields.optional_child("clock")
        return cls(
            repeats=fields.whole("repeats", 1),
            warmup_ms=fields.numbers("warmup_ms"),
            samples_ms=fields.numbers("samples_ms"),
            enqueue_ms=fields.optional_number("enqueue_ms"),
            gpu_ms=fields.optional_number("gpu_ms"),
            timed_s=fields.number("timed_s"),
            peak_memory_mb=fields.optional_number("peak_memory_mb"),
            state=VisitState.read(fields.child("state")),
            clock=None if clock is None else ClockOfVisit.read(clock),
            energy=None if energy is None else VisitEnergy.read(energy),
            streams=None
            if fields.is_null("streams")
            else [StreamOfVisit.read(stream) for stream in fields.children("streams")],
        )

    def to_json(self) -> JsonObject:
        streams = None if self.streams is None else [dict(stream._asdict()) for stream in self.streams]
        energy = None if self.energy is None else self.energy.to_json()
        clock = None if self.clock is None else self.clock.to_json()
        return dict(self._asdict(), state=self.state.to_json(), clock=clock, energy=energy, streams=streams)


class ReadBack(NamedTuple):
    ran_in: Optional[Dict[str, int]]  # precision -> convolutions and matrix products; None: the runtime does not say
    fell_back: List[str]  # nodes of the model that run in more bits than the job asks for
    engine_bytes: Optional[int]
    evicted: List[str]  # models that were unloaded to make room

    @classmethod
    def read(cls, fields: Fields) -> "ReadBack":
        counts = fields.optional_child("ran_in")
        return cls(
            ran_in=None if counts is None else {name: counts.whole(name) for name in counts.names()},
            fell_back=fields.texts("fell_back"),
            engine_bytes=fields.optional_whole("engine_bytes", 1, 2**62),
            evicted=fields.texts("evicted"),
        )

    def to_json(self) -> JsonObject:
        return dict(self._asdict())


class Done(NamedTuple):
    @classmethod
    def read(cls, fields: Fields) -> "Done":
        return cls()

    def to_json(self) -> JsonObject:
        return {}


class Profiled(NamedTuple):
    found: bool  # the runtime times layers

    @classmethod
    def read(cls, fields: Fields) -> "Profiled":
        return cls(fields.flag("found"))

    def to_json(self) -> JsonObject:
        return dict(self._asdict())


Answer = Union[Configured, Built, Loaded, Visited, ReadBack, Done, Profiled]


class Failure(NamedTuple):
    error: ErrorRecord
    fatal: bool  # the process must end

    @classmethod
    def read(cls, fields: Fields) -> "Failure":
        return cls(ErrorRecord.read(fields.child("error")), fields.flag("fatal"))

    def to_json(self) -> JsonObject:
        return {"error": self.error.to_json(), "fatal": self.fatal}


def name_of(request: Request) -> str:
    """The request's name on the wire."""
    return type(request).__name__[: -len("Request")].lower()


def request_to_json(request: Request) -> JsonObject:
    return dict(request._asdict(), do=name_of(request))


def request_from_json(value: object) -> Request:
    """Raises RecordError."""
    return read_record(value, lambda fields: _READERS[fields.choice("do", sorted(_READERS))](fields))

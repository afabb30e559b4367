"""The job's manifest, read and checked: every fault in one message."""

import os
import re
from typing import Dict, List, NamedTuple, Optional

from profiler.errors import ManifestError
from profiler.fields import Fields, JsonObject, RecordError, parse, read_record, shown

SCHEMA = 1
BUILD_TIMEOUT_S = 3600.0  # a Jetson Nano builds a detector in up to 1741 s
PURPOSES = ("profile", "sample", "verify", "model")
SUBJECTS = ("operator", "architecture", "model_file")
INFERENCES_PER_VISIT = 10
LEAST_STEADY_S = 3.0  # of power: docs/energy.md
MOST_ROUNDS = 100000
LONGEST_S = 1e6
MOST_STREAMS = 64
LONGEST_ROUND_S = 60.0
LARGEST_BYTES = 64 * 2**20
_SHA256 = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@-]{0,199}")  # becomes part of a file's name
_A_NAME = "a name of letters, digits and _ . @ -"
# Fields that the user sets by an option of a command: the remedy names the option.
_OPTIONS = {
    "protocol.seed": "--seed",
    "protocol.rounds": "--rounds",
    "batch": "--batch",
    "threads": "--threads",
    "streams": "--streams",
    "backend": "--backend",
    "precision": "--precision",
    "board_setup.power_mode": "--power-mode",
    "build_timeout_s": "--build-timeout",
}


class MeasurementProtocol(NamedTuple):
    """How a job measures."""

    version: int
    seed: int
    rounds: int
    samples_per_visit: int
    warmup_ms: float
    min_sample_ms: float
    timeout_s: float
    spread_limit: Optional[float]  # None: no extra visits
    extra_rounds: int
    inferences_per_visit: int  # of a network, each timed alone: at least so many
    round_s: float  # the least time between two visits of a network
    sustained_s: float  # how long the network runs under load before the rounds

    @classmethod
    def read(cls, fields: Fields) -> "MeasurementProtocol":
        protocol = cls(
            version=fields.whole("version", 1),
            seed=fields.whole("seed", 0, 2**63 - 1),
            rounds=fields.whole("rounds", 1, MOST_ROUNDS),
            samples_per_visit=fields.whole("samples_per_visit", 1),
            warmup_ms=fields.number("warmup_ms", 0),
            min_sample_ms=fields.number("min_sample_ms", 0),
            timeout_s=fields.number("timeout_s", 1e-3, LONGEST_S),
            spread_limit=fields.optional_number("spread_limit", 0),
            extra_rounds=fields.whole("extra_rounds", 0, MOST_ROUNDS) if fields.has("extra_rounds") else 0,
            inferences_per_visit=fields.whole("inferences_per_visit", 1, MOST_ROUNDS)
            if fields.has("inferences_per_visit")
            else INFERENCES_PER_VISIT,
            round_s=fields.number("round_s", 0, LONGEST_ROUND_S) if fields.has("round_s") else 0.0,
            sustained_s=fields.number("sustained_s", 0, LONGEST_S) if fields.has("sustained_s") else 0.0,
        )
        fields.refuse_others()
        return protocol

    def to_json(self) -> JsonObject:
        return dict(self._asdict())


class EnergyRounds(NamedTuple):
    """Rounds that measure energy too, after those of latency."""

    rounds: int
    steady_s: float

    @classmethod
    def read(cls, fields: Fields) -> "EnergyRounds":
        energy = cls(fields.whole("rounds", 1, MOST_ROUNDS), fields.number("steady_s", LEAST_STEADY_S, LONGEST_S))
        fields.refuse_others()
        return energy


class BoardSetup(NamedTuple):
    """The board's settings while the job runs."""

    lock_clocks: bool
    power_mode: Optional[str]  # a name or a number; None: as it is

    @classmethod
    def read(cls, fields: Fields) -> "BoardSetup":
        setup = cls(fields.flag("lock_clocks"), fields.optional_text("power_mode", _NAME, _A_NAME))
        fields.refuse_others()
        return setup

    @classmethod
    def from_json(cls, value: object) -> "BoardSetup":
        """Raises RecordError."""
        return read_record(value, cls.read)

    def to_json(self) -> JsonObject:
        return dict(self._asdict())


class Measurement(NamedTuple):
    """A model to measure: one operator at its shape, one whole network, or a model file."""

    key: str
    model: str  # SHA-256 of the ONNX file
    kind: str  # "operator", "architecture" or "model_file": the field of the journal that holds `subject`
    subject: JsonObject  # the host's description; the agent copies it
    rounds: Optional[int] = None  # as the protocol says when None; several boards share the rounds of the sentinels
    energy_rounds: Optional[int] = None  # as the job says when None

    @property
    def is_network(self) -> bool:
        """Timed inference by inference, as in use; operators are compared, by means of many inferences."""
        return self.kind != "operator"

    @classmethod
    def read(cls, fields: Fields) -> "Measurement":
        key, model = fields.text("key", _NAME, _A_NAME), fields.text("model", _SHA256, "a SHA-256")
        kinds = [kind for kind in SUBJECTS if fields.has(kind)]
        kind = kinds[0] if kinds else "operator"
        subject = fields.table(kind) if kinds else {}
        if len(kinds) != 1:
            fields.fault(
                "",
                "expected one of operator, architecture and model_file, found {}".format(" and ".join(kinds) or "none"),
            )
            for other in SUBJECTS:
                fields.is_null(other)  # reported already
        own = [fields.whole(name, 0, MOST_ROUNDS) if fields.has(name) else None for name in ("rounds", "energy_rounds")]
        fields.refuse_others()
        return cls(key, model, kind, subject, *own)


class Evaluation(NamedTuple):
    """A model to run over inputs; not timed."""

    key: str
    model: str  # SHA-256 of the ONNX file
    inputs: str  # SHA-256 of the file of inputs
    runs: int  # inferences
    run_bytes: int  # of all inputs of one inference

    @classmethod
    def read(cls, fields: Fields) -> "Evaluation":
        evaluation = cls(
            fields.text("key", _NAME, _A_NAME),
            fields.text("model", _SHA256, "a SHA-256"),
            fields.text("inputs", _SHA256, "a SHA-256"),
            fields.whole("runs", 1),
            fields.whole("run_bytes", 1, 2**62),
        )
        fields.refuse_others()
        return evaluation


class Manifest(NamedTuple):
    """A job: what to measure, how, and with which engine. docs/formats.md has its form on disk."""

    job: str
    purpose: str
    space: Optional[str]  # it, its hash and its classes are None in a job about a model file
    space_sha256: Optional[str]
    classes: Optional[int]
    backend: str
    precision: str
    batch: Optional[int]  # None: a model file has its own shapes
    threads: int
    cuda_graph: bool  # an inference is the launch of one CUDA graph
    streams: int  # every model runs in so many at once
    build_timeout_s: float  # of one engine
    protocol: MeasurementProtocol
    energy: Optional[EnergyRounds]  # None: latency alone
    board_setup: Optional[BoardSetup]  # None: the board stays as it is
    sentinels: List[str]
    measurements: List[Measurement]
    evaluations: List[Evaluation]
    layer_profiles: List[str]  # keys

    @classmethod
    def read(cls, fields: Fields) -> "Manifest":
        fields.choice("kind", ("job",))
        fields.whole("schema", SCHEMA, SCHEMA)
        energy, board_setup = fields.optional_child("energy"), fields.optional_child("board_setup")
        manifest = cls(
            job=fields.text("job", _NAME, _A_NAME),
            purpose=fields.choice("purpose", PURPOSES),
            space=fields.optional_text("space", _NAME, _A_NAME),
            space_sha256=fields.optional_text("space_sha256", _SHA256, "a SHA-256"),
            classes=fields.optional_whole("classes", 1),
            backend=fields.text("backend", _NAME, _A_NAME),
            precision=fields.text("precision", _NAME, _A_NAME),
            batch=fields.optional_whole("batch", 1),
            threads=fields.whole("threads", 1),
            cuda_graph=fields.flag("cuda_graph") if fields.has("cuda_graph") else False,
            streams=fields.whole("streams", 1, MOST_STREAMS) if fields.has("streams") else 1,
            build_timeout_s=fields.number("build_timeout_s", 1e-3, LONGEST_S)
            if fields.has("build_timeout_s")
            else BUILD_TIMEOUT_S,
            protocol=MeasurementProtocol.read(fields.child("protocol")),
            energy=None if energy is None else EnergyRounds.read(energy),
            board_setup=None if board_setup is None else BoardSetup.read(board_setup),
            sentinels=fields.texts("sentinels", _NAME, "a list of keys"),
            measurements=[Measurement.read(row) for row in fields.children("measurements")],
            evaluations=[Evaluation.read(row) for row in fields.children("evaluations")],
            layer_profiles=fields.texts("layer_profiles", _NAME, "a list of keys")
            if fields.has("layer_profiles")
            else [],
        )
        for field in ("space", "space_sha256", "classes", "batch"):
            if fields.has(field) and fields.is_null(field) != (manifest.purpose == "model"):
                fields.fault(field, "expected null in a job of purpose model, and a value in any other")
        if manifest.protocol.sustained_s > 0 and not any(row.is_network for row in manifest.measurements):
            fields.fault("protocol.sustained_s", "the job has no network to run under load")
        first: Dict[str, int] = {}
        for index, measurement in enumerate(manifest.measurements):
            if first.setdefault(measurement.key, index) != index:
                fields.fault(
                    "measurements[{}].key".format(index),
                    "{} is the key of measurements[{}] already".format(shown(measurement.key), first[measurement.key]),
                )
        for key in manifest.layer_profiles:
            if key not in first:
                fields.fault("layer_profiles", "{} is the key of no measurement".format(shown(key)))
        fields.refuse_others()
        return manifest

    @classmethod
    def from_json(cls, value: object) -> "Manifest":
        """Raises RecordError, with all faults; a newer schema is its only fault, because its fields are unknown."""
        schema = value.get("schema") if isinstance(value, dict) else None
        if type(schema) is int and schema > SCHEMA:
            raise RecordError(
                ["schema: {}; this agent reads up to {}: update lightnas-edge".format(shown(schema), SCHEMA)]
            )
        return read_record(value, cls.read)


def read_manifest(folder: str) -> Manifest:
    """The manifest of a job directory.

    Raises:
        ManifestError: it cannot be read, or requests something that the agent cannot do; all faults together.
    """
    path = os.path.join(folder, "manifest.json")
    try:
        with open(path, "rb") as file:
            content = file.read(LARGEST_BYTES + 1)
    except OSError as err:
        raise ManifestError("cannot read {}: {}".format(path, err.strerror), "give a job directory with --job")
    if len(content) > LARGEST_BYTES:
        raise ManifestError(
            "{} is larger than {} MB".format(path, LARGEST_BYTES // 2**20), "give a job directory with --job"
        )
    try:
        return Manifest.from_json(parse(content))
    except RecordError as err:
        raise ManifestError("{}: {}".format(path, err), _remedy(err.faults))


def _remedy(faults: List[str]) -> str:
    """What to do about faults: another value of the options that they come from, else a new job directory."""
    options = sorted({_OPTIONS[path] for path in (fault.partition(": ")[0] for fault in faults) if path in _OPTIONS})
    others = [fault for fault in faults if fault.partition(": ")[0] not in _OPTIONS]
    remedies = ["give another value to " + " and ".join(options)] if options else []
    if others:
        remedies.append("write the job directory again")
    return "; ".join(remedies)

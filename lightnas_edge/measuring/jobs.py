"""From a search space to a job directory: what an agent needs to measure, and nothing else.

The directory's form is in docs/formats.md. It is written by the host, read by the agent, and can be kept and run again.
"""

from __future__ import annotations

import fnmatch
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from lightnas_edge import graph
from lightnas_edge.errors import RecordError, SpaceError
from lightnas_edge.files import sha256_of, write_atomic
from lightnas_edge.records.base import Count, NonNegativeFloat, Positive, PositiveFloat, describe
from lightnas_edge.records.job import (
    BoardSetup,
    EnergyRequest,
    Evaluation,
    JobManifest,
    Measurement,
    Milliseconds,
    ProtocolRecord,
    Purpose,
    Seed,
)
from lightnas_edge.space import Architecture, ShapedOperator, Space
from lightnas_edge.space.cost import operator_cost

ENERGY_STEADY_S = 10.0  # of steady power, after the sensor has settled: docs/energy.md
REFERENCE_NETWORKS = 10  # enough to scale and correct the predictor of another board
# Other work on a machine comes in bursts of up to 0.3 s and speeds that change a few times a second: two visits of a network
# that is judged are this far apart, so that they do not share them.
ROUND_S = 1.0
SENTINELS = 12  # searchable operators in every job of a space: they show how fast the machine is in that session


class MeasurementProtocol(ProtocolRecord):
    """How to measure, with the usual values."""

    # 2: operators have the edges that they have inside a network, and visits wait for a steady clock.
    # 3: networks are timed inference by inference.
    version: Positive = 3
    seed: Seed = 0
    rounds: Positive = 25
    samples_per_visit: Positive = 5
    warmup_ms: Milliseconds = 5.0
    min_sample_ms: Milliseconds = 2.0
    timeout_s: PositiveFloat = 120.0
    spread_limit: NonNegativeFloat | None = 0.03
    extra_rounds: Count = 5


@dataclass(frozen=True)
class Settings:
    """On what, and with which engine.

    `streams`: every model runs in so many at once; another table.
    `cuda_graph`: an inference is the launch of one CUDA graph; another table.
    `build_timeout_s`: of one engine, where the engine builds; the numbers do not depend on it.
    `energy_rounds`: further rounds in which energy is measured too; 0 for none.
    `lock_clocks`, `power_mode`: how the board is set up for the job, by sudo; it is put back afterwards.
    """

    backend: str = "onnxruntime"
    precision: str = "fp32"
    batch: int = 1
    threads: int = 1
    opset: int = 13
    protocol: MeasurementProtocol = field(default_factory=MeasurementProtocol)
    cuda_graph: bool = False
    streams: int = 1
    build_timeout_s: float = 3600.0
    energy_rounds: int = 0
    lock_clocks: bool = False
    power_mode: str | None = None

    @classmethod
    def like(cls, fingerprint: Mapping[str, Any], protocol: MeasurementProtocol) -> Settings:
        """As a table with this fingerprint was measured: engine, precision, batch, threads, streams."""
        default = cls()
        return cls(
            backend=fingerprint.get("backend", default.backend),
            precision=fingerprint.get("precision", default.precision),
            batch=int(fingerprint.get("batch") or default.batch),
            threads=int(fingerprint.get("threads") or default.threads),
            cuda_graph=bool(fingerprint.get("cuda_graph")),
            streams=int(fingerprint.get("streams") or default.streams),
            protocol=protocol,
        )

    @property
    def arithmetic(self) -> graph.Arithmetic:
        """Of the graphs that are measured. Raises ExportError for a precision that no graph has."""
        return graph.Arithmetic.for_backend(self.backend, self.precision)

    @property
    def board_setup(self) -> BoardSetup | None:
        """As in the manifest; None when the board stays as it is."""
        if not self.lock_clocks and self.power_mode is None:
            return None
        return BoardSetup(lock_clocks=self.lock_clocks, power_mode=self.power_mode)


@dataclass(frozen=True)
class Job:
    """A job directory that has been written."""

    folder: Path
    job: str
    keys: tuple[str, ...]  # what is measured, sentinels included
    rounds: int

    @property
    def visits(self) -> int:
        return len(self.keys) * self.rounds


def network_key(architecture: Architecture) -> str:
    """`net-` and 12 hex digits; equal for equal operators."""
    names = ",".join(operator.name for operator in architecture.operators)
    return "net-" + hashlib.sha256(names.encode()).hexdigest()[:12]


def sentinels(space: Space) -> list[ShapedOperator]:
    """A few searchable operators from fast to slow: the same in every job of a space, for any number of classes."""
    searchable = [shaped for shaped in space.shaped_operators() if shaped not in space.fixed]
    ranked = sorted(searchable, key=lambda shaped: (operator_cost(shaped)[0], shaped.key))
    positions = np.linspace(0, len(ranked) - 1, num=min(SENTINELS, len(ranked))).round().astype(int)
    return [ranked[position] for position in positions]


def select_operators(space: Space, patterns: Sequence[str]) -> list[ShapedOperator]:
    """The shaped operators that `--only` asks for; all of them without a pattern.

    A pattern is a key (`mbconv_k5_e6@16x112-24s2`), an operator at a searchable layer counted from 0
    (`mbconv_k5_e6@12`), a block's name (`stem`), or a glob over keys (`*_e6@*`).

    Raises:
        SpaceError: a pattern that matches nothing; all such patterns in one message.
    """
    everything = space.shaped_operators()
    if not patterns:
        return everything
    by_layer = {
        f"{operator.name}@{layer}": space.at(layer, operator)
        for layer in range(len(space.layers))
        for operator in space.operators
    }
    chosen: dict[ShapedOperator, None] = {}
    unmatched = []
    for pattern in patterns:
        matches = [
            shaped
            for shaped in everything
            if shaped.block == pattern or fnmatch.fnmatchcase(shaped.key, pattern) or by_layer.get(pattern) == shaped
        ]
        chosen.update(dict.fromkeys(matches))
        if not matches:
            unmatched.append(pattern)
    if unmatched:
        raise SpaceError(
            f"no operator of space {space.name} matches {', '.join(unmatched)}",
            hint="use a key from `lightnas-edge lut show`, NAME@LAYER such as mbconv_k5_e6@12, or a glob such as '*_e6@*'",
        )
    return list(chosen)


def reference_architectures(space: Space) -> list[Architecture]:
    """The networks that are measured first on every board, so that a predictor can be transferred between boards."""
    return _distinct(space, REFERENCE_NETWORKS, 0, {})


def sample_architectures(space: Space, count: int, seed: int) -> list[Architecture]:
    """The reference set, then random ones: `count` distinct architectures, the first n the same for every larger count."""
    return _distinct(space, count, seed, dict.fromkeys(reference_architectures(space)))[:count]


def _distinct(space: Space, count: int, seed: int, found: dict[Architecture, None]) -> list[Architecture]:
    generator = np.random.default_rng(seed)
    while len(found) < min(count, space.size):
        found[Architecture.random(space, generator)] = None
    return list(found)


def write_profile_job(
    folder: Path,
    space: Space,
    settings: Settings,
    *,
    operators: Iterable[ShapedOperator] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Job:
    """Every operator of the space, each as an ONNX model of its own; or those given, and the sentinels.

    The sentinels relate this session to those that the table holds already. With energy, which takes half a minute for
    each operator, they are left out.
    """
    wanted = space.shaped_operators() if operators is None else list(operators)
    extra_operators = [] if settings.energy_rounds else sentinels(space)
    operators = list(dict.fromkeys([*wanted, *extra_operators]))
    return _write_job(folder, "profile", space, settings, _operators(operators, settings), on_progress=on_progress)


def write_sample_job(
    folder: Path,
    space: Space,
    settings: Settings,
    architectures: Sequence[Architecture],
    *,
    extra_operators: Sequence[ShapedOperator] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Job:
    """Whole networks with random weights, and operators.

    Args:
        extra_operators: measured in the same rounds, to see drift; the space's sentinels when None.
    """
    networks = [
        _Measurement(
            network_key(architecture),
            {"architecture": architecture.to_json()},
            partial(_network_bytes, space, architecture, settings),
        )
        for architecture in architectures
    ]
    operators = _operators(sentinels(space) if extra_operators is None else extra_operators, settings)
    return _write_job(folder, "sample", space, settings, [*operators, *networks], on_progress=on_progress)


def write_verify_job(
    folder: Path,
    space: Space,
    settings: Settings,
    architecture: Architecture,
    model: bytes,
    *,
    inputs: np.ndarray | None = None,
    extra_operators: Sequence[ShapedOperator] | None = None,
) -> Job:
    """The exported network, the sentinel operators, and images to run through it.

    Args:
        inputs: (N, 3, H, W) float32, N a multiple of the batch size; evaluated, not timed.
        extra_operators: measured in the same rounds, to see drift; the space's sentinels when None.
    """
    key = network_key(architecture)
    network = _Measurement(key, {"architecture": architecture.to_json()}, lambda: model)
    operators = _operators(sentinels(space) if extra_operators is None else extra_operators, settings)
    content = None
    if inputs is not None and len(inputs):
        content = (np.ascontiguousarray(inputs, dtype="<f4").tobytes(), len(inputs) // settings.batch)
    return _write_job(
        folder, "verify", space, settings, [*operators, network], inputs=None if content is None else {key: content}
    )


def write_model_job(
    folder: Path,
    settings: Settings,
    model: bytes,
    facts: Mapping[str, Any],
    *,
    inputs: bytes | None = None,
    runs: int = 0,
    layer_profile: bool = False,
) -> Job:
    """A model file: its latency, its outputs for inputs, the time of its layers.

    Args:
        facts: about the model, for people; the agent copies them.
        inputs: all inputs of `runs` inferences, each inference's one behind the other; evaluated, not timed.
    """
    key = model_key(model)
    measurement = _Measurement(key, {"model_file": dict(facts)}, lambda: model)
    return _write_job(
        folder, "model", None, settings, [measurement], inputs={key: (inputs, runs)} if inputs is not None else None,
        layer_profiles=[key] if layer_profile else [],
    )  # fmt: skip


def model_key(model: bytes) -> str:
    """`model-` and 12 hex digits of the bytes that are sent."""
    return "model-" + sha256_of(model)[:12]


def profile_job_name(space: Space, settings: Settings) -> str:
    """The name of the job that profiles a space with these settings: the same on every host, 16 hex digits."""
    return _job_name("profile", space, settings, [])


def _job_name(purpose: str, space: Space | None, settings: Settings, networks: list[dict[str, Any]]) -> str:
    identity: dict[str, Any] = {
        "purpose": purpose,
        "space_sha256": None if space is None else space.sha256,
        "backend": settings.backend,
        "precision": settings.precision,
        "batch": settings.batch,
        "threads": settings.threads,
        "opset": settings.opset,
        "protocol_version": settings.protocol.version,
        "networks": networks,
    }
    if settings.board_setup is not None:  # a board in another state is another table
        identity["board_setup"] = settings.board_setup.to_json()
    if settings.cuda_graph:
        identity["cuda_graph"] = True
    if settings.streams > 1:
        identity["streams"] = settings.streams
    if settings.protocol.sustained_s:
        identity["sustained_s"] = settings.protocol.sustained_s
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class _Measurement:
    key: str
    subject: dict[str, Any]  # {"operator": ...}, {"architecture": ...} or {"model_file": ...}
    build: Callable[[], bytes]  # ONNX


def _operators(operators: Iterable[ShapedOperator], settings: Settings) -> list[_Measurement]:
    return [
        _Measurement(shaped.key, {"operator": shaped.to_json()}, partial(_operator_bytes, shaped, settings))
        for shaped in operators
    ]


def _operator_bytes(shaped: ShapedOperator, settings: Settings) -> bytes:
    return graph.model_bytes(
        graph.operator_model(shaped, batch=settings.batch, opset=settings.opset, arithmetic=settings.arithmetic)
    )


def _network_bytes(space: Space, architecture: Architecture, settings: Settings) -> bytes:
    model = graph.network_model(
        space, architecture, batch=settings.batch, opset=settings.opset, arithmetic=settings.arithmetic
    )
    return graph.model_bytes(model)


def _write_job(
    folder: Path,
    purpose: Purpose,
    space: Space | None,
    settings: Settings,
    measurements: Sequence[_Measurement],
    *,
    inputs: Mapping[str, tuple[bytes, int]] | None = None,
    layer_profiles: Sequence[str] = (),
    on_progress: Callable[[int, int], None] | None = None,
) -> Job:
    models = folder / "models"
    rows = []
    for index, measurement in enumerate(measurements):
        content = measurement.build()
        sha256 = sha256_of(content)
        write_atomic(models / f"{sha256}.onnx", content)
        rows.append(Measurement(key=measurement.key, model=sha256, **measurement.subject))
        if on_progress:
            on_progress(index + 1, len(measurements))
    model_of = {row.key: row.model for row in rows}
    evaluations = []
    for key, (content, runs) in (inputs or {}).items():
        if runs < 1 or len(content) % runs:
            raise ValueError(f"{len(content)} bytes of inputs do not divide into {runs} runs")
        sha256 = sha256_of(content)
        write_atomic(folder / "data" / f"{sha256}.f32", content)
        evaluations.append(
            Evaluation(key=key, model=model_of[key], inputs=sha256, runs=runs, run_bytes=len(content) // runs)
        )
    # One profile job per space and setting, so that --only and more rounds add to it; samples and
    # verifications are about the very networks they hold.
    networks = [] if purpose == "profile" else [row.to_json() for row in rows if row.operator is None]
    job = _job_name(purpose, space, settings, networks)
    energy = EnergyRequest(rounds=settings.energy_rounds, steady_s=ENERGY_STEADY_S) if settings.energy_rounds else None
    try:
        manifest = JobManifest(
            job=job,
            purpose=purpose,
            space=None if space is None else space.name,
            space_sha256=None if space is None else space.sha256,
            classes=None if space is None else space.classes,
            backend=settings.backend,
            precision=settings.precision,
            batch=None if space is None else settings.batch,
            threads=settings.threads,
            cuda_graph=settings.cuda_graph,
            streams=settings.streams,
            build_timeout_s=settings.build_timeout_s,
            protocol=settings.protocol,
            energy=energy,
            board_setup=settings.board_setup,
            sentinels=() if space is None else tuple(shaped.key for shaped in sentinels(space)),
            measurements=tuple(rows),
            evaluations=tuple(evaluations),
            layer_profiles=tuple(layer_profiles),
        )
    except ValidationError as found:
        raise RecordError(f"the job {describe(found)}") from found
    manifest.save(folder / "manifest.json")
    return Job(folder, job, tuple(model_of), settings.protocol.rounds)

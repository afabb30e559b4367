"""Run directories for tests, written through the door that the product uses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import save

import luts
from lightnas_edge.deploy.evidence import measured_latency
from lightnas_edge.deploy.judge import Evidence, judge
from lightnas_edge.files import sha256_of
from lightnas_edge.nn import Network
from lightnas_edge.records.deployment import MeasuredLatency, TrainingRecord, VerificationRecord
from lightnas_edge.records.run import DataRecord, MetricPrediction, Normalisation, PredictedRecord
from lightnas_edge.runs import Run
from lightnas_edge.space import Architecture, Space


def data_record(classes: tuple[str, ...] = ("dark", "bright"), **changed: Any) -> DataRecord:
    fields: dict[str, Any] = {
        "name": "invented", "source": "invented", "classes": classes, "train_images": 8, "validation_images": 4,
        "split": "given", "input_size": 16, "seed": 0, "sha256": "0" * 64,
        "normalisation": Normalisation(mean=(0.5, 0.5, 0.5), standard_deviation=(0.2, 0.2, 0.2)),
    }  # fmt: skip
    return DataRecord(**{**fields, **changed})


def question(space: Space, data: DataRecord | None = None, **changed: Any) -> dict[str, Any]:
    """Under 0.5 ms."""
    asked = {"space": space.to_json(), "data": data or data_record(), "config": {}, "seed": 0}
    return {**asked, "targets": {"latency_ms": 0.5}, **changed}


def begin(folder: Path, space: Space, data: DataRecord | None = None, **changed: Any) -> Run:
    return Run.begin(folder, question(space, data, **changed))[0]


def predicted(value_ms: float = 0.4, target_ms: float = 0.5) -> PredictedRecord:
    latency = MetricPrediction(value=value_ms, upper=None, target=target_ms, violation=value_ms / target_ms - 1)
    return PredictedRecord(confidence=None, simulated=False, metrics={"latency_ms": latency}, binding="latency_ms")


def find(run: Run, architecture: Architecture, value_ms: float = 0.4) -> Run:
    """As if the search had ended: with the hashes of the predictors and the table that are in the folder now."""
    run.save_found(architecture, predicted(value_ms), None)
    return run


def measured(
    median_ms: float = 0.4, *, rounds: int = 40, spread: float = 0.01, seed: int = 0, **changed: Any
) -> MeasuredLatency:
    """Of `rounds` rounds of 10 inferences that differ by `spread` between rounds and hardly within one."""
    shifts = np.random.default_rng(seed).standard_normal(rounds)
    inside = np.linspace(0.998, 1.004, 10)
    samples = tuple(tuple(float(median_ms * (1 + spread * shift) * factor) for factor in inside) for shift in shifts)
    visits = tuple(
        luts.Visit(
            key="net-0", session="00", round=index, repeats=1, samples_ms=row, architecture={"kind": "architecture"}
        )
        for index, row in enumerate(samples)
    )
    return measured_latency(luts.Entry("net-0", visits, (1.0,) * rounds)).model_copy(update=changed)


def verification(
    asked: dict[str, float] | None = None, evidence: Evidence | None = None, **changed: Any
) -> VerificationRecord:
    """Of evidence, with invented hashes and a board that has none of the other facts; p50 of 0.4 ms within 0.5 ms if not said."""
    evidence = evidence or Evidence(measured())
    judgement = judge(asked or {"latency_ms": 0.5}, evidence)
    fields: dict[str, Any] = {
        "created": "2026-01-01T00:00:00+00:00", "host": "localhost", "predictor_sha256": None, "table_sha256": None,
        **dict.fromkeys(("model_sha256", "weights_sha256", "data_sha256"), "0" * 64),
        **{name: getattr(judgement, name) for name in ("verdict", "reason", "remedy", "budgets")},
        **{name: getattr(evidence, name) for name in ("measured", "accuracy", "energy", "peak_memory_mb", "params_m", "macs_m")},
        **dict.fromkeys(("comparison", "outputs", "reference")), "confidence": 0.95,
        "batch": 1, "precision": "fp32", "fingerprint": {}, "simulated": False, "warnings": (),
    }  # fmt: skip
    return VerificationRecord(**{**fields, **changed})


def train(run: Run, network: Network, data: DataRecord | None = None) -> Run:
    """As if the network had been trained to these weights."""
    data = data or run.data
    weights = save({name: value.contiguous() for name, value in network.state_dict().items()})
    record = TrainingRecord(
        space_sha256=run.space.with_classes(len(data.classes)).sha256, operators=run.architecture.names, data=data,
        weights_sha256=sha256_of(weights), best_accuracy=0.9, best_epoch=0, last_accuracy=0.9, epochs=1, elapsed_s=1.0,
        note="", config={},
    )  # fmt: skip
    run.save_training(record, weights)
    return run

"""The network on the board: measured beside the table's sentinels, its outputs compared, and a verdict."""

from __future__ import annotations

import hashlib
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

import luts
from devices import Connection, Status
from lightnas_edge.deploy.compare import Agreement, compare_outputs
from lightnas_edge.deploy.export import load_run_data, pytorch_outputs
from lightnas_edge.deploy.judge import CONFIDENCE, Judgement, judge, result_line
from lightnas_edge.errors import FingerprintError, VerifyError
from lightnas_edge.measuring import MeasurementProtocol, Settings, measure, network_key, sentinels, write_verify_job
from lightnas_edge.predictor import load_predictor
from lightnas_edge.runs import read_architecture, read_json, read_run, write_json
from lightnas_edge.space import Architecture, Space
from lightnas_edge.train import load_network

SCHEMA = 1
IMAGES = 1000
ROUNDS = 40  # of 5 samples each: n = 200
# Half precision keeps the cosine of logits above 0.999, int8 usually above 0.99 (docs/measuring.md, "Verdicts").
LEAST_COSINE = 0.99


@dataclass(frozen=True)
class Verification:
    """A verdict with its record, as `verify/verification.json` holds it."""

    judgement: Judgement
    record: dict[str, Any]
    path: Path

    @property
    def line(self) -> str:
        return result_line(self.record)


def run_settings(run_dir: Path, *, rounds: int = ROUNDS, seed: int = 0) -> Settings:
    """How the run's predictor was measured: engine, precision, batch, threads. Verifying under others proves nothing.

    Raises:
        RunError: the run has no network, or several below it; or no predictor.
    """
    read_architecture(run_dir, read_run(run_dir)[1])
    path = run_dir / "predictor.json"
    if not path.exists():  # the latency was not predicted; another metric was, on the same board in the same state
        path = next(iter(sorted(run_dir.glob("predictor-*.json"))), path)
    record = read_json(path, kind="predictor", remedy="`lightnas-edge search` writes it")
    # How much is measured must not follow what is seen: no extra rounds.
    return Settings.like(record["fingerprint"], MeasurementProtocol(rounds=rounds, seed=seed, extra_rounds=0))


def verify_network(
    run_dir: Path,
    connection: Connection,
    *,
    target_ms: float | None = None,
    settings: Settings | None = None,
    data: str | Path | None = None,
    images: int = IMAGES,
    confidence: float = CONFIDENCE,
    fresh: bool = False,
    on_progress: Callable[[Status], None] | None = None,
    sudo_password: str | None = None,
) -> Verification:
    """Measure the exported network where the connection leads and judge it; writes `verify/`.

    A verification that was cut short is gone on with; one that was finished is made anew, its journal kept as `.old`.

    Args:
        target_ms: the latency's budget; the run's own when None. Other budgets of the run are not judged.
        settings: how to measure; as the run's predictor was measured when None.
        data: where the images now are, if not where they were for the search.
        sudo_password: where the settings change the board and its sudo asks for one.
        images: how many validation images are scored on the board, at most.

    Raises:
        VerifyError: the run has no budget for the latency, nothing is exported, the file has changed since, or the board
            could not run it.
        DeviceError: the board is unreachable or busy.
    """
    run, space = read_run(run_dir)
    read_architecture(run_dir, space)
    targets = dict(run["targets"])
    asked_ms = targets.pop("latency_ms", None)
    target_ms = asked_ms if target_ms is None else target_ms
    if target_ms is None:
        raise VerifyError(
            f"{run_dir} was searched for {_listed(targets)}, and only a latency is judged",
            hint="name one: --latency-ms MS",
        )
    settings = run_settings(run_dir) if settings is None else settings
    model = _exported_model(run_dir, settings.batch)
    network = load_network(run_dir)
    inputs, labels = load_run_data(run_dir, data).validation_arrays(images)
    count = len(inputs) // settings.batch * settings.batch  # the engine takes whole batches
    inputs, labels = inputs[:count], labels[:count]

    folder = run_dir / "verify"
    record_path = folder / "verification.json"
    fresh = fresh or record_path.exists()
    record_path.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(prefix="lightnas-edge-job-") as scratch:
        job = write_verify_job(Path(scratch), network.space, settings, network.architecture, model, inputs=inputs)
        outputs_folder = Path(scratch) / "outputs"
        table = measure(
            connection, job, folder / "journal.jsonl", fresh=fresh, on_progress=on_progress, outputs=outputs_folder,
            sudo_password=sudo_password,
        )  # fmt: skip
        outputs = _read_outputs(outputs_folder / f"{network_key(network.architecture)}.f32", count)

    key = network_key(network.architecture)
    if key not in table.networks:
        error = table.failed.get(key, {"message": "the journal holds no visit of it"})
        raise VerifyError(
            f"{connection.name} could not measure the network: {error['message']}", hint=error.get("remedy", "")
        )
    entry = table.networks[key]
    drift, warnings = _drift(run_dir, table, network.space)
    judgement = judge(entry, target_ms=float(target_ms), drift=drift, confidence=confidence)
    reference = pytorch_outputs(network, inputs) if count else None
    agreement = None if outputs is None or reference is None else compare_outputs(reference, outputs)
    judgement = with_agreement(judgement, agreement)
    warnings += [f"{key}: {warning}" for warning in _brief(entry.warnings)]
    unjudged = {metric: target for metric, target in targets.items() if metric in luts.METRICS}
    if unjudged:
        warnings.append(f"the verdict is about the latency; not judged: {_listed(unjudged)}")
    if agreement is None:
        warnings.append("the outputs were not compared: the board returned none")

    record = {
        "kind": "verification",
        "schema": SCHEMA,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "host": connection.name,
        "model_sha256": hashlib.sha256(model).hexdigest(),
        **_with_samples(judgement.to_json(), entry),
        "predicted": _predicted(run_dir, space, network.architecture, judgement, confidence),
        "outputs": None if agreement is None else agreement.to_json(),
        "accuracy": _accuracy(labels, outputs, reference),
        "energy": None if entry.energy_mj is None else asdict(entry.energy_mj),
        "batch": settings.batch,
        "precision": settings.precision,
        "fingerprint": table.fingerprint,
        "simulated": table.simulated,
        "warnings": warnings,
    }
    write_json(record_path, record)
    return Verification(judgement, record, record_path)


def with_agreement(judgement: Judgement, agreement: Agreement | None) -> Judgement:
    """A network that computes something else keeps no budget, however fast it is."""
    if agreement is None or agreement.cosine >= LEAST_COSINE:
        return judgement
    return replace(
        judgement,
        verdict="inconclusive",
        reason=f"the engine does not compute what PyTorch does: cosine {agreement.cosine:.4f} (limit {LEAST_COSINE})",
        remedy="measure with another precision, or export again for this runtime with `lightnas-edge export --target`",
    )


def _exported_model(run_dir: Path, batch: int) -> bytes:
    remedy = "`lightnas-edge export` writes it anew"
    record = read_json(run_dir / "export" / "export.json", kind="export", remedy=remedy)
    path = run_dir / "export" / record.get("model", "model.onnx")
    try:
        content: bytes = path.read_bytes()
    except OSError as error:
        raise VerifyError(f"cannot read {path}: {error.strerror}", hint=remedy) from error
    if hashlib.sha256(content).hexdigest() != record.get("sha256"):
        raise VerifyError(f"{path} is not the file that export.json describes: it has changed since", hint=remedy)
    if record.get("batch") != batch:
        raise VerifyError(f"{path} is for batch {record.get('batch')}, the predictor for batch {batch}", hint=remedy)
    return content


def _read_outputs(path: Path, images: int) -> np.ndarray | None:
    """(images, classes), or None where the board returned nothing that fits."""
    if not images or not path.exists():
        return None
    values = np.fromfile(path, dtype="<f4")
    if not len(values) or len(values) % images:
        return None
    return values.reshape(images, -1)


def _drift(run_dir: Path, table: luts.Lut, space: Space) -> tuple[luts.Ratio | None, list[str]]:
    """The drift since the run's table was measured, or None and why."""
    path = run_dir / "lut.jsonl"
    if not path.exists():
        return None, [
            "the run holds no table, so drift since it was measured is unknown and the median is judged as it is"
        ]
    try:
        return luts.drift_ratio(luts.read(path), table, [shaped.key for shaped in sentinels(space)]), []
    except FingerprintError as error:
        return None, [f"verified on another board or in another state than the table's, so drift is unknown: {error}"]
    except luts.LutMissError as error:
        return None, [f"drift is unknown: {error}"]


def _listed(targets: Mapping[str, float]) -> str:
    return " and ".join(f"{metric} {target:g}" for metric, target in targets.items())


def _brief(warnings: Sequence[str]) -> list[str]:
    """One of every kind: what differs only in its numbers is told once and counted."""
    kinds: dict[str, list[str]] = {}
    for warning in warnings:
        kinds.setdefault(re.sub(r"[0-9.]+", "#", warning), []).append(warning)
    return [f"{alike[0]}{f' (and {len(alike) - 1} times more)' if len(alike) > 1 else ''}" for alike in kinds.values()]


def _with_samples(record: dict[str, Any], entry: luts.Entry) -> dict[str, Any]:
    spread = entry.spread if np.isfinite(entry.spread) else None
    measured = {**record["measured"], "spread": spread, "samples_ms": list(entry.samples_ms)}
    return {**record, "measured": measured}


def _predicted(
    run_dir: Path, space: Space, architecture: Architecture, judgement: Judgement, confidence: float
) -> dict[str, Any] | None:
    path = run_dir / "predictor.json"
    if not path.exists():
        return None
    predictor = load_predictor(path, space)
    one_hot = architecture.one_hot(space)[None]
    low, high = predictor.interval(one_hot, confidence)
    latency_ms = float(predictor.predict(one_hot)[0])
    return {
        "latency_ms": latency_ms,
        "interval_ms": [float(low[0]), float(high[0])],
        "gap": judgement.decisive.latency_ms / latency_ms - 1,  # above zero: slower than predicted
    }


def _accuracy(labels: np.ndarray, outputs: np.ndarray | None, reference: np.ndarray | None) -> dict[str, Any] | None:
    if outputs is None or reference is None:
        return None
    return {
        "top1": float(np.mean(outputs.argmax(axis=1) == labels)),
        "images": len(labels),
        "pytorch_top1": float(np.mean(reference.argmax(axis=1) == labels)),
    }

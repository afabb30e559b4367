"""The network on the board: measured together with the table's sentinels, its outputs compared, and a verdict."""

from __future__ import annotations

import re
import shlex
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

import devices
import luts
from devices import Connection, Status
from lightnas_edge.deploy.compare import compare_outputs
from lightnas_edge.deploy.export import load_training_data, pytorch_outputs
from lightnas_edge.deploy.judge import CONFIDENCE, Judgement, judge, result_line
from lightnas_edge.errors import FingerprintError, VerifyError
from lightnas_edge.files import finite, sha256_of_file
from lightnas_edge.measuring import MeasurementProtocol, Settings, measure, network_key, sentinels, write_verify_job
from lightnas_edge.predictor import load_predictor
from lightnas_edge.records.deployment import (
    AccuracyRecord,
    Agreement,
    EnergyRecord,
    LatencyTarget,
    MeasuredLatency,
    PredictedLatency,
    VerificationRecord,
)
from lightnas_edge.runs import Export, Run
from lightnas_edge.train import load_network

IMAGES = 1000
ROUNDS = 40  # of 5 samples each: n = 200
# Half precision keeps the cosine of logits above 0.999, int8 usually above 0.99 (docs/measuring.md, "Verdicts").
MIN_COSINE = 0.99


@dataclass(frozen=True)
class Verification:
    """A verdict with its record, as `verify/verification.json` holds it."""

    judgement: Judgement
    record: VerificationRecord
    path: Path

    @property
    def line(self) -> str:
        return result_line(self.record)


def default_host(run: Run, command: str = "verify") -> str:
    """Where the run's table was measured. `command`: that needs it, for the remedy.

    Raises:
        VerifyError: the run does not say how that board is reached. A generic Linux machine may be any machine.
    """
    fingerprint = run.record.fingerprint
    board = fingerprint.get("board")
    if run.record.host is not None:
        return run.record.host
    if fingerprint.get("simulated") and isinstance(board, str):
        return board if board.startswith("virtual:") else f"virtual:{board}"
    generic = board in (None, "generic-linux")
    names = [] if generic else [name for name, entry in devices.read_inventory().items() if entry.board == board]
    if len(names) == 1:
        return names[0]
    named = shlex.join(["lightnas-edge", command, str(run.folder), "--host"])
    here = f" (`{named} localhost` if it is this machine)" if generic else ""
    raise VerifyError(
        f"the run's table was measured on {board or 'an unnamed board'}, and the run does not say how that board is reached",
        hint=f"name it: `{named} HOST`{here}",
    )


def run_settings(run: Run, *, rounds: int = ROUNDS, seed: int = 0) -> Settings:
    """How the run's predictor was measured: engine, precision, batch, threads. Verifying under others proves nothing.

    Raises:
        RunError: the run has no network, or several below it.
    """
    run.found  # noqa: B018  # names the networks below a search that found several
    # The number of rounds must not depend on the samples: no extra rounds.
    return Settings.like(run.record.fingerprint, MeasurementProtocol(rounds=rounds, seed=seed, extra_rounds=0))


def verify_network(
    run: Run | Path,
    connection: Connection,
    *,
    target_ms: float | None = None,
    settings: Settings | None = None,
    data: str | Path | None = None,
    images: int = IMAGES,
    confidence: float = CONFIDENCE,
    on_progress: Callable[[Status], None] | None = None,
    sudo_password: str | None = None,
) -> Verification:
    """Measure the exported network on the board of the connection and judge it; writes `verify/`.

    An interrupted verification of the same export is resumed. The record and the journal of the last finished one stay until
    this one is finished.

    Args:
        target_ms: the budget of the latency; the run's own when None. Other budgets of the run are not judged.
        settings: how to measure; as the run's predictor was measured when None.
        data: where the training's images are now, if they have moved.
        sudo_password: where the settings change the board and its sudo asks for one.
        images: how many validation images are scored on the board, at most.

    Raises:
        VerifyError: the run has no budget for the latency, or the board could not run the network.
        RunError: nothing is exported, the export is older than the weights, or another process writes to the run.
        DeviceError: the board is unreachable or busy.
    """
    run = run if isinstance(run, Run) else Run.open(run)
    run.found  # noqa: B018
    others = run.targets
    asked_ms = others.pop("latency_ms", None)
    target_ms = asked_ms if target_ms is None else target_ms
    if target_ms is None:
        raise VerifyError(
            f"{run.folder} was searched for {_listed(others)}, and only a latency is judged",
            hint="name one: --latency-ms MS",
        )
    settings = run_settings(run) if settings is None else settings
    with run.writing("verify"):
        export = _export_for(run, settings.batch, settings.precision)
        predictor, lut = run.predictors.get("latency_ms"), run.table
        network = load_network(run)
        inputs, labels = load_training_data(run, data).validation_arrays(images)
        count = len(inputs) // settings.batch * settings.batch  # the engine takes whole batches
        inputs, labels = inputs[:count], labels[:count]

        journal = _unfinished_journal(run, export)
        with tempfile.TemporaryDirectory(prefix="lightnas-edge-job-") as scratch:
            job = write_verify_job(
                Path(scratch), network.space, settings, network.architecture, export.content, inputs=inputs
            )
            outputs_folder = Path(scratch) / "outputs"
            table = measure(
                connection, job, journal, fresh=not journal.exists(), on_progress=on_progress, outputs=outputs_folder,
                sudo_password=sudo_password,
            )  # fmt: skip
            outputs = _read_outputs(outputs_folder / f"{network_key(network.architecture)}.f32", count)

        key = network_key(network.architecture)
        if key not in table.networks:
            failure = table.failed.get(key)
            reason, remedy = (failure.message, failure.remedy) if failure else ("the journal holds no visit of it", "")
            journal.unlink(missing_ok=True)  # or the failure would be resumed
            raise VerifyError(f"{connection.name} could not measure the network: {reason}", hint=remedy)
        named = f"{shlex.quote(str(run.folder))} --host {shlex.quote(connection.name)}"
        entry = replace(table.networks[key], run=named)
        drift, warnings = _drift(run, lut, table)
        judgement = judge(
            entry, target_ms=float(target_ms), drift=drift, confidence=confidence,
            command=f"lightnas-edge verify {named}",
        )  # fmt: skip
        reference = pytorch_outputs(network, inputs) if count else None
        agreement = None if outputs is None or reference is None else compare_outputs(reference, outputs)
        judgement = with_agreement(judgement, agreement, shlex.quote(str(run.folder)))
        warnings += [f"{key}: {warning}" for warning in _one_of_each_kind(entry.warnings)]
        unjudged = {metric: target for metric, target in others.items() if metric in luts.METRICS}
        if unjudged:
            warnings.append(f"the verdict is about the latency; not judged: {_listed(unjudged)}")
        if agreement is None:
            warnings.append("the outputs were not compared: the board returned none")

        record = VerificationRecord(
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            host=connection.name,
            model_sha256=export.record.sha256,
            weights_sha256=export.record.weights_sha256,
            data_sha256=export.record.data_sha256,
            predictor_sha256=None if predictor is None else sha256_of_file(predictor),
            table_sha256=None if lut is None else sha256_of_file(lut),
            verdict=judgement.verdict,
            reason=judgement.reason,
            remedy=judgement.remedy,
            target=LatencyTarget(latency_ms=judgement.target_ms),
            violation=judgement.violation,
            confidence=judgement.confidence,
            measured=MeasuredLatency(
                latency_ms=judgement.measured.latency_ms,
                interval_ms=judgement.measured.interval_ms,
                p95_ms=judgement.p95_ms,
                n=judgement.n,
                rounds=judgement.rounds,
                spread=finite(entry.spread),
                samples_ms=tuple(entry.samples_ms),
                enqueue_ms=entry.enqueue_ms,
                gpu_ms=entry.gpu_ms,
            ),
            drift=judgement.drift_record,
            corrected=None if judgement.corrected is None else judgement.corrected.record,
            predicted=_predicted(run, predictor, judgement, confidence),
            outputs=agreement,
            accuracy=_accuracy(labels, outputs, reference),
            energy=None if entry.energy_mj is None else EnergyRecord(**asdict(entry.energy_mj)),
            batch=settings.batch,
            precision=settings.precision,
            fingerprint=table.fingerprint,
            simulated=table.simulated,
            warnings=tuple(warnings),
        )
        return Verification(judgement, record, run.save_verification(record, journal))


def with_agreement(judgement: Judgement, agreement: Agreement | None, run: str = "RUN") -> Judgement:
    """A network that computes something else keeps no budget, however fast it is. `run`: its quoted directory."""
    if agreement is None or agreement.cosine >= MIN_COSINE:
        return judgement
    return replace(
        judgement,
        verdict="inconclusive",
        reason=f"the engine does not compute what PyTorch does: cosine {agreement.cosine:.4f} (limit {MIN_COSINE})",
        remedy="measure with another precision, or export again for this runtime: "
        f"`lightnas-edge export {run} --target RUNTIME`",
    )


def _export_for(run: Run, batch: int, precision: str) -> Export:
    export = run.export
    if export.record.batch != batch:
        raise VerifyError(
            f"{export.path} is for batch {export.record.batch}, the predictor for batch {batch}",
            hint=f"`lightnas-edge export {shlex.quote(str(run.folder))}` writes it for the predictor's batch",
        )
    if export.record.precision != precision:
        raise VerifyError(
            f"{export.path} is in {export.record.precision}, the predictor is of {precision}",
            hint=f"`lightnas-edge export {shlex.quote(str(run.folder))}` writes it in the predictor's precision",
        )
    return export


def _unfinished_journal(run: Run, export: Export) -> Path:
    """Of a verification of this export that has not finished; those of other exports are removed."""
    journal = run.verify_folder / f"unfinished-{export.record.sha256[:12]}.jsonl"
    for path in run.verify_folder.glob("unfinished-*.jsonl"):
        if path != journal:
            path.unlink()
    return journal


def _read_outputs(path: Path, images: int) -> np.ndarray | None:
    """(images, classes), or None where the board returned nothing that fits."""
    if not images or not path.exists():
        return None
    values = np.fromfile(path, dtype="<f4")
    if not len(values) or len(values) % images:
        return None
    return values.reshape(images, -1)


def _drift(run: Run, path: Path | None, table: luts.Lut) -> tuple[luts.Ratio | None, list[str]]:
    """The drift since the run's table at `path` was measured, or None and why."""
    if path is None:
        return None, [
            "the run holds no table, so drift since it was measured is unknown and the median is judged as it is"
        ]
    try:
        return luts.drift_ratio(luts.read(path), table, [shaped.key for shaped in sentinels(run.space)]), []
    except FingerprintError as error:
        return None, [f"verified on another board or in another state than the table's, so drift is unknown: {error}"]
    except luts.LutMissError as error:
        return None, [f"drift is unknown: {error}"]


def _listed(targets: Mapping[str, float]) -> str:
    return " and ".join(f"{metric} {target:g}" for metric, target in targets.items())


def _one_of_each_kind(warnings: Sequence[str]) -> list[str]:
    """Warnings that differ in their numbers alone are shown once and counted."""
    kinds: dict[str, list[str]] = {}
    for warning in warnings:
        kinds.setdefault(re.sub(r"[0-9.]+", "#", warning), []).append(warning)
    return [f"{alike[0]}{f' (and {len(alike) - 1} times more)' if len(alike) > 1 else ''}" for alike in kinds.values()]


def _predicted(
    run: Run, predictor_path: Path | None, judgement: Judgement, confidence: float
) -> PredictedLatency | None:
    if predictor_path is None:
        return None
    predictor = load_predictor(predictor_path, run.space)
    one_hot = run.architecture.one_hot(run.space)[None]
    low, high = predictor.interval(one_hot, confidence)
    latency_ms = float(predictor.predict(one_hot)[0])
    return PredictedLatency(
        latency_ms=latency_ms,
        interval_ms=(float(low[0]), float(high[0])),
        gap=judgement.decisive.latency_ms / latency_ms - 1,
    )


def _accuracy(labels: np.ndarray, outputs: np.ndarray | None, reference: np.ndarray | None) -> AccuracyRecord | None:
    if outputs is None or reference is None:
        return None
    return AccuracyRecord(
        top1=float(np.mean(outputs.argmax(axis=1) == labels)),
        images=len(labels),
        pytorch_top1=float(np.mean(reference.argmax(axis=1) == labels)),
    )

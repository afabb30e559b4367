"""The network on the board: measured together with the table's sentinels, its outputs compared, and a verdict."""

from __future__ import annotations

import math
import shlex
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

import devices
import luts
from devices import Connection, Status
from lightnas_edge.deploy import evidence as parts
from lightnas_edge.deploy.compare import compare_outputs
from lightnas_edge.deploy.export import load_training_data, pytorch_outputs
from lightnas_edge.deploy.judge import UNITS, Evidence, Judgement, Predicted, check_targets, judge, result_line
from lightnas_edge.deploy.statistics import CONFIDENCE, least_rounds
from lightnas_edge.errors import FingerprintError, VerifyError
from lightnas_edge.files import sha256_of_file
from lightnas_edge.measuring import (
    ROUND_S,
    MeasurementProtocol,
    Settings,
    measure,
    network_key,
    sentinels,
    write_verify_job,
)
from lightnas_edge.predictor import load_predictor
from lightnas_edge.predictor.counted import CountedPredictor
from lightnas_edge.records.deployment import LATENCY_FIELDS, LatencyEstimate, VerificationRecord
from lightnas_edge.runs import Export, Run
from lightnas_edge.train import load_network

IMAGES = 1000
ROUNDS = 40
ENERGY_ROUNDS = 3
MAX_DRIFT = 0.10  # beyond it the sentinels no longer represent the network: caches and clocks differ, not speed alone


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


def run_settings(
    run: Run, targets: Mapping[str, float] | None = None, *, rounds: int | None = None, seed: int = 0
) -> Settings:
    """How the run's predictor was measured: engine, precision, batch, threads. Verifying under others proves nothing.

    Args:
        targets: what will be judged; the budgets of the run when None. They decide about rounds and energy.
        rounds: as many as the targets need when None.

    Raises:
        RunError: the run has no network, or several below it.
    """
    run.found  # noqa: B018  # names the networks below a search that found several
    asked = run.targets if targets is None else targets
    # The number of rounds must not depend on the samples: no extra rounds.
    protocol = MeasurementProtocol(rounds=rounds or rounds_for(asked), seed=seed, extra_rounds=0, round_s=ROUND_S)
    return replace(Settings.like(run.record.fingerprint, protocol), energy_rounds=energy_rounds_for(asked))


def rounds_for(targets: Mapping[str, float]) -> int:
    """Rounds that every statistic of the targets needs for an interval, with a tenth to spare; at least ROUNDS."""
    return max([ROUNDS, *(math.ceil(1.1 * least_rounds(metric)) for metric in targets if metric in LATENCY_FIELDS)])


def energy_rounds_for(targets: Mapping[str, float]) -> int:
    """Rounds with energy: none unless it is judged."""
    return ENERGY_ROUNDS if {"energy_mj", "net_energy_mj"} & set(targets) else 0


def verify_network(
    run: Run | Path,
    connection: Connection,
    *,
    targets: Mapping[str, float] | None = None,
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
        targets: metric -> budget, in addition to those of the run and in place of those of the same metric.
        settings: how to measure; as the run's predictor was measured when None.
        data: where the training's images are now, if they have moved.
        sudo_password: where the settings change the board and its sudo asks for one.
        images: how many validation images are scored on the board, at most.

    Raises:
        BudgetError: no budget, or one that is no positive number.
        VerifyError: the board could not run the network.
        RunError: nothing is exported, the export is older than the weights, or another process writes to the run.
        DeviceError: the board is unreachable or busy.
    """
    run = run if isinstance(run, Run) else Run.open(run)
    run.found  # noqa: B018
    asked = {**run.targets, **(targets or {})}
    check_targets(asked)
    settings = run_settings(run, asked) if settings is None else settings
    with run.writing("verify"):
        export = _export_for(run, settings.batch, settings.precision)
        lut = run.table
        network = load_network(run)
        inputs, labels = load_training_data(run, data).validation_arrays(images)
        count = len(inputs) // settings.batch * settings.batch  # the engine takes whole batches
        inputs, labels = inputs[:count], labels[:count]
        key = network_key(network.architecture)

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
            outputs = _read_outputs(outputs_folder / f"{key}.f32", count)

        if key not in table.networks:
            failure = table.failed.get(key)
            reason, remedy = (failure.message, failure.remedy) if failure else ("the journal holds no visit of it", "")
            journal.unlink(missing_ok=True)  # or the failure would be resumed
            raise VerifyError(f"{connection.name} could not measure the network: {reason}", hint=remedy)
        named = f"{shlex.quote(str(run.folder))} --host {shlex.quote(connection.name)}"
        entry = replace(table.networks[key], run=named)
        reference = pytorch_outputs(network, inputs) if count else None
        agreement = None if outputs is None or reference is None else compare_outputs(reference, outputs)
        predicted = _predicted(run, confidence)
        evidence = _evidence(run, table, entry, predicted, confidence)
        if outputs is not None and reference is not None:
            evidence = replace(evidence, accuracy=parts.accuracy(labels, outputs, reference, confidence))
        judgement = judge(
            asked, evidence, agreement=agreement, command=f"lightnas-edge verify {named}",
            export_again="measure with another precision, or export again for this runtime: "
            f"`lightnas-edge export {shlex.quote(str(run.folder))} --target RUNTIME`",
        )  # fmt: skip
        drift, warnings = _drift(run, lut, table)
        warnings += _about_drift(drift)
        warnings += [f"{key}: {warning}" for warning in parts.one_of_each_kind(entry.warnings)]
        if agreement is None:
            warnings.append("the outputs were not compared: the board returned none")
        compared = next((metric for metric in LATENCY_FIELDS if metric in predicted), None)
        protocol = settings.protocol
        record = VerificationRecord(
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            host=connection.name,
            model_sha256=export.record.sha256,
            weights_sha256=export.record.weights_sha256,
            data_sha256=export.record.data_sha256,
            predictor_sha256=_predictor_sha256(run, compared),
            table_sha256=None if lut is None else sha256_of_file(lut),
            verdict=judgement.verdict,
            reason=judgement.reason,
            remedy=judgement.remedy,
            budgets=judgement.budgets,
            confidence=confidence,
            measured=evidence.measured,
            comparison=None
            if compared is None
            else parts.comparison(
                entry, compared, evidence.measured, _as_latency(predicted[compared]), drift, confidence
            ),
            sustained=parts.sustained(table.sustained, protocol.sustained_s) if protocol.sustained_s else None,
            outputs=agreement,
            reference=None if agreement is None else "PyTorch",
            accuracy=evidence.accuracy,
            energy=evidence.energy,
            peak_memory_mb=evidence.peak_memory_mb,
            params_m=evidence.params_m,
            macs_m=evidence.macs_m,
            batch=settings.batch,
            precision=settings.precision,
            fingerprint=table.fingerprint,
            simulated=table.simulated,
            warnings=tuple(warnings),
        )
        return Verification(judgement, record, run.save_verification(record, journal))


def _evidence(
    run: Run, table: luts.Lut, entry: luts.Entry, predicted: Mapping[str, Predicted], confidence: float
) -> Evidence:
    """Everything but the accuracy, which needs images."""
    one_hot = run.architecture.one_hot(run.space)[None]
    memory = entry.quantity("peak_memory_mb")
    return Evidence(
        measured=parts.measured_latency(entry, confidence),
        energy=parts.energy(entry),
        peak_memory_mb=None if memory is None else memory.value,
        params_m=float(CountedPredictor(run.space, "params_m").predict(one_hot)[0]),
        macs_m=float(CountedPredictor(run.space, "macs_m").predict(one_hot)[0]),
        predicted=predicted,
        why_not=why_not_measured(table, entry.key),
    )


def why_not_measured(table: luts.Lut, key: str) -> dict[str, str]:
    """Metric -> the reason why a board did not measure it, and metric.remedy -> what to do."""
    energy = table.why_unknown("energy_mj", [key]).strip().replace("\n", "; ")
    memory = "this runtime does not report the memory of an engine"
    reasons = {"energy_mj": energy, "net_energy_mj": energy, "peak_memory_mb": memory}
    reasons["accuracy"] = reasons["accuracy_drop"] = "no labelled images were scored"
    return {
        **{metric: reason for metric, reason in reasons.items() if reason},
        **{f"{metric}.remedy": hint for metric, hint in luts.HOW_TO_MEASURE.items() if metric == "peak_memory_mb"},
    }


def _as_latency(predicted: Predicted) -> LatencyEstimate:
    return LatencyEstimate(latency_ms=predicted.value, interval_ms=predicted.interval)


def _predictor_sha256(run: Run, metric: str | None) -> str | None:
    return None if metric is None else sha256_of_file(run.predictors[metric])


def _predicted(run: Run, confidence: float) -> dict[str, Predicted]:
    """What the run's predictors say, by metric."""
    one_hot = run.architecture.one_hot(run.space)[None]
    found = {}
    for metric, path in run.predictors.items():
        if metric not in UNITS:
            continue
        predictor = load_predictor(path, run.space)
        low, high = predictor.interval(one_hot, confidence)
        found[metric] = Predicted(float(predictor.predict(one_hot)[0]), (float(low[0]), float(high[0])))
    return found


def _about_drift(drift: luts.Ratio | None) -> list[str]:
    """A machine in another state than during profiling says little about the prediction. The verdict does not use it."""
    if drift is None or abs(drift.value - 1) <= MAX_DRIFT:
        return []
    return [
        f"the machine runs {100 * abs(drift.value - 1):.1f} % {'slower' if drift.value > 1 else 'faster'} than in the reference "
        f"session of the LUT, beyond {100 * MAX_DRIFT:.0f} %: the verdict holds for the machine as it is, and prediction and "
        "measurement cannot be compared well; restore its power mode and clocks, or re-profile the LUT"
    ]


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

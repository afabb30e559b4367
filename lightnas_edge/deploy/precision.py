"""The network of a run in every precision of a board: exported, measured in turns, compared, and one chosen."""

from __future__ import annotations

import shlex
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from devices import Connection, Status
from lightnas_edge.deploy.choose_precision import BITS, Contender, accuracy_difference, choose, speedup
from lightnas_edge.deploy.export import BuiltExport, build_export
from lightnas_edge.deploy.judge import check_targets
from lightnas_edge.deploy.statistics import CONFIDENCE
from lightnas_edge.deploy.turns import PASSES, Turn, Unavailable, take_turns, unfinished_journal
from lightnas_edge.deploy.verify import IMAGES, run_settings
from lightnas_edge.deploy.verify_export import (
    Measured,
    ScoredImages,
    arithmetic_of,
    judge_export,
    outputs_of,
    predictions,
    write_export_job,
)
from lightnas_edge.errors import ExportError, VerifyError
from lightnas_edge.files import write_atomic
from lightnas_edge.graph import Arithmetic
from lightnas_edge.measuring import Settings, network_key
from lightnas_edge.measuring.engines import why_board_lacks, why_impossible
from lightnas_edge.predictor import load_predictor
from lightnas_edge.quantise.calibration import DEFAULT_METHOD, CalibrationImages
from lightnas_edge.records.precision import PrecisionName, PrecisionRecord, PrecisionRow
from lightnas_edge.records.quantisation import CalibrationMethod
from lightnas_edge.runs import Run
from lightnas_edge.train import load_network

PRECISIONS: tuple[PrecisionName, ...] = tuple(sorted(BITS, key=lambda name: -BITS[name]))


@dataclass(frozen=True)
class PrecisionTable:
    """The record as precision.json holds it."""

    record: PrecisionRecord
    path: Path


@dataclass
class Candidate:
    """One precision from its file to its row. Without a turn, `failed` says why there is none."""

    precision: PrecisionName
    failed: Unavailable | None = None
    turn: Turn | None = None
    facts: dict[str, object] = field(default_factory=dict)  # of the file, by the fields of PrecisionRow

    @property
    def unavailable(self) -> Unavailable | None:
        return self.failed or (None if self.turn is None else self.turn.failed)

    @property
    def measured(self) -> Turn | None:
        """Its turn, where all passes succeeded."""
        return None if self.unavailable is not None else self.turn


def unavailable_precisions(connection: Connection, backend: str) -> dict[PrecisionName, Unavailable]:
    """Precisions that the engine or the hardware of the board does not have, known before anything is measured.

    Raises:
        DeviceError: the board is out of reach.
    """
    reasons = {name: why_impossible(backend, name) or why_board_lacks(connection, backend, name) for name in PRECISIONS}
    return {name: Unavailable(reason) for name, reason in reasons.items() if reason is not None}


def measure_precisions(
    run: Run | Path,
    connection: Connection,
    *,
    targets: Mapping[str, float] | None = None,
    precisions: Sequence[PrecisionName] | None = None,
    predictors: Sequence[Path] = (),
    settings: Settings | None = None,
    passes: int = PASSES,
    data: str | Path | None = None,
    images: int = IMAGES,
    calibration: CalibrationImages | int | None = None,
    method: CalibrationMethod = DEFAULT_METHOD,
    confidence: float = CONFIDENCE,
    on_progress: Callable[[str, Status], None] | None = None,
    sudo_password: str | None = None,
    command: str | None = None,
) -> PrecisionTable:
    """Export a trained run in every precision of the board, measure them in turns, judge each, choose one.

    Writes precision/precision.json, and a folder with the file, its record and its journal for each precision. An
    interrupted measurement of the same files is resumed.

    Args:
        targets: metric -> budget, in addition to those of the run and in place of those of the same metric.
        precisions: those to measure; all of the board's when None.
        predictors: in addition to the run's; each is used for its own precision.
        settings: how to measure, in any precision; as the run's predictor was measured when None.
        passes: turns of each precision; each measures that part of its rounds.
        calibration, method: of int8, as in `build_export`.
        on_progress: takes a title and the board's status.
        command: that repeats this, without the number of rounds, for remedies.

    Raises:
        BudgetError: no budget, or one that is no positive number.
        VerifyError: no precision could be measured.
        PredictorError: a predictor cannot be read, or is of another space.
        RunError: the run is not trained, or another process writes to it.
        DeviceError: the board is unreachable or busy.
    """
    run = run if isinstance(run, Run) else Run.open(run)
    run.found  # noqa: B018
    asked = {**run.targets, **(targets or {})}
    check_targets(asked)
    settings = run_settings(run, asked) if settings is None else settings
    passes = min(passes, settings.protocol.rounds)
    network = load_network(run)
    scored = ScoredImages.of(run, network, data, images, settings.batch)
    lacking = unavailable_precisions(connection, settings.backend)
    loaded = {path: load_predictor(path, run.space) for path in (*run.predictors.values(), *predictors)}
    key = network_key(run.architecture)
    exports: dict[PrecisionName, BuiltExport] = {}
    candidates = []
    for name in PRECISIONS:
        if precisions is not None and name not in precisions:
            continue
        candidate = Candidate(name, lacking.get(name))
        candidates.append(candidate)
        if candidate.failed is not None:
            continue
        dialect = Arithmetic.for_backend(settings.backend, name).dialect
        try:
            exports[name] = build_export(
                run, precision=name, dialect=dialect, batch=settings.batch, data=data,
                calibration=calibration if name == "int8" else None, method=method,
            )  # fmt: skip
        except ExportError as error:  # of this precision alone, such as ranges that are not finite
            candidate.failed = Unavailable(f"it cannot be exported: {error}", error.hint)
            continue
        candidate.facts = _facts(exports[name])
    with run.writing("precision"), tempfile.TemporaryDirectory(prefix="lightnas-edge-job-") as scratch:
        for candidate in candidates:
            if candidate.precision not in exports:
                continue
            built = exports[candidate.precision]
            own = replace(settings, precision=candidate.precision)
            job = write_export_job(Path(scratch) / candidate.precision, run, network, built.content, own, scored)
            journal = unfinished_journal(
                run.precision_folder / candidate.precision, built.record.sha256, connection.name
            )
            candidate.turn = Turn(candidate.precision, key, job, journal)
        take_turns([each.turn for each in candidates if each.turn], connection, passes, on_progress, sudo_password)
        contenders = []
        for candidate in candidates:
            turn = candidate.measured
            if turn is None:
                continue
            built = exports[candidate.precision]
            predicted = predictions(
                run,
                loaded,
                arithmetic_of(built.record),
                measured=turn.table.fingerprint,
                confidence=confidence,
            )
            candidate.facts["predicted"] = predicted.latencies
            outputs = outputs_of(turn.outputs, len(scored))
            _, record = judge_export(
                run, built.record, built.content, Measured(turn.table, turn.entry, outputs), scored, predicted, asked,
                replace(settings, precision=candidate.precision), connection.name, confidence=confidence,
                command=command or f"lightnas-edge precision {shlex.quote(str(run.folder))} --host {shlex.quote(connection.name)}",
            )  # fmt: skip
            record = record.model_copy(update={"warnings": (*built.warnings, *record.warnings)})
            right = None if outputs is None else outputs.argmax(axis=1) == scored.labels
            contenders.append(Contender(candidate.precision, record, turn.p50_by_pass(passes), right))
        record_of_all = compared(
            candidates, contenders, name=run.folder.resolve().name, host=connection.name, targets=asked, passes=passes,
            weights_sha256=run.weights.record.weights_sha256,
            float_right=scored.float_outputs.argmax(axis=1) == scored.labels, confidence=confidence,
        )  # fmt: skip
        for candidate in candidates:
            if candidate.measured is not None:
                _keep(run.precision_folder / candidate.precision, exports[candidate.precision], candidate.measured)
        return PrecisionTable(record_of_all, run.save_precision(record_of_all))


def compared(
    candidates: Sequence[Candidate],
    contenders: Sequence[Contender],
    *,
    name: str,
    host: str,
    targets: Mapping[str, float],
    passes: int,
    weights_sha256: str | None = None,
    float_right: NDArray[np.bool_] | None = None,
    confidence: float = CONFIDENCE,
) -> PrecisionRecord:
    """All precisions with their differences, and the choice.

    Args:
        contenders: of the candidates that were measured.
        float_right: (images,) what float32 classifies as labelled, where fp32 was not measured.

    Raises:
        VerifyError: no candidate was measured.
    """
    if not contenders:
        why = {each.precision: each.unavailable for each in candidates if each.unavailable is not None}
        raise VerifyError(
            "\n".join(
                [
                    f"no precision could be measured on {host}",
                    *(f"  {key}: {value.reason}" for key, value in why.items()),
                ]
            ),
            hint="\n".join(dict.fromkeys(each.remedy for each in why.values() if each.remedy)),
        )
    return PrecisionRecord(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        name=name,
        host=host,
        targets=dict(targets),
        weights_sha256=weights_sha256,
        passes=passes,
        rows=tuple(_row(each, contenders, float_right, confidence) for each in candidates),
        choice=choose(contenders, confidence),
        simulated=any(each.record.simulated for each in contenders),
    )


def _row(
    candidate: Candidate,
    contenders: Sequence[Contender],
    float_right: NDArray[np.bool_] | None,
    confidence: float,
) -> PrecisionRow:
    own = next((each for each in contenders if each.precision == candidate.precision), None)
    floats = next((each for each in contenders if each.precision == "fp32"), None)
    difference, gain = None, None
    if own is not None and own is not floats:
        reference = float_right if floats is None else floats.right
        if own.right is not None and len(own.right) and reference is not None:
            difference = accuracy_difference(own.right, reference, confidence)
        if floats is not None:
            gain = speedup(own.passes_ms, floats.passes_ms, confidence)
    fields = {
        "dialect": None, "fine_tuned": False, "calibrated_on": None, "model_sha256": None, "model_bytes": None, "predicted": {},
        **candidate.facts,
    }  # fmt: skip
    missing = candidate.unavailable
    return PrecisionRow.model_validate({
        "precision": candidate.precision, **fields, "verification": None if own is None else own.record,
        "accuracy_difference": difference, "speedup": gain, "unavailable": None if missing is None else missing.reason,
        "remedy": "" if missing is None else missing.remedy,
    })  # fmt: skip


def _facts(built: BuiltExport) -> dict[str, object]:
    record, quantisation = built.record, built.record.quantisation
    return {
        "dialect": None if quantisation is None else quantisation.dialect,
        "fine_tuned": quantisation is not None and quantisation.fine_tuned,
        "calibrated_on": None if quantisation is None else quantisation.images,
        "model_sha256": record.sha256,
        "model_bytes": record.size_bytes,
    }


def _keep(folder: Path, built: BuiltExport, turn: Turn) -> None:
    """The file of a precision that was measured, what it was made from, and its journal in place of the earlier one."""
    write_atomic(folder / built.record.model, built.content)
    built.record.save(folder / "export.json")
    if built.calibration is not None:
        built.calibration.save(folder / "calibration.json")
    turn.journal.replace(folder / "journal.jsonl")

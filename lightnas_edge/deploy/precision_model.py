"""A model file in every precision of a board: converted by ONNX Runtime's tools, measured in turns, compared, and one chosen."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from devices import Connection, Status
from lightnas_edge.deploy.choose_precision import Contender
from lightnas_edge.deploy.judge import check_targets
from lightnas_edge.deploy.precision import (
    PRECISIONS,
    Candidate,
    PrecisionTable,
    compared,
    unavailable_precisions,
)
from lightnas_edge.deploy.references import Reference, logits_of
from lightnas_edge.deploy.statistics import CONFIDENCE
from lightnas_edge.deploy.turns import PASSES, Turn, Unavailable, take_turns, unfinished_journal
from lightnas_edge.deploy.verify_export import SAME_FILE
from lightnas_edge.deploy.verify_model import judge_model
from lightnas_edge.errors import ExportError, ModelError
from lightnas_edge.files import write_atomic
from lightnas_edge.graph import Arithmetic
from lightnas_edge.measuring import Settings, model_key, write_model_job
from lightnas_edge.models import Model, inputs_bytes, outputs_from_bytes, read_model, reference_outputs
from lightnas_edge.quantise.any_model import to_fp16, to_int8
from lightnas_edge.quantise.calibration import DEFAULT_METHOD
from lightnas_edge.records.precision import PrecisionName
from lightnas_edge.records.quantisation import CalibrationMethod


@dataclass(frozen=True)
class CalibrationInputs:
    """What ranges of int8 are read from, by input: (runs, *shape).

    `images`: how many of them, in all runs. `warnings`: about them, for the record.
    """

    arrays: Mapping[str, NDArray[Any]]
    images: int
    warnings: tuple[str, ...] = ()


def measure_model_precisions(
    model: Model,
    connection: Connection,
    folder: Path,
    targets: Mapping[str, float],
    settings: Settings,
    reference: Reference,
    *,
    precisions: Sequence[PrecisionName] | None = None,
    calibration: CalibrationInputs | None = None,
    method: CalibrationMethod = DEFAULT_METHOD,
    passes: int = PASSES,
    confidence: float = CONFIDENCE,
    on_progress: Callable[[str, Status], None] | None = None,
    sudo_password: str | None = None,
    command: str = "lightnas-edge precision --model FILE",
) -> PrecisionTable:
    """Convert a float32 file to every precision of the board, measure them in turns, judge each, choose one.

    Writes precision.json to `folder`, and a folder with the file and its journal for each precision.

    Args:
        reference: inputs, and the outputs of the float32 file for them.
        calibration: without it there is no int8.

    Raises:
        BudgetError: no budget, or one that is no positive number.
        VerifyError: no precision could be measured.
        DeviceError: the board is unreachable or busy.
    """
    check_targets(targets)
    passes = min(passes, settings.protocol.rounds)
    lacking = unavailable_precisions(connection, settings.backend)
    files: dict[PrecisionName, Model] = {}
    candidates = []
    for name in PRECISIONS:
        if precisions is not None and name not in precisions:
            continue
        candidate = Candidate(name, lacking.get(name))
        candidates.append(candidate)
        if candidate.failed is not None:
            continue
        arithmetic = Arithmetic.for_backend(settings.backend, name)
        try:
            files[name] = _converted(model, arithmetic, folder / name, calibration, method)
        except (ExportError, ModelError) as error:  # of this precision alone
            candidate.failed = Unavailable(str(error), error.hint)
            continue
        candidate.facts = {
            "dialect": arithmetic.dialect, "model_sha256": files[name].facts.sha256, "model_bytes": len(files[name].content),
            "calibrated_on": calibration.images if calibration is not None and arithmetic.quantised else None,
        }  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="lightnas-edge-job-") as scratch:
        for candidate in candidates:
            if candidate.precision not in files:
                continue
            file = files[candidate.precision]
            job = write_model_job(
                Path(scratch) / candidate.precision, replace(settings, precision=candidate.precision), file.content,
                file.facts.to_json(), inputs=inputs_bytes(file, reference.inputs), runs=reference.runs,
            )  # fmt: skip
            journal = unfinished_journal(folder / candidate.precision, file.facts.sha256, connection.name)
            candidate.turn = Turn(candidate.precision, model_key(file.content), job, journal)
        take_turns([each.turn for each in candidates if each.turn], connection, passes, on_progress, sudo_password)
    contenders = []
    for candidate in candidates:
        turn = candidate.measured
        if turn is None:
            continue
        file, own, floats, also = files[candidate.precision], reference, None, tuple[str, ...]()
        if candidate.precision == "int8":  # does the engine compute what the file says?
            own = replace(reference, outputs=reference_outputs(file, reference.inputs), name=SAME_FILE)
            floats = reference
            also = () if calibration is None else calibration.warnings
        _, record = judge_model(
            file, turn.table, turn.outputs, own, targets, replace(settings, precision=candidate.precision), connection.name,
            floats=floats, confidence=confidence, command=command, also=also,
        )  # fmt: skip
        right = _right(file, turn.outputs, reference) if record.accuracy is not None else None
        contenders.append(Contender(candidate.precision, record, turn.p50_by_pass(passes), right))
    record_of_all = compared(
        candidates, contenders, name=model.facts.name, host=connection.name, targets=targets, passes=passes,
        float_right=None if reference.labels is None else logits_of(reference).argmax(axis=1) == reference.labels,
        confidence=confidence,
    )  # fmt: skip
    for candidate in candidates:
        if candidate.measured is not None:
            candidate.measured.journal.replace(folder / candidate.precision / "journal.jsonl")
    path = folder / "precision.json"
    record_of_all.save(path)
    return PrecisionTable(record_of_all, path)


def _converted(
    model: Model,
    arithmetic: Arithmetic,
    folder: Path,
    calibration: CalibrationInputs | None,
    method: CalibrationMethod,
) -> Model:
    """The file in this arithmetic, written to `folder` and read as any other file is.

    Raises:
        ModelError, CalibrationError: it cannot be converted, or there is nothing to calibrate on.
    """
    if arithmetic.precision == "fp32":
        if model.facts.precision != "fp32":
            raise ModelError(f"{model.path} computes in {model.facts.precision}", hint="give the float32 file")
        content = model.content
    elif arithmetic.precision == "fp16":
        content = to_fp16(model)
    else:
        assert arithmetic.dialect is not None
        if calibration is None:
            raise ModelError(
                "int8 needs images to calibrate on", hint="add --calibrate DIR, or --calibrate N with --data DIR"
            )
        content = to_int8(model, arithmetic.dialect, calibration.arrays, method)
    path = folder / f"{model.facts.name}-{arithmetic.precision}.onnx"
    write_atomic(path, content)
    return read_model(path)


def _right(file: Model, returned: bytes | None, reference: Reference) -> NDArray[np.bool_] | None:
    """(images,) which labelled images the engine classifies as labelled."""
    if returned is None or reference.labels is None:
        return None
    outputs = outputs_from_bytes(file, returned, reference.runs)
    found: NDArray[np.bool_] = logits_of(replace(reference, outputs=outputs)).argmax(axis=1) == reference.labels
    return found

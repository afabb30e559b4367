"""What an int8 file of a run is made of: the dialect of its runtime, weights, and the ranges of activations."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from devices.catalogue import load_catalogue
from lightnas_edge.data import DataSet
from lightnas_edge.deploy.targets import dialect_for
from lightnas_edge.errors import ExportError
from lightnas_edge.graph import Arithmetic, Dialect
from lightnas_edge.measuring.engines import why_impossible
from lightnas_edge.nn import Network, folded_weights
from lightnas_edge.quantise.calibration import DEFAULT_IMAGES, CalibrationImages, calibrate_network
from lightnas_edge.records.plain_text import first_line
from lightnas_edge.records.quantisation import CalibrationMethod, CalibrationRecord
from lightnas_edge.runs import Run


@dataclass(frozen=True)
class Int8Parts:
    """Weights with batch norm folded in, and the ranges that belong to them."""

    weights: Mapping[str, NDArray[np.float32]]
    calibration: CalibrationRecord
    fine_tuned: bool  # by `train --quantize int8`
    warnings: tuple[str, ...] = ()


def int8_arithmetic(run: Run, dialect: Dialect | None, target: str) -> Arithmetic:
    """int8 as the target's runtime takes it, or else the engine of the run's table.

    Args:
        dialect: of the caller, who knows the engine.

    Raises:
        ExportError: that engine or its board has no int8, or none is named.
    """
    of_target = dialect_for(target)
    if dialect is not None:
        if of_target not in (None, dialect):
            raise ExportError(f"--target {target} reads int8 in the dialect {of_target}, not {dialect}")
        return Arithmetic("int8", dialect)
    backend, board = run.record.fingerprint.get("backend"), run.record.fingerprint.get("board")
    if of_target is None:
        if backend is None:
            raise ExportError(
                "an int8 file is written for one kind of runtime, and the run has no table that names one",
                hint="add --target tensorrt or --target onnxruntime",
            )
        why = why_impossible(str(backend), "int8")
        if why is not None:
            raise ExportError(
                f"the run's table is of an engine without int8: {why}",
                hint="for another runtime name it: --target tensorrt or --target onnxruntime",
            )
    found = Arithmetic.for_backend(str(backend), "int8") if of_target is None else Arithmetic("int8", of_target)
    known = load_catalogue().get(str(board).removeprefix("virtual:"))
    is_gpu = known is not None and known.compute_capability is not None  # of a generic machine the GPU is not known
    if found.dialect == "tensorrt" and known is not None and is_gpu and "int8" not in known.precisions:
        raise ExportError(
            f"the run's table is of {known.title}, which computes in {' and '.join(known.precisions)}, not in int8",
            hint=f"export with --precision {known.precisions[-1]}",
        )
    return found


def int8_parts(
    run: Run,
    network: Network,
    arithmetic: Arithmetic,
    data: DataSet,
    calibration: CalibrationImages | int | None,
    method: CalibrationMethod,
    fine_tuned: bool | None,
) -> Int8Parts:
    """The fine-tuned weights of a run, or its float weights with ranges from images.

    Args:
        network: the trained network in float32.
        calibration, method, fine_tuned: as in `export.build_export`.

    Raises:
        CalibrationError: images or activations from which no ranges can be read.
        ExportError: fine-tuned weights are wanted and there are none for this dialect, or they cannot be read.
        RunError: the fine-tuned weights belong to other float weights.
    """
    warnings: tuple[str, ...] = ()
    if fine_tuned or (fine_tuned is None and calibration is None):
        parts, why_not = _fine_tuned(run, arithmetic)
        if parts is not None:
            return parts
        if fine_tuned:
            raise ExportError(
                why_not or f"{run.folder} has no weights that are fine-tuned in int8",
                hint=f"`lightnas-edge train {shlex.quote(str(run.folder))} --quantize int8` trains them",
            )
        warnings = (f"{why_not}: they are not used",) if why_not else ()
    images = calibration
    if images is None or isinstance(images, int):
        images = CalibrationImages.from_training(data, DEFAULT_IMAGES if images is None else images)
    weights = folded_weights(network)
    record = calibrate_network(
        network.space, network.architecture, weights, arithmetic, images, run.weights.record.weights_sha256, method
    )
    return Int8Parts(weights, record, False, (*warnings, *images.warnings))


def _fine_tuned(run: Run, arithmetic: Arithmetic) -> tuple[Int8Parts | None, str]:
    """Of this dialect, with the ranges at the end of the training; or None, and why the weights that are there do not fit."""
    found = run.quantised
    if found is None or found.record.quantised is None:
        return None, ""
    training = found.record.quantised
    if training.dialect != arithmetic.dialect:
        return None, f"the fine-tuned weights are of int8 {training.dialect}, the file is in {arithmetic}"
    try:
        weights = load_file(found.path)
    except (OSError, SafetensorError) as error:
        raise ExportError(
            f"the weights {found.path} cannot be used: {first_line(error)}",
            hint=f"`lightnas-edge train {shlex.quote(str(run.folder))} --quantize int8 --fresh` trains them again",
        ) from error
    record = training.calibration.model_copy(
        update={
            "ranges": training.ranges,
            "observed_steps": training.observed_steps,
            "weights_sha256": found.record.weights_sha256,
        }
    )
    return Int8Parts(weights, record, True), ""

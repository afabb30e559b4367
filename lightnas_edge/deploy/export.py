"""The trained network as an ONNX file: written only after it was checked and computes what PyTorch computes."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast, get_args

import numpy as np
import onnx
import onnxruntime
import torch

from lightnas_edge import graph
from lightnas_edge.data import DataSet, load_data
from lightnas_edge.data.decoding import DECODING
from lightnas_edge.deploy.compare import compare_outputs
from lightnas_edge.deploy.int8 import int8_arithmetic, int8_parts
from lightnas_edge.deploy.targets import DEFAULT_TARGET, opset_for
from lightnas_edge.errors import DataError, ExportError
from lightnas_edge.files import sha256_of
from lightnas_edge.graph import Precision
from lightnas_edge.nn import Network, folded_weights
from lightnas_edge.quantise.calibration import DEFAULT_METHOD, CalibrationImages, quantised_network_model
from lightnas_edge.records.deployment import Agreement, ExportRecord, Quantisation
from lightnas_edge.records.quantisation import CalibrationMethod, CalibrationRecord, Dialect
from lightnas_edge.runs import Export, Run
from lightnas_edge.train import load_network

# Validation images that are run through both PyTorch and ONNX Runtime. In int8 what counts is a share of them.
IMAGES = {"fp32": 64, "fp16": 64, "int8": 256}


@dataclass(frozen=True)
class Limits:
    """How far an exported graph may be from PyTorch in float32 before it is refused."""

    relative_difference: float  # largest difference over the largest logit
    cosine: float  # of the worst image
    top1_agreement: float


# Folding batch norm and another order of sums cost about 1e-6 of the largest logit in float32. A wrong padding or a
# swapped weight costs more than 1e-1. The limit stands well clear of both. Half precision keeps 11 bits, and every layer
# rounds once. In 8 bits the difference is that of rounding: whether it is small enough is a question of accuracy, which `verify`
# answers. The limits there refuse ranges that do not fit the network; docs/graphs.md has what was seen.
LIMITS = {"fp32": Limits(1e-3, 0.999, 0.0), "fp16": Limits(3e-2, 0.99, 0.0), "int8": Limits(1.0, 0.5, 0.7)}


@dataclass(frozen=True)
class BuiltExport:
    """An ONNX file that was checked, its record, and the calibration of an int8 one."""

    record: ExportRecord
    content: bytes
    calibration: CalibrationRecord | None = None
    warnings: tuple[str, ...] = ()


def export_network(
    run: Run | Path,
    *,
    precision: Precision | None = None,
    dialect: Dialect | None = None,
    target: str = DEFAULT_TARGET,
    batch: int | None = None,
    data: str | Path | None = None,
    images: int | None = None,
    calibration: CalibrationImages | int | None = None,
    method: CalibrationMethod = DEFAULT_METHOD,
    fine_tuned: bool | None = None,
) -> Export:
    """Write `export/model.onnx` and `export/export.json` of a trained run, and `calibration.json` of an int8 file.

    Args: as `build_export`.

    Raises:
        ExportError: as `build_export`; nothing is written then.
        RunError: the run has no trained network, or another process writes there.
        DataError: the images are missing, or are not those of the training.
    """
    run = run if isinstance(run, Run) else Run.open(run)
    with run.writing("export"):
        built = build_export(
            run, precision=precision, dialect=dialect, target=target, batch=batch, data=data, images=images,
            calibration=calibration, method=method, fine_tuned=fine_tuned,
        )  # fmt: skip
        path = run.save_export(built.record, built.content, built.calibration)
        return Export(built.record, path, built.content, built.calibration, built.warnings)


def build_export(
    run: Run,
    *,
    precision: Precision | None = None,
    dialect: Dialect | None = None,
    target: str = DEFAULT_TARGET,
    batch: int | None = None,
    data: str | Path | None = None,
    images: int | None = None,
    calibration: CalibrationImages | int | None = None,
    method: CalibrationMethod = DEFAULT_METHOD,
    fine_tuned: bool | None = None,
) -> BuiltExport:
    """The ONNX file of a trained run, in any precision. Nothing is written.

    Args:
        precision: that of the run's table when None.
        dialect: of int8; that of the target's runtime when None, or else of the runtime that the table was measured with.
        target: the runtime it is for, `tensorrt-8.2` or the like; decides the opset.
        batch: images per inference, fixed in the graph; that of the run's predictor when None.
        data: where the training's images are now, if they have moved.
        images: how many validation images are run through both PyTorch and ONNX Runtime; IMAGES of the precision when None.
        calibration: of int8: images, or how many training images; DEFAULT_IMAGES when None.
        method: that finds ranges in them.
        fine_tuned: with the weights of `train --quantize int8`: True, False, or when None if the run has them for this dialect
            and no calibration images are given.

    Raises:
        CalibrationError: images or activations from which no ranges can be read.
        ExportError: the graph is invalid or too far from PyTorch, the engine has no such precision, or nothing was fine-tuned.
        RunError: the run has no trained network.
        DataError: the images are missing, or are not those of the training.
    """
    opset = opset_for(target)
    batch = _batch_of(run) if batch is None else batch
    precision = exported_precision(run) if precision is None else precision
    if precision != "int8" and (calibration is not None or fine_tuned):
        raise ExportError(
            f"calibration and fine-tuned weights are for int8, and the file is in {precision}",
            hint="add --precision int8",
        )
    arithmetic = int8_arithmetic(run, dialect, target) if precision == "int8" else graph.Arithmetic(precision)
    weights = run.weights.record
    network = load_network(run)
    data_set = load_training_data(run, data)
    inputs, _ = data_set.validation_arrays(IMAGES[precision] if images is None else images)
    floats = pytorch_outputs(network, inputs)
    parts, quantisation = None, None
    if arithmetic.quantised:
        parts = int8_parts(run, network, arithmetic, data_set, calibration, method, fine_tuned)
        model = quantised_network_model(
            network.space,
            network.architecture,
            parts.weights,
            arithmetic,
            parts.calibration.ranges,
            batch=batch,
            opset=opset,
        )
        quantisation = Quantisation(
            dialect=parts.calibration.dialect,
            method=parts.calibration.method,
            images=parts.calibration.images,
            calibration_sha256=parts.calibration.sha256,
            fine_tuned=parts.fine_tuned,
        )
    else:
        model = graph.network_model(
            network.space, network.architecture, batch=batch, opset=opset, weights=folded_weights(network),
            arithmetic=arithmetic,
        )  # fmt: skip
    normalisation = weights.data.normalisation
    notes = {
        "classes": weights.data.classes,
        "decoding": DECODING,
        "normalisation": normalisation.to_json(),
        "layout": "NCHW, RGB",
    }
    for name, value in notes.items():
        graph.add_property(model, name, json.dumps(value))
    content = graph.model_bytes(model)
    limits = LIMITS[precision]
    agreement = compare_outputs(floats, _outputs(model, content, inputs, batch))
    _refuse_far(agreement, limits, run, quantisation)
    record = ExportRecord(
        target=target,
        opset=opset,
        ir_version=model.ir_version,
        batch=batch,
        precision=precision,
        quantisation=quantisation,
        input_size=network.space.input_size,
        classes=weights.data.classes,
        normalisation=normalisation,
        operators=network.architecture.names,
        space_sha256=network.space.sha256,
        weights_sha256=weights.weights_sha256,
        data_sha256=data_set.sha256,
        sha256=sha256_of(content),
        size_bytes=len(content),
        checked_with={"onnx": onnx.__version__, "onnxruntime": onnxruntime.__version__},
        max_relative_difference=limits.relative_difference,
        agreement=agreement,
    )
    return (
        BuiltExport(record, content)
        if parts is None
        else BuiltExport(record, content, parts.calibration, parts.warnings)
    )


def exported_precision(run: Run) -> Precision:
    """That of the run's table: another one's latency would say nothing about the network.

    Raises:
        ExportError: an unknown one.
    """
    precision = run.record.fingerprint.get("precision") or "fp32"
    if precision not in get_args(Precision):
        raise ExportError(f"the run's table is of the unknown precision {precision!r}")
    return cast(Precision, precision)


def load_training_data(run: Run, source: str | Path | None = None) -> DataSet:
    """The images that the weights of a run were trained on, split as then.

    Args:
        source: where they are now, if they have moved.

    Raises:
        DataError: they are missing, or others: names, sizes or classes differ.
    """
    trained = run.weights.record.data
    data_set = load_data(trained.source if source is None else source, space=run.space, seed=trained.seed)
    if data_set.classes != trained.classes:
        raise DataError(
            f"{data_set.source} has other classes than the training: {_brief(data_set.classes)}, not {_brief(trained.classes)}",
            hint="give the images that the network was trained on, with --data",
        )
    if data_set.sha256 != trained.sha256:
        raise DataError(
            f"{data_set.source} holds other images than the training: {len(data_set.train)} and {len(data_set.validation)} "
            f"in both parts, or other names, not the {trained.train_images} and {trained.validation_images} of the training",
            hint="give the images that the network was trained on, with --data; "
            f"or train on these: `lightnas-edge train {shlex.quote(str(run.folder))} --fresh --data DIR`",
        )
    return data_set


def pytorch_outputs(network: Network, inputs: np.ndarray) -> np.ndarray:
    """(N, classes) logits of the network in evaluation mode."""
    network.eval()
    with torch.inference_mode():
        parts = [network(torch.from_numpy(chunk)).numpy() for chunk in _chunks(inputs, 64)]
    return np.concatenate(parts)


def _outputs(model: onnx.ModelProto, content: bytes, inputs: np.ndarray, batch: int) -> np.ndarray:
    """(N, classes) logits of the file in ONNX Runtime."""
    try:
        onnx.checker.check_model(model, full_check=True)
        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    except Exception as error:  # the checker and the runtime each raise types of their own
        raise ExportError(f"the exported graph is invalid: {error}") from error
    parts = [session.run(["output"], {"input": chunk})[0] for chunk in _chunks(_filled(inputs, batch), batch)]
    return np.concatenate(parts)[: len(inputs)]


def _refuse_far(agreement: Agreement, limits: Limits, run: Run, quantisation: Quantisation | None) -> None:
    """Raises ExportError: the file is too far from PyTorch in float32."""
    same_class = agreement.top1_agreement or 0.0
    if (
        agreement.relative_difference <= limits.relative_difference
        and agreement.cosine >= limits.cosine
        and same_class >= limits.top1_agreement
    ):
        return
    if quantisation is None:
        raise ExportError(
            f"the exported graph does not compute what PyTorch computes: on {agreement.images} images the logits "
            f"differ by up to {agreement.relative_difference:.2g} of the largest (limit {limits.relative_difference:g}), the lowest "
            f"cosine is {agreement.cosine:.3f} (limit {limits.cosine:g})",
            hint="nothing was written; this is a fault of lightnas-edge, or the weights hold huge values",
        )
    others = [f"--calibration-method {name}" for name in get_args(CalibrationMethod) if name != quantisation.method]
    tune = f"`lightnas-edge train {shlex.quote(str(run.folder))} --quantize int8` trains the network with rounding"
    raise ExportError(
        f"rounding to int8 changes the network too much: of {agreement.images} images {same_class:.1%} keep the class of PyTorch "
        f"in float32 (limit {limits.top1_agreement:.0%}), the lowest cosine of logits is {agreement.cosine:.3f} (limit "
        f"{limits.cosine:g})",
        hint="nothing was written; "
        + ("train it again" if quantisation.fine_tuned else f"try {' or '.join(others)}, or other images; {tune}"),
    )


def _batch_of(run: Run) -> int:
    batch = run.record.fingerprint.get("batch")
    return batch if isinstance(batch, int) else 1


def _chunks(inputs: np.ndarray, size: int) -> list[np.ndarray]:
    return [inputs[start : start + size] for start in range(0, len(inputs), size)]


def _filled(inputs: np.ndarray, batch: int) -> np.ndarray:
    """The last image repeated until the batches are full."""
    missing = -len(inputs) % batch
    return np.concatenate([inputs, *[inputs[-1:]] * missing]) if missing else inputs


def _brief(classes: Sequence[str]) -> str:
    return f"{len(classes)} ({', '.join(list(classes)[:3])}{', ...' if len(classes) > 3 else ''})"

"""The trained network as an ONNX file: written only after it was checked and computes what PyTorch computes."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import onnxruntime
import torch

from lightnas_edge import graph
from lightnas_edge.data import DataSet, load_data
from lightnas_edge.deploy.compare import compare_outputs
from lightnas_edge.deploy.targets import DEFAULT_TARGET, opset_for
from lightnas_edge.errors import DataError, ExportError
from lightnas_edge.files import sha256_of
from lightnas_edge.nn import Network, folded_weights
from lightnas_edge.records.deployment import Agreement, ExportRecord
from lightnas_edge.runs import Export, Run
from lightnas_edge.train import load_network

IMAGES = 64
# Folding batch norm and another order of sums cost about 1e-6 of the largest logit in float32. A wrong padding or a
# swapped weight costs more than 1e-1. The limit stands well clear of both. Half precision keeps 11 bits, and every layer
# rounds once. Relative to the largest logit.
MAX_DIFFERENCE = {"fp32": 1e-3, "fp16": 3e-2}


def export_network(
    run: Run | Path,
    *,
    target: str = DEFAULT_TARGET,
    batch: int | None = None,
    data: str | Path | None = None,
    images: int = IMAGES,
) -> Export:
    """Write `export/model.onnx` and `export/export.json` of a trained run.

    Args:
        target: the runtime it is for, `tensorrt-8.2` or the like; decides the opset.
        batch: images per inference, fixed in the graph; that of the run's predictor when None.
        data: where the training's images are now, if they have moved.
        images: how many validation images are run through both PyTorch and ONNX Runtime.

    Raises:
        ExportError: the graph is invalid or computes something else than PyTorch, or has no such precision; nothing is
            written then.
        RunError: the run has no trained network, or another process writes there.
        DataError: the images are missing, or are not those of the training.
    """
    run = run if isinstance(run, Run) else Run.open(run)
    opset = opset_for(target)
    batch = _batch_of(run) if batch is None else batch
    precision = exported_precision(run)
    with run.writing("export"):
        weights = run.weights.record
        network = load_network(run)
        data_set = load_training_data(run, data)
        inputs, _ = data_set.validation_arrays(images)
        model = graph.network_model(
            network.space, network.architecture, batch=batch, opset=opset, weights=folded_weights(network),
            arithmetic=graph.Arithmetic(precision),
        )  # fmt: skip
        normalisation = weights.data.normalisation
        notes = {"classes": weights.data.classes, "normalisation": normalisation.to_json(), "layout": "NCHW, RGB"}
        for name, value in notes.items():
            graph.add_property(model, name, json.dumps(value))
        content = graph.model_bytes(model)
        agreement = _check(model, content, network, inputs, batch, MAX_DIFFERENCE[precision])
        record = ExportRecord(
            target=target,
            opset=opset,
            ir_version=model.ir_version,
            batch=batch,
            precision=precision,
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
            max_relative_difference=MAX_DIFFERENCE[precision],
            agreement=agreement,
        )
        return Export(record, run.save_export(record, content), content)


def exported_precision(run: Run) -> Literal["fp32", "fp16"]:
    """That of the run's table: another one's latency would say nothing about the network.

    Raises:
        ExportError: no network is written in that precision yet.
    """
    precision = run.record.fingerprint.get("precision")
    if precision in (None, "fp32"):
        return "fp32"
    if precision == "fp16":
        return "fp16"
    raise ExportError(
        f"the run's table is of {precision}, and a trained network is not written in {precision} yet",
        hint="search with a table of --precision fp32 or fp16",
    )


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


def _check(
    model: onnx.ModelProto, content: bytes, network: Network, inputs: np.ndarray, batch: int, limit: float
) -> Agreement:
    try:
        onnx.checker.check_model(model, full_check=True)
        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    except Exception as error:  # the checker and the runtime each raise types of their own
        raise ExportError(f"the exported graph is invalid: {error}") from error
    parts = [session.run(["output"], {"input": chunk})[0] for chunk in _chunks(_filled(inputs, batch), batch)]
    agreement = compare_outputs(pytorch_outputs(network, inputs), np.concatenate(parts)[: len(inputs)])
    if not agreement.relative_difference <= limit:
        raise ExportError(
            f"the exported graph does not compute what PyTorch computes: on {agreement.images} images the logits "
            f"differ by up to {agreement.relative_difference:.2g} of the largest (limit {limit:g})",
            hint="nothing was written; this is a fault of lightnas-edge, or the weights hold huge values",
        )
    return agreement


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

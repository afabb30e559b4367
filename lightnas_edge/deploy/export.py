"""The trained network as an ONNX file: written only after it was checked and computes what PyTorch computes."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import helper

from lightnas_edge import graph
from lightnas_edge.data import DataSet, load_data
from lightnas_edge.deploy.compare import Agreement, compare_outputs
from lightnas_edge.deploy.targets import DEFAULT_TARGET, opset_for
from lightnas_edge.errors import ExportError
from lightnas_edge.nn import Network, folded_weights
from lightnas_edge.runs import read_json, read_run, write_json
from lightnas_edge.train import load_network

SCHEMA = 1
IMAGES = 64
# Folding batch norm and another order of sums cost about 1e-6 of the largest logit in float32. A wrong padding or a
# swapped weight costs more than 1e-1. The limit stands well clear of both.
MOST_DIFFERENCE = 1e-3  # relative to the largest logit


@dataclass(frozen=True)
class ExportRecord:
    """What was written, for whom, and how far it is from PyTorch."""

    path: Path
    target: str
    opset: int
    ir_version: int
    batch: int
    input_size: int
    classes: tuple[str, ...]
    normalisation: dict[str, Any]
    sha256: str
    size_bytes: int
    agreement: Agreement

    def to_json(self) -> dict[str, Any]:
        return {
            "kind": "export",
            "schema": SCHEMA,
            "model": self.path.name,
            "target": self.target,
            "opset": self.opset,
            "ir_version": self.ir_version,
            "batch": self.batch,
            "input": {"name": "input", "shape": [self.batch, 3, self.input_size, self.input_size]},
            "output": {"name": "output", "shape": [self.batch, len(self.classes)]},
            "normalisation": self.normalisation,
            "classes": list(self.classes),
            "sha256": self.sha256,
            "size_bytes": self.size_bytes,
            "checked_with": {"onnx": onnx.__version__, "onnxruntime": onnxruntime.__version__},
            "most_relative_difference": MOST_DIFFERENCE,
            **self.agreement.to_json(),
        }


def export_network(
    run_dir: Path,
    *,
    target: str = DEFAULT_TARGET,
    batch: int | None = None,
    data: str | Path | None = None,
    images: int = IMAGES,
) -> ExportRecord:
    """Write `export/model.onnx` and `export/export.json` of a trained run.

    Args:
        target: the runtime it is for, `tensorrt-8.2` or the like; decides the opset.
        batch: images per inference, fixed in the graph; that of the run's predictor when None.
        data: where the images now are, if not where they were for the search.
        images: how many validation images are run through both PyTorch and ONNX Runtime.

    Raises:
        ExportError: the graph is invalid or computes something else than PyTorch; nothing is written then.
        RunError: the run has no trained network.
    """
    opset = opset_for(target)
    batch = _batch_of(run_dir) if batch is None else batch
    network = load_network(run_dir)
    data_set = load_run_data(run_dir, data)
    inputs, _ = data_set.validation_arrays(images)

    model = graph.network_model(
        network.space, network.architecture, batch=batch, opset=opset, weights=folded_weights(network)
    )
    normalisation = data_set.to_json()["normalisation"]
    notes = {"classes": data_set.classes, "normalisation": normalisation, "layout": "NCHW, RGB"}
    helper.set_model_props(model, {name: json.dumps(value) for name, value in notes.items()})
    content = graph.model_bytes(model)
    agreement = _check(model, content, network, inputs, batch)

    path = run_dir / "export" / "model.onnx"
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name("model.onnx.part")
    part.write_bytes(content)
    os.replace(part, path)
    record = ExportRecord(
        path=path,
        target=target,
        opset=opset,
        ir_version=model.ir_version,
        batch=batch,
        input_size=network.space.input_size,
        classes=data_set.classes,
        normalisation=normalisation,
        sha256=hashlib.sha256(content).hexdigest(),
        size_bytes=len(content),
        agreement=agreement,
    )
    write_json(path.with_name("export.json"), record.to_json())
    return record


def load_run_data(run_dir: Path, source: str | Path | None = None) -> DataSet:
    """The data a run was made with, split as it was then; `source` where it now is.

    Raises:
        DataError: it is not there any more.
        ExportError: it has other classes than the network.
    """
    record, space = read_run(run_dir)
    asked = record["data"]
    data_set = load_data(asked["source"] if source is None else source, space=space, seed=record["seed"])
    trained_on = list(asked.get("classes", data_set.classes))
    if list(data_set.classes) != trained_on:
        raise ExportError(
            f"{data_set.source} has other classes than the run: {_brief(data_set.classes)}, not {_brief(trained_on)}",
            hint="give the data that the network was trained on, with --data",
        )
    return data_set


def pytorch_outputs(network: Network, inputs: np.ndarray) -> np.ndarray:
    """(N, classes) logits of the network in evaluation mode."""
    network.eval()
    with torch.inference_mode():
        parts = [network(torch.from_numpy(chunk)).numpy() for chunk in _chunks(inputs, 64)]
    return np.concatenate(parts)


def _check(model: onnx.ModelProto, content: bytes, network: Network, inputs: np.ndarray, batch: int) -> Agreement:
    try:
        onnx.checker.check_model(model, full_check=True)
        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    except Exception as error:  # the checker and the runtime each raise types of their own
        raise ExportError(f"the exported graph is invalid: {error}") from error
    parts = [session.run(["output"], {"input": chunk})[0] for chunk in _chunks(_filled(inputs, batch), batch)]
    agreement = compare_outputs(pytorch_outputs(network, inputs), np.concatenate(parts)[: len(inputs)])
    if not agreement.relative_difference <= MOST_DIFFERENCE:
        raise ExportError(
            f"the exported graph does not compute what PyTorch computes: on {agreement.images} images the logits "
            f"differ by up to {agreement.relative_difference:.2g} of the largest (limit {MOST_DIFFERENCE:g})",
            hint="nothing was written; this is a fault of lightnas-edge, or the weights hold huge values",
        )
    return agreement


def _batch_of(run_dir: Path) -> int:
    path = run_dir / "predictor.json"
    return int(read_json(path, kind="predictor").get("batch") or 1) if path.exists() else 1


def _chunks(inputs: np.ndarray, size: int) -> list[np.ndarray]:
    return [inputs[start : start + size] for start in range(0, len(inputs), size)]


def _filled(inputs: np.ndarray, batch: int) -> np.ndarray:
    """The last image repeated until the batches are full."""
    missing = -len(inputs) % batch
    return np.concatenate([inputs, *[inputs[-1:]] * missing]) if missing else inputs


def _brief(classes: Sequence[str]) -> str:
    return f"{len(classes)} ({', '.join(list(classes)[:3])}{', ...' if len(classes) > 3 else ''})"

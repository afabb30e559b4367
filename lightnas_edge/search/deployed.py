"""A path of the supernet in the arithmetic of its board: what a network loses by its precision."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from lightnas_edge.errors import ExportError
from lightnas_edge.graph import Arithmetic, model_bytes, network_model
from lightnas_edge.quantise.calibration import calibrate, quantised_network_model
from lightnas_edge.quantise.half_precision import rounded_to_half
from lightnas_edge.space import Architecture, Space

Pixels = NDArray[np.float32]
Losses = NDArray[np.float64]
GRAPH_BATCH = 64  # of the graphs: more images in one pass take no less time on a CPU


@dataclass(frozen=True)
class Penalty:
    """What the precision costs on the images that the float network was scored on.

    `mean` and `error`: of the differences of losses, image by image: this precision less float32. `fault`: why there is
    no loss; the other fields are None then.
    """

    arithmetic: Arithmetic
    loss: float | None = None
    accuracy: float | None = None
    mean: float | None = None
    error: float | None = None
    fault: str | None = None


@dataclass(frozen=True)
class ScoredImages:
    """(N,) loss and whether the answer was correct, of every image."""

    losses: Losses
    correct: NDArray[np.bool_]

    @classmethod
    def of(cls, logits: torch.Tensor, labels: torch.Tensor) -> ScoredImages:
        losses = F.cross_entropy(logits.double(), labels, reduction="none")
        return cls(losses.cpu().numpy(), (logits.argmax(-1) == labels).cpu().numpy())


def penalty_of(
    space: Space,
    architecture: Architecture,
    weights: Mapping[str, np.ndarray],
    arithmetic: Arithmetic,
    *,
    calibration: Pixels,
    images: Pixels,
    labels: NDArray[np.int64],
    floats: ScoredImages,
) -> Penalty:
    """Execute the network in its arithmetic, and compare with its float32 losses on the same images.

    ONNX Runtime executes the graph that a board is given in int8. For fp16 it executes the float32 graph with every value
    between nodes rounded to half precision: overflow and rounding show, a GPU's sums within a node do not.

    Args:
        weights: with batch norm folded in.
        calibration: training images that give the ranges of activations, for int8.
        floats: scores of the same network in float32.
    """
    try:
        if arithmetic.quantised:
            ranges = calibrate(network_model(space, architecture, weights=weights), calibration)
            model = quantised_network_model(space, architecture, weights, arithmetic, ranges, batch=GRAPH_BATCH)
        else:
            model = rounded_to_half(network_model(space, architecture, weights=weights, batch=GRAPH_BATCH))
    except ExportError as error:  # a range without an end, or a layer of zeros
        return Penalty(arithmetic, fault=str(error))
    logits = run_graph(model, images)
    broken = int((~np.isfinite(logits).all(axis=1)).sum())
    if broken:
        return Penalty(arithmetic, fault=f"{arithmetic.precision} overflows on {broken} of {len(images)} images")
    scored = ScoredImages.of(torch.from_numpy(logits), torch.from_numpy(labels))
    differences = scored.losses - floats.losses
    return Penalty(
        arithmetic,
        loss=float(scored.losses.mean()),
        accuracy=float(scored.correct.mean()),
        mean=float(differences.mean()),
        error=float(differences.std(ddof=1) / np.sqrt(len(differences))) if len(differences) > 1 else 0.0,
    )


def run_graph(model: onnx.ModelProto, images: Pixels) -> Pixels:
    """(N, classes) logits of a network's graph at the batch of `GRAPH_BATCH`, by ONNX Runtime on this machine's CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(model_bytes(model), options, providers=["CPUExecutionProvider"])
    found = []
    for start in range(0, len(images), GRAPH_BATCH):
        some = images[start : start + GRAPH_BATCH]
        full = np.concatenate(
            [some, np.repeat(some[-1:], GRAPH_BATCH - len(some), axis=0)]
        )  # the graph's batch is fixed
        found.append(session.run(["output"], {"input": full})[0][: len(some)])
    return np.concatenate(found)

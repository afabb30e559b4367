"""ONNX Runtime on this machine: the outputs that a board is compared with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from lightnas_edge.errors import ModelError
from lightnas_edge.models.model import Model
from lightnas_edge.records.plain_text import clean_text

_FATAL = 4  # only what ends the process is logged; everything else is raised


def reference_outputs(model: Model, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Outputs of fixed size by name, (runs, *shape), of ONNX Runtime on the CPU with all its graph optimisations off.

    Nothing is fused and no operator is replaced, so that the outputs are those of the file as it is written.

    Args:
        inputs: (runs, *shape) by name.

    Raises:
        ModelError: ONNX Runtime cannot run the model, or its outputs have other shapes than the model has.
    """
    runs = len(next(iter(inputs.values())))
    fixed = [value for value in model.facts.outputs if None not in value.shape]
    found: dict[str, list[NDArray[Any]]] = {value.name: [] for value in fixed}
    what = f"{model.path} on this machine"
    session = load(model.content, what)
    for run in range(runs):
        outputs = run_once(session, {name: array[run] for name, array in inputs.items()}, what)
        for value in fixed:
            found[value.name].append(outputs[value.name])
    for value in fixed:
        other = {array.shape for array in found[value.name]} - {value.shape}
        if other:
            raise ModelError(
                f"{what}: {value.name} is {list(next(iter(other)))}, expected {list(value.shape)}",
                hint="its size depends on the values; compare with outputs of your own: --reference FILE.npz",
            )
    return {name: np.stack(arrays) for name, arrays in found.items()}


def inferred_shapes(content: bytes) -> dict[str, tuple[int, ...]]:
    """Fixed shapes of outputs as ONNX Runtime infers them with all constants folded; empty where it cannot load the model."""
    try:
        session = load(content, "", onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC)
    except ModelError:
        return {}
    return {
        output.name: tuple(output.shape)
        for output in session.get_outputs()
        if all(isinstance(size, int) and size >= 0 for size in output.shape)
    }


def load(
    content: bytes,
    what: str,
    level: onnxruntime.GraphOptimizationLevel = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
) -> onnxruntime.InferenceSession:
    """Raises ModelError; `what` names the model in it."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = level
    options.log_severity_level = _FATAL
    try:
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions have no common base
        raise _refused("load", what, error) from error


def run_once(
    session: onnxruntime.InferenceSession, inputs: Mapping[str, NDArray[Any]], what: str
) -> dict[str, NDArray[Any]]:
    """Outputs by name. Raises ModelError."""
    names = [output.name for output in session.get_outputs()]
    options = onnxruntime.RunOptions()
    options.log_severity_level = _FATAL
    try:
        return dict(
            zip(
                names,
                session.run(names, {name: np.asarray(array) for name, array in inputs.items()}, options),
                strict=True,
            )
        )
    except Exception as error:
        raise _refused("run", what, error) from error


def _refused(verb: str, what: str, error: Exception) -> ModelError:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return ModelError(
        f"ONNX Runtime {onnxruntime.__version__} cannot {verb} {what}: {clean_text(lines[0], 300)}",
        hint="if the board's runtime reads it, compare with outputs of your own: --reference FILE.npz",
    )

"""ONNX Runtime on this machine: the outputs that a board is compared with."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from lightnas_edge.errors import ModelError
from lightnas_edge.models.model import Model
from lightnas_edge.records.plain_text import clean_text

_PROVIDERS = ["CPUExecutionProvider"]
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


def folded(content: bytes) -> onnx.ModelProto | None:
    """The model after ONNX Runtime's basic optimisations; None where it cannot load the model.

    They compute what does not depend on the values of inputs, as the shapes of exported graphs often are: more shapes can
    be inferred afterwards.
    """
    options = _options(onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC)
    with tempfile.TemporaryDirectory(prefix="lightnas-edge-folded-") as folder:
        path = Path(folder) / "folded.onnx"
        options.optimized_model_filepath = str(path)
        try:
            onnxruntime.InferenceSession(content, options, providers=_PROVIDERS)
            return onnx.shape_inference.infer_shapes(onnx.ModelProto.FromString(path.read_bytes()), data_prop=True)
        except Exception:  # of either library; their exceptions have no common base
            return None


def load(content: bytes, what: str) -> onnxruntime.InferenceSession:
    """Raises ModelError; `what` names the model in it."""
    options = _options(onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL)
    try:
        return onnxruntime.InferenceSession(content, options, providers=_PROVIDERS)
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


def _options(level: onnxruntime.GraphOptimizationLevel) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = level
    options.log_severity_level = _FATAL
    return options


def _refused(verb: str, what: str, error: Exception) -> ModelError:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return ModelError(
        f"ONNX Runtime {onnxruntime.__version__} cannot {verb} {what}: {clean_text(lines[0], 300)}",
        hint="if the board's runtime reads it, compare with outputs of your own: --reference FILE.npz",
    )

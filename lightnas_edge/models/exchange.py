"""Inputs and outputs of a model as arrays, and in the form in which they go to a board and come back.

All inputs of one inference one behind the other, then those of the next; floating-point numbers of any width as
little-endian float32, everything else in its own type. Outputs likewise.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightnas_edge.errors import ModelError
from lightnas_edge.models.read import Model
from lightnas_edge.records.model import TensorRecord
from lightnas_edge.records.plain_text import clean_text

Arrays = dict[str, NDArray[Any]]


def random_inputs(model: Model, runs: int, seed: int) -> Arrays:
    """(runs, *shape) of each input: normal floats, full 8-bit range, bool, and 0 or 1 for wider integers, which may be indices."""
    generator = np.random.default_rng(seed)
    arrays: Arrays = {}
    for value in model.facts.inputs:
        shape = (runs, *(side or 0 for side in value.shape))
        if value.type.startswith("float"):
            arrays[value.name] = generator.standard_normal(shape).astype(np.float32).astype(value.type)
        elif value.type in ("uint8", "int8"):
            limits = np.iinfo(value.type)
            arrays[value.name] = generator.integers(limits.min, limits.max, shape, endpoint=True).astype(value.type)
        else:
            arrays[value.name] = generator.integers(0, 2, shape).astype(value.type)
    return arrays


def inputs_bytes(model: Model, arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """(runs, *shape) arrays in the form that is sent."""
    runs = len(next(iter(arrays.values()))) if arrays else 0
    return b"".join(
        np.ascontiguousarray(arrays[value.name][run], dtype=_exchanged(value)).tobytes()
        for run in range(runs)
        for value in model.facts.inputs
    )


def outputs_from_bytes(model: Model, content: bytes, runs: int) -> Arrays:
    """(runs, *shape) of each output.

    Raises:
        ModelError: an output is as long as its content, or the board returned another number of bytes.
    """
    outputs = model.facts.outputs
    if any(None in value.shape for value in outputs):
        names = ", ".join(value.name for value in outputs if None in value.shape)
        raise ModelError(
            f"the length of {names} depends on the content", hint="compare a model with outputs of fixed shape"
        )
    sizes = [
        int(np.prod([side or 0 for side in value.shape])) * np.dtype(_exchanged(value)).itemsize for value in outputs
    ]
    if len(content) != runs * sum(sizes):
        raise ModelError(
            f"the board returned {len(content)} bytes of outputs, {runs * sum(sizes)} were expected",
            hint="run it again",
        )
    rows = np.frombuffer(content, np.uint8).reshape(runs, -1)
    arrays: Arrays = {}
    at = 0
    for value, size in zip(outputs, sizes, strict=True):
        part = np.ascontiguousarray(rows[:, at : at + size])
        arrays[value.name] = part.view(_exchanged(value)).reshape(runs, *(side or 0 for side in value.shape))
        at += size
    return arrays


def reference_outputs(model: Model, inputs: Mapping[str, NDArray[Any]]) -> Arrays:
    """(runs, *shape) of each output, by ONNX Runtime on this machine's CPU with basic optimisations alone.

    Raises:
        ModelError: ONNX Runtime cannot run the model.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(model.content, options, providers=["CPUExecutionProvider"])
        runs = len(next(iter(inputs.values()))) if inputs else 1
        rows = [session.run(None, {name: array[run] for name, array in inputs.items()}) for run in range(runs)]
    except Exception as error:  # its exceptions have no common base
        raise ModelError(
            f"ONNX Runtime {onnxruntime.__version__} on this machine cannot run {model.path.name}: "
            f"{clean_text(str(error).splitlines()[0], 300)}",
            hint="--reference FILE.npz compares with outputs from elsewhere",
        ) from error
    names = [value.name for value in session.get_outputs()]
    if any(len({row[at].shape for row in rows}) != 1 for at in range(len(names))):
        return {}
    return {name: np.stack([row[at] for row in rows]) for at, name in enumerate(names)}


def _exchanged(value: TensorRecord) -> str:
    return "<f4" if value.type.startswith("float") else value.type

"""Values of inputs and outputs as they travel to a board and back.

All tensors of one run follow each other in the model's order, run after run, little-endian: floating-point tensors of any
width as float32, integers and bool in their own type.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from lightnas_edge.errors import ModelError
from lightnas_edge.models import walk
from lightnas_edge.models.model import Model
from lightnas_edge.records.model import TensorRecord

# ONNX element type -> NumPy's name, of inputs and outputs that can be exchanged.
TYPES = {
    onnx.TensorProto.FLOAT: "float32", onnx.TensorProto.FLOAT16: "float16", onnx.TensorProto.DOUBLE: "float64",
    onnx.TensorProto.INT8: "int8", onnx.TensorProto.INT16: "int16", onnx.TensorProto.INT32: "int32",
    onnx.TensorProto.INT64: "int64", onnx.TensorProto.UINT8: "uint8", onnx.TensorProto.UINT16: "uint16",
    onnx.TensorProto.UINT32: "uint32", onnx.TensorProto.UINT64: "uint64", onnx.TensorProto.BOOL: "bool",
}  # fmt: skip
_LARGEST_ID = 10  # random ids are below it: every vocabulary has that many entries
_FLAGS = ("mask", "type_id", "token_type", "segment")


def exchange_type(value: TensorRecord) -> np.dtype[Any]:
    """The type of a tensor's values in the exchange."""
    dtype = np.dtype(value.type)
    return np.dtype("<f4") if dtype.kind == "f" else dtype.newbyteorder("<")


def random_inputs(model: Model, runs: int, seed: int) -> dict[str, NDArray[Any]]:
    """Plausible values for every input, (runs, *shape) in the input's own type.

    Floats are normal, bytes uniform, masks and segments 0 or 1, other integers below 10 and below the size of the table
    that they index.
    """
    return random_values(model.content, model.facts.inputs, runs, seed)


def random_values(content: bytes, inputs: tuple[TensorRecord, ...], runs: int, seed: int) -> dict[str, NDArray[Any]]:
    """The same for a file that is not described yet."""
    generator = np.random.default_rng(seed)
    limits = _table_sizes(content)
    arrays = {}
    for value in inputs:
        shape, dtype = (runs, *(size or 0 for size in value.shape)), np.dtype(value.type)
        array: NDArray[Any]
        if dtype.kind == "f":
            array = generator.standard_normal(shape, np.float32)
        elif dtype.kind == "b" or any(flag in value.name.lower() for flag in _FLAGS):
            array = generator.integers(0, 2, shape)
        elif dtype.itemsize == 1 and value.name not in limits:
            array = generator.integers(0, 256 if dtype.kind == "u" else 128, shape)
        else:
            array = generator.integers(0, max(min(limits.get(value.name, _LARGEST_ID), _LARGEST_ID), 1), shape)
        arrays[value.name] = np.asarray(array, dtype)
    return arrays


def inputs_bytes(model: Model, arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """Arrays of (runs, *shape) by input, as they are sent.

    Raises:
        ModelError: an array is missing, or has another shape than its input.
    """
    return _joined(model.facts.inputs, arrays)


def outputs_from_bytes(model: Model, data: bytes, runs: int) -> dict[str, NDArray[Any]]:
    """Arrays of (runs, *shape) by output, in the type of the exchange.

    Raises:
        ModelError: another number of bytes than these runs have, or an output of a size that depends on the values.
    """
    varying = [value.name for value in model.facts.outputs if None in value.shape]
    if varying:
        raise ModelError(
            f"the size of {', '.join(varying)} depends on the values of the inputs",
            hint="outputs are compared where all sizes are fixed: export the network without its last part, often the "
            "non-maximum suppression",
        )
    fields = [
        (f"{place}", exchange_type(value), tuple(size or 0 for size in value.shape))
        for place, value in enumerate(model.facts.outputs)
    ]
    run = np.dtype(fields)
    if len(data) != runs * run.itemsize:
        raise ModelError(
            f"the board returned {len(data)} bytes of outputs; {runs} runs of {model.facts.name} have {runs * run.itemsize}",
            hint="the runtime on the board gives outputs of other shapes or types",
        )
    table = np.frombuffer(data, run, runs) if run.itemsize else np.zeros(runs, run)
    return {value.name: table[f"{place}"].copy() for place, value in enumerate(model.facts.outputs)}


def _joined(values: tuple[TensorRecord, ...], arrays: Mapping[str, NDArray[Any]]) -> bytes:
    missing = [value.name for value in values if value.name not in arrays]
    if missing:
        raise ModelError(f"no values for {', '.join(missing)}")
    runs = len(arrays[values[0].name])
    for value in values:
        if arrays[value.name].shape != (runs, *value.shape):
            raise ModelError(
                f"{value.name} is {list(arrays[value.name].shape)}; {runs} runs of it are {[runs, *value.shape]}"
            )
    columns = [arrays[value.name].astype(exchange_type(value)).reshape(runs, -1) for value in values]
    return b"".join(column[run].tobytes() for run in range(runs) for column in columns)


def _table_sizes(content: bytes) -> dict[str, int]:
    """Integer inputs that index a constant table -> its number of rows, the smallest where there are several."""
    graph = onnx.load_model_from_string(content).graph
    source = {value.name: value.name for value in walk.inputs(graph)}
    rows = {each.name: each.dims for each in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].HasField("t"):
            rows[node.output[0]] = node.attribute[0].t.dims
    sizes: dict[str, int] = {}
    for node in graph.node:
        if node.op_type in ("Cast", "Identity", "Reshape", "Unsqueeze", "Squeeze") and node.input[0] in source:
            source[node.output[0]] = source[node.input[0]]
        if node.op_type == "Gather" and node.input[1] in source and node.input[0] in rows:
            axis = next((each.i for each in node.attribute if each.name == "axis"), 0)
            dims = rows[node.input[0]]
            if -len(dims) <= axis < len(dims):
                name = source[node.input[1]]
                sizes[name] = min(dims[axis], sizes.get(name, dims[axis]))
    return sizes

"""From an ONNX file to bytes that can be sent: fixed shapes, weights inside, distinct axis names."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto, external_data_helper, helper

from lightnas_edge.errors import ModelError
from lightnas_edge.files import sha256_of
from lightnas_edge.models.facts import TYPES, count_macs, count_parameters, precision_of
from lightnas_edge.records.model import ModelRecord, TensorRecord
from lightnas_edge.records.plain_text import clean_text

MOST_BYTES = 2**31 - 1  # of a protocol buffer
_UNSAFE = re.compile(r"[^A-Za-z0-9_.-]+")


@dataclass(frozen=True)
class Model:
    """A model that can be sent to a board."""

    path: Path
    content: bytes
    facts: ModelRecord


def read_model(path: Path, *, shapes: Mapping[str, Sequence[int]] | None = None) -> Model:
    """Read an ONNX file and give it fixed shapes. Nothing outside its folder is read.

    Args:
        shapes: input -> shape, for inputs with open axes; the name "" stands for the only input. An open first axis
            alone becomes 1 without being asked for.

    Raises:
        ModelError: it cannot be read, has open axes, or weights outside its folder; with what to do.
    """
    raw = _read_file(path)
    model = _parse(path, raw)
    graph = model.graph
    changes: list[str] = []
    _embed_weights(path, model, changes)
    weights = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in weights]
    if not inputs and not graph.output:
        raise ModelError(f"{path} has no inputs and no outputs", hint="export the model again")
    _fix_shapes(path, inputs, dict(shapes or {}), changes)
    model = _infer(path, model, changes)
    content = _serialised(path, model)
    graph = model.graph
    inputs = [value for value in graph.input if value.name not in weights]
    sides = {_shape(value)[0] if _shape(value) else None for value in inputs}
    batch = sides.pop() if len(sides) == 1 else None
    operators = Counter(node.op_type for node in _nodes(graph))
    opsets = {entry.domain: entry.version for entry in model.opset_import}
    facts = ModelRecord(
        name=_UNSAFE.sub("-", path.stem)[:60].strip("-.") or "model",
        file_sha256=sha256_of(raw),
        sha256=sha256_of(content),
        size_bytes=len(content),
        opset=opsets.get("", opsets.get("ai.onnx", 1)),
        domains={
            domain: version for domain, version in opsets.items() if domain not in ("", "ai.onnx") and version > 0
        },
        ir_version=max(1, model.ir_version),
        producer=clean_text(f"{model.producer_name} {model.producer_version}".strip(), 100),
        inputs=tuple(_tensor(path, value) for value in inputs),
        outputs=tuple(_tensor(path, value) for value in graph.output),
        nodes=sum(operators.values()),
        operators={clean_text(name, 100): count for name, count in sorted(operators.items())},
        parameters=count_parameters(graph),
        macs=count_macs(graph),
        precision=precision_of(graph),
        batch=batch or None,
        changes=tuple(changes),
    )
    return Model(path, content, facts)


def _read_file(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        if size > MOST_BYTES:
            raise ModelError(
                f"{path} is {size / 2**30:.1f} GiB, more than an ONNX file can be (2 GiB)",
                hint="keep weights in external files",
            )
        return path.read_bytes()
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}", hint="name an ONNX file") from error


def _parse(path: Path, raw: bytes) -> onnx.ModelProto:
    """Raises ModelError: it is no ONNX model."""
    if not raw:
        raise ModelError(f"{path} is empty", hint="export the model again")
    model = onnx.ModelProto()
    try:
        model.ParseFromString(raw)
    except (DecodeError, ValueError, RecursionError) as error:
        raise ModelError(f"{path} is no ONNX file, or is cut off", hint="export or copy it again") from error
    if not model.graph.node and not model.graph.output:
        raise ModelError(f"{path} holds no graph: it is no ONNX model", hint="name the .onnx file itself")
    if model.ir_version > onnx.IR_VERSION:
        raise ModelError(
            f"{path} has IR version {model.ir_version}; this program reads up to {onnx.IR_VERSION}",
            hint="update the onnx package, or export with an older one",
        )
    if not model.opset_import:
        raise ModelError(f"{path} names no opset", hint="export the model again")
    return model


def _embed_weights(path: Path, model: onnx.ModelProto, changes: list[str]) -> None:
    """Weights in other files become part of the model. No file outside the model's folder is opened.

    Raises:
        ModelError: a path leaves the folder, a file is missing, or together they are too large.
    """
    tensors = [tensor for tensor in _tensors(model) if tensor.data_location == TensorProto.EXTERNAL]
    if not tensors:
        return
    folder = path.parent.resolve()
    total = 0
    for tensor in tensors:
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location = entries.get("location", "")
        target = folder / location
        if not location or Path(location).is_absolute() or not target.resolve().is_relative_to(folder):
            raise ModelError(
                f"{path} keeps weights in {clean_text(location, 200)!r}, outside its folder: it is not opened",
                hint="put the weights next to the model and export again",
            )
        if not target.is_file():
            raise ModelError(
                f"{path} keeps weights in {clean_text(location, 200)}, which does not exist",
                hint="copy it next to the model",
            )
        length = entries.get("length", "")
        total += int(length) if length.isdecimal() and len(length) < 20 else target.stat().st_size
    if total > MOST_BYTES:
        raise ModelError(
            f"the weights of {path} are {total / 2**30:.1f} GiB; a model that is sent can be 2 GiB",
            hint="quantise the weights, or split the model",
        )
    try:
        for tensor in tensors:
            external_data_helper.load_external_data_for_tensor(tensor, str(folder))
            tensor.data_location = TensorProto.DEFAULT
            del tensor.external_data[:]
    except Exception as error:  # onnx raises anything for damaged entries
        raise ModelError(
            f"the external weights of {path} cannot be read: {clean_text(str(error), 200)}",
            hint="export the model again",
        ) from error
    changes.append(f"the weights of {len(tensors)} tensors, kept in other files, were put into the model")


def _fix_shapes(
    path: Path, inputs: Sequence[onnx.ValueInfoProto], shapes: dict[str, Sequence[int]], changes: list[str]
) -> None:
    """Every input gets a shape of numbers.

    Raises:
        ModelError: names all inputs with open axes at once, or a shape that does not fit.
    """
    if "" in shapes:
        if len(inputs) != 1:
            raise ModelError(
                f"{path} has {len(inputs)} inputs: a shape needs the name of one of {_listed(inputs)}",
                hint=f"--shape {inputs[0].name}:1x3x224x224" if inputs else "",
            )
        shapes[inputs[0].name] = shapes.pop("")
    unknown = sorted(set(shapes) - {value.name for value in inputs})
    if unknown:
        raise ModelError(f"{path} has no input {', '.join(unknown)}; it has {_listed(inputs)}", hint="correct --shape")
    still_open = []
    for value in inputs:
        kind = value.type.WhichOneof("value")
        if kind != "tensor_type":
            raise ModelError(f"the input {value.name} of {path} is a {(kind or 'value without a type').removesuffix('_type')}, not a tensor",
                             hint="export the model with tensors as inputs")  # fmt: skip
        if value.type.tensor_type.elem_type not in TYPES:
            name = (
                TensorProto.DataType.Name(value.type.tensor_type.elem_type)
                if value.type.tensor_type.elem_type in TensorProto.DataType.values()
                else "unknown"
            )
            raise ModelError(f"the input {value.name} of {path} is {name.lower()}: such inputs cannot be made up",
                             hint=f"export it with one of {', '.join(sorted(set(TYPES.values())))}")  # fmt: skip
        given = shapes.get(value.name)
        sides = _shape(value)
        has_rank = value.type.tensor_type.HasField("shape")
        if given is not None:
            if has_rank and (
                len(given) != len(sides)
                or any(side not in (None, want) for side, want in zip(sides, given, strict=True))
            ):
                raise ModelError(
                    f"the shape {_dims(given)} does not fit the input {value.name} of {path}, {_dims(sides)}",
                    hint="an axis with a number keeps it",
                )
            _set_shape(value, given)
            if tuple(given) != tuple(sides):
                changes.append(f"input {value.name} was given the shape {_dims(given)}")
        elif has_rank and sides[:1] == (None,) and None not in sides[1:]:
            _set_shape(value, (1, *sides[1:]))
            changes.append(f"the open first axis of input {value.name} became 1")
        elif not has_rank or None in sides:
            still_open.append(value)
    if still_open:
        names = ", ".join(f"{value.name} is {_dims(_shape(value)) or 'of unknown rank'}" for value in still_open)
        example = " ".join(f"--shape {value.name}:{_example(value)}" for value in still_open)
        raise ModelError(f"{path} has inputs with open axes: {names}", hint=f"give them shapes, for example {example}")


def _infer(path: Path, model: onnx.ModelProto, changes: list[str]) -> onnx.ModelProto:
    """Shapes of everything else follow from the inputs; what stays open gets names of its own.

    Raises:
        ModelError: the shapes contradict each other.
    """
    graph = model.graph
    stale = [value for value in [*graph.value_info, *graph.output] if None in _shape(value)]
    del graph.value_info[:]
    for value in graph.output:
        if value.type.WhichOneof("value") == "tensor_type" and None in _shape(value):
            value.type.tensor_type.ClearField("shape")
    try:
        inferred = onnx.shape_inference.infer_shapes(model, strict_mode=False, data_prop=True)
    except Exception as error:  # its own InferenceError and ValueError
        raise ModelError(
            f"the shapes of {path} cannot be inferred: {clean_text(str(error).splitlines()[0], 200)}",
            hint="check --shape; `python -m onnxruntime.tools.symbolic_shape_infer` may know more",
        ) from error
    renamed = 0
    for value in inferred.graph.output:
        if value.type.WhichOneof("value") != "tensor_type":
            continue
        for axis, side in enumerate(value.type.tensor_type.shape.dim):
            if not side.HasField("dim_value"):
                side.dim_param = f"{_UNSAFE.sub('_', value.name) or 'output'}_axis{axis}"
                renamed += 1
    # Runtimes infer inner shapes again, and two open axes of one name would pass for one.
    known = [value for value in inferred.graph.value_info if None not in _shape(value)]
    del inferred.graph.value_info[:]
    inferred.graph.value_info.extend(known)
    if stale and renamed:
        changes.append(f"{renamed} open axes of outputs were given names of their own")
    return inferred


def _serialised(path: Path, model: onnx.ModelProto) -> bytes:
    try:
        content: bytes = model.SerializeToString()
    except (ValueError, DecodeError) as error:
        raise ModelError(
            f"{path} with its weights is larger than 2 GiB", hint="quantise the weights, or split the model"
        ) from error
    if len(content) > MOST_BYTES:
        raise ModelError(
            f"{path} with its weights is larger than 2 GiB", hint="quantise the weights, or split the model"
        )
    return content


def _tensor(path: Path, value: onnx.ValueInfoProto) -> TensorRecord:
    element = value.type.tensor_type.elem_type if value.type.WhichOneof("value") == "tensor_type" else -1
    if element not in TYPES:
        raise ModelError(
            f"{value.name} of {path} is no tensor of numbers",
            hint="export the model with tensors of numbers as outputs",
        )
    return TensorRecord(name=clean_text(value.name, 200), type=TYPES[element], shape=_shape(value))


def _shape(value: onnx.ValueInfoProto) -> tuple[int | None, ...]:
    """None for an open axis."""
    return tuple(
        side.dim_value if side.HasField("dim_value") and side.dim_value >= 0 else None
        for side in value.type.tensor_type.shape.dim
    )


def _set_shape(value: onnx.ValueInfoProto, sides: Sequence[int | None]) -> None:
    fixed = helper.make_tensor_type_proto(value.type.tensor_type.elem_type, list(sides))
    value.type.CopyFrom(fixed)


def _example(value: onnx.ValueInfoProto) -> str:
    usual = (1, 3, 640, 640)
    sides = _shape(value) or usual
    return "x".join(
        str(side if side is not None else (usual[at] if at < len(usual) and len(sides) == 4 else 1))
        for at, side in enumerate(sides)
    )


def _dims(sides: Sequence[int | None]) -> str:
    return "x".join("?" if side is None else str(side) for side in sides)


def _listed(values: Sequence[onnx.ValueInfoProto]) -> str:
    return ", ".join(clean_text(value.name, 100) for value in values[:8]) or "none"


def _nodes(graph: Any) -> Iterator[onnx.NodeProto]:
    """Of the graph and of the graphs inside its nodes."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in [attribute.g, *attribute.graphs] if attribute.type in (5, 10) else []:
                yield from _nodes(inner)


def _tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Initializers, and tensors in attributes, of all graphs."""
    graphs = [model.graph]
    while graphs:
        graph = graphs.pop()
        yield from graph.initializer
        for node in graph.node:
            for attribute in node.attribute:
                if attribute.HasField("t"):
                    yield attribute.t
                yield from attribute.tensors
                if attribute.HasField("g"):
                    graphs.append(attribute.g)
                graphs.extend(attribute.graphs)


__all__ = ["Model", "read_model"]

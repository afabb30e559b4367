"""From a file of unknown origin to a model that can be sent, or one message that says why not."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import NoReturn

import onnx
import onnx.inliner
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, EncodeError, Message
from onnx import TensorProto

from lightnas_edge.errors import ModelError
from lightnas_edge.files import sha256_of
from lightnas_edge.models import external, facts, walk
from lightnas_edge.models.exchange import TYPES
from lightnas_edge.models.model import Model
from lightnas_edge.models.reference import folded
from lightnas_edge.models.shapes import fix_inputs, fixed_shape, name_open_axes, remove_symbols, set_shape, sizes_of
from lightnas_edge.records.base import read_bounded
from lightnas_edge.records.model import ModelRecord, TensorRecord
from lightnas_edge.records.plain_text import clean_text

_EXPORT = "export the network to ONNX, for example by torch.onnx.export"
_NO_SHAPES: Mapping[str, Sequence[int]] = MappingProxyType({})
# How files that are taken for ONNX begin: place, bytes, what it is.
_OTHERS = (
    (0, b"PK\x03\x04", "a zip archive, as torch.save writes it"),
    (0, b"\x89HDF", "an HDF5 file, as Keras writes it"),
    (0, b"ptrt", "a TensorRT engine"),
    (0, b"ftrt", "a TensorRT engine"),
    (0, b"version https://git-lfs", "a pointer of Git LFS, and the file itself is not here: git lfs pull"),
    (0, b"\x1f\x8b", "a gzip archive"),
    (4, b"TFL3", "a TensorFlow Lite model"),
    (4, b"ORTM", "a model in ONNX Runtime's own format"),
)


def read_model(path: Path, *, shapes: Mapping[str, Sequence[int]] = _NO_SHAPES) -> Model:
    """Read an ONNX file and make it ready to be sent: fixed shapes, external data embedded, local functions inlined.

    Args:
        shapes: input -> shape, for inputs whose sizes the file leaves open; "" names the only input.

    Raises:
        ModelError: it cannot be read, needs shapes, or has inputs or outputs that cannot be exchanged.
    """
    path = Path(path)
    content = read_bounded(path, error=ModelError, remedy=_EXPORT, max_bytes=external.LARGEST_BYTES)
    try:
        return _read(path, content, shapes)
    except (EncodeError, RecursionError, MemoryError) as error:
        _damaged(path, clean_text(str(error), 200) or type(error).__name__, error)


def _read(path: Path, content: bytes, shapes: Mapping[str, Sequence[int]]) -> Model:
    model = _parsed(path, content)
    _check_versions(model, path)
    changes = external.embed(model, path, len(content))
    changes += _simplified(model, path)
    others = facts.other_operators(model)
    if not any("." not in operator for operator in others):
        _check(model, path)  # the checker refuses operators that it does not know, which plugins of TensorRT are
    _check_inputs(model.graph, path)
    fixed = fix_inputs(model.graph, shapes, path)
    changes += fixed
    if fixed:
        for value in model.graph.output:
            value.type.tensor_type.ClearField("shape")  # a size that was written for other inputs
    removed = remove_symbols(model.graph)
    if removed and not fixed:
        changes.append(f"sizes that were not fixed are removed from {removed} values")
    views = _Views(model, _inferred(model, path))
    changes += _fix_outputs(model, views, path)
    sent = model.SerializeToString(deterministic=True) if changes else content
    if len(sent) > external.LARGEST_BYTES:
        raise ModelError(f"{path} has {len(sent) / 2**30:.1f} GiB; one ONNX file holds at most 2 GiB", hint=_EXPORT)
    return Model(sent, _record(path, content, sent, model, views, changes), path)


@dataclass
class _Views:
    """The model with the shapes of its values: inferred, and, where those do not suffice, after folding constants."""

    model: onnx.ModelProto
    inferred: onnx.ModelProto

    @cached_property
    def folded(self) -> onnx.ModelProto | None:
        return folded(self.model.SerializeToString())


def _record(
    path: Path, content: bytes, sent: bytes, model: onnx.ModelProto, views: _Views, changes: Sequence[str]
) -> ModelRecord:
    inputs = _described(walk.inputs(model.graph))
    versions = _versions(model)
    used = {walk.domain_of(node) for node in walk.nodes(model.graph)} & set(versions)
    outputs = _described(model.graph.output)
    operators = facts.operators(model.graph)
    known = facts.values(views.inferred)
    macs_unknown = facts.not_counted(model.graph)
    macs = None if macs_unknown else facts.macs(model.graph, known)
    if macs is None and not macs_unknown and views.folded is not None:
        macs = facts.macs(views.folded.graph, facts.values(views.folded))
    return ModelRecord(
        name=_name(path),
        sha256=sha256_of(sent),
        file_sha256=sha256_of(content),
        opset=versions[walk.DEFAULT_DOMAIN],
        domains={domain: versions[domain] for domain in sorted(used) if domain != walk.DEFAULT_DOMAIN},
        ir_version=model.ir_version,
        producer=clean_text(f"{model.producer_name} {model.producer_version}", 200),
        inputs=inputs,
        outputs=outputs,
        nodes=sum(operators.values()),
        operators=operators,
        other_operators=facts.other_operators(model),
        parameters=facts.parameters(model.graph, known),
        macs=macs,
        macs_unknown="" if macs is not None else macs_unknown or "a shape that they depend on cannot be inferred",
        size_bytes=len(sent),
        precision=facts.precision(model, known),
        batch=_batch(inputs, outputs),
        changes=tuple(changes),
    )


def _batch(inputs: Sequence[TensorRecord], outputs: Sequence[TensorRecord]) -> int | None:
    """The first side of all inputs, where it counts images: above 1, the outputs have it too, and no value is a vector.

    An image as [224, 224, 3] or a waveform as [16000] is one.
    """
    firsts = {value.shape[0] if value.shape else None for value in inputs}
    batch = firsts.pop() if len(firsts) == 1 else None
    if batch is None or batch == 1:
        return batch
    shared = all(len(value.shape) > 1 and value.shape[0] == batch for value in (*inputs, *outputs))
    return batch if shared else None


def _parsed(path: Path, content: bytes) -> onnx.ModelProto:
    if not content:
        raise ModelError(f"{path} is empty", hint=_EXPORT)
    for place, begin, what in _OTHERS:
        if content[place : place + len(begin)] == begin:
            raise ModelError(f"{path} is not an ONNX file but {what}", hint=_EXPORT)
    try:
        model = onnx.ModelProto.FromString(content)
    except DecodeError as error:
        if _is_text(content):
            raise ModelError(f"{path} is not an ONNX file but text", hint=_EXPORT) from error
        _damaged(path, "it does not decode", error)
    if not model.HasField("graph") or not model.ir_version:
        if _is_text(content):
            raise ModelError(f"{path} is not an ONNX file but text", hint=_EXPORT)
        raise ModelError(f"{path} is not an ONNX file, or is damaged: it has no graph", hint=_EXPORT)
    if not _is_utf8(model):
        _damaged(path, "a name in it is not UTF-8", None)
    return model


def _is_utf8(message: Message) -> bool:
    """Whether every text is UTF-8; protobuf gives others as bytes."""
    for field, found in message.ListFields():
        if field.type == FieldDescriptor.TYPE_STRING:
            fits = all(isinstance(text, str) for text in ([found] if isinstance(found, (str, bytes)) else found))
        elif field.type == FieldDescriptor.TYPE_MESSAGE:
            fits = all(map(_is_utf8, [found] if isinstance(found, Message) else found))
        else:
            continue
        if not fits:
            return False
    return True


def _check_versions(model: onnx.ModelProto, path: Path) -> None:
    upgrade = "export it with an older opset, or upgrade onnx on this machine: pip install --upgrade onnx onnxruntime"
    if not 1 <= model.ir_version <= onnx.IR_VERSION:
        raise ModelError(
            f"{path} has IR version {model.ir_version}; onnx {onnx.__version__} reads 1 to {onnx.IR_VERSION}",
            hint=upgrade,
        )
    newest = onnx.defs.onnx_opset_version()
    opset = _versions(model).get(walk.DEFAULT_DOMAIN)
    if opset is None:
        raise ModelError(f"{path} names no opset of ONNX", hint=_EXPORT)
    if not 1 <= opset <= newest:
        raise ModelError(f"{path} has opset {opset}; onnx {onnx.__version__} reads 1 to {newest}", hint=upgrade)
    low = [f"{clean_text(each.domain, 100)} {each.version}" for each in model.opset_import if each.version < 1]
    if low:
        raise ModelError(f"{path} names versions of operator sets below 1: {', '.join(low)}", hint=_EXPORT)


def _versions(model: onnx.ModelProto) -> dict[str, int]:
    """Domain -> opset."""
    return {each.domain or walk.DEFAULT_DOMAIN: each.version for each in model.opset_import}


def _simplified(model: onnx.ModelProto, path: Path) -> list[str]:
    """Leave out what is not needed for inference and what old runtimes do not read; sentences about it."""
    changes = []
    if model.training_info:
        del model.training_info[:]
        changes.append("training information is left out")
    if model.functions:
        count = len(model.functions)
        try:
            inlined = onnx.inliner.inline_local_functions(model)
        except Exception as error:  # from C++, of several types
            _refused_by_checker(path, error)
        model.CopyFrom(inlined)
        changes.append(f"{count} local function{'s are' if count > 1 else ' is'} inlined")
    fed = walk.inputs(model.graph)
    if model.ir_version >= 4 and len(fed) < len(model.graph.input):
        # Until IR version 3 constants must be listed; since then one in the list may be replaced, and is not folded.
        changes.append(f"{len(model.graph.input) - len(fed)} constants are no longer listed as inputs")
        kept = [onnx.ValueInfoProto.FromString(value.SerializeToString()) for value in fed]
        del model.graph.input[:]
        model.graph.input.extend(kept)
    return changes


def _check(model: onnx.ModelProto, path: Path) -> None:
    without_rank = [
        value.type.tensor_type
        for value in (*model.graph.input, *model.graph.output)
        if value.type.WhichOneof("value") == "tensor_type" and not value.type.tensor_type.HasField("shape")
    ]
    for tensor in without_rank:  # which the checker refuses, and --shape or the inference of shapes gives later
        tensor.shape.SetInParent()
    try:
        onnx.checker.check_model(model)
    except Exception as error:  # ValidationError, and others of C++
        _refused_by_checker(path, error)
    for tensor in without_rank:
        tensor.ClearField("shape")


def _inferred(model: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    try:
        return onnx.shape_inference.infer_shapes(model, data_prop=True)
    except Exception as error:
        _refused_by_checker(path, error)


def _check_inputs(graph: onnx.GraphProto, path: Path) -> None:
    """Raises ModelError for inputs and outputs that cannot be exchanged; all in one message."""
    inputs = walk.inputs(graph)
    if not inputs or not graph.output:
        raise ModelError(f"{path} has no {'outputs' if inputs else 'inputs'}", hint=_EXPORT)
    faults = []
    for side, values in (("input", inputs), ("output", graph.output)):
        names = [value.name for value in values]
        if len(set(names)) != len(names):
            faults.append(f"two {side}s have the same name")
        for value in values:
            shown = f"{side} {clean_text(value.name, 100)}"
            kind = value.type.WhichOneof("value")
            if not value.name or not value.name.isprintable() or len(value.name) > 1000:
                faults.append(f"{side} {value.name[:50]!r} has no usable name")
            elif kind is None and side == "output":
                continue  # the type is inferred
            elif kind != "tensor_type":
                faults.append(f"{shown} is no tensor but {(kind or 'of no type').removesuffix('_type')}")
            elif value.type.tensor_type.elem_type not in TYPES and (
                side == "input" or value.type.tensor_type.elem_type
            ):
                faults.append(f"{shown} is of type {_type_name(value.type.tensor_type.elem_type)}")
    if faults:
        raise ModelError(
            f"{path}: {'; '.join(faults)}",
            hint="inputs and outputs are tensors of float32, float16, float64, integers or bool; cut text processing, "
            "sequences and other types from the exported graph",
        )


def _fix_outputs(model: onnx.ModelProto, views: _Views, path: Path) -> list[str]:
    """Give outputs their inferred types and shapes; a sentence about those that have no fixed shape."""
    outputs = model.graph.output
    for ours, theirs in zip(outputs, views.inferred.graph.output, strict=True):
        if ours.type.WhichOneof("value") is None or not ours.type.tensor_type.elem_type:
            ours.type.CopyFrom(theirs.type)
        if ours.type.WhichOneof("value") != "tensor_type" or ours.type.tensor_type.elem_type not in TYPES:
            raise ModelError(f"{path}: the type of output {clean_text(ours.name, 100)} is not known", hint=_EXPORT)
        if fixed_shape(ours) is None and theirs.type.tensor_type.HasField("shape"):
            ours.type.tensor_type.shape.CopyFrom(theirs.type.tensor_type.shape)
    varying = []
    for value in outputs:
        if fixed_shape(value) is not None:
            continue
        after_folding = {each.name: fixed_shape(each) for each in views.folded.graph.output} if views.folded else {}
        shape = after_folding.get(value.name)
        if shape is not None:
            set_shape(value, shape)
        else:
            name_open_axes(value)
            varying.append(clean_text(value.name, 100))
    if not varying:
        return []
    return [f"the size of {', '.join(varying)} depends on the values of the inputs: such outputs are not compared"]


def _described(values: Sequence[onnx.ValueInfoProto]) -> tuple[TensorRecord, ...]:
    return tuple(
        TensorRecord(name=value.name, type=TYPES[value.type.tensor_type.elem_type], shape=sizes_of(value))
        for value in values
    )


def _name(path: Path) -> str:
    """The stem, fit for the name of a folder."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem).strip("-._")[:100] or "model"


def _type_name(element: int) -> str:
    try:
        return str(TensorProto.DataType.Name(element)).lower()
    except ValueError:
        return f"number {element}"


def _is_text(content: bytes) -> bool:
    try:
        return all(char.isprintable() or char.isspace() for char in content[:1000].decode())
    except UnicodeDecodeError:
        return False


def _refused_by_checker(path: Path, error: Exception) -> NoReturn:
    lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    raise ModelError(
        f"{path} is no valid ONNX model: {clean_text(lines[0], 300)}", hint="export it again; onnx.checker refuses it"
    ) from error


def _damaged(path: Path, why: str, error: BaseException | None) -> NoReturn:
    raise ModelError(f"{path} is no ONNX file, or is damaged: {why}", hint="copy or export it again") from error

"""Tensors that an ONNX file keeps in other files: checked as a whole before anything is read, then embedded."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

import onnx

from lightnas_edge.errors import ModelError
from lightnas_edge.models import walk
from lightnas_edge.records.plain_text import clean_text

LARGEST_BYTES = 2**31 - 2**20  # a protobuf message holds less than 2 GiB
_SHOWN = 5
_ALONE = (
    "keep the data files in the folder of the ONNX file and name them by relative paths: onnx.save(..., location=NAME)"
)


@dataclass(frozen=True)
class _Part:
    tensor: onnx.TensorProto
    file: Path
    offset: int
    length: int


def embed(model: onnx.ModelProto, path: Path, size_bytes: int) -> list[str]:
    """Read external data into the model; a sentence about it, or none.

    Args:
        size_bytes: of the ONNX file itself.

    Raises:
        ModelError: a path that leaves the folder of the model, missing files, wrong sizes, or more than fits.
    """
    external = [tensor for tensor in walk.tensors(model) if tensor.data_location == onnx.TensorProto.EXTERNAL]
    if not external:
        return []
    folder = path.parent.resolve()
    files = [_file(tensor, folder, path) for tensor in external]
    missing = sorted({str(file.relative_to(folder)) for file in files if not file.is_file()})
    if missing:
        raise ModelError(
            f"{path} keeps weights in {len(missing)} file{'s' * (len(missing) > 1)} that {folder} does not have: "
            + _listed(missing),
            hint="copy the data files into the folder of the ONNX file; the exporter writes both",
        )
    parts = [_part(tensor, file, path) for tensor, file in zip(external, files, strict=True)]
    total = size_bytes + sum(part.length for part in parts)
    if total > LARGEST_BYTES:
        raise ModelError(
            f"{path} has {total / 2**30:.1f} GiB with its external data; a model that is sent to a board is one ONNX file, "
            "which holds at most 2 GiB",
            hint="export it in float16, or quantised, or a smaller part of it",
        )
    for part in parts:
        try:
            with part.file.open("rb") as file:
                file.seek(part.offset)
                data = file.read(part.length)
        except OSError as error:
            raise ModelError(f"cannot read {part.file}: {error.strerror}") from error
        if len(data) != part.length:
            raise ModelError(f"{part.file} became shorter while it was read", hint="try again when it is complete")
        part.tensor.raw_data = data
        del part.tensor.external_data[:]
        part.tensor.ClearField("data_location")
    count = len({part.file for part in parts})
    return [f"the external data of {len(parts)} tensors in {count} file{'s' * (count > 1)} is embedded"]


def _file(tensor: onnx.TensorProto, folder: Path, path: Path) -> Path:
    """Raises ModelError for a location outside the folder. Nothing is read."""
    location = _entries(tensor).get("location", "")
    shown = clean_text(location, 200)
    where = f"{path} keeps {clean_text(tensor.name, 100) or 'a tensor'} in {shown!r}"
    if not location or not location.isprintable():
        raise ModelError(f"{where}, which is no file name", hint=_ALONE)
    # As both systems read it: a backslash separates folders in a file that was written on Windows.
    windows = PureWindowsPath(location)
    if PurePosixPath(location).is_absolute() or windows.drive or windows.root:
        raise ModelError(f"{where}, an absolute path", hint=_ALONE)
    if ".." in windows.parts:
        raise ModelError(f"{where}, outside the folder of the model", hint=_ALONE)
    try:
        file = (folder / location).resolve()
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links
        raise ModelError(f"{where}, which cannot be followed: {error}", hint=_ALONE) from error
    if not file.is_relative_to(folder):
        raise ModelError(
            f"{where}, a link to {file}, outside the folder of the model",
            hint="copy the files themselves into one folder: cp -rL FOLDER COPY",
        )
    return file


def _part(tensor: onnx.TensorProto, file: Path, path: Path) -> _Part:
    """Raises ModelError where the file does not hold what the tensor needs."""
    where = f"{path}: {clean_text(tensor.name, 100) or 'a tensor'} in {file.name}"
    entries = _entries(tensor)
    try:
        available = file.stat().st_size
        offset = _whole(entries.get("offset", "0"))
        length = _whole(entries["length"]) if "length" in entries else available - offset
    except OSError as error:
        raise ModelError(f"cannot read {file}: {error.strerror}") from error
    except ValueError as error:
        raise ModelError(f"{where} has an offset or a length that is no whole number", hint="export again") from error
    wanted = _bytes_of(tensor, where)
    if offset + length > available or length < 0:
        raise ModelError(
            f"{where} ends at byte {offset + length}; the file has {available}",
            hint="the data file is incomplete or of another export; copy it again",
        )
    if length != wanted:
        raise ModelError(
            f"{where} has {length} bytes; its shape and type need {wanted}", hint="export again: the files do not match"
        )
    return _Part(tensor, file, offset, length)


def _bytes_of(tensor: onnx.TensorProto, where: str) -> int:
    try:
        bits = int(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize) * 8
        name = onnx.helper.tensor_dtype_to_string(tensor.data_type)
    except (KeyError, ValueError, TypeError) as error:
        raise ModelError(f"{where} has an unknown type, {tensor.data_type}", hint="export again") from error
    if any(dim < 0 for dim in tensor.dims):
        raise ModelError(f"{where} has a negative dimension", hint="export again")
    bits = 4 if "INT4" in name or "FLOAT4" in name else 2 if "INT2" in name else bits
    count: int = math.prod(tensor.dims)
    return -(-count * bits // 8)


def _entries(tensor: onnx.TensorProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in tensor.external_data}


def _whole(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise ValueError(text)
    return int(text)


def _listed(names: list[str]) -> str:
    rest = len(names) - _SHOWN
    return ", ".join(clean_text(name, 100) for name in names[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")

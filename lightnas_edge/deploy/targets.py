"""Which ONNX opset, and which int8, to write for a runtime."""

from __future__ import annotations

import re

from lightnas_edge.errors import ExportError
from lightnas_edge.graph import DEFAULT_OPSET, MAX_OPSET, MIN_OPSET, Dialect
from lightnas_edge.graph.opsets import READS, readable_opset

DEFAULT_TARGET = "any"

_TARGET = re.compile(r"([a-z]+)(?:[ =-]((\d+)(?:\.(\d+))?[0-9.]*))?")


def parse_target(target: str) -> tuple[str, str]:
    """(name, version) of `tensorrt-8.2`, `TensorRT 8.2` or `any`; the version is empty where none is given.

    Raises:
        ExportError: an unknown runtime.
    """
    match = _TARGET.fullmatch(target.strip().lower())
    if match is None or match[1] not in (DEFAULT_TARGET, *READS):
        raise ExportError(
            f"unknown target {target!r}",
            hint=f"{DEFAULT_TARGET}, or one of {', '.join(READS)} with a version: tensorrt-8.2",
        )
    return match[1], match[2] or ""


def opset_for(target: str) -> int:
    """The opset to write for `any`, `tensorrt-8.2`, `tensorrt-10.3`, `onnxruntime-1.10`, ...

    `any`, and a runtime without a version, give the one that all of them read. Our graphs use nothing newer than opset
    13 itself, so a higher one only avoids the warnings of tools that complain about old files.

    Raises:
        ExportError: an unknown runtime, or one older than the graphs can be written for.
    """
    name, version = parse_target(target)
    if name == DEFAULT_TARGET or not version:
        return DEFAULT_OPSET
    major, minor = (*version.split("."), "0")[:2]
    readable = readable_opset(name, (int(major), int(minor or 0)))
    if readable is None:
        oldest = ".".join(map(str, READS[name][0][0]))
        raise ExportError(f"{target} is older than the oldest supported: {name} {oldest}")
    assert readable.opset >= MIN_OPSET
    return min(readable.opset, MAX_OPSET)


def dialect_for(target: str) -> Dialect | None:
    """In which int8 the runtime of a target reads a graph; None for `any`."""
    name, _ = parse_target(target)
    if name == DEFAULT_TARGET:
        return None
    return "tensorrt" if name == "tensorrt" else "ort"

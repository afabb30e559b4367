"""Which ONNX opset a runtime reads, and which one to write for it."""

from __future__ import annotations

import re

from lightnas_edge.errors import ExportError
from lightnas_edge.graph import DEFAULT_OPSET, MAX_OPSET, MIN_OPSET
from lightnas_edge.graph.opsets import READS

DEFAULT_TARGET = "any"

_TARGET = re.compile(r"([a-z]+)(?:[ =-](\d+)(?:\.(\d+))?[0-9.]*)?")


def opset_for(target: str) -> int:
    """The opset to write for `any`, `tensorrt-8.2`, `tensorrt-10.3`, `onnxruntime-1.10`, ...

    `any`, and a runtime without a version, give the one that all of them read.

    Raises:
        ExportError: an unknown runtime, or one older than the graphs can be written for.
    """
    match = _TARGET.fullmatch(target.strip().lower())
    name = match[1] if match else ""
    if match is None or name not in (DEFAULT_TARGET, *READS):
        raise ExportError(
            f"unknown target {target!r}",
            hint=f"{DEFAULT_TARGET}, or one of {', '.join(READS)} with a version: tensorrt-8.2",
        )
    if name == DEFAULT_TARGET or match[2] is None:
        return DEFAULT_OPSET
    version = (int(match[2]), int(match[3] or 0))
    readable = [opset for since, opset in READS[name] if since <= version]
    if not readable:
        oldest = ".".join(map(str, READS[name][0][0]))
        raise ExportError(f"{target} is older than the oldest supported: {name} {oldest}")
    assert MIN_OPSET <= readable[-1] <= MAX_OPSET
    return readable[-1]

"""Which ONNX opset a runtime reads, and which one to write for it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType

from lightnas_edge.errors import ExportError
from lightnas_edge.graph import DEFAULT_OPSET, MAX_OPSET, MIN_OPSET

DEFAULT_TARGET = "any"

# Newest opset that a runtime reads, by the version at which that began. Our graphs use nothing newer than opset 13
# itself, so a higher one buys nothing but the blessing of tools that complain about old files.
# TensorRT: docs/operators.md of onnx/onnx-tensorrt on the branches of 8.2 ("up to Opset 13"), 8.5 ("up to Opset 17")
# and 9.2 ("up to Opset 19"). Its Changelog.md: 8.6 carries ONNX 1.13, which has 18, but we keep to 17; 10.6 carries
# ONNX 1.17, which has 22, and 10.0 at least what 9.2 had plus one. 8.0 reads as 8.2.
# ONNX Runtime: docs/Versioning.md ("1.10: ONNX 1.10, opset 15, IR 7"; "1.13: 17"; "1.14: 18"; "1.15: 19"; "1.17: 20").
READS: Mapping[str, tuple[tuple[tuple[int, int], int], ...]] = MappingProxyType(
    {
        "tensorrt": (((8, 0), 13), ((8, 5), 17), ((9, 0), 19), ((10, 0), 20)),
        "onnxruntime": (
            ((1, 7), 13),
            ((1, 8), 14),
            ((1, 9), 15),
            ((1, 12), 17),
            ((1, 14), 18),
            ((1, 15), 19),
            ((1, 17), 20),
        ),
    }
)

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

"""The newest ONNX opset that each version of a runtime reads."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

# Newest opset that a runtime reads, by the version at which that began.
# TensorRT: docs/operators.md of onnx/onnx-tensorrt on the branches of 8.2 ("up to Opset 13"), 8.5 ("up to Opset 17")
# and 9.2 ("up to Opset 19"). Its Changelog.md: 8.6 carries ONNX 1.13, which has 18, but we keep to 17; 10.6 carries
# ONNX 1.17, which has 22, and 10.0 at least what 9.2 had plus one. 8.0 reads as 8.2.
# ONNX Runtime: docs/Versioning.md ("1.10: ONNX 1.10, opset 15, IR 7"; "1.13: 17"; "1.14: 18"; "1.15: 19"; "1.17: 20").
READS: Mapping[str, tuple[tuple[tuple[int, int], int], ...]] = MappingProxyType(
    {
        "tensorrt": (((8, 0), 13), ((8, 5), 17), ((9, 0), 19), ((10, 0), 20), ((10, 6), 22)),
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
_VERSION = re.compile(r"(\d+)(?:\.(\d+))?")


class Readable(NamedTuple):
    """What a version reads. `is_limit`: False for versions as new as the last row, which may read more."""

    opset: int
    is_limit: bool


def readable_opset(runtime: str, version: tuple[int, int]) -> Readable | None:
    """The newest opset that a version of a runtime of READS reads; None for one older than all rows."""
    rows = [opset for since, opset in READS[runtime] if since <= version]
    return Readable(rows[-1], len(rows) < len(READS[runtime])) if rows else None


def version_of(text: str) -> tuple[int, int] | None:
    """(10, 3) of `10.3.0.30`; None where the text does not begin with a number."""
    match = _VERSION.match(text.strip())
    return None if match is None else (int(match[1]), int(match[2] or 0))

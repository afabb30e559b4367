"""What differs between two records, in words: the fields of fingerprints, and of questions put to a run."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from lightnas_edge.errors import FingerprintError

UNIT = "unit"  # field of a fingerprint: which unit of a model
_ROUNDING = 1e-9  # relative: the order of a sum differs between processors


def fingerprint_differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """`power_mode 'MAXN' and '15W'` for every field that differs; a field that is absent differs from null.

    The unit is left out: numbers of two units of one model, in one state, may be compared. What they differ by is measured.
    """
    return [
        f"{name} {_field(one, name)} and {_field(other, name)}"
        for name in sorted({*one, *other} - {UNIT})
        if (name in one, one.get(name)) != (name in other, other.get(name))
    ]


def require_equal_fingerprints(one: Mapping[str, Any], other: Mapping[str, Any], what: str, *, hint: str = "") -> None:
    """Refuse numbers of different boards or states.

    Args:
        what: both sides, as the subject of a sentence: "a.lut.jsonl and b.lut.jsonl".

    Raises:
        FingerprintError: lists the fields that differ.
    """
    differing = fingerprint_differences(one, other)
    if differing:
        raise FingerprintError(f"{what} are of different boards or states: {'; '.join(differing)}", hint=hint)


def changes(was: Any, now: Any, name: str = "") -> list[str]:
    """`  config.epochs: was 90, now 60` for every value that differs by more than rounding; tables are compared field by field."""
    if isinstance(was, Mapping) and isinstance(now, Mapping):
        return [
            line
            for field in {**was, **now}
            for line in changes(was.get(field), now.get(field), f"{name}.{field}" if name else field)
        ]
    return [] if _alike(_plain(was), _plain(now)) else [f"  {name}: was {_brief(was)}, now {_brief(now)}"]


def _alike(was: Any, now: Any) -> bool:
    """Numbers that another processor computes with other rounding are alike."""
    if isinstance(was, list) and isinstance(now, list):
        return len(was) == len(now) and all(map(_alike, was, now))
    if isinstance(was, float) and isinstance(now, float):
        return math.isclose(was, now, rel_tol=_ROUNDING)
    return bool(was == now)


def _field(fingerprint: Mapping[str, Any], name: str) -> str:
    return repr(fingerprint[name]) if name in fingerprint else "absent"


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value))


def _brief(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 120 else text[:117] + "..."

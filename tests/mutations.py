"""Damaged files: what disks, editors and other programs do to JSON."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

import numpy as np

_VALUES: list[Any] = [
    None, True, False, 0, -1, 1, 10**30, 1e308, -0.5, "", "x", "nan", "\x00", "\u202e", [], {}, [[]], [None], {"a": {}},
    float("nan"), float("inf"), "a" * 5000, [0] * 50,
]  # fmt: skip


def mutated(content: bytes, count: int, *, seed: int = 0) -> Iterator[bytes]:
    """`count` variants of a JSON file, each damaged once or twice."""
    generator = np.random.default_rng(seed)
    record = json.loads(content)
    for _ in range(count):
        if generator.random() < 0.2:
            yield _damaged_bytes(content, generator)
            continue
        damaged = copy.deepcopy(record)
        for _ in range(int(generator.integers(1, 3))):
            damaged = _damaged_value(damaged, generator)
        yield json.dumps(damaged).encode()


def _damaged_bytes(content: bytes, generator: np.random.Generator) -> bytes:
    position = int(generator.integers(len(content)))
    kind = int(generator.integers(6))
    if kind == 0:
        return content[:position]
    if kind == 1:
        return content[:position] + bytes(generator.integers(0, 256, 3).astype(np.uint8)) + content[position + 1 :]
    if kind == 2:
        return b"[" * 100_000 + content
    if kind == 3:
        return content.decode().encode("utf-16")
    if kind == 4:
        return content[:position] + content[position + 1 :]
    return content[:position] + content[position // 2 : position] + content[position:]


def _damaged_value(record: Any, generator: np.random.Generator) -> Any:
    """A copy with one value exchanged, removed, added or moved, at any depth."""
    places = list(_places(record))
    if not places:
        return _VALUES[int(generator.integers(len(_VALUES)))]
    holder, key = places[int(generator.integers(len(places)))]
    kind = int(generator.integers(5))
    if kind == 0:
        del holder[key]
    elif kind == 1 and isinstance(holder, dict):
        holder[f"{key}_"] = holder.pop(key)
    elif kind == 2:
        other, name = places[int(generator.integers(len(places)))]
        holder[key] = copy.deepcopy(other[name]) if _has(other, name) else None
    else:
        holder[key] = copy.deepcopy(_VALUES[int(generator.integers(len(_VALUES)))])
    return record


def _has(holder: Any, key: Any) -> bool:
    return key in holder if isinstance(holder, dict) else key < len(holder)


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    items = (
        list(value.items()) if isinstance(value, dict) else list(enumerate(value)) if isinstance(value, list) else []
    )
    for key, item in items:
        yield value, key
        yield from _places(item)

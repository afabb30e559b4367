"""Seeded damage to JSON, CSV and binary files."""

from __future__ import annotations

import json
import random
from typing import Any

VALUES = [
    "null", "true", "-1", "0", "1", "1e400", "-1e400", "NaN", "1e308", "-1e308", "1e-320", "1" + 400 * "0", "2.5", '""', '"x"',
    '"\\u0000"', '"\\ud800"', "[]", "{}", "[1]", '[[["x"]]]', '{"a": 1}', 60 * "[" + 60 * "]", 3000 * "[" + 3000 * "]",
    '{"a":' * 400 + "1" + "}" * 400, '"' + 2000 * "a" + '"',
]  # fmt: skip
BYTES = [
    b"",
    b"\x00",
    b"\xff\xfe",
    b'"',
    b",",
    b"\n",
    b"\r",
    b"{",
    b"[",
    b"-",
    b"e999",
    b"nan",
    b"9" * 400,
    b"\xef\xbb\xbf",
]
_MARK = "\u0001mutated\u0001"


def mutated_json(record: Any, generator: random.Random) -> bytes:
    """One to three values replaced, removed, renamed or doubled, or damage to the text."""
    if generator.random() < 0.15:
        return mutated_bytes(json.dumps(record).encode(), generator)
    record = json.loads(json.dumps(record))
    replacements = []
    for _ in range(generator.choice((1, 1, 1, 2, 3))):
        places = [place for place in _places(record, generator)]
        if not places:
            break
        parent, key = generator.choice(places)
        how = generator.random()
        if how < 0.7:
            parent[key] = _MARK
            replacements.append(generator.choice(VALUES))
        elif how < 0.8 or (how < 0.9 and isinstance(parent, list)):
            del parent[key]
        elif isinstance(parent, dict):
            parent[generator.choice(("schema", "seen", key + "x", "networks"))] = parent.pop(key)
        else:
            parent.insert(key, parent[key])
    text = json.dumps(record)
    for replacement in replacements:
        text = text.replace(json.dumps(_MARK), replacement, 1)
    return text.encode()


def mutated_bytes(content: bytes, generator: random.Random) -> bytes:
    """Cut short, with bytes overwritten, or with something inserted."""
    place = generator.randrange(len(content) + 1)
    how = generator.random()
    if how < 0.2:
        return content[:place]
    if how < 0.5:
        return content[:place] + bytes(generator.randrange(256) for _ in range(3)) + content[place + 3 :]
    return content[:place] + generator.choice(BYTES) + content[place + generator.randrange(4) :]


def _places(value: Any, generator: random.Random) -> list[tuple[Any, Any]]:
    """(container, key) of values at any depth; of long lists only a few."""
    if isinstance(value, dict):
        keys: list[Any] = list(value)
    elif isinstance(value, list):
        keys = list(range(len(value))) if len(value) < 5 else generator.sample(range(len(value)), 3)
    else:
        return []
    found = [(value, key) for key in keys]
    for key in keys:
        found += _places(value[key], generator)
    return found

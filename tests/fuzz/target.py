"""What a target of the campaign is, and the usual ways to damage and to read a content."""

from __future__ import annotations

import json
import random
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightnas_edge.records.base import Record
from tests.mutations import mutated_bytes, mutated_json


@dataclass(frozen=True)
class Target:
    """A reader.

    Args:
        damaged: a content, from a generator of random numbers.
        read: reads it and uses what was read; raises an error of FAMILY where it is refused.
        share: of all inputs, relative to other targets: slow readers get fewer.
    """

    name: str
    damaged: Callable[[random.Random], bytes]
    read: Callable[[bytes], None]
    share: int = 10


def of_record(record: type[Record]) -> Callable[[bytes], None]:
    """What is read can be written."""

    def read(content: bytes) -> None:
        json.dumps(record.parse(content, "sample").to_json(), allow_nan=False)

    return read


def from_file(path: Path, use: Callable[[Path], Any]) -> Callable[[bytes], None]:
    """Write the content, then read it as a user's file."""
    path.parent.mkdir(parents=True, exist_ok=True)

    def read(content: bytes) -> None:
        path.write_bytes(content)
        use(path)

    return read


def damaged_json(record: Any) -> Callable[[random.Random], bytes]:
    return lambda generator: mutated_json(record, generator)


def damaged_one_of(contents: Sequence[bytes]) -> Callable[[random.Random], bytes]:
    return lambda generator: mutated_bytes(generator.choice(contents), generator)


def damaged_lines(lines: Sequence[bytes], *, seal: bool = False) -> Callable[[random.Random], bytes]:
    """One record a line: a damaged line, or damage to the text. `seal`: the damaged line gets a checksum that fits."""

    def damaged(generator: random.Random) -> bytes:
        if generator.random() < 0.2:
            return mutated_bytes(b"\n".join([*lines, b""]), generator)
        place = generator.choice((0, generator.randrange(len(lines))))
        record = {key: value for key, value in json.loads(lines[place]).items() if key != "crc32"}
        line = mutated_json(record, generator)
        if seal and line.endswith(b"}"):
            line = line[:-1] + b',"crc32":"%08x"}' % zlib.crc32(line)
        return b"\n".join([*lines[:place], line, *lines[place + 1 :], b""])

    return damaged

"""Two copies of one journal, on the board and on this side: bringing this side's up to date, and mending a damaged one.

Usually this side's copy is the beginning of the board's file, and only what follows is fetched. Where a disk, a power cut
or an editor has damaged one of them, the checksum of each line shows which copy of it is intact: every line that is intact on
either side stays. What is damaged on both sides is measured again.
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

from devices.connection import Connection
from devices.errors import BoardUnreachableError, ContradictionError, TableWriteError
from lightnas_edge.files import sha256_of_start
from lightnas_edge.records.journal import read_lines
from lightnas_edge.records.plain_text import clean_text

LARGEST_JOURNAL = 1 << 30
_PART_BYTES = 8 << 20  # fetched at a time: a journal may be larger than the memory
_HINT = "measure again with --fresh, or move the file away and fetch the board's with `lightnas-edge pull`"

_log = logging.getLogger(__name__)


class Merged(NamedTuple):
    """Numbers of lines, (on this side, on the board)."""

    alone: tuple[int, int]  # intact on one side, and on the other missing or damaged
    damaged: tuple[int, int]


def whole_bytes(path: Path) -> int:
    """Bytes of a file up to its last line end; 0 where it is missing."""
    try:
        with path.open("rb") as file:
            end = file.seek(0, os.SEEK_END)
            while end > 0:
                start = max(0, end - (64 << 10))
                file.seek(start)
                at = file.read(end - start).rfind(b"\n")
                if at >= 0:
                    return start + at + 1
                end = start
    except FileNotFoundError:
        pass
    return 0


def is_start_of(path: Path, length: int, connection: Connection, remote: str) -> bool:
    """Whether the first bytes of a file are those of the board's file. Compared by SHA-256: the link may be slow."""
    if length == 0:
        return True
    if not connection.exists(remote) or connection.size(remote) < length:
        return False
    return connection.sha256(remote, length) == sha256_of_start(path, length)


def drop_torn_line(path: Path, length: int) -> None:
    """Cut off what follows the last line end: a line that was cut off when it was written.

    Raises:
        TableWriteError: the copy cannot be written.
    """
    if path.exists() and path.stat().st_size > length:
        with _written(path):
            os.truncate(path, length)


def append_new(connection: Connection, remote: str, offset: int, path: Path) -> int:
    """Append the board's whole lines from an offset on; the number of bytes.

    Raises:
        TableWriteError: the copy cannot be written.
    """
    added = 0
    while True:
        part = connection.read_part(remote, offset + added, _PART_BYTES)
        new = part if len(part) == _PART_BYTES and b"\n" not in part else part[: part.rfind(b"\n") + 1]
        if new:
            with _written(path), path.open("ab") as file:
                file.write(new)
        added += len(new)
        if len(part) < _PART_BYTES:
            return added


def mend(connection: Connection, remote: str, path: Path, *, send: bool) -> int:
    """Merge the two copies; how many bytes of the board's file the copy on this side now stands for.

    Args:
        send: the board's file is replaced too. Not while an agent appends to it.

    Raises:
        ContradictionError: intact lines of the two contradict each other; both files are unchanged.
        TableWriteError: the copy on this side cannot be written.
    """
    with _written(path), tempfile.TemporaryDirectory(prefix=".journal-", dir=path.parent) as scratch:
        theirs, merged = Path(scratch) / "theirs", Path(scratch) / "merged"
        theirs.touch()
        if connection.exists(remote):
            if connection.size(remote) > LARGEST_JOURNAL:
                raise BoardUnreachableError(
                    f"{remote} on {connection.name} is longer than the limit of {LARGEST_JOURNAL} bytes"
                )
            append_new(connection, remote, 0, theirs)
        length = theirs.stat().st_size
        names = str(path), f"the board's journal of this job ({connection.name}:{remote})"
        with merged.open("wb") as file:
            found = merge((path, theirs), names, file)
        differs_there = _differ(merged, theirs)
        if _differ(merged, path):
            os.replace(merged, path)
        if send and differs_there:
            connection.put(path, remote)
        _log.warning(
            "%s has %d damaged lines, %s %d. All intact lines are kept, %d from this side alone and %d from the board alone; "
            "what is intact on neither side is measured again",
            names[0], found.damaged[0], names[1], found.damaged[1], *found.alone,
        )  # fmt: skip
        return length


def merge(copies: tuple[Path, Path], names: tuple[str, str], out: BinaryIO) -> Merged:
    """Write every line that is intact in either of two journals, once, in their order.

    Memory: some 150 bytes for each line, whatever it holds.

    Raises:
        ContradictionError: two intact lines stand for the same measurement and differ, or nothing relates the two files.
    """
    sides = _Side(copies[0], names[0]), _Side(copies[1], names[1])
    common = sides[0].hashes & sides[1].hashes
    header = _common_header(sides, bool(common))
    out.write(header.content + b"\n")  # first, whatever else was damaged
    for hashes in (common, sides[0].hashes, sides[1].hashes):
        hashes.discard(header.hash)
    places: dict[str, tuple[int, int]] = {}  # of the lines that one side alone holds
    alone = [0, 0]
    one, two = (side.lines() for side in sides)
    current = [next(one, None), next(two, None)]
    walks = (one, two)
    while current[0] is not None or current[1] is not None:
        waiting = [line is not None and line.hash in common for line in current]
        if waiting[0] and waiting[1]:  # usually the same line; where the order differs, this side's counts
            at = 0
        else:
            free = [at for at in (0, 1) if current[at] is not None and not waiting[at]]
            at = min(free, key=lambda each: current[each].number) if free else int(current[0] is None)  # type: ignore[union-attr]
        line = current[at]
        assert line is not None
        if waiting[at]:
            common.discard(line.hash)  # the other side's copy of it is passed over
            sides[0].hashes.discard(line.hash)
            sides[1].hashes.discard(line.hash)
            out.write(line.content + b"\n")
        elif line.hash in sides[at].hashes:
            sides[at].hashes.discard(line.hash)
            _refuse_contradiction(places, line, at, copies, names)
            alone[at] += 1
            out.write(line.content + b"\n")
        current[at] = next(walks[at], None)
    out.flush()
    return Merged((alone[0], alone[1]), (sides[0].damaged, sides[1].damaged))


class _Numbered(NamedTuple):
    number: int
    hash: int
    content: bytes


class _Side:
    """One copy: read once to know its intact lines, and once more to write them."""

    def __init__(self, path: Path, name: str) -> None:
        self.path = path
        self.name = name
        self.damaged = 0
        self.header: _Numbered | None = None
        self.hashes: set[int] = set()
        for line in self.lines():
            self.hashes.add(line.hash)
            if self.header is None and line.content.startswith(b'{"kind":"lut"'):
                self.header = line

    def lines(self) -> Iterator[_Numbered]:
        self.damaged = 0
        for number, line in enumerate(read_lines(self.path), start=1):
            if line.is_intact:
                yield _Numbered(number, hash(line.content), line.content)
            elif line.content and line.ended:  # a torn last line is being written, or was when the power went
                self.damaged += 1


def _common_header(sides: tuple[_Side, _Side], related: bool) -> _Numbered:
    """Raises ContradictionError unless one header stands for both sides."""
    here, there = sides
    if here.header is not None and there.header is not None:
        if here.header.content != there.header.content:
            raise ContradictionError(
                f"{here.name} and {there.name} contain different measurements: line {here.header.number} of the one and "
                f"line {there.header.number} of the other are intact headers, and they differ",
                hint=_HINT,
            )
        return here.header
    header = here.header or there.header
    if header is None:
        raise ContradictionError(
            f"{here.name} and {there.name} contain different measurements or none: both lack an intact first line, the "
            "header",
            hint=_HINT,
        )
    without, other = (here, there) if here.header is None else (there, here)
    is_empty = not without.hashes and (without is there or without.path.stat().st_size == 0)
    if not related and not is_empty:
        raise ContradictionError(
            f"{here.name} and {there.name} contain different measurements: {without.name} has no intact first line, the "
            f"header, and shares no intact line with {other.name}",
            hint=_HINT,
        )
    return header


def _refuse_contradiction(
    places: dict[str, tuple[int, int]], line: _Numbered, at: int, copies: tuple[Path, Path], names: tuple[str, str]
) -> None:
    """A visit that both sides hold, intact and different."""
    place = _place(line.content)
    if place is None:
        return
    side, number = places.setdefault(place, (at, line.number))
    if side != at:
        numbers = {side: number, at: line.number}
        raise ContradictionError(
            f"{names[0]} line {numbers[0]} and {names[1]} line {numbers[1]} are intact and differ, and both stand for "
            f"{clean_text(place, 200)}",
            hint=_HINT,
        )


def _place(content: bytes) -> str | None:
    """What a line was measured for; None where it is not a visit."""
    try:
        record = json.loads(content)
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict) or record.get("kind") != "visit":
        return None
    parts = [record.get(name, otherwise) for name, otherwise in (("key", ""), ("session", ""), ("round", 0))]
    return f"{parts[0]!s:.200} in round {parts[2]!s:.20} of session {parts[1]!s:.64}, phase {record.get('phase', 'rounds')!s:.20}"


def _differ(one: Path, two: Path) -> bool:
    if not two.exists() or one.stat().st_size != two.stat().st_size:
        return True
    return sha256_of_start(one, None) != sha256_of_start(two, None)


@contextmanager
def _written(path: Path) -> Iterator[None]:
    """Raises TableWriteError where something on this side cannot be written."""
    try:
        yield
    except OSError as err:
        raise TableWriteError(
            f"cannot write {path}: {err.strerror or err}",
            hint="the board keeps what was measured; make room there, and run the same command again",
        ) from err

"""The journal: one JSON line per visit, each with a checksum, only ever appended to. It is the look-up table.

A line that was cut off by a crash is the last one and is removed on opening. A damaged line in the middle is reported
and otherwise passed over, so that what it held is measured again; the file keeps it, because copies of the file are
compared byte by byte.
"""

import errno
import json
import os
import time
import zlib
from typing import Any, Dict, List, NamedTuple, Optional

from profiler.errors import DiskFullError, JournalError

SCHEMA = 1
SYNC_INTERVAL_S = 1.0  # a power cut costs at most what was measured in this time; a crash of the agent costs nothing
_CRC_FIELD = b',"crc32":"'
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

Record = Dict[str, Any]


class Contents(NamedTuple):
    """What a journal holds. `end` is the offset in bytes just after the last whole line."""

    header: Optional[Record]
    visits: List[Record]
    faults: List[str]
    end: int


def encode(record: Record) -> bytes:
    """The line of a record, newline included; NaN and infinity are refused with ValueError."""
    body = json.dumps(record, separators=(",", ":"), allow_nan=False).encode("ascii")
    return body[:-1] + _CRC_FIELD + "{:08x}".format(zlib.crc32(body) & 0xFFFFFFFF).encode("ascii") + b'"}\n'


def decode(line: bytes) -> Record:
    """The record of a line.

    Raises:
        ValueError: the line is damaged; the text says how.
    """
    at = line.rfind(_CRC_FIELD)
    if at < 0:
        raise ValueError("no checksum")
    try:
        record = json.loads(line.decode("ascii"))
        stated = int(record["crc32"], 16)
    except (ValueError, KeyError, TypeError):
        raise ValueError("not a record")
    if zlib.crc32(line[:at] + b"}") & 0xFFFFFFFF != stated:
        raise ValueError("checksum differs")
    return record


def read(path: str) -> Contents:
    """Everything readable in a journal; a missing or empty file has no header.

    Raises:
        JournalError: the first line is damaged or of a newer schema.
    """
    try:
        with open(path, "rb") as file:
            content = file.read()
    except FileNotFoundError:
        content = b""
    end = content.rfind(b"\n") + 1
    lines = content[:end].split(b"\n")[:-1]
    faults = []
    if len(content) > end:
        faults.append("line {}: cut off after {} bytes; removed".format(len(lines) + 1, len(content) - end))
    if not lines:
        return Contents(None, [], faults, end)
    remedy = "start afresh (--fresh), or put an undamaged copy of the table in its place"
    try:
        header = decode(lines[0])
    except ValueError as err:
        raise JournalError("the first line of {} is damaged: {}".format(path, err), remedy)
    if header.get("kind") != "lut" or not isinstance(header.get("schema"), int):
        raise JournalError("{} is not a look-up table: kind {!r}".format(path, header.get("kind")), remedy)
    if header["schema"] > SCHEMA:
        raise JournalError(
            "{} has schema {}; this agent knows up to {}".format(path, header["schema"], SCHEMA),
            "use the version of lightnas-edge that wrote it, or a newer one",
        )
    visits = []
    for number, line in enumerate(lines[1:], start=2):
        try:
            visits.append(decode(line))
        except ValueError as err:
            faults.append("line {}: {}; measured again".format(number, err))
    return Contents(header, visits, faults, end)


def differences(there: Record, here: Record) -> List[str]:
    """The fields in which two fingerprints differ, as text."""
    return [
        "{} ({!r} there, {!r} now)".format(field, there.get(field), here.get(field))
        for field in sorted(set(there) | set(here))
        if there.get(field) != here.get(field)
    ]


class Journal:
    """A journal open for appending. Each line reaches the system at once, and the disk within SYNC_INTERVAL_S."""

    def __init__(self, path: str, end: int) -> None:
        """Open, and cut off what lies after `end`: the offset that `read` found."""
        self._path = path
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        self._end = end
        os.ftruncate(self._file, end)
        self._synced = time.monotonic()

    def append(self, record: Record) -> None:
        """Write one line, whole or not at all.

        Raises:
            DiskFullError: there was no room; the journal ends with the line before.
        """
        line = encode(record)
        written = 0
        try:
            while written < len(line):
                written += os.pwrite(self._file, line[written:], self._end + written)
        except OSError as err:
            os.ftruncate(self._file, self._end)
            raise self._explain(err)
        self._end += len(line)
        if time.monotonic() - self._synced > SYNC_INTERVAL_S:
            self.sync()

    def sync(self) -> None:
        """Have everything on the disk itself before this returns."""
        try:
            os.fsync(self._file)
        except OSError as err:
            raise self._explain(err)
        self._synced = time.monotonic()

    def close(self) -> None:
        try:
            self.sync()
        finally:
            os.close(self._file)

    def _explain(self, err: OSError) -> Exception:
        if err.errno not in _FULL:
            return err
        return DiskFullError(
            "no room left to write {} ({})".format(self._path, err.strerror),
            "free some space on the board and run again; everything measured so far is kept",
        )

"""The journal: one JSON line per visit, each with a checksum, only ever appended to. It is the look-up table.

A line that a crash cut off is the last one and is removed on opening. A damaged line in the middle is reported and
skipped, so that its visit is measured again; the file keeps it, because copies of the file are compared byte by byte.
"""

import array
import json
import os
import sys
import time
import zlib
from typing import BinaryIO, Iterator, List, NamedTuple, Optional, Sequence

from profiler.errors import FULL, DiskFullError, JournalError
from profiler.fields import Fields, JsonObject, RecordError, parse, read_record, shown

SCHEMA = 1
ROUNDS, SUSTAINED = "rounds", "sustained"  # phases of a visit
SYNC_INTERVAL_S = 1.0  # a power cut costs at most what was measured in this time; a crash of the agent costs nothing
LONGEST_LINE = 4 << 20  # of a visit they are a few thousand bytes long
MOST_FAULTS = 1000  # that are kept apart
_CRC_FIELD = b',"crc32":"'
_SUBJECTS = ("operator", "architecture", "model_file")


class Origin(NamedTuple):
    """The conditions of a journal's measurements, from its header."""

    fingerprint: JsonObject
    space_sha256: Optional[str]

    @classmethod
    def read(cls, fields: Fields) -> "Origin":
        return cls(fields.table("fingerprint"), fields.optional_text("space_sha256"))


class PastVisit(NamedTuple):
    """A visit in the journal, as far as it decides what is left to measure."""

    key: str
    round: int
    samples_ms: Sequence[float]  # empty when it failed
    failed: bool
    has_energy: bool
    phase: str = ROUNDS

    @classmethod
    def read(cls, fields: Fields) -> "PastVisit":
        failed = not fields.is_null("error")
        energy = fields.optional_child("energy")
        visit = cls(
            key=sys.intern(fields.text("key")),
            round=fields.whole("round"),
            samples_ms=array.array("d", fields.numbers("samples_ms", 0 if failed else 1)),  # a fifth of a list's memory
            failed=failed,
            has_energy=energy is not None and not energy.is_null("gross_mj"),
            phase=fields.choice("phase", (ROUNDS, SUSTAINED)) if fields.has("phase") else ROUNDS,
        )
        fields.choice("kind", ("visit",))
        subjects = [name for name in _SUBJECTS if not fields.is_null(name)]
        if len(subjects) == 1:
            fields.table(subjects[0])
        else:
            fields.fault("operator", "expected it, or one of architecture and model_file")
        return visit


class Contents(NamedTuple):
    """What a journal contains. `end` is the offset in bytes just after the last whole line."""

    origin: Optional[Origin]  # None: the journal is empty
    visits: List[PastVisit]
    faults: List[str]
    end: int
    lacks_newline: bool = False  # the last line is whole, and its line end is missing


def encode(record: JsonObject) -> bytes:
    """The line of a record, newline included; NaN and infinity are refused with ValueError."""
    body = json.dumps(record, separators=(",", ":"), allow_nan=False).encode("ascii")
    return body[:-1] + _CRC_FIELD + "{:08x}".format(zlib.crc32(body) & 0xFFFFFFFF).encode("ascii") + b'"}\n'


def decode(line: bytes) -> JsonObject:
    """The record of a line.

    Raises:
        RecordError: the line is damaged; the text says how.
    """
    at = line.rfind(_CRC_FIELD)
    if at < 0:
        raise RecordError(["no checksum"])
    if line[at:] != _CRC_FIELD + "{:08x}".format(zlib.crc32(line[:at] + b"}") & 0xFFFFFFFF).encode("ascii") + b'"}':
        raise RecordError(["checksum differs"])
    record = parse(line)
    if not isinstance(record, dict):
        raise RecordError(["not a record"])
    return record


def read(path: str) -> Contents:
    """Everything readable in a journal; a missing or empty file has no origin.

    Raises:
        JournalError: the file cannot be read, or its first line is damaged or of a newer schema.
    """
    origin: Optional[Origin] = None
    visits: List[PastVisit] = []
    faults: List[str] = []
    number = end = unshown = 0
    lacks_newline = False
    try:
        with open(path, "rb") as file:
            for line in _lines(file):
                number += 1
                fault = ""
                if not line.is_whole and number > 1 and _is_intact(line.content):
                    lacks_newline, end = True, end + line.size
                    line = line._replace(is_whole=True, size=0)
                if not line.is_whole:
                    fault = "cut off after {} bytes; removed".format(line.size)
                elif number == 1:
                    origin = _read_header(path, line.content)
                else:
                    try:
                        visits.append(read_record(decode(line.content), PastVisit.read))
                    except RecordError as err:
                        fault = "{}; measured again".format(err)
                if line.is_whole:
                    end += line.size
                if fault and len(faults) < MOST_FAULTS:
                    faults.append("line {}: {}".format(number, fault))
                elif fault:
                    unshown += 1
    except FileNotFoundError:
        pass
    except OSError as err:
        raise JournalError("cannot read {}: {}".format(path, err.strerror), "check the job directory on the board")
    if unshown:
        faults.append("{} further lines are damaged".format(unshown))
    return Contents(origin, visits, faults, end, lacks_newline)


def _is_intact(line: bytes) -> bool:
    try:
        decode(line)
        return True
    except RecordError:
        return False


class _Line(NamedTuple):
    content: bytes  # without the newline; cut off where the line is longer than LONGEST_LINE
    size: int  # of all of it, with the newline
    is_whole: bool  # it has a newline


def _lines(file: BinaryIO) -> Iterator[_Line]:
    """The lines of a file, one at a time: a journal may be much larger than the board's memory."""
    while True:
        content = file.readline(LONGEST_LINE)
        if not content:
            return
        size, last = len(content), content
        while not last.endswith(b"\n") and last:
            last = file.readline(LONGEST_LINE)
            size += len(last)
        # A file system that lost power, or a file that was cut while it was written, may have zeros before a line.
        yield _Line(content.rstrip(b"\n").lstrip(b"\0"), size, last.endswith(b"\n"))


def _read_header(path: str, line: bytes) -> Origin:
    remedy = "start over (--fresh), or put an undamaged copy of the table in its place"
    try:
        header = decode(line)
        schema = header.get("schema")
        if header.get("kind") != "lut" or type(schema) is not int:
            raise JournalError(
                "{} is not a look-up table: kind {}, schema {}".format(path, shown(header.get("kind")), shown(schema)),
                remedy,
            )
        if schema > SCHEMA:
            raise JournalError(
                "{} has schema {}; this agent reads up to {}".format(path, schema, SCHEMA),
                "use the version of lightnas-edge that wrote it, or a newer one",
            )
        return read_record(header, Origin.read)
    except RecordError as err:
        raise JournalError("the first line of {} is damaged: {}".format(path, err), remedy)


def differences(recorded: JsonObject, present: JsonObject) -> List[str]:
    """The fields in which two fingerprints differ, as text."""
    return [
        "{} (journal: {}, now: {})".format(field, shown(recorded.get(field)), shown(present.get(field)))
        for field in sorted(set(recorded) | set(present))
        if recorded.get(field) != present.get(field)
    ]


class Journal:
    """A journal open for appending. Each line reaches the system at once, and the disk within SYNC_INTERVAL_S."""

    def __init__(self, path: str, end: int, lacks_newline: bool = False) -> None:
        """Open, and cut off everything after `end`: as `read` returned them."""
        self._path = path
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        self._end = end
        os.ftruncate(self._file, end)
        if lacks_newline:
            self._end += os.pwrite(self._file, b"\n", end)
        self._synced = time.monotonic()

    def append(self, record: JsonObject) -> None:
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
        """Returns when everything is on the disk itself."""
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
        if err.errno not in FULL:
            return err
        return DiskFullError(
            "no room left to write {} ({})".format(self._path, err.strerror),
            "free some space on the board and run again; everything measured so far is kept",
        )

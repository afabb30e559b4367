"""Reading a journal: checksums, the header, the visits, and the faults of each line.

The form is in docs/formats.md. A damaged line is skipped and reported; without its header a file is refused.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from pydantic import ValidationError

from lightnas_edge.errors import FingerprintError
from lightnas_edge.records.base import describe, parse_json
from lightnas_edge.records.differences import UNIT, fingerprint_differences
from lightnas_edge.records.journal import CHECKSUM_BYTES, JournalLine, checksum, may_be_header, read_lines
from lightnas_edge.records.lut import LutHeader, Visit
from lightnas_edge.records.plain_text import clean_text
from luts.errors import LutFormatError, networks_of_several_spaces
from luts.remedies import measuring_options, table_options
from luts.visits import VisitReader, Visits

MAX_BYTES = 1 << 30  # two years of measuring; also the limit of what is fetched from a board
MAX_FAULTS = 1000  # that are kept apart
MOST_ROUNDS = 1000  # of one campaign
MAX_GROUPS = 1024  # rounds of all sessions: their drifts are solved for together, in 1.5 s then and 70 s at 4096
MAX_CELLS = 1 << 24  # keys times groups: the drift estimate keeps matrices of this size in memory
_AGAIN = "the next run measures it again"


@dataclass(frozen=True)
class Fault:
    """A line that could not be used. `line` counts from 1."""

    line: int
    what: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.what}"


class Journal(NamedTuple):
    """What a journal holds.

    `reference`: the sessions that follow its first header; none where it holds several units, of which none is special.
    `units`: of each session, as its header names it.
    """

    header: LutHeader
    visits: Visits
    faults: tuple[Fault, ...]
    reference: frozenset[str]
    units: dict[str, str | None]


def read_journal(path: Path, *, host: str | None = None) -> Journal:
    """Read a journal. Line ends may have become CR LF, and a byte order mark may stand before the first line.

    Args:
        host: of the board, where the caller knows it: remedies name it.

    Raises:
        LutFormatError: no file, an empty one, no valid header, a newer schema, other units, or too many sessions.
        FingerprintError: a second header of another fingerprint.
    """
    reader = _Reader(path, host)
    for line in _lines(path):
        reader.take(line)
    return reader.journal()


class GrowingJournal:
    """A journal that is appended to while it is used: each reading takes the lines that are new; one that was replaced is read from its beginning."""

    def __init__(self, path: Path, *, host: str | None = None) -> None:
        self._path, self._host = path, host
        self._reader = _Reader(path, host)
        self._file = _identity(path)
        self._end = 0
        self._last: JournalLine | None = None  # that is not empty
        self._found: Journal | None = None

    def read(self) -> Journal:
        """As `read_journal`, except that a last line without an end waits for it. The same object where nothing is new."""
        if not self._continues():
            self._forget()
        for line in _lines(self._path, self._end):
            if not line.ended:
                break
            self._reader.take(line)
            self._end, self._found = line.end, None
            if line.content:
                self._last = line
        if self._found is None:
            self._found = self._reader.journal()
        return self._found

    def _forget(self) -> None:
        self._reader, self._file = _Reader(self._path, self._host), _identity(self._path)
        self._end, self._last, self._found = 0, None, None

    def _continues(self) -> bool:
        """Whether the file still begins with what was read. What had faults may have been mended."""
        if self._last is None or self._reader.has_faults or _identity(self._path) != self._file:
            return False
        try:
            with self._path.open("rb") as file:
                file.seek(max(0, self._last.end - len(self._last.content) - 2))  # CR LF
                return self._last.content in file.read(self._last.end - file.tell())
        except OSError:
            return False


def _identity(path: Path) -> tuple[int, int] | None:
    """Of the file, whatever it holds; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _lines(path: Path, start: int = 0) -> Iterator[JournalLine]:
    """Raises LutFormatError where the file is missing, unreadable or too large."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise LutFormatError(f"{path} is larger than {MAX_BYTES // 2**20} MiB")
        yield from read_lines(path, start)
    except LutFormatError:
        raise
    except FileNotFoundError as cause:
        raise LutFormatError(f"{path} does not exist") from cause
    except (OSError, ValueError) as cause:  # ValueError: a name with a null byte
        raise LutFormatError(f"cannot read {path}: {getattr(cause, 'strerror', None) or cause}") from cause


class _Reader:
    """Takes one line after the other."""

    def __init__(self, path: Path, host: str | None) -> None:
        self._path = path
        self._host = host
        self._header: LutHeader | None = None
        self._visits = VisitReader(path.stat().st_size if path.exists() else 0)
        self._faults: list[Fault] = []
        self._unshown = 0
        self._number = 0  # of the last line
        self._headers = 0
        self._reference: set[str] = set()
        self._unit: str | None = None  # of the last header
        self._space: str | None = None  # likewise, its hash
        self._network_spaces: set[str | None] = set()
        self._without_header = False  # the last one is damaged
        self._units: dict[str, str | None] = {}

    @property
    def has_faults(self) -> bool:
        return bool(self._faults)

    def take(self, found: JournalLine) -> None:
        self._number += 1
        if found.content:
            self._take(self._number, found.content, torn=not found.ended)

    def _take(self, number: int, line: bytes, *, torn: bool) -> None:
        damage = _damage(line, torn=torn)
        if self._header is None:
            if damage:
                raise LutFormatError(
                    f"{self._path} line {number}: the header cannot be read: {damage.split(';')[0]}",
                    hint='a table starts with a line of kind "lut" (docs/formats.md); without it the numbers have no board: '
                    f"restore the file from a copy, fetch the board's own with `lightnas-edge pull --host "
                    f"{shlex.quote(self._host or 'HOST')}`, or measure again with "
                    f"`profile-device {measuring_options(self._host, None)} --fresh`",
                )
            self._take_header(number, line)
            return
        if damage and may_be_header(line):
            self._without_header = True
            damage = (
                damage.removesuffix(f"; {_AGAIN}") + "; it was a header: what follows, up to the next one, is left out"
            )
        if damage:
            self._note(Fault(number, damage))
            return
        record = line[:-CHECKSUM_BYTES] + b"}"
        try:
            visit = Visit.model_validate_json(record)
        except ValidationError as found:
            self._take_other(number, line, found)
            return
        if self._without_header:
            return
        self._visits.append(number, visit)
        if visit.architecture is not None:
            self._network_spaces.add(self._space)
        self._units.setdefault(visit.session, self._unit)
        if self._headers == 1:
            self._reference.add(visit.session)

    def _note(self, fault: Fault) -> None:
        if len(self._faults) < MAX_FAULTS:
            self._faults.append(fault)
        else:
            self._unshown += 1

    def journal(self) -> Journal:
        """May be called again after further lines."""
        if self._header is None:
            raise LutFormatError(
                f"{self._path} is empty: it holds no header and no measurement",
                hint=f"nothing was measured; run `profile-device {measuring_options(self._host, None)}` again",
            )
        if len(self._network_spaces) > 1:
            raise networks_of_several_spaces(str(self._path))
        visits, again = self._visits.finish()
        twice = [
            Fault(
                line, f"{visit.key} appears twice in round {visit.round} of session {visit.session}; the first is used"
            )
            for line, visit in again
        ]
        unshown = self._unshown + max(0, len(self._faults) + len(twice) - MAX_FAULTS)
        faults = sorted([*self._faults, *twice[: max(0, MAX_FAULTS - len(self._faults))]], key=lambda fault: fault.line)
        if unshown:
            faults.append(Fault(faults[-1].line, f"{unshown} further lines are damaged"))
        compared = visits.select(~visits.is_sustained)
        groups, keys = len(np.unique(compared.groups)), len(np.unique(compared.keys))
        if groups > MAX_GROUPS or groups * keys > MAX_CELLS:
            raise LutFormatError(
                f"{self._path} is too large to compare its rounds: {keys} keys in {groups} rounds of all sessions",
                hint="split the file into one table per space and session; further measurements go to a new file with `--out`",
            )
        several = len(set(self._units.values())) > 1
        reference = frozenset() if several else frozenset(self._reference)
        return Journal(self._header, visits, tuple(faults), reference, dict(self._units))

    def _measuring_options(self) -> str:
        if self._header is None:
            return measuring_options(self._host, None)
        return table_options(self._host, self._header)

    def _take_header(self, number: int, line: bytes) -> None:
        header = LutHeader.parse(
            line[:-CHECKSUM_BYTES] + b"}",
            f"{self._path} line {number}",
            error=LutFormatError,
            remedy="docs/formats.md describes the header; tables are written by "
            f"`profile-device {self._measuring_options()}` in ms and mJ, and end in .lut.jsonl or "
            "journal.jsonl",
        )
        if self._header is None:
            self._header = header
        else:
            differing = fingerprint_differences(self._header.fingerprint, header.fingerprint)
            if differing:
                raise FingerprintError(
                    f"{self._path} line {number} starts measurements of another board or state than line 1: "
                    + "; ".join(differing),
                    hint="they do not mix: split the file at that line, one table per fingerprint",
                )
        self._headers += 1
        self._without_header = False
        self._space = header.space_sha256
        unit = header.fingerprint.get(UNIT)
        self._unit = unit if isinstance(unit, str) else None

    def _take_other(self, number: int, line: bytes, found: ValidationError) -> None:
        """A line that is not a visit: a further header, or a fault."""
        try:
            record = parse_json(line, "line", error=LutFormatError)
        except LutFormatError as error:
            self._note(Fault(number, f"damaged: {clean_text(str(error).removeprefix('line is '))}"))
            return
        kind = record.get("kind") if isinstance(record, dict) else None
        if kind == "lut":
            self._take_header(number, line)
        elif kind != "visit":
            what = f"unknown kind {kind!r}, expected 'visit'" if isinstance(record, dict) else "expected an object"
            self._note(Fault(number, clean_text(what, 200)))
        else:
            key = record.get("key")
            where = f"{clean_text(key, 80)}: " if isinstance(key, str) and key else ""
            faults = [clean_text(fault, 200) for fault in describe(found).splitlines()[1:]]
            self._note(Fault(number, where + "; ".join(faults)))


def _damage(line: bytes, *, torn: bool) -> str:
    """What is wrong with the bytes of a line; empty when its checksum holds."""
    sums = checksum(line)
    if sums is None:
        if torn:
            return f"torn: the agent was cut off while it wrote this last line ({len(line)} bytes); {_AGAIN}"
        return f"damaged: it does not end in a checksum; {_AGAIN}"
    stated, computed = sums
    if stated != computed:
        return f"damaged: it states checksum {clean_text(stated)}, its bytes give {computed}; {_AGAIN}"
    return ""

"""The lines of a journal: checksums, the header, visits, and what is wrong with them.

The form is in docs/formats.md. A damaged line costs itself alone; a damaged header costs the file.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lightnas_edge.errors import FingerprintError
from lightnas_edge.records.differences import fingerprint_differences
from luts.errors import LutFormatError

SCHEMA = 1
UNITS = {"latency": "ms", "energy": "mJ"}
_LARGEST = 1e12  # of any number in a table; larger ones are no measurements, and overflow where they are added
_CRC_FIELD = b',"crc32":"'
_CRC_TAIL = len(_CRC_FIELD) + len('xxxxxxxx"}')


@dataclass(frozen=True)
class Fault:
    """A line that could not be used. `line` counts from 1."""

    line: int
    what: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.what}"


@dataclass(frozen=True)
class Visit:
    """One operator or network, measured once, in one round of one session of the agent."""

    key: str
    session: str
    round: int
    samples_ms: tuple[float, ...]  # every timed sample, in order; empty when `error` is set
    record: dict[str, Any]  # operator or architecture, as JSON
    is_network: bool = False
    t_s: float | None = None  # start, monotonic, within the session
    repeats: int | None = None  # inferences per sample
    warmup_ms: tuple[float, ...] = ()
    before: dict[str, Any] = field(default_factory=dict)  # state of the machine
    after: dict[str, Any] = field(default_factory=dict)
    energy: dict[str, Any] | None = None
    peak_memory_mb: float | None = None
    warnings: tuple[str, ...] = ()
    error: dict[str, Any] | None = None

    @property
    def group(self) -> tuple[str, int]:
        """Visits of one group are near each other in time and share the machine's drift."""
        return self.session, self.round


def checksum(line: bytes) -> tuple[str, str] | None:
    """(stated, computed) checksum of a line without its newline; None when it states none."""
    if len(line) < _CRC_TAIL or not line.endswith(b'"}'):
        return None
    body, tail = line[:-_CRC_TAIL], line[-_CRC_TAIL:]
    if not tail.startswith(_CRC_FIELD):
        return None
    return tail[len(_CRC_FIELD) : -2].decode("ascii", "replace").lower(), f"{zlib.crc32(body + b'}'):08x}"


def read_journal(path: Path) -> tuple[dict[str, Any], list[Visit], list[Fault], frozenset[str]]:
    """Header, visits and faults of a journal, and the sessions that stand under its first header.

    Raises:
        LutFormatError: no file, an empty one, no valid header, a newer schema, other units.
        FingerprintError: a second header of another fingerprint.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise LutFormatError(f"cannot read the table {path}: {error.strerror or error}") from error
    if not content.strip():
        raise LutFormatError(
            f"{path} is empty: it holds no header and no measurement",
            hint="nothing was measured; run `profile-device` again",
        )
    lines = content.split(b"\n")
    torn_from = len(lines) if content.endswith(b"\n") else len(lines) - 1  # index of an unfinished line
    header: dict[str, Any] | None = None
    headers = 0
    visits: dict[tuple[str, str, int], Visit] = {}
    own: set[str] = set()
    faults: list[Fault] = []
    for index, line in enumerate(lines):
        number = index + 1
        if not line.strip():
            continue
        record, what = _decode(line, torn=index == torn_from)
        if header is None:
            header = _first_header(path, number, record, what)
            headers = 1
        elif record is None:
            faults.append(Fault(number, what))
        elif record.get("kind") == "lut":
            _check_header(path, number, record)
            _check_same_fingerprint(path, number, header, record)
            headers += 1
        else:
            visit, wrong = _visit(record)
            if visit is None:
                faults.append(Fault(number, wrong))
            elif (visit.key, *visit.group) in visits:
                faults.append(
                    Fault(number, f"{visit.key} stands twice in round {visit.round} of session {visit.session}; "
                    "the first one is used")
                )  # fmt: skip
            else:
                visits[visit.key, visit.session, visit.round] = visit
                if headers == 1:
                    own.add(visit.session)
    if header is None:
        raise LutFormatError(f"{path} holds no header")
    return header, list(visits.values()), faults, frozenset(own)


def _decode(line: bytes, *, torn: bool) -> tuple[dict[str, Any] | None, str]:
    """The record of a line, or None and what is wrong with it."""
    again = "it is measured again by the next run"
    sums = checksum(line)
    if sums is None:
        if torn:
            return None, f"torn: the agent was cut off while it wrote this last line ({len(line)} bytes); {again}"
        return None, f"damaged: it does not end in a checksum; {again}"
    stated, computed = sums
    if stated != computed:
        return None, f"damaged: it states checksum {stated}, its bytes give {computed}; {again}"
    try:
        record = json.loads(line)
    except ValueError as error:
        return None, f"damaged: not JSON ({error})"
    if not isinstance(record, dict):
        return None, f"expected an object, found {type(record).__name__}"
    return record, ""


def _first_header(path: Path, number: int, record: dict[str, Any] | None, what: str) -> dict[str, Any]:
    if record is None:
        raise LutFormatError(
            f"{path} line {number}: the header cannot be read: {what.split(';')[0]}",
            hint='a table starts with a line of kind "lut" (docs/formats.md); without it nobody can say which board '
            "this was: restore the file from the agent's copy (`profile-device` fetches it again), or measure anew",
        )
    _check_header(path, number, record)
    return record


def _check_header(path: Path, number: int, record: dict[str, Any]) -> None:
    kind, schema = record.get("kind"), record.get("schema")
    if kind != "lut":
        raise LutFormatError(
            f"{path} line {number}: not a look-up table: kind is {kind!r}, expected 'lut'",
            hint="tables are written by `profile-device` and end in .lut.jsonl or journal.jsonl",
        )
    if isinstance(schema, int) and not isinstance(schema, bool) and schema > SCHEMA:
        raise LutFormatError(
            f"{path} line {number}: schema {schema} is newer than this program, which reads up to {SCHEMA}",
            hint="upgrade lightnas-edge",
        )
    wrong = []
    if not isinstance(schema, int) or isinstance(schema, bool) or schema < 1:
        wrong.append(f"schema: expected a whole number from 1 to {SCHEMA}, found {_shown(schema)}")
    units = record.get("units")
    if not isinstance(units, dict):
        wrong.append(f"units: expected {json.dumps(UNITS)}, found {_shown(units)}")
    else:
        wrong += [
            f"units.{quantity}: expected {unit!r}, found {_shown(units.get(quantity))}"
            for quantity, unit in UNITS.items()
            if units.get(quantity) != unit
        ]
    fingerprint = record.get("fingerprint")
    if not isinstance(fingerprint, dict) or not fingerprint:
        wrong.append(f"fingerprint: expected a table of fields, found {_shown(fingerprint)}")
    else:
        batch = fingerprint.get("batch")
        if batch is not None and (type(batch) is not int or batch < 1):
            wrong.append(f"fingerprint.batch: expected a whole number above zero, found {_shown(batch)}")
    sentinels = record.get("sentinels")
    if sentinels is not None and not (isinstance(sentinels, list) and all(isinstance(key, str) for key in sentinels)):
        wrong.append(f"sentinels: expected a list of keys, found {_shown(sentinels)}")
    if wrong:
        listed = "\n".join(f"  {fault}" for fault in wrong)
        raise LutFormatError(
            f"{path} line {number}: {len(wrong)} fault{'s' if len(wrong) > 1 else ''} in the header\n{listed}",
            hint="numbers of another unit are not converted by guess: write the table again in ms and mJ"
            if any(fault.startswith("units") for fault in wrong)
            else "docs/formats.md describes the header",
        )


def _check_same_fingerprint(path: Path, number: int, header: dict[str, Any], record: dict[str, Any]) -> None:
    faults = fingerprint_differences(header["fingerprint"], record["fingerprint"])
    if faults:
        raise FingerprintError(
            f"{path} line {number} starts measurements of another board or state than line 1: {'; '.join(faults)}",
            hint="they do not mix: split the file at that line, one table per fingerprint",
        )


def _visit(record: dict[str, Any]) -> tuple[Visit | None, str]:
    """The visit of a record, or None and every fault of it."""
    kind = record.get("kind")
    if kind != "visit":
        return None, f"unknown kind {kind!r}, expected 'visit'"
    wrong = []

    def expect(name: str, good: bool, expected: str) -> None:
        if not good:
            found = f"found {_shown(record[name])}" if name in record else "it is missing"
            wrong.append(f"{name}: expected {expected}, {found}")

    key, session, round_ = record.get("key"), record.get("session"), record.get("round")
    expect("key", isinstance(key, str) and key != "", "a name")
    expect("session", isinstance(session, str), "text")
    expect("round", isinstance(round_, int) and not isinstance(round_, bool), "a whole number")
    operator, architecture = record.get("operator"), record.get("architecture")
    if isinstance(operator, dict) == isinstance(architecture, dict):
        wrong.append("expected either an operator or an architecture")
    error = record.get("error")
    expect("error", error is None or isinstance(error, dict), "null or a table")
    samples = record.get("samples_ms")
    if not isinstance(samples, list):
        expect("samples_ms", False, "a list of milliseconds")
        samples = []
    bad = [sample for sample in samples if not _is_positive(sample)]
    if bad:
        wrong.append(f"samples_ms: expected positive numbers, found {_shown(bad[0])}")
    if not samples and error is None:
        wrong.append("samples_ms: it is empty and no error says why")
    if wrong:
        where = f"{key}: " if isinstance(key, str) and key else ""
        return None, where + "; ".join(wrong)
    warmup = record.get("warmup_ms")
    warnings = record.get("warnings")
    t_s, repeats, memory_mb = record.get("t_s"), record.get("repeats"), record.get("peak_memory_mb")
    return Visit(
        key=str(key),
        session=str(session),
        round=int(round_ or 0),
        samples_ms=tuple(float(sample) for sample in samples) if error is None else (),
        record=operator if isinstance(operator, dict) else dict(architecture or {}),
        is_network=isinstance(architecture, dict),
        t_s=float(t_s) if t_s is not None and is_number(t_s) else None,
        repeats=repeats if isinstance(repeats, int) else None,
        warmup_ms=tuple(float(value) for value in warmup if is_number(value)) if isinstance(warmup, list) else (),
        before=_table(record.get("before")),
        after=_table(record.get("after")),
        peak_memory_mb=float(memory_mb) if memory_mb is not None and _is_positive(memory_mb) else None,
        energy=record["energy"] if isinstance(record.get("energy"), dict) else None,
        warnings=tuple(str(warning) for warning in warnings) if isinstance(warnings, list) else (),
        error=error,
    ), ""


def _table(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _shown(value: Any) -> str:
    """A value in a message: not the whole of it when it is long."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def is_number(value: Any) -> bool:
    """Whether a value is a finite number of a size that a measurement can have."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and -_LARGEST < value < _LARGEST


def _is_positive(value: Any) -> bool:
    return is_number(value) and value > 0

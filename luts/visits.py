"""The visits of a journal in columns: a journal of a gigabyte holds a million, and an object for each would cost more than it.

What the table computes from stands in arrays. What is only shown (the state of the machine, texts) is kept as compressed JSON.
"""

from __future__ import annotations

import math
import re
import zlib
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, cast, overload

import numpy as np
from numpy.typing import NDArray

from lightnas_edge.records.lut import (
    EnergyEstimate,
    MachineState,
    OperatorFacts,
    StreamOfVisit,
    Visit,
    VisitDetails,
    VisitFailure,
    subject_of,
)
from luts.samples import PackedSamples

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]

ROUNDS, SUSTAINED = "rounds", "sustained"
_PHASES = (ROUNDS, SUSTAINED)
_LARGE = 2**31 - 1  # of what is kept in four bytes
_SHORT_LINE = 500  # bytes; most lines of a visit are longer
_CHUNK = 256  # visits whose samples and details are packed together
_NUMBER = re.compile(r"\d+(\.\d+)?")
_DETAILS = {"warmup_ms", "energy", "before", "after", "warnings", "streams"}


class _Column:
    """Grows without moving where the capacity is guessed well: memory that is not written to yet does not count."""

    def __init__(self, dtype: type[np.generic], capacity: int) -> None:
        self._values = np.empty(max(capacity, 16), dtype)
        self._count = 0

    def extend(self, values: Sequence[float] | NDArray[Any]) -> None:
        end = self._count + len(values)
        while end > len(self._values):
            self._values = np.concatenate([self._values, np.empty_like(self._values)])
        self._values[self._count : end] = values
        self._count = end

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, at: int) -> int:
        return int(self._values[at])

    @property
    def values(self) -> NDArray[Any]:
        """(n,)"""
        return self._values[: self._count]


class _Numbers:
    """A number or None for each visit; no memory as long as all are None."""

    def __init__(self, capacity: int, dtype: type[np.floating[Any]] = np.float64) -> None:
        self._column: _Column | None = None
        self._dtype, self._capacity = dtype, capacity

    def extend(self, values: Sequence[float | None], before: int) -> None:
        """`before`: how many there are."""
        if self._column is None:
            if all(value is None for value in values):
                return
            self._column = _Column(self._dtype, max(self._capacity, before))
            self._column.extend(np.full(before, math.nan))
        self._column.extend(np.array(values, dtype=self._dtype))  # None becomes nan

    def __getitem__(self, at: int) -> float | None:
        if self._column is None:
            return None
        value = float(self._column.values[at])
        return None if math.isnan(value) else value


class _Columns:
    """Of one journal; only ever appended to. What was appended can be read after `settle`.

    Args:
        capacity: about how many visits there will be.
    """

    def __init__(self, capacity: int = 0) -> None:
        self.keys: dict[str, int] = {}
        self.subjects: list[tuple[OperatorFacts | None, dict[str, Any] | None, dict[str, Any] | None]] = []  # by key
        self.groups: dict[tuple[str, int], int] = {}  # (session, round)
        self.key, self.group = _Column(np.int32, capacity), _Column(np.int32, capacity)
        self.phase = _Column(np.int8, capacity)
        self.repeats = _Column(np.int32, capacity)  # 0: not known
        self.large_repeats: dict[int, int] = {}
        self.t_s, self.enqueue_ms, self.gpu_ms, self.peak_memory_mb = (_Numbers(capacity) for _ in range(4))
        self.engines: dict[int, tuple[dict[str, int] | None, tuple[str, ...], int | None]] = {}
        self.errors: dict[int, VisitFailure] = {}
        self._same_errors: dict[VisitFailure, VisitFailure] = {}
        self.foreign_cpu = _Numbers(capacity, np.float32)
        self.warnings: dict[int, tuple[str, ...]] = {}  # kinds: texts without their numbers
        self.last_warnings: dict[int, dict[str, str]] = {}  # by key: kind -> text
        self._same_kinds: dict[tuple[str, ...], tuple[str, ...]] = {}
        self.has_energy = _Column(np.int8, capacity)  # 1: estimated, 2: with a number
        self.key_names: list[str] = []
        self.group_names: list[tuple[str, int]] = []
        self._count = 0
        self._rows: list[tuple[Any, ...]] = []  # that are in no column yet
        self._open: list[tuple[tuple[float, ...], bytes]] = []  # samples and details that are in no chunk yet
        self._chunks: list[tuple[PackedSamples, bytes]] = []
        self._read: tuple[int, list[bytes]] = (-1, [])

    def __len__(self) -> int:
        return self._count

    def visit(self, at: int) -> Visit:
        return cast(Visit, StoredVisit(self, at))

    def append(self, visit: Visit) -> None:
        at = self._count
        key = self.keys.setdefault(visit.key, len(self.keys))
        if key == len(self.key_names):
            self.key_names.append(visit.key)
            self.subjects.append((visit.operator, visit.architecture, visit.model_file))
        group = self.groups.setdefault(visit.group, len(self.groups))
        if group == len(self.group_names):
            self.group_names.append(visit.group)
        repeats = visit.repeats or 0
        if repeats >= _LARGE:
            self.large_repeats[at] = repeats
        if visit.ran_in is not None or visit.fell_back or visit.engine_bytes is not None:
            self.engines[at] = visit.ran_in, visit.fell_back, visit.engine_bytes
        if visit.error is not None:
            self.errors[at] = self._same_errors.setdefault(visit.error, visit.error)
        if visit.warnings:
            kinds = tuple(_NUMBER.sub("#", text) for text in visit.warnings)
            self.warnings[at] = self._same_kinds.setdefault(kinds, kinds)
            self.last_warnings.setdefault(key, {}).update(zip(kinds, visit.warnings, strict=True))
        energy = visit.energy
        self._rows.append((
            key, group, _PHASES.index(visit.phase), min(repeats, _LARGE),
            0 if energy is None else 1 if energy.gross_mj is None else 2,
            visit.t_s, visit.enqueue_ms, visit.gpu_ms, visit.peak_memory_mb,
            None if visit.after is None else visit.after.foreign_cpu,
        ))  # fmt: skip
        self._open.append((visit.samples_ms, _details(visit)))
        self._count += 1
        if len(self._open) == _CHUNK:
            self.settle()
            samples, details = zip(*self._open, strict=True)
            self._chunks.append((PackedSamples(samples), _packed(details)))
            self._open = []

    def settle(self) -> None:
        """Bring the columns up to the last visit: many rows at a time, since one at a time takes longer than parsing it."""
        if not self._rows:
            return
        before = len(self.key)
        columns = list(zip(*self._rows, strict=True))
        self._rows = []
        whole = (self.key, self.group, self.phase, self.repeats, self.has_energy)
        numbers = (self.t_s, self.enqueue_ms, self.gpu_ms, self.peak_memory_mb, self.foreign_cpu)
        for column, values in zip(whole, columns, strict=False):
            column.extend(values)
        for each, values in zip(numbers, columns[len(whole) :], strict=True):
            each.extend(values, before)

    def samples(self, at: int) -> Floats:
        """Of one visit in ms."""
        chunk, place = divmod(at, _CHUNK)
        if chunk == len(self._chunks):
            return np.array(self._open[place][0], dtype=np.float64)
        return self._chunks[chunk][0].row(place)

    def details(self, at: int) -> VisitDetails:
        chunk, place = divmod(at, _CHUNK)
        if chunk == len(self._chunks):
            return VisitDetails.model_validate_json(self._open[place][1])
        if self._read[0] != chunk:
            self._read = chunk, zlib.decompress(self._chunks[chunk][1]).split(b"\n")
        return VisitDetails.model_validate_json(self._read[1][place])


class StoredVisit:
    """One visit; reads as a `Visit` does."""

    __slots__ = ("_at", "_columns")

    def __init__(self, columns: _Columns, at: int) -> None:
        self._columns = columns
        self._at = at

    @property
    def key(self) -> str:
        return self._columns.key_names[self._columns.key[self._at]]

    @property
    def group(self) -> tuple[str, int]:
        return self._columns.group_names[self._columns.group[self._at]]

    @property
    def session(self) -> str:
        return self.group[0]

    @property
    def round(self) -> int:
        return self.group[1]

    @property
    def phase(self) -> str:
        return _PHASES[self._columns.phase[self._at]]

    @property
    def operator(self) -> OperatorFacts | None:
        return self._subject[0]

    @property
    def architecture(self) -> dict[str, Any] | None:
        return self._subject[1]

    @property
    def model_file(self) -> dict[str, Any] | None:
        return self._subject[2]

    @property
    def is_network(self) -> bool:
        """A whole network or a model file: timed inference by inference."""
        return self.operator is None

    @property
    def subject(self) -> dict[str, Any]:
        """The operator, the architecture or the facts of the model file as plain JSON."""
        return subject_of(self.operator, self.architecture, self.model_file)

    @property
    def t_s(self) -> float | None:
        return self._columns.t_s[self._at]

    @property
    def repeats(self) -> int | None:
        repeats = self._columns.repeats[self._at]
        return (self._columns.large_repeats[self._at] if repeats == _LARGE else repeats) or None

    @property
    def samples(self) -> Floats:
        """`samples_ms` as an array."""
        return self._columns.samples(self._at)

    @property
    def samples_ms(self) -> tuple[float, ...]:
        return tuple(self.samples.tolist())

    @property
    def enqueue_ms(self) -> float | None:
        return self._columns.enqueue_ms[self._at]

    @property
    def gpu_ms(self) -> float | None:
        return self._columns.gpu_ms[self._at]

    @property
    def peak_memory_mb(self) -> float | None:
        return self._columns.peak_memory_mb[self._at]

    @property
    def ran_in(self) -> dict[str, int] | None:
        return self._engine[0]

    @property
    def fell_back(self) -> tuple[str, ...]:
        return self._engine[1]

    @property
    def engine_bytes(self) -> int | None:
        return self._engine[2]

    @property
    def error(self) -> VisitFailure | None:
        return self._columns.errors.get(self._at)

    @property
    def warmup_ms(self) -> tuple[float, ...]:
        return self._details.warmup_ms

    @property
    def energy(self) -> EnergyEstimate | None:
        return self._details.energy if self._columns.has_energy[self._at] else None

    @property
    def before(self) -> MachineState | None:
        return self._details.before

    @property
    def after(self) -> MachineState | None:
        return self._details.after

    @property
    def warnings(self) -> tuple[str, ...]:
        return self._details.warnings

    @property
    def streams(self) -> tuple[StreamOfVisit, ...] | None:
        """Those that ran at the same time; None: one."""
        return self._details.streams

    @property
    def _details(self) -> VisitDetails:
        return self._columns.details(self._at)

    @property
    def _subject(self) -> tuple[OperatorFacts | None, dict[str, Any] | None, dict[str, Any] | None]:
        return self._columns.subjects[self._columns.key[self._at]]

    @property
    def _engine(self) -> tuple[dict[str, int] | None, tuple[str, ...], int | None]:
        return self._columns.engines.get(self._at, (None, (), None))


class Visits(Sequence[Visit]):
    """Some of the visits of a journal, in its order; in arrays, or one at a time as a `StoredVisit`.

    Args:
        at: (n,) places in the columns.
    """

    def __init__(self, columns: _Columns, at: NDArray[np.int32]) -> None:
        self._columns = columns
        self._at = at

    @classmethod
    def of(cls, visits: Iterable[Visit]) -> Visits:
        """The same visits, in columns."""
        return visits if isinstance(visits, Visits) else cls.merged([visits])

    @classmethod
    def merged(cls, journals: Iterable[Iterable[Visit]]) -> Visits:
        """The visits of several journals; one that several hold counts once."""
        reader = VisitReader()
        for journal in journals:
            for visit in journal:
                reader.append(0, visit)
        return reader.finish()[0]

    def __len__(self) -> int:
        return len(self._at)

    @overload
    def __getitem__(self, place: int) -> Visit: ...

    @overload
    def __getitem__(self, place: slice) -> Visits: ...

    def __getitem__(self, place: int | slice) -> Visit | Visits:
        if isinstance(place, slice):
            return Visits(self._columns, self._at[place])
        return self._columns.visit(int(self._at[place]))

    def __iter__(self) -> Iterator[Visit]:
        return (self._columns.visit(int(at)) for at in self._at)

    def select(self, chosen: NDArray[np.bool_]) -> Visits:
        """Args: chosen: (n,)."""
        return Visits(self._columns, self._at[chosen])

    @property
    def keys(self) -> NDArray[np.int32]:
        """(n,) numbers of keys: places in `key_names`."""
        return self._columns.key.values[self._at]

    @property
    def key_names(self) -> Sequence[str]:
        return self._columns.key_names

    @property
    def groups(self) -> NDArray[np.int32]:
        """(n,) numbers of groups: places in `group_names`."""
        return self._columns.group.values[self._at]

    @property
    def group_names(self) -> Sequence[tuple[str, int]]:
        return self._columns.group_names

    @property
    def is_sustained(self) -> NDArray[np.bool_]:
        """(n,)"""
        return np.asarray(self._columns.phase.values[self._at] == _PHASES.index(SUSTAINED))

    @property
    def is_measured(self) -> NDArray[np.bool_]:
        """(n,): not failed."""
        measured = np.ones(len(self._columns), np.bool_)
        measured[list(self._columns.errors)] = False
        return measured[self._at]

    @property
    def is_energy(self) -> NDArray[np.bool_]:
        """(n,): the energy of the visit is known."""
        return np.asarray(self._columns.has_energy.values[self._at] == 2)

    def samples(self) -> Iterator[Floats]:
        """`samples_ms` of each visit."""
        return (self._columns.samples(int(at)) for at in self._at)

    def foreign_cpu(self) -> list[float]:
        """Where it is known: by how much of a core other processes were at work during a visit."""
        found = (self._columns.foreign_cpu[int(at)] for at in self._at)
        return [share for share in found if share is not None]

    def warnings(self) -> list[tuple[int, str]]:
        """For each kind of warning the number of visits that have it, and the text of the last one."""
        columns = self._columns
        counts = Counter(kind for at in self._at for kind in columns.warnings.get(int(at), ()))
        last = {
            kind: text for key in np.unique(self.keys) for kind, text in columns.last_warnings.get(int(key), {}).items()
        }
        return [(count, last[kind]) for kind, count in counts.items()]

    def by_key(self) -> dict[str, Visits]:
        """In the order of each key's first visit."""
        keys = self.keys
        order = np.argsort(keys, kind="stable")
        ends = np.flatnonzero(np.diff(keys[order])) + 1
        parts = np.split(order.astype(np.int32), ends) if len(keys) else []
        parts.sort(key=lambda part: int(part[0]))
        return {self.key_names[keys[part[0]]]: Visits(self._columns, self._at[part]) for part in parts}


class VisitReader:
    """Takes the visits of a journal, one line after the other.

    Args:
        size_bytes: of the journal, where it is known.
    """

    def __init__(self, size_bytes: int = 0) -> None:
        self._columns = _Columns(size_bytes // _SHORT_LINE)
        self._lines = array("i")

    def append(self, line: int, visit: Visit) -> None:
        """Args: line: of the journal."""
        self._columns.append(visit)
        self._lines.append(line)

    def finish(self) -> tuple[Visits, list[tuple[int, Visit]]]:
        """The visits, and those left out with their lines: a measurement that the journal holds already."""
        columns = self._columns
        columns.settle()
        every = Visits(columns, np.arange(len(columns), dtype=np.int32))
        if not len(columns):
            return every, []
        place = (every.groups.astype(np.int64) * len(columns.key_names) + every.keys) * 2 + every.is_sustained
        order = np.argsort(place, kind="stable").astype(np.int32)
        is_first = np.ones(len(columns), np.bool_)
        is_first[order[1:][np.diff(place[order]) == 0]] = False
        del place, order
        again = [(self._lines[int(at)], columns.visit(int(at))) for at in np.flatnonzero(~is_first)]
        return (every if not again else every.select(is_first)), again


def _details(visit: Visit) -> bytes:
    if isinstance(visit, StoredVisit):
        return visit._details.model_dump_json().encode()
    return visit.model_dump_json(include=_DETAILS).encode()


def _packed(lines: Sequence[bytes]) -> bytes:
    return zlib.compress(b"\n".join(lines), 3)  # 6 takes three times as long for 15 % less

"""Units of one model: how much they differ, and one table from all of them. docs/fleet.md has the method."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lightnas_edge.files import replaced, set_aside
from lightnas_edge.records.journal import may_be_header, read_lines
from luts.compare import repeatability, require_same_board
from luts.errors import LutError
from luts.levels import linked_units, unit_levels
from luts.table import Lut, read

CONFIDENCE = 0.95
FACTOR = 2.8  # 1.96 sqrt(2): two repetitions of one measurement differ by less in 95 of 100 cases
LEAST_TOLERANCE = {"latency_ms": 0.01, "energy_mj": 0.03}  # what differs by less changes no decision
_UNKNOWN_LEVEL = 0.003  # of a session, relative, where no unit has two sessions


@dataclass(frozen=True)
class UnitRatio:
    """By which factor a unit needs more time or energy than the middle unit, for the operators that units share."""

    name: str
    value: float
    interval: tuple[float, float]
    differs: bool  # by more than a repeated measurement of one unit does


@dataclass(frozen=True)
class UnitComparison:
    """The units of one model, by one metric.

    tolerance: relative; a repeated measurement of one unit differs by less.
    scatter: relative; root mean square of what remains of an operator's differences after the units' factors.
    scatter_tolerance: a repeated measurement scatters by less.
    """

    metric: str
    keys: tuple[str, ...]
    ratios: tuple[UnitRatio, ...]
    tolerance: float
    scatter: float
    scatter_tolerance: float

    @property
    def by_operator(self) -> bool:
        """Units differ from operator to operator by more than a repeated measurement does: no factor makes them equal."""
        return self.scatter > self.scatter_tolerance

    @property
    def alike(self) -> bool:
        return bool(self.keys) and not self.by_operator and not any(ratio.differs for ratio in self.ratios)


def compare_units(tables: Mapping[str, Lut], metric: str = "latency_ms") -> UnitComparison:
    """Every unit against the middle one, over the keys that at least two of them measured.

    log cost = level of the unit + cost of the key + rest. The error of a level has two parts: the rest, and how much the sessions
    of one unit differ from each other.

    Args:
        tables: by the units' names, at least two, of equal fingerprint. Units that few keys link stay unknown.

    Raises:
        FingerprintError: they are of different models or states.
    """
    from scipy import stats  # takes a second to import

    each = list(tables.values())
    require_same_board(each)
    entries = [{**lut.entries, **lut.networks} for lut in each]
    values: dict[str, list[float]] = {}
    for key in dict.fromkeys(key for known in entries for key in known):
        found = [entry.quantity(metric) if (entry := known.get(key)) else None for known in entries]
        row = [math.nan if each is None or each.value <= 0 else math.log(each.value) for each in found]
        if sum(map(math.isfinite, row)) > 1:
            values[key] = row
    tolerance = LEAST_TOLERANCE.get(metric, 0.01)
    logs = np.array(list(values.values())).reshape(len(values), len(each))  # (keys, units), nan where not measured
    if not linked_units(np.isfinite(logs)).all():
        ratios = tuple(UnitRatio(name, math.nan, (0.0, math.inf), False) for name in tables)
        return UnitComparison(metric, (), ratios, tolerance, math.nan, math.nan)
    levels, rest = unit_levels(logs)
    keys = np.isfinite(logs).sum(axis=0)  # of each unit
    freedom = int(keys.sum()) - len(logs) - len(each) + 1
    scatter = math.sqrt(float(np.nansum(rest**2)) / max(freedom, 1))
    session = _session_deviation(each)
    repeated = [repeatability(lut, metric=metric).operators for lut in each]
    finite = [value for value in repeated if math.isfinite(value)]
    alone = math.sqrt(sum(value**2 for value in finite) / len(finite)) if finite else scatter
    sessions = np.array([max(len({visit.session for visit in lut.visits}), 1) for lut in each])
    errors = np.sqrt(session**2 / sessions + 1.571 * scatter**2 / keys)  # of a median, not of a mean
    tolerance = max(tolerance, FACTOR * session)
    half = stats.t.ppf((1 + CONFIDENCE) / 2, keys - 1) * errors
    levels = levels - np.median(levels)
    ratios = tuple(
        UnitRatio(
            name,
            math.exp(level),
            (math.exp(level - width), math.exp(level + width)),
            _is_apart(levels, half, index, tolerance),
        )
        for index, (name, level, width) in enumerate(zip(tables, levels, half, strict=True))
    )
    return UnitComparison(
        metric, tuple(values), ratios, tolerance, scatter, max(LEAST_TOLERANCE.get(metric, 0.01), FACTOR * alone)
    )


def linked_tables(tables: Mapping[str, Lut]) -> dict[str, Lut]:
    """The largest group of units whose levels are known against each other: each shares two keys or more with the others.

    Where no two units are linked it is the one that measured the most keys. All of them where none measured two keys, since
    nothing can link them.
    """
    measured = {name: {*lut.entries, *lut.networks} for name, lut in tables.items()}
    if all(len(keys) < 2 for keys in measured.values()):
        return dict(tables)
    every = sorted(set.union(*measured.values()))
    linked = linked_units(np.array([[key in keys for keys in measured.values()] for key in every]))
    most = max(measured, key=lambda name: len(measured[name]))
    return {
        name: lut
        for (name, lut), is_linked in zip(tables.items(), linked, strict=True)
        if is_linked or (name == most and not linked.any())
    }


def write_pooled(tables: Sequence[Lut], path: Path) -> Lut:
    """One table from several of equal fingerprint, one journal after the other; every visit once.

    A file at `path` that holds other lines becomes `.old`.

    Raises:
        FingerprintError: they are of different models or states.
        LutError: no table, or `path` is one of them.
    """
    if not tables:
        raise LutError("no table to merge")
    if any(lut.path.resolve() == path.resolve() for lut in tables):
        raise LutError(f"{path} is one of the tables to merge", hint="name another file with --out")
    require_same_board(tables)
    written = set()
    with replaced(path) as file:
        for line in _lines_of(tables):
            written.add(hash(line))
            file.write(line + b"\n")
        if path.exists() and any(hash(line.content) not in written for line in read_lines(path) if line.content):
            set_aside(path)
    return read(path)


def _lines_of(tables: Sequence[Lut]) -> Iterator[bytes]:
    """The intact lines of all journals, one at a time: the files may be larger than the memory. Every visit comes once."""
    seen = set()
    for lut in tables:
        without_header = False  # as the reader of a table: those visits are of an unknown board
        for line in read_lines(lut.path):
            if not line.is_intact:
                without_header |= may_be_header(line.content)
                continue
            place = _place(line.content)
            if place is None and may_be_header(line.content):
                without_header = False
            if without_header:
                continue
            if place is not None and hash(place) in seen:
                continue
            seen.add(hash(place))
            yield line.content


def _place(line: bytes) -> tuple[str, ...] | None:
    """What distinguishes a visit from all others; None of a header, and of a line that is neither."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict) or record.get("kind") != "visit":
        return None
    parts = {"phase": "rounds", **record}
    return tuple(repr(parts.get(name)) for name in ("key", "session", "round", "phase"))


def _session_deviation(tables: Sequence[Lut]) -> float:
    """Relative standard deviation between the sessions of one unit, over all units; a usual value where none has two."""
    squares, freedom = 0.0, 0
    for lut in tables:
        by_session: dict[str, list[float]] = {}
        for (session, _), factor in lut.drift.items():
            by_session.setdefault(session, []).append(math.log(factor))
        means = [float(np.mean(factors)) for factors in by_session.values()]
        if len(means) > 1:
            squares += float(np.var(means)) * len(means)
            freedom += len(means) - 1
    return math.sqrt(squares / freedom) if freedom else _UNKNOWN_LEVEL


def _is_apart(levels: np.ndarray, half: np.ndarray, index: int, tolerance: float) -> bool:
    """Of two units both are; of more those that are apart from the middle one, or from all the others."""
    distance = abs(float(levels[index]))
    if len(levels) == 2:
        return bool(abs(levels[0] - levels[1]) - math.hypot(*half) > math.log1p(tolerance))
    return bool(distance - half[index] > math.log1p(tolerance))

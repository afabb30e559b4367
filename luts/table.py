"""The table: what each operator and network costs, computed from the visits of a journal."""

from __future__ import annotations

import math
import shlex
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lightnas_edge.records.base import Fingerprint
from lightnas_edge.records.differences import UNIT
from lightnas_edge.records.html_table import html_table
from lightnas_edge.records.lut import LutHeader, Visit, VisitFailure
from luts.drift import Group, estimate_drift
from luts.energy import Energy, UnitFactor, combine, unit_factors
from luts.errors import LutMissError
from luts.journal import MOST_ROUNDS, Fault, GrowingJournal, Journal, read_journal
from luts.metrics import HOW_TO_MEASURE, LATENCY_METRICS, METRICS, Quantity
from luts.remedies import table_options
from luts.statistics import RoundStatistics
from luts.visits import Visits

if TYPE_CHECKING:
    import pandas as pd

QUANTILE = 0.1  # of the corrected samples: docs/measuring.md, "From visits to a number"
UNSTABLE_SPREAD = 0.03  # relative; an entry above it is marked
FEW_VISITS = 3  # with fewer, the spread is unknown
_RESAMPLES = 200  # of the bootstrap over visits
_MOST_DRAWN = 1 << 20  # samples at a time


@dataclass(frozen=True)
class Entry:
    """All that is known about one key: its visits, and each visit's drift factor."""

    key: str
    visits: Visits  # measured ones only
    drift: tuple[float, ...]  # one factor per visit, above 1 for slower than the median round
    failures: tuple[VisitFailure, ...] = ()  # of visits that failed
    options: str = ""  # of the command that measured it, for remedies
    run: str = ""  # the quoted run directory, of a network that `verify` measured
    units: Mapping[str, UnitFactor] = field(
        default_factory=dict
    )  # of the energy, by session, where several units measured

    def __post_init__(self) -> None:
        object.__setattr__(self, "visits", Visits.of(self.visits))

    @property
    def subject(self) -> dict[str, Any]:
        """The operator, the architecture or the facts of the model file as JSON."""
        return self.visits[0].subject

    @property
    def is_network(self) -> bool:
        """A whole network or a model file."""
        return self.visits[0].is_network

    @property
    def is_model(self) -> bool:
        return self.visits[0].model_file is not None

    @property
    def samples_ms(self) -> tuple[float, ...]:
        """Every timed sample as it was measured, in order."""
        return tuple(sample for visit in self.visits for sample in visit.samples_ms)

    @property
    def corrected_ms(self) -> tuple[float, ...]:
        """Every sample, corrected for the drift of its round, in order."""
        return tuple(float(value) for values in self._corrected for value in values)

    @cached_property
    def robust_ms(self) -> float:
        """The robust cost: the first decile of the corrected samples. It compares operators, and machines."""
        return float(np.quantile(np.concatenate(self._corrected), QUANTILE))

    @cached_property
    def latency_ms(self) -> float:
        """Of an operator the robust cost; of a network the median (p50) of its corrected inferences."""
        return self._rounds.value(LATENCY_METRICS["latency_ms"]) if self.is_network else self.robust_ms

    @cached_property
    def mean_ms(self) -> float:
        """Of the corrected samples, every round weighing equally."""
        return self._rounds.value(LATENCY_METRICS["mean_ms"])

    @cached_property
    def p95_ms(self) -> float:
        """Of the corrected samples. Those of an operator are means of inferences back to back, which dilutes a tail."""
        return self._rounds.value(LATENCY_METRICS["p95_ms"])

    @cached_property
    def p99_ms(self) -> float:
        """Of the corrected samples, as `p95_ms`."""
        return self._rounds.value(LATENCY_METRICS["p99_ms"])

    @property
    def repeats(self) -> int:
        """Inferences in a sample, the most of any visit; 1 where each was timed alone."""
        return max((visit.repeats or 1) for visit in self.visits)

    @property
    def inferences(self) -> int:
        """Number of samples that statistics come from."""
        return sum(len(samples) for samples in self.visits.samples())

    @cached_property
    def spread(self) -> float:
        """Robust relative standard deviation of the corrected visits; nan below three visits."""
        if len(self.visits) < FEW_VISITS:
            return float("nan")
        centres = np.array([np.median(values) for values in self._corrected])
        low, centre, high = np.quantile(centres, (0.25, 0.5, 0.75))
        return float(0.7413 * (high - low) / centre)  # the interquartile range in standard deviations

    @property
    def standard_error_ms(self) -> float:
        """Of `latency_ms`, by a bootstrap over visits with a fixed seed; nan below three visits."""
        return self._latency("latency_ms").standard_error

    def quantity(self, metric: str) -> Quantity | None:
        """One of METRICS; None where it was not measured.

        Every latency of an operator is its robust cost: the statistics of networks are learned from that.
        """
        if metric in LATENCY_METRICS:
            return self._latency(metric)
        if metric == "energy_mj":
            return None if self.energy_mj is None else self.energy_mj.gross
        if metric == "net_energy_mj":
            return None if self.energy_mj is None else self.energy_mj.net
        if metric == "peak_memory_mb":
            known = [visit.peak_memory_mb for visit in self.visits if visit.peak_memory_mb is not None]
            return Quantity(max(known), 0.0) if known else None
        raise ValueError(f"no such metric: {metric!r}; there are {', '.join(METRICS)}")

    def _latency(self, metric: str) -> Quantity:
        if metric not in self._latencies:
            unknown = len(self.visits) < FEW_VISITS
            if self.is_network:
                level = LATENCY_METRICS[metric]
                error = float("nan") if unknown else self._rounds.standard_error(level)
                self._latencies[metric] = Quantity(self._rounds.value(level), error)
            else:
                error = float("nan") if unknown else self._robust_error_ms
                self._latencies[metric] = Quantity(self.robust_ms, error)
        return self._latencies[metric]

    @cached_property
    def _latencies(self) -> dict[str, Quantity]:
        """Those asked for so far: a bootstrap takes milliseconds."""
        return {}

    @property
    def _rounds(self) -> RoundStatistics:
        return RoundStatistics(self._corrected)

    @cached_property
    def _robust_error_ms(self) -> float:
        count = len(self.visits)
        draws = np.random.default_rng(0).integers(count, size=(_RESAMPLES, count))
        corrected = self._corrected
        if len({len(values) for values in corrected}) == 1:
            table = np.stack(corrected)  # a few draws at a time: all of them may be a hundred times as large
            estimates = np.concatenate(
                [
                    np.quantile(table[some].reshape(len(some), -1), QUANTILE, axis=1)
                    for some in np.array_split(draws, max(1, min(_RESAMPLES, table.size * _RESAMPLES // _MOST_DRAWN)))
                ]
            )
        else:
            estimates = np.array(
                [np.quantile(np.concatenate([corrected[i] for i in draw]), QUANTILE) for draw in draws]
            )
        return float(np.std(estimates, ddof=1))

    @cached_property
    def enqueue_ms(self) -> float | None:
        """Median host time to hand one inference to the device; None where the engine has no such number."""
        return _median(visit.enqueue_ms for visit in self.visits)

    @cached_property
    def gpu_ms(self) -> float | None:
        """Median time of one inference on the device while many are queued; None where the engine has no such number."""
        return _median(visit.gpu_ms for visit in self.visits)

    @property
    def ran_in(self) -> dict[str, int] | None:
        """Precision -> convolutions and matrix products that ran in it, as last read back; None where it is not known."""
        return None if self._read_back is None else self._read_back.ran_in

    @property
    def fell_back(self) -> tuple[str, ...]:
        """Nodes of its graph that ran in more bits than they ask for, as last read back."""
        return () if self._read_back is None else self._read_back.fell_back

    @property
    def engine_bytes(self) -> int | None:
        """Of the engine that was built; None where the runtime builds none."""
        return next((visit.engine_bytes for visit in reversed(self.visits) if visit.engine_bytes is not None), None)

    @property
    def _read_back(self) -> Visit | None:
        return next((visit for visit in reversed(self.visits) if visit.ran_in is not None), None)

    @cached_property
    def energy_mj(self) -> Energy | None:
        """Gross and net of one batch, with intervals; None when it was not measured."""
        measured = [(visit.session, visit.energy) for visit in self.visits.select(self.visits.is_energy)]
        return combine(
            self.units[session].corrected(energy) if energy is not None and session in self.units else energy
            for session, energy in measured
        )

    @property
    def unstable(self) -> bool:
        """The spread is above the limit, or there are too few visits to know it."""
        return not self.spread <= UNSTABLE_SPREAD

    @property
    def warnings(self) -> tuple[str, ...]:
        """What limits the accuracy of `latency_ms`, and what to do about it."""
        found = []
        if len(self.visits) < FEW_VISITS:
            found.append(
                f"unstable: measured in {len(self.visits)} round{'s'[: len(self.visits) > 1]} only, the spread is "
                f"unknown; measure more rounds: {self._command(15)}"
            )
        elif self.unstable:
            found.append(
                f"unstable: spread {100 * self.spread:.1f} % of the median (limit {100 * UNSTABLE_SPREAD:.0f} %); "
                f"stop other work, lock the clocks or cool the board, then measure more rounds: "
                f"{self._command(min(2 * len(self.visits), MOST_ROUNDS))}"
            )
        if self.is_network and self.repeats > 1:
            found.append(f"samples are means of {self.repeats} inferences: p95 and p99 are diluted")
        if self.failures:
            found.append(self.failed_visits)
        return (*found, *self._visit_warnings())

    @property
    def failed_visits(self) -> str:
        """`2 of 14 visits failed: crash: ...`, the latest error; empty where none did."""
        if not self.failures:
            return ""
        return f"{len(self.failures)} of {len(self.failures) + len(self.visits)} visits failed: {self.failures[-1]}"

    def _command(self, rounds: int) -> str:
        """The command that measures more rounds. Which networks `sample` measured depends on options that a table does not hold."""
        if self.run:
            return f"`lightnas-edge verify {self.run} --rounds {rounds}`"
        if self.is_model:
            return f"`profile-device {self.options} --rounds {rounds}`"
        if self.is_network:
            return f"the command that measured it, with `--rounds {rounds}`"
        return f"`profile-device {self.options} --only {shlex.quote(self.key)} --rounds {rounds}`"

    def _visit_warnings(self) -> list[str]:
        """The agent's warnings, each once for all visits in which it differs by its numbers only."""
        total = len(self.visits)
        return [
            f"in {count} of {total} visits: {text}" if count > 1 else text for count, text in self.visits.warnings()
        ]

    @property
    def _corrected(self) -> list[NDArray[np.float64]]:
        """Not kept: of all entries together they would be several times the table."""
        return [samples / drift for samples, drift in zip(self.visits.samples(), self.drift, strict=True)]


@dataclass(frozen=True)
class Coverage:
    """Which of the wanted keys a table holds."""

    found: tuple[str, ...]
    missing: tuple[str, ...]  # never tried
    failed: tuple[str, ...]  # tried, no visit succeeded

    @property
    def complete(self) -> bool:
        return not self.missing and not self.failed

    def __str__(self) -> str:
        total = len(self.found) + len(self.missing) + len(self.failed)
        text = f"{len(self.found)} of {total} operators found"
        if self.missing:
            text += f"; missing: {_listed(self.missing)}"
        if self.failed:
            text += f"; failed: {_listed(self.failed)}"
        return text


@dataclass(frozen=True, eq=False)
class Lut:
    """A look-up table: header, visits, and what follows from them. Read one with `luts.read`."""

    path: Path
    header: LutHeader
    visits: Visits = field(repr=False)
    faults: tuple[Fault, ...] = ()
    sustained: Sequence[Visit] = field(default=(), repr=False)  # under load before the rounds, of one session: the last
    reference: frozenset[str] = frozenset()  # sessions that set the drift factor 1; all of them when empty
    host: str | None = None  # by which this machine reaches the board; None: unknown. For remedies
    units: Mapping[str, str | None] = field(default_factory=dict)  # which unit of the board each session ran on
    given_factors: Mapping[str, UnitFactor] | None = None  # of a part of a table: those of the whole

    def __post_init__(self) -> None:
        object.__setattr__(self, "visits", Visits.of(self.visits))

    @property
    def summary(self) -> str:
        """The table in one line."""
        mark = "SIMULATED: " * self.simulated
        board, engine = (self.fingerprint.get(name) or "unknown" for name in ("board", "backend"))
        content = f"{len(self.entries)} operators and {len(self.networks)} networks in {len(self.visits)} visits"
        return f"{mark}{content}, {board}, {engine}, {self.precision}, batch {self.batch}"

    def __repr__(self) -> str:
        return f"<Lut {self.path}: {self.summary}>"

    def _repr_html_(self) -> str:
        slowest = sorted(self._all.values(), key=lambda entry: -entry.latency_ms)
        rows = [
            [entry.key, f"{entry.latency_ms:.4g}", len(entry.visits), "unknown" if math.isnan(entry.spread) else f"{entry.spread:.1%}"]
            for entry in slowest
        ]  # fmt: skip
        failed = f"failed: {_listed(list(self.failed))}" if self.failed else ""
        return html_table(self.summary, ("key", "latency ms", "visits", "spread"), rows, note=failed)

    @property
    def fingerprint(self) -> Fingerprint:
        """What the numbers depend on; only equal ones mix. Of a table of several units, `unit` is null."""
        several = len(set(self.units.values())) > 1
        return dict(self.header.fingerprint) | ({UNIT: None} if several else {})

    @property
    def simulated(self) -> bool:
        return self.header.simulated or bool(self.header.fingerprint.get("simulated"))

    @property
    def batch(self) -> int:
        """Images per inference."""
        return int(self.fingerprint.get("batch") or 1)

    @property
    def sentinels(self) -> tuple[str, ...]:
        return self.header.sentinels

    @property
    def command_options(self) -> str:
        """Options with which `profile-device` or `lightnas-edge sample` adds to this table."""
        return table_options(self.host, self.header)

    @cached_property
    def drift(self) -> dict[Group, float]:
        """Factor per (session, round), above 1 for slower than the median round of the reference sessions."""
        return estimate_drift(self.visits, self.reference, self.units)

    @cached_property
    def energy_factors(self) -> Mapping[str, UnitFactor]:
        """By session, how much more energy its unit needs than the middle one; empty where one unit measured all."""
        if self.given_factors is not None:
            return self.given_factors
        return unit_factors(self.visits.select(self.visits.is_energy), self.units)

    @cached_property
    def entries(self) -> dict[str, Entry]:
        """Operators by key, in the order of their first visit."""
        return {key: entry for key, entry in self._all.items() if not entry.is_network}

    @cached_property
    def networks(self) -> dict[str, Entry]:
        """Whole networks by key, in the order of their first visit."""
        return {key: entry for key, entry in self._all.items() if entry.is_network}

    @property
    def precision(self) -> str:
        """That was asked for; `fallbacks` ran in more bits."""
        return str(self.fingerprint.get("precision", "fp32"))

    @cached_property
    def fallbacks(self) -> dict[str, tuple[str, ...]]:
        """Operators and networks by key of which nodes ran in more bits than they ask for, with the nodes."""
        return {key: entry.fell_back for key, entry in self._all.items() if entry.fell_back}

    @cached_property
    def failed(self) -> dict[str, VisitFailure]:
        """Keys of which no visit succeeded, with their last error."""
        return {
            visit.key: visit.error
            for visit in self.failures
            if visit.error is not None and visit.key not in self._all
        }  # fmt: skip

    def latency_ms(self, key: str) -> float:
        """Raises LutMissError when the table does not hold the key."""
        return float(self.latencies_ms([key])[0])

    def latencies_ms(self, keys: Sequence[str]) -> NDArray[np.float64]:
        """(len(keys),) milliseconds.

        Raises:
            LutMissError: naming every key that is missing or failed.
        """
        return self.quantities(keys, "latency_ms")[0]

    def quantities(self, keys: Sequence[str], metric: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(values (len(keys),), standard errors (len(keys),), nan where not known) in the metric's unit.

        Raises:
            LutMissError: naming every key that is missing, failed, or was measured without this metric.
        """
        coverage = self.coverage(keys)
        if not coverage.complete:
            lines = [f"{self.path}: {coverage}"]
            lines += [f"  {key} failed: {self.failed[key]}" for key in coverage.failed[:5]]
            wanted = [*coverage.missing, *coverage.failed]
            only = "".join(f" --only {shlex.quote(key)}" for key in wanted) if len(wanted) <= 3 else " --resume"
            only = only if self.header.space is not None else ""  # a model file is the only subject of its table
            raise LutMissError(
                "\n".join(lines), hint=f"to fill the table: `profile-device {self.command_options}{only}`"
            )
        found = {key: self._all[key].quantity(metric) for key in dict.fromkeys(keys)}
        without = [key for key, quantity in found.items() if quantity is None]
        if without:
            raise LutMissError(
                f"{self.path}: {metric} is not known for {len(without)} of {len(found)}: {_listed(without)}"
                + self.why_unknown(metric, without),
                hint=HOW_TO_MEASURE.get(metric, ""),
            )
        known = [quantity for key in keys if (quantity := found[key]) is not None]
        return np.array([one.value for one in known]), np.array([one.standard_error for one in known])

    def why_unknown(self, metric: str, keys: Iterable[str]) -> str:
        """The agent's reasons why it could not measure energy, as lines to append to a message."""
        if not metric.endswith("energy_mj"):
            return ""
        about = [self.header.energy, *(visit.energy for key in keys for visit in self._all[key].visits)]
        reasons = dict.fromkeys(each.reason for each in about if each is not None and each.reason)
        return "".join("\n  " + reason.replace("\n", "\n  ") for reason in list(reasons)[:3])

    def coverage(self, keys: Iterable[str]) -> Coverage:
        wanted = list(dict.fromkeys(keys))
        return Coverage(
            tuple(key for key in wanted if key in self._all),
            tuple(key for key in wanted if key not in self._all and key not in self.failed),
            tuple(key for key in wanted if key in self.failed),
        )

    def to_frame(self) -> pd.DataFrame:
        """One row per key, measured ones first; what is not known is missing."""
        import pandas as pd

        rows: list[dict[str, Any]] = [
            {
                "key": key,
                "kind": "network" if entry.is_network else "operator",
                **_operator_columns(entry.visits[0]),
                "latency_ms": entry.latency_ms,
                "standard_error_ms": entry.standard_error_ms,
                "spread": entry.spread,
                "mean_ms": entry.mean_ms,
                "p95_ms": entry.p95_ms,
                "p99_ms": entry.p99_ms,
                "robust_ms": entry.robust_ms,
                "repeats": entry.repeats,
                "energy_gross_mj": None if entry.energy_mj is None else entry.energy_mj.gross_mj,
                "energy_net_mj": None if entry.energy_mj is None else entry.energy_mj.net_mj,
                "enqueue_ms": entry.enqueue_ms,
                "gpu_ms": entry.gpu_ms,
                "peak_memory_mb": None if (peak := entry.quantity("peak_memory_mb")) is None else peak.value,
                "ran_in": None if entry.ran_in is None else counted(entry.ran_in),
                "fell_back": "; ".join(entry.fell_back),
                "engine_bytes": entry.engine_bytes,
                "visits": len(entry.visits),
                "samples": len(entry.samples_ms),
                "unstable": entry.unstable,
                "warnings": "; ".join(entry.warnings),
                "error": None,
            }
            for key, entry in self._all.items()
        ]
        records = {visit.key: visit for visit in self.failures}
        rows += [
            {
                "key": key,
                "kind": "network" if records[key].is_network else "operator",
                **_operator_columns(records[key]),
                "visits": 0,
                "samples": 0,
                "error": str(error),
            }
            for key, error in self.failed.items()
        ]
        return pd.DataFrame(rows, columns=_FRAME_COLUMNS)

    @cached_property
    def _all(self) -> dict[str, Entry]:
        failures: dict[str, list[VisitFailure]] = defaultdict(list)
        for visit in self.failures:
            if visit.error is not None:
                failures[visit.key].append(visit.error)
        names = self.visits.group_names
        return {
            key: Entry(
                key,
                visits,
                tuple(self.drift[names[group]] for group in visits.groups.tolist()),
                tuple(failures.get(key, ())),
                self.command_options,
                units=self.energy_factors,
            )
            for key, visits in self.visits.select(self.visits.is_measured).by_key().items()
        }

    @property
    def failures(self) -> Visits:
        """Visits that failed."""
        return self.visits.select(~self.visits.is_measured)


_OPERATOR_COLUMNS = ("block", "in_channels", "out_channels", "stride", "input_size")
_FRAME_COLUMNS = [
    "key", "kind", *_OPERATOR_COLUMNS, "latency_ms", "standard_error_ms", "spread", "mean_ms", "p95_ms", "p99_ms",
    "robust_ms", "repeats", "energy_gross_mj", "energy_net_mj",
    "enqueue_ms", "gpu_ms", "peak_memory_mb", "ran_in", "fell_back", "engine_bytes",
    "visits", "samples", "unstable", "warnings", "error",
]  # fmt: skip


def read(path: str | Path, *, host: str | None = None) -> Lut:
    """Read a journal; lines that cannot be used are in `faults`, their neighbours are kept.

    Args:
        host: of the board, where the caller knows it: remedies name it.

    Raises:
        LutFormatError: no file, an empty one, no valid header, a newer schema, other units.
        FingerprintError: a second header of another board or state in the same file.
    """
    path = Path(path)
    return _lut_of(read_journal(path, host=host), path, host)


class GrowingTable:
    """A table whose journal is appended to while it is used; each reading takes what is new.

    Args:
        host: of the board, where the caller knows it: remedies name it.
    """

    def __init__(self, path: Path, *, host: str | None = None) -> None:
        self._path, self._host = path, host
        self._journal = GrowingJournal(path, host=host)
        self._last: tuple[Journal, Lut] | None = None

    def read(self) -> Lut:
        """The same object where nothing is new. Raises as `read`."""
        found = self._journal.read()
        if self._last is None or self._last[0] is not found:
            self._last = found, _lut_of(found, self._path, self._host)
        return self._last[1]


def _lut_of(found: Journal, path: Path, host: str | None) -> Lut:
    load = found.visits.select(found.visits.is_sustained & found.visits.is_measured)
    return Lut(
        path,
        found.header,
        found.visits.select(~found.visits.is_sustained),
        found.faults,
        tuple(visit for visit in load if visit.session == load[-1].session),
        found.reference,
        host,
        found.units,
    )


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.median(known)) if known else None


def _operator_columns(visit: Visit) -> dict[str, Any]:
    return {} if visit.operator is None else {name: getattr(visit.operator, name) for name in _OPERATOR_COLUMNS}


def counted(ran_in: Mapping[str, int]) -> str:
    """`int8 3, fp32 1`"""
    return ", ".join(f"{precision} {count}" for precision, count in ran_in.items())


def _listed(keys: Sequence[str], most: int = 8) -> str:
    more = f" and {len(keys) - most} more" if len(keys) > most else ""
    return ", ".join(keys[:most]) + more

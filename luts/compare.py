"""Several tables: merging, drift between two sessions, repeatability."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from lightnas_edge.records.differences import require_equal_fingerprints
from luts.errors import LutError, LutMissError, networks_of_several_spaces
from luts.metrics import Quantity
from luts.table import Entry, Lut
from luts.visits import Visits

_LEAST = 1e-12  # of any metric; less is zero
_LARGEST_LOG = 700.0


@dataclass(frozen=True)
class Ratio:
    """By which factor the same operators were slower (above 1) in one table than in another, or took more energy or memory."""

    value: float
    interval: tuple[float, float]
    confidence: float
    per_key: dict[str, float]
    errors: dict[str, float] = field(
        default_factory=dict
    )  # relative standard error of each; not finite where it is not known


@dataclass(frozen=True)
class Repeatability:
    """Relative standard deviation of a latency when the whole measurement is repeated; nan when unknown."""

    operators: float
    networks: float
    operator_count: int
    network_count: int

    def __str__(self) -> str:
        parts = [
            f"{name} {100 * value:.2f} % (n={count})" if count else f"{name} unknown"
            for name, value, count in (
                ("operators", self.operators, self.operator_count),
                ("networks", self.networks, self.network_count),
            )
        ]
        return ", ".join(parts)


def require_same_board(tables: Sequence[Lut]) -> None:
    """Raises FingerprintError, with the fields that differ, unless all tables are of one board in one state.

    Networks have to be of one space too: their keys name operators, whose shapes the space decides.
    """
    for other in tables[1:]:
        require_equal_fingerprints(
            tables[0].fingerprint,
            other.fingerprint,
            f"{tables[0].path} and {other.path}",
            hint="measure both on the same board, in the same power mode, with the same engine and settings",
        )
    spaces = {lut.header.space_sha256: lut for lut in tables if lut.networks and lut.header.space_sha256 is not None}
    if len(spaces) > 1:
        raise networks_of_several_spaces(" and ".join(str(lut.path) for lut in list(spaces.values())[:2]))


def merge(tables: Sequence[Lut]) -> Lut:
    """One table from several of equal fingerprint; the drift between them is corrected where they share keys.

    The header is the first table's, and so are the reference sessions; of several units all sessions are, so that the numbers are
    those of the middle unit. A visit that several tables hold counts once.

    Raises:
        FingerprintError: the tables are of different boards or states; lists the fields.
    """
    if not tables:
        raise LutError("no table to merge")
    require_same_board(tables)
    units = {session: unit for table in tables for session, unit in table.units.items()}
    return replace(
        tables[0],
        visits=Visits.merged(table.visits for table in tables),
        faults=tuple(fault for table in tables for fault in table.faults),
        reference=frozenset() if len(set(units.values())) > 1 else tables[0].reference,
        units=units,
    )


def drift_ratio(
    reference: Lut,
    other: Lut,
    keys: Iterable[str] | None = None,
    *,
    metric: str = "latency_ms",
    confidence: float = 0.95,
) -> Ratio:
    """How much slower `other` ran the same operators than `reference`: the median over the keys they share.

    Args:
        keys: usually the sentinels; every operator that both tables hold when None.
        metric: energy drifts in its own way; keys that are not above zero in both tables are left out.

    Raises:
        LutMissError: the tables share none of the keys.
        FingerprintError: they are of different boards or states.
    """
    require_same_board([reference, other])
    wanted = list(reference.entries) if keys is None else list(keys)
    pairs = {
        key: (before, after)
        for key in dict.fromkeys(wanted)
        if key in reference.entries
        and key in other.entries
        and (before := _positive(reference.entries[key], metric)) is not None
        and (after := _positive(other.entries[key], metric)) is not None
    }
    if not pairs:
        raise LutMissError(
            f"{reference.path} and {other.path} share no operator, so the drift between them is unknown",
            hint="measure the sentinel operators in both: "
            f"`profile-device {reference.command_options}` always measures them",
        )
    logs = np.array([math.log(after.value) - math.log(before.value) for before, after in pairs.values()])
    centre = float(np.median(logs))
    # Two estimates of the error: from the visits of each key, and from the scatter among the keys. The larger one is used.
    variances = [_relative_variance(before) + _relative_variance(after) for before, after in pairs.values()]
    own = math.sqrt(float(np.mean(variances)))
    among = 1.4826 * float(np.median(np.abs(logs - centre)))
    count = len(pairs)
    error = max(own, among) / math.sqrt(count) * (1.2533 if count > 2 else 1.0)  # a median's, not a mean's
    from scipy import stats  # takes a second to import

    half = float(stats.t.ppf((1 + confidence) / 2, max(count - 1, 1))) * error if count > 1 else 1.96 * error
    return Ratio(
        _exp(centre),
        (_exp(centre - half), _exp(centre + half)),
        confidence,
        {key: _exp(log) for key, log in zip(pairs, logs, strict=True)},
        {
            key: math.hypot(before.standard_error / before.value, after.standard_error / after.value)
            for key, (before, after) in pairs.items()
        },
    )


def repeatability(lut: Lut, other: Lut | None = None, *, metric: str = "latency_ms") -> Repeatability:
    """How closely a repeated measurement reproduces the latencies, or another metric, after correction of the common drift.

    With one table: its rounds are split alternately into two halves, each half is estimated separately, and the
    differences are scaled to a table of all rounds. With two tables: from the differences between them.
    """
    if other is None:
        one, two, shrink = *_halves(lut), 2.0
    else:
        require_same_board([lut, other])
        one, two, shrink = lut, other, math.sqrt(2)
    operators = _deviations(one.entries, two.entries, metric)
    networks = _deviations(one.networks, two.networks, metric)
    return Repeatability(_rms(operators) / shrink, _rms(networks) / shrink, len(operators), len(networks))


def _positive(entry: Entry, metric: str) -> Quantity | None:
    quantity = entry.quantity(metric)
    return quantity if quantity is not None and quantity.value > _LEAST else None


def _exp(log: float) -> float:
    """Of two or three keys that contradict each other the interval has no bounds that a float can hold."""
    return math.exp(min(max(log, -_LARGEST_LOG), _LARGEST_LOG))


def _relative_variance(quantity: Quantity) -> float:
    error = quantity.standard_error / quantity.value
    return error**2 if math.isfinite(error) else 0.05**2  # one or two visits: the usual drift of this kind of machine


def _halves(lut: Lut) -> tuple[Lut, Lut]:
    order = {group: index for index, group in enumerate(lut.drift)}
    measured = lut.visits.select(lut.visits.is_measured)
    side = np.array([order.get(name, 0) % 2 for name in measured.group_names], dtype=int)[measured.groups]
    whole = replace(lut, given_factors=lut.energy_factors)
    return replace(whole, visits=measured.select(side == 0)), replace(whole, visits=measured.select(side == 1))


def _deviations(one: dict[str, Entry], two: dict[str, Entry], metric: str) -> list[float]:
    pairs = [(_positive(entry, metric), _positive(two[key], metric)) for key, entry in one.items() if key in two]
    logs = np.array([math.log(b.value) - math.log(a.value) for a, b in pairs if a is not None and b is not None])
    if len(logs) < 2:
        return []
    count = len(logs)
    return [float(value) for value in (logs - np.median(logs)) * math.sqrt(count / (count - 1))]


def _rms(values: Sequence[float]) -> float:
    return math.sqrt(sum(value**2 for value in values) / len(values)) if values else float("nan")

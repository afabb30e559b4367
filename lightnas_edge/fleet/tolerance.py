"""What a few verified units say about all units of their model: a one-sided tolerance bound.

Assumption: the units' values are lognormal, and the verified units are drawn at random. Then `mean + k s` of the logarithms lies above
the wanted share of all units with the wanted confidence, k from the noncentral t distribution. What measuring adds to the scatter
of the units makes the bound wider, never narrower.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import Any

from lightnas_edge.records.fleet import FleetGuarantee, FleetOutcome, UnitValue
from lightnas_edge.records.run import Metric

SHARE, CONFIDENCE = 0.95, 0.90
FEWEST_UNITS = 3  # with two, k is 13.1: the bound says nothing about boards
MOST_UNITS = 1000  # that are considered for `more_units`
ASSUMPTION = "the units' values are lognormal, and the verified units are a random sample of all units"


@cache
def tolerance_factor(units: int, share: float = SHARE, confidence: float = CONFIDENCE) -> float:
    """k: `mean + k s` of a normal sample lies above `share` of the distribution with probability `confidence`."""
    if units < 2:
        raise ValueError("a tolerance factor needs two units")
    from scipy import stats  # takes a second to import

    root = math.sqrt(units)
    return float(stats.nct.ppf(confidence, units - 1, stats.norm.ppf(share) * root)) / root


def guarantee(
    metric: Metric,
    unit: str,
    target: float,
    values: Sequence[UnitValue],
    *,
    share: float = SHARE,
    confidence: float = CONFIDENCE,
    simulated: bool = False,
    unusable: Sequence[str] = (),
) -> FleetGuarantee:
    """Whether `share` of all units keeps a target from above.

    Args:
        unit: of the metric: "ms".
        values: of different units; several of one unit count as their mean.
        unusable: why the value of a unit cannot be used; with one there is no bound, since the others are no random choice of units.
    """
    each = _by_unit(values)
    logs = [math.log(value) for value in each]
    count = len(logs)
    mean = sum(logs) / count if count else math.nan
    what = f"{100 * share:g} % of units keep {target:g} {unit}"
    found: dict[str, Any] = {
        "metric": metric, "unit": unit, "target": target, "share": share, "confidence": confidence,
        "units": tuple(values), "assumption": ASSUMPTION, "simulated": simulated,
    }  # fmt: skip
    if unusable:
        return FleetGuarantee(
            **found, median=math.exp(mean) if count else None, deviation=None, factor=None, bound=None,
            verdict="not available", more_units=None, reason=f"not available: {'; '.join(unusable)}",
        )  # fmt: skip
    if count < FEWEST_UNITS:
        return FleetGuarantee(
            **found, median=math.exp(mean) if count else None, deviation=None, factor=None, bound=None,
            verdict="not available", more_units=FEWEST_UNITS - count,
            reason=f"not available: {count} unit{'s'[: count != 1]} verified, at least {FEWEST_UNITS} are needed",
        )  # fmt: skip
    deviation = math.sqrt(sum((log - mean) ** 2 for log in logs) / (count - 1))
    factor = tolerance_factor(count, share, confidence)
    bound = math.exp(mean + factor * deviation)
    least = math.exp(mean + tolerance_factor(count, share, 1 - confidence) * deviation)
    verdict: FleetOutcome = "undecided"
    if bound <= target:
        verdict, reason = "kept", what
    elif least > target:
        verdict, reason = "not kept", f"fewer than {100 * share:g} % of units keep {target:g} {unit}"
    else:
        reason = f"undecided: whether {what} is not settled by {count} units"
    more = 0 if verdict != "undecided" else _more_units(count, mean, deviation, math.log(target), share, confidence)
    limit = least if verdict == "not kept" else bound
    side = "from" if verdict == "not kept" else "to"
    reason += f": {100 * share:g} % reach {side} {limit:.4g} {unit} at {100 * confidence:g} % confidence, {count} units"
    if verdict == "undecided":
        reason += (
            "; no number of units settles it: the target is too near the value that they keep"
            if more is None
            else f"; {more} more unit{'s'[: more != 1]} like these would settle it"
        )
    return FleetGuarantee(
        **found, median=math.exp(mean), deviation=deviation, factor=factor, bound=bound, verdict=verdict, more_units=more,
        reason=reason,
    )  # fmt: skip


def _by_unit(values: Sequence[UnitValue]) -> list[float]:
    """One value for each unit; a board without an identity is a unit of its own."""
    found: dict[str, list[float]] = {}
    for value in values:
        found.setdefault(value.unit or f"host {value.host}", []).append(value.value)
    return [math.exp(sum(map(math.log, of_unit)) / len(of_unit)) for of_unit in found.values()]


def _more_units(
    count: int, mean: float, deviation: float, target: float, share: float, confidence: float
) -> int | None:
    """Further units after which the bound falls on one side of the target, if mean and deviation stay; None: more than MOST_UNITS."""
    wanted = (target - mean) / deviation if deviation else math.inf
    for units in range(count + 1, MOST_UNITS + 1):
        if tolerance_factor(units, share, confidence) <= wanted or (
            tolerance_factor(units, share, 1 - confidence) > wanted
        ):
            return units - count
    return None

"""Energy of one batch, from the visits in which it was measured."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from lightnas_edge.records.lut import EnergyErrorParts, EnergyEstimate, Visit
from luts.levels import linked_units, unit_levels
from luts.metrics import Quantity

Interval = tuple[float, float]
_CONFIDENCE = 0.95
_HALF_WIDTH = 1.96  # standard errors to a side of a 95 % interval
_CELLS = 1000  # on each side of zero in `half_width`
_REACH = 40.0  # standard errors; beyond it lies 0.06 % of a t distribution of 2 degrees of freedom


@dataclass(frozen=True)
class Energy:
    """Millijoules per batch, with 95 % intervals. `net` is less what the board draws when idle; None: not known."""

    gross_mj: float
    gross_interval_mj: Interval | None
    net_mj: float | None
    net_interval_mj: Interval | None
    visits: int

    @property
    def gross(self) -> Quantity:
        return Quantity(self.gross_mj, _standard_error(self.gross_interval_mj))

    @property
    def net(self) -> Quantity | None:
        return None if self.net_mj is None else Quantity(self.net_mj, _standard_error(self.net_interval_mj))

    def __str__(self) -> str:
        text = f"{self.gross_mj:.3g} mJ"
        if self.gross_interval_mj is not None:
            text += f" ({self.gross_interval_mj[0]:.3g} to {self.gross_interval_mj[1]:.3g})"
        return text + (f", {self.net_mj:.3g} mJ above idle" if self.net_mj is not None else "")


@dataclass(frozen=True)
class UnitFactor:
    """By which factor a unit needs more energy than the middle unit, gross and net, and the relative standard error of both."""

    gross: float = 1.0
    net: float = 1.0
    gross_error: float = 0.0
    net_error: float = 0.0

    def corrected(self, found: EnergyEstimate) -> EnergyEstimate:
        """What the middle unit would have needed. All visits of a unit share the error of its factor."""
        update: dict[str, object] = {}
        for kind, factor, relative in (("gross", self.gross, self.gross_error), ("net", self.net, self.net_error)):
            value, error = getattr(found, f"{kind}_mj"), getattr(found, f"{kind}_error")
            if value is None:
                continue
            update[f"{kind}_mj"] = value / factor
            if error is not None:
                level_mj = _HALF_WIDTH / _CONFIDENCE * relative * abs(value)  # the bound with the same 95 % interval
                shared_mj = tuple(bound / factor for bound in (*error.shared_mj, level_mj))
                update[f"{kind}_error"] = error.model_copy(
                    update={"random_mj": error.random_mj / factor, "shared_mj": shared_mj}
                )
        return found.model_copy(update=update)


def unit_factors(visits: Iterable[Visit], units: Mapping[str, str | None]) -> dict[str, UnitFactor]:
    """By session; empty where one unit measured all. The factor of a unit that shares too few keys with the others is 1: it is not known.

    Args:
        units: on which unit each session ran.
    """
    names = list(dict.fromkeys(units.values()))
    if len(names) < 2:
        return {}
    values: dict[tuple[str, str], dict[str | None, list[float]]] = {}
    for visit in visits:
        for kind in ("gross", "net"):
            value = None if visit.energy is None else getattr(visit.energy, f"{kind}_mj")
            if value is not None and value > 0:
                values.setdefault((kind, visit.key), {}).setdefault(units[visit.session], []).append(math.log(value))
    found = {name: UnitFactor() for name in names}
    for kind in ("gross", "net"):
        rows = [row for (of, _), row in values.items() if of == kind]
        logs = np.array([[np.mean(row[name]) if name in row else np.nan for name in names] for row in rows])
        logs = logs.reshape(len(rows), len(names))
        linked = linked_units(np.isfinite(logs))
        if not linked.any():
            continue
        logs = logs[:, linked]
        logs = logs[np.isfinite(logs).sum(axis=1) > 1]
        levels, rest = unit_levels(logs)
        keys = np.isfinite(logs).sum(axis=0)
        freedom = max(int(keys.sum()) - len(logs) - len(keys) + 1, 1)
        scatter = math.sqrt(float(np.nansum(rest**2)) / freedom)
        of_linked = [name for name, is_linked in zip(names, linked, strict=True) if is_linked]
        for name, level, count in zip(of_linked, levels - np.median(levels), keys.tolist(), strict=True):
            error = math.sqrt(1.571 / count) * scatter  # of a median, not of a mean
            found[name] = replace(found[name], **{kind: math.exp(level), f"{kind}_error": error})
    return {session: found[unit] for session, unit in units.items()}


def combine(estimates: Iterable[EnergyEstimate | None]) -> Energy | None:
    """The mean over visits; None when no visit has a number."""
    known = [(each, each.gross_mj) for each in estimates if each is not None and each.gross_mj is not None]
    if not known:
        return None
    net = [(each, each.net_mj) for each, _ in known if each.net_mj is not None]
    return Energy(
        gross_mj=statistics.fmean(gross_mj for _, gross_mj in known),
        gross_interval_mj=_interval([gross_mj for _, gross_mj in known], [each.gross_error for each, _ in known]),
        net_mj=statistics.fmean(net_mj for _, net_mj in net) if net else None,
        net_interval_mj=_interval([net_mj for _, net_mj in net], [each.net_error for each, _ in net]),
        visits=len(known),
    )


def _interval(values_mj: Sequence[float], errors: Sequence[EnergyErrorParts | None]) -> Interval | None:
    """Of the mean, by random effects; None when the error of a visit is not known.

    The random errors of the visits average out, and so does a real difference between the visits: where they scatter more
    than their own errors explain, the excess counts with the degrees of freedom of so few visits. Shared bounds do not
    average out.
    """
    known = [error for error in errors if error is not None]
    if not known or len(known) < len(errors):
        return None
    count = len(known)
    within = statistics.fmean(error.random_mj**2 for error in known)
    freedom = sum(error.freedom for error in known)
    excess = max(0.0, statistics.variance(values_mj) - within) if count > 1 else 0.0
    variance = within + excess
    if excess > 0:  # Satterthwaite
        freedom = variance**2 / (within**2 / freedom + excess**2 / (count - 1))
    shared = max((error.shared_mj for error in known), key=sum)
    half = half_width(math.sqrt(variance / count), freedom, shared)
    centre = statistics.fmean(values_mj)
    return centre - half, centre + half


def half_width(standard_error: float, freedom: float, bounds: Sequence[float]) -> float:
    """Half the interval of a sum of an error like Student's t and errors anywhere within +- each of `bounds`.

    The agent has the same function without numpy: the density on a grid, averaged over one box per bound.
    """
    bounds = [bound for bound in bounds if bound > 0]
    reach = math.fsum(bounds) + _REACH * standard_error
    if reach == 0:
        return 0.0
    cell = reach / _CELLS
    position = np.arange(-_CELLS, _CELLS + 1)
    if standard_error > 0.2 * cell:
        density = (1 + (position * cell / standard_error) ** 2 / freedom) ** (-(freedom + 1) / 2)
    else:
        density = (position == 0).astype(float)
    for bound in bounds:
        density = np.convolve(density, np.ones(2 * round(bound / cell) + 1), mode="same")[: len(position)]
    inside = np.cumsum([density[_CELLS], *(density[_CELLS + 1 :] + density[_CELLS - 1 :: -1])])
    return float((np.searchsorted(inside, _CONFIDENCE * density.sum()) + 0.5) * cell)


def _standard_error(interval: Interval | None) -> float:
    return math.nan if interval is None else (interval[1] - interval[0]) / 2 / _HALF_WIDTH

"""Energy of one batch, from the visits in which it was measured."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lightnas_edge.records.lut import EnergyEstimate
from luts.metrics import Quantity

Interval = tuple[float, float]
_HALF_WIDTH = 1.96  # standard errors to a side of the journal's 95 % intervals


@dataclass(frozen=True)
class Energy:
    """Millijoules per batch. `net` is less what the board draws when idle under the same clocks; None: not known.

    An interval spans those of all visits: what they share, such as rounding to the sensor's step, does not average out.
    """

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


def combine(estimates: Iterable[EnergyEstimate | None]) -> Energy | None:
    """The mean over visits; None when no visit has a number."""
    known = [(each, each.gross_mj) for each in estimates if each is not None and each.gross_mj is not None]
    if not known:
        return None
    net = [(each, each.net_mj) for each, _ in known if each.net_mj is not None]
    return Energy(
        gross_mj=statistics.fmean(gross_mj for _, gross_mj in known),
        gross_interval_mj=_hull([each.gross_interval_mj for each, _ in known]),
        net_mj=statistics.fmean(net_mj for _, net_mj in net) if net else None,
        net_interval_mj=_hull([each.net_interval_mj for each, _ in net]),
        visits=len(known),
    )


def _standard_error(interval: Interval | None) -> float:
    return math.nan if interval is None else (interval[1] - interval[0]) / 2 / _HALF_WIDTH


def _hull(intervals: Sequence[Interval | None]) -> Interval | None:
    """From the lowest to the highest; None when one is not known."""
    known = [interval for interval in intervals if interval is not None]
    if not known or len(known) < len(intervals):
        return None
    return min(low for low, _ in known), max(high for _, high in known)

"""Energy of one batch, from the visits in which it was measured."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from luts.journal import is_number
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


def combine(records: Iterable[Mapping[str, Any] | None]) -> Energy | None:
    """The mean over visits of the journal's `energy`; None when no visit has one with a number."""
    known = [record for record in records if record is not None and is_number(record.get("gross_mj"))]
    if not known:
        return None
    net = [record["net_mj"] for record in known if is_number(record.get("net_mj"))]
    return Energy(
        gross_mj=statistics.fmean(record["gross_mj"] for record in known),
        gross_interval_mj=_hull([record.get("gross_interval_mj") for record in known]),
        net_mj=statistics.fmean(net) if net else None,
        net_interval_mj=_hull([record.get("net_interval_mj") for record in known if is_number(record.get("net_mj"))]),
        visits=len(known),
    )


def _standard_error(interval: Interval | None) -> float:
    return math.nan if interval is None else (interval[1] - interval[0]) / 2 / _HALF_WIDTH


def _hull(intervals: list[Any]) -> Interval | None:
    """From the lowest to the highest; None when one is not known."""
    sound = [
        (float(pair[0]), float(pair[1]))
        for pair in intervals
        if isinstance(pair, (list, tuple)) and len(pair) == 2 and all(map(is_number, pair))
    ]
    if not sound or len(sound) < len(intervals):
        return None
    return min(low for low, _ in sound), max(high for _, high in sound)

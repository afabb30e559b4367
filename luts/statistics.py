"""Statistics of a network's single inferences, every round weighing equally, and their standard errors."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from luts.metrics import LATENCY_METRICS

Array = NDArray[np.float64]

_RESAMPLES = 200  # of the bootstrap over rounds: its own error is then 5 % of the standard error
_LEAST_BEYOND = 4  # inferences on the short side of a quantile; with fewer, resampling sees too little of the tail


class RoundStatistics:
    """Statistics of samples that come in rounds.

    Quantiles lie on a straight line between neighbouring samples, each in the middle of its weight, as in `verify`.

    Args:
        rounds: samples in ms, one array for each round. Longer rounds weigh no more than short ones.
    """

    def __init__(self, rounds: Sequence[Array]) -> None:
        values = np.concatenate(rounds)
        order = np.argsort(values, kind="stable")
        lengths = np.array([len(samples) for samples in rounds])
        self._round = np.repeat(np.arange(len(rounds)), lengths)[order]
        self._share = 1 / lengths[self._round]
        self._values = values[order]
        self._count = len(rounds)

    def __len__(self) -> int:
        """Number of samples."""
        return len(self._values)

    def value(self, level: float | None) -> float:
        """The quantile of a level; the mean for None."""
        return self._weighted(np.ones(self._count), level)

    def standard_error(self, level: float | None) -> float:
        """By a bootstrap over rounds with a fixed seed.

        It is widened where fewer than four inferences are expected beyond the quantile: 400 are enough for p99.
        """
        draws = np.random.default_rng(0).integers(self._count, size=(_RESAMPLES, self._count))
        found = [self._weighted(np.bincount(draw, minlength=self._count), level) for draw in draws]
        beyond = math.inf if level is None else min(level, 1 - level) * len(self)
        return float(np.std(found, ddof=1)) * math.sqrt(max(1.0, _LEAST_BEYOND / beyond))

    def _weighted(self, of_round: NDArray[np.number], level: float | None) -> float:
        weights = of_round[self._round] * self._share
        if level is None:
            return float(weights @ self._values / weights.sum())
        drawn = weights > 0
        weights, values = weights[drawn], self._values[drawn]
        reached = (np.cumsum(weights) - weights / 2) / weights.sum()
        return float(np.interp(level, reached, values))


def needed_inferences(metric: str) -> int:
    """Of a network; with fewer, the standard error is widened."""
    level = LATENCY_METRICS.get(metric)
    return 0 if level is None else round(_LEAST_BEYOND / min(level, 1 - level))

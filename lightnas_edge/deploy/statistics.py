"""Statistics of single inferences with intervals that hold when inferences are not independent. docs/verdicts.md.

Inferences of one round share the state of the machine, so the round is the unit: everything that is estimated is a mean
over rounds, each of equal weight, and its error comes from how the rounds differ. That is cluster sampling. The interval
of a quantile consists of the thresholds at which the share of inferences within them could be that quantile (Woodruff
1952), tested at each threshold with the design effect that is seen there: an interval from the variance at the estimate
alone is too narrow where bursts hit few rounds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from statistics import NormalDist
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Interval = tuple[float, float]

CONFIDENCE = 0.95
# Metric -> quantile; the mean has none.
LATENCY_STATISTICS: dict[str, float | None] = {
    "latency_ms": 0.5, "mean_ms": None, "p90_ms": 0.9, "p95_ms": 0.95, "p99_ms": 0.99,
}  # fmt: skip
LEAST_ROUNDS = 12  # of any statistic: in fewer a correlation between rounds does not differ visibly from chance
MEAN_ROUNDS = 72  # an event that hits one round in twenty stays unseen in fewer with more than 2.5 %
LOW_QUANTILE = 0.1
DAY_DEVIATION = (
    0.01  # of one network between two days, beyond what all have in common; known before any sentinel was seen
)
_PRIOR_SENTINELS = 4  # the weight of DAY_DEVIATION, in sentinels
_WAVES = 0.4  # times the number of rounds to the power of 2/3: Lazarus, Lewis, Stock and Watson (2018)
_LEAST_WAVES = 3
_MOST_ADDED = 3.0  # rounds: an event that n rounds do not show may hit three in n (Hanley and Lippman-Hand 1983)


@dataclass(frozen=True)
class Estimate:
    """A statistic with its interval. Without one, `rounds_needed` says how many rounds it takes."""

    value: float
    interval: Interval | None
    rounds_needed: int | None = None


def estimate(rounds: Sequence[NDArray[Any]], metric: str, confidence: float = CONFIDENCE) -> Estimate:
    """One of LATENCY_STATISTICS.

    Args:
        rounds: samples in ms, one array for each round; every round weighs equally.
        confidence: two-sided; each side of the interval fails in half of the rest.
    """
    quantile = LATENCY_STATISTICS[metric]
    arrays = [np.asarray(samples, dtype=np.float64) for samples in rounds]
    value = _mean(arrays) if quantile is None else _weighted_quantile(arrays, quantile)
    needed = least_rounds(metric, confidence)
    if len(arrays) < needed:
        return Estimate(value, None, needed)
    if quantile is None:
        return Estimate(value, _mean_interval(arrays, confidence))
    return Estimate(value, _quantile_interval(arrays, quantile, confidence))


def against(
    rounds: Sequence[NDArray[Any]], metric: str, target: float, confidence: float = CONFIDENCE
) -> Literal["met", "missed", "inconclusive"]:
    """Whether the statistic is within a target: the whole interval decides."""
    interval = estimate(rounds, metric, confidence).interval
    if interval is None or interval[0] <= target < interval[1]:
        return "inconclusive"
    return "met" if interval[1] <= target else "missed"


@cache
def least_rounds(metric: str, confidence: float = CONFIDENCE) -> int:
    """Below it there is no interval.

    Of R rounds, none may lie beyond a threshold although a share 1 - p of all does, each of them as a whole: with a
    probability of p to the power of R, which has to be below the error of one side. And LEAST_ROUNDS.
    """
    quantile = LATENCY_STATISTICS[metric]
    if quantile is None:
        return MEAN_ROUNDS
    one_sided = math.log((1 - confidence) / 2) / math.log(max(quantile, 1 - quantile))
    return max(LEAST_ROUNDS, math.ceil(one_sided))


def noise(rounds: Sequence[NDArray[Any]]) -> float:
    """How far the median lies above the low quantile of the samples, relative. Needs no table."""
    arrays = [np.asarray(samples, dtype=np.float64) for samples in rounds]
    return _weighted_quantile(arrays, 0.5) / _weighted_quantile(arrays, LOW_QUANTILE) - 1


def day_deviation(ratios: Iterable[float], errors: Iterable[float] | None = None) -> float:
    """Relative standard deviation of one network between two days, from how the sentinels' ratios scatter.

    Args:
        ratios: of each sentinel, its latency on this day over that on the other.
        errors: relative standard errors of the ratios, which are no deviation by day.

    Few sentinels say little: the variance is drawn towards that of DAY_DEVIATION with the weight of four of them.
    """
    logs = np.log(np.asarray(list(ratios), dtype=np.float64))
    count = len(logs)
    if count < 2:
        return DAY_DEVIATION
    noise_variance = 0.0 if errors is None else float(np.mean(np.square(list(errors))))
    seen = max(0.0, float(np.var(logs, ddof=1)) - noise_variance)
    return math.sqrt(((count - 1) * seen + _PRIOR_SENTINELS * DAY_DEVIATION**2) / (count - 1 + _PRIOR_SENTINELS))


def corrected_interval(
    centre: float,
    standard_error: float,
    drift_interval: Interval,
    drift_confidence: float,
    deviation: float,
    confidence: float = CONFIDENCE,
) -> Interval | None:
    """Of a latency under the conditions of another day: what one network differs by, its own error, that of the drift.

    Args:
        centre: the statistic corrected for drift. standard_error: in the same unit.
        deviation: as of `day_deviation`. Errors are independent and normal in the logarithm.

    Returns:
        None where the error of the statistic is not known.
    """
    if not math.isfinite(standard_error):
        return None
    z = NormalDist().inv_cdf((1 + drift_confidence) / 2)
    drift = (math.log(drift_interval[1]) - math.log(drift_interval[0])) / (2 * z)
    half = NormalDist().inv_cdf((1 + confidence) / 2) * math.hypot(standard_error / centre, drift, deviation)
    return centre * math.exp(-half), centre * math.exp(half)


def _mean(rounds: Sequence[Array]) -> float:
    return float(np.mean([samples.mean() for samples in rounds]))


def _mean_interval(rounds: Sequence[Array], confidence: float) -> Interval:
    """Student's interval over round means, corrected twice for skewness; the wider limit of the two counts.

    Bursts hit few rounds, and a sample with too few of them has too small a mean and too small a variance at once. Hall's
    (1992) transformation of Student's statistic removes the first order of that. It trusts the skewness that was seen, so
    the limits with further rounds at the extreme are computed too.
    """
    means = np.array([samples.mean() for samples in rounds])
    count = len(means)
    centre = float(means.mean())
    if float(np.ptp(means)) == 0:
        return centre, centre
    variance, degrees = _variance_of_rounds(means[None, :])
    t = _t(confidence, degrees)
    error = math.sqrt(float(variance[0]) / count)
    slope = float(_skewness(means[None, :])[0]) / math.sqrt(count)
    limits = []
    for side in (-1, 1):
        shifted, spread, rounds_then = _with_extreme_rounds(means[None, :], variance, side)
        by_extreme = float(shifted[0]) + side * t * math.sqrt(float(spread[0] / rounds_then[0]))
        by_skewness = centre - _untransformed(-side * t, slope) * error
        limits.append(side * max(side * by_extreme, side * by_skewness))
    return limits[0], limits[1]


def _untransformed(value: float, slope: float) -> float:
    """Student's statistic of which Hall's (1992) transformation is `value`; slope: skewness over the root of the number."""
    if abs(slope) < 1e-6:
        return value
    return 3 / slope * (math.cbrt(1 + slope * (value - slope / 6)) - 1)


def _quantile_interval(rounds: Sequence[Array], quantile: float, confidence: float) -> Interval:
    """From the highest sample that the quantile is surely not below to the lowest that it is surely not above."""
    thresholds = np.unique(np.concatenate(rounds))
    counts = np.array([len(samples) for samples in rounds])
    padded = np.full((len(rounds), counts.max()), np.inf)
    for row, samples in zip(padded, rounds, strict=True):
        row[: len(samples)] = samples

    def surely_below(index: int) -> bool:
        within = (padded < thresholds[index + 1]).sum(axis=1) / counts
        return bool(_surely_differs(within[None, :], int(counts.sum()), quantile, confidence)[1][0])

    def surely_above(index: int) -> bool:
        within = (padded <= thresholds[index]).sum(axis=1) / counts
        return bool(_surely_differs(within[None, :], int(counts.sum()), quantile, confidence)[0][0])

    last = len(thresholds) - 1
    low = _first(lambda index: not surely_below(index), 0, last)
    high = _first(surely_above, low, last)
    return float(thresholds[low]), float(thresholds[high])


def _first(holds: Callable[[int], bool], low: int, high: int) -> int:
    """The first index in low to high from which `holds` is true, by bisection; `high` where it never is."""
    while low < high:
        middle = (low + high) // 2
        if holds(middle):
            high = middle
        else:
            low = middle + 1
    return low


def _surely_differs(
    within: Array, samples: int, quantile: float, confidence: float
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Whether the share of inferences within a threshold is surely above `quantile`, or surely below it.

    "Above" decides that a budget is met. A sample with too few of the slow rounds has too few inferences beyond the
    threshold and too small a design effect at once, so it is tested with further rounds at the extreme. Fay and Feuer
    (1997) add one such event to a sum of events of different weights, for the same reason.

    Args:
        within: (rows, rounds) share of each round's inferences within the threshold, the rounds in the order of time.
        samples: inferences of all rounds; no more of them can be independent.

    Returns:
        (rows,) above. (rows,) below.
    """
    from scipy import special  # takes a while to import

    count = np.full(len(within), float(within.shape[1]))
    share = within.mean(axis=1)
    variance, degrees = _variance_of_rounds(within)
    level = (1 - confidence) / 2
    correction = (NormalDist().inv_cdf(1 - level) / _t(confidence, degrees)) ** 2
    lower, spread, rounds = _with_extreme_rounds(within, variance, -1)
    independent = _independent(lower, spread, rounds, correction, samples)
    hits = independent * lower
    above = special.betainc(np.maximum(hits, 1e-9), independent - hits + 1, quantile) < level
    independent = _independent(share, variance, count, correction, samples)
    hits = independent * share
    below = special.betaincc(hits + 1, np.maximum(independent - hits, 1e-9), quantile) < level
    return above & (lower > quantile), below & (share < quantile)


def _independent(share: Array, variance: Array, rounds: Array, correction: float, samples: int) -> Array:
    """(rows,) independent inferences that would say as much about the share: the rounds over the design effect.

    For an exact binomial test (Clopper and Pearson 1934), with Student's correction for the error of the design effect
    (Korn and Graubard 1998). Where all lies on one side of the threshold, whole rounds could lie on the other: as many as
    rounds.
    """
    whole = share * (1 - share)
    one_sided = whole <= 0
    found = correction * rounds * whole / np.where(one_sided, 1.0, np.maximum(variance, 1e-9 * whole))
    clipped: Array = np.clip(np.where(one_sided, rounds, found), 1.0, samples)
    return clipped


def _with_extreme_rounds(values: Array, variance: Array, side: Literal[-1, 1]) -> tuple[Array, Array, Array]:
    """(rows,) mean, variance of a round and number of rounds, with further rounds at the extreme of the skewed side.

    As many as the skewness, up to _MOST_ADDED; as Agresti and Coull (1998) add two successes and two failures to a share.
    """
    count = values.shape[1]
    centre = values.mean(axis=1)
    extreme = values.max(axis=1) if side > 0 else values.min(axis=1)
    more = np.clip(side * _skewness(values), 0.0, _MOST_ADDED)
    shifted = (count * centre + more * extreme) / (count + more)
    spread = (count * variance + more * (extreme - centre) ** 2) / (count + more)
    return shifted, spread, count + more


def _skewness(values: Array) -> Array:
    """(rows,) of the rounds; 0 where they are all alike."""
    rest = values - values.mean(axis=1, keepdims=True)
    variance = (rest**2).mean(axis=1)
    third = (rest**3).mean(axis=1)
    found: Array = np.zeros_like(third)
    np.divide(third, variance**1.5, out=found, where=variance > 1e-18 * values.max(axis=1) ** 2)
    return found


def _variance_of_rounds(values: Array) -> tuple[Array, int]:
    """(rows,) variance of one round for the mean over rounds, and its degrees of freedom.

    Rounds need not be independent: a machine that changes its speed a few times a second is alike in rounds that are
    0.4 s apart. What a correlation does to the mean is seen in the slow waves of the rounds, so the variance is the mean
    square of their cosines of low frequency (the equal-weighted cosine estimator; Lazarus, Lewis, Stock and Watson 2018), as
    many as grow with the two-thirds power of the number of rounds. Of independent normal rounds it is exactly chi-square.
    The slowest, half a wave over all rounds, is left out: it is the trend, and a trend is no error of the mean over the time
    that was measured.

    Args:
        values: (rows, rounds), the rounds in the order of time.
    """
    waves = _waves(values.shape[1])
    found: Array = ((values @ waves) ** 2).mean(axis=1)
    return found, waves.shape[1]


@cache
def _waves(count: int) -> Array:
    """(rounds, waves) orthonormal cosines, from a whole wave over all rounds on."""
    number = min(count - 2, max(_LEAST_WAVES, round(_WAVES * count ** (2 / 3))))
    time = (np.arange(count) + 0.5) / count
    found: Array = math.sqrt(2 / count) * np.cos(math.pi * np.outer(time, np.arange(2, 2 + number)))
    return found


def _weighted_quantile(rounds: Sequence[Array], quantile: float) -> float:
    """Of all samples, every round weighing equally; between two samples on a straight line."""
    values = np.concatenate(rounds)
    weights = np.concatenate([np.full(len(samples), 1 / len(samples)) for samples in rounds])
    order = np.argsort(values, kind="stable")
    values, weights = values[order], weights[order]
    reached = (np.cumsum(weights) - weights / 2) / weights.sum()
    return float(np.interp(quantile, reached, values))


@cache
def _t(confidence: float, degrees: int) -> float:
    from scipy import stats  # takes a second to import

    return float(stats.t.ppf((1 + confidence) / 2, degrees))

"""Statistics of single inferences with intervals that hold when inferences are not independent. docs/verdicts.md.

Inferences of one round share the state of the machine, so the round is the unit: everything that is estimated is a mean
over rounds, each of equal weight, and its error comes from how the rounds differ. That is cluster sampling; the interval
of a quantile follows from the share of inferences within a threshold, as in Woodruff (1952), by a score test (Wilson
1927): the error is taken under the hypothesis that is tested, with the design effect seen at the threshold.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
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
MEAN_ROUNDS = 36  # an event that hits one round in ten stays unseen in fewer with more than 2.5 %
LOW_QUANTILE = 0.1
DAY_DEVIATION = (
    0.01  # of one network between two days, beyond what all have in common; known before any sentinel was seen
)
_PRIOR_SENTINELS = 4  # the weight of DAY_DEVIATION, in sentinels
_CANDIDATES = 1500  # thresholds that are tried
_TREND_DEGREE = 2  # of the polynomial in time
_ROUNDS_PER_DEGREE = 12
_CORRELATION_ERRORS = 0.0  # standard errors above zero from which a correlation between rounds is used
_MOST_CORRELATION = 0.8
_MOST_ADDED = 2.0  # rounds


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
    interval = _quantile_interval(arrays, quantile, confidence)
    return Estimate(value, interval, 2 * len(arrays) if interval is None else None)


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

    A quantile needs so many rounds that seeing nothing beyond a threshold means something although whole rounds may lie
    there: with the share 1-p of such rounds, the score test of R rounds without one has to reject.
    """
    quantile = LATENCY_STATISTICS[metric]
    if quantile is None:
        return MEAN_ROUNDS
    odds = max(quantile / (1 - quantile), (1 - quantile) / quantile)
    rounds = 3
    while rounds < odds * _t(confidence, rounds - 1) ** 2:
        rounds += 1
    return rounds


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
        centre: the statistic with the drift divided out. standard_error: in the same unit.
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
    """Student's interval over round means; on a skewed side with further rounds at the extreme.

    Bursts hit few rounds, and a sample with too few of them has too small a mean and too small a variance at once. As
    Agresti and Coull (1998) do for a share, up to two rounds at the extreme are added before the limit on that side is
    computed: as many as the skewness of the round means.
    """
    means = np.array([samples.mean() for samples in rounds])
    count = len(means)
    t = _t(confidence, count - 1)
    centre, std = float(means.mean()), float(means.std())
    if std == 0:
        return centre, centre
    variance = float(_variance_of_rounds(means[None, :])[0])
    skewness = float(np.mean((means - centre) ** 3)) / std**3
    limits = []
    for side, extreme in ((-1, float(means.min())), (1, float(means.max()))):
        more = min(_MOST_ADDED, max(0.0, side * skewness))
        shifted = (count * centre + more * extreme) / (count + more)
        spread = (count * variance + more * (extreme - centre) ** 2) / (count + more)
        limits.append(shifted + side * t * math.sqrt(spread / (count + more)))
    return limits[0], limits[1]


def _quantile_interval(rounds: Sequence[Array], quantile: float, confidence: float) -> Interval | None:
    """The thresholds at which the share of inferences within them could be `quantile`.

    At a threshold, a share of each round lies within; their mean is compared with `quantile`. The variance is that of a
    share, quantile x (1 - quantile), times the design effect there: how the rounds differ over how they would differ if
    each lay wholly on one side. Where nothing lies beyond the threshold, the rounds could: a design effect of 1.
    """
    count = len(rounds)
    limit = _t(confidence, count - 1)
    thresholds = _candidates(rounds, quantile, count)
    within = np.stack(
        [
            (np.searchsorted(samples, thresholds, "left") + np.searchsorted(samples, thresholds, "right"))
            / (2 * len(samples))
            for samples in map(np.sort, rounds)
        ],
        axis=1,
    )  # (thresholds, rounds); half of the samples that equal the threshold
    share = within.mean(axis=1)
    whole = share * (1 - share)
    least = 1 / max(len(samples) for samples in rounds)
    effect = np.clip(
        np.divide(_variance_of_rounds(within), whole, out=np.ones_like(whole), where=whole > 0), least, None
    )
    score = (share - quantile) / np.sqrt(quantile * (1 - quantile) * effect / count)
    inside = np.flatnonzero(np.abs(score) <= limit)
    if not len(inside):
        middle = int(np.argmin(np.abs(score)))
        inside = np.array([middle])
    first, last = int(inside[0]), int(inside[-1])
    if first == 0 and thresholds[0] == min(samples.min() for samples in rounds):
        low = float(thresholds[0])
    else:
        low = _crossing(thresholds, score, first - 1, first, -limit) if first else float(thresholds[0])
    high = _crossing(thresholds, score, last, last + 1, limit) if last + 1 < len(thresholds) else float(thresholds[-1])
    return low, high


def _crossing(thresholds: Array, score: Array, left: int, right: int, level: float) -> float:
    """Where the score passes a level between two neighbours, on a straight line."""
    rise = score[right] - score[left]
    part = 0.5 if rise <= 0 else min(1.0, max(0.0, float((level - score[left]) / rise)))
    return float(thresholds[left] + part * (thresholds[right] - thresholds[left]))


def _candidates(rounds: Sequence[Array], quantile: float, count: int) -> Array:
    """Distinct sample values near the quantile, at most _CANDIDATES; six standard errors to each side."""
    values = np.unique(np.concatenate(rounds))
    reach = 6 * math.sqrt(quantile * (1 - quantile) / count)
    merged = np.sort(np.concatenate(rounds))
    low = merged[int(max(0.0, quantile - reach) * (len(merged) - 1))]
    high = merged[math.ceil(min(1.0, quantile + reach) * (len(merged) - 1))]
    near = values[(values >= low) & (values <= high)]
    if len(near) > _CANDIDATES:
        near = near[np.linspace(0, len(near) - 1, _CANDIDATES).round().astype(int)]
    found: Array = near
    return found


def _variance_of_rounds(values: Array) -> Array:
    """(rows,) variance of one round for the mean over rounds, as if rounds were independent.

    A slow trend is no error of the mean over the time that was measured: it is fitted and left out. What remains may be
    correlated from round to round, where the machine changes its speed a few times a second; then a mean is less certain
    than of independent rounds by (1 + r) / (1 - r), with r of an autoregressive process of first order.

    Args:
        values: (rows, rounds), the rounds in the order of time.
    """
    count = values.shape[1]
    degree = min(_TREND_DEGREE, count // _ROUNDS_PER_DEGREE)
    basis = np.linalg.qr(np.vander(np.linspace(-1, 1, count), degree + 1))[0]
    rest = values - (values @ basis) @ basis.T
    total = (rest * rest).sum(axis=1)
    variance: Array = total / (count - degree - 1)
    if count < _ROUNDS_PER_DEGREE:
        return variance
    lag = (rest[:, 1:] * rest[:, :-1]).sum(axis=1)
    found = np.divide(lag, total, out=np.zeros_like(total), where=total > 0)
    # Residuals of a trend are correlated by about -(degree + 1) / count even where the rounds are not.
    correlation = (found * count + degree + 1) / (count - 3 * (degree + 1))
    usable = np.clip(correlation - _CORRELATION_ERRORS / math.sqrt(count), 0.0, _MOST_CORRELATION)
    usable = np.where(usable > 0, np.clip(correlation, 0.0, _MOST_CORRELATION), 0.0)
    variance = variance * (1 + usable) / (1 - usable)
    return variance


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

"""How far the mean of a window may lie from what the load draws in the long run, from how the samples fluctuate.

The fluctuation has a memory that nobody knows, and its slowest part looks like a level within one window. So the samples are
compared with several hypotheses (how strong, how long a memory, one memory or two), in the frequencies of the window: a
hypothesis predicts the variance of each cosine, and of the mean. The error of the mean is the mixture of the hypotheses, each
weighted by how well it predicts the cosines. Filter and rounding of the sensor are part of every hypothesis.
"""

import math
from typing import Dict, FrozenSet, List, NamedTuple, Optional, Sequence, Tuple

from profiler.power.interval import CONFIDENCE, RandomError

HIGHEST_HZ = 2.0  # of the cosines: beyond it a filter of 0.44 s leaves little but rounding
MOST_SAMPLES = 120  # longer windows are averaged in groups
MEMORIES_S = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 4.8)
TWO_MEMORIES = ((2.0, 0.8), (2.0, 0.95))  # a short memory, and a slow one with that share of the variance of the mean
TWO_WEIGHT = 0.03  # of all hypotheses with two memories, before the samples are seen
SHORT_S = 0.1
STRENGTHS = 12
FREEDOM = 8.0  # the mixture has about the tails of Student's t with so many degrees of freedom
_T_95 = 2.306  # its 97.5 % quantile
_SHAPES: "Dict[Tuple[int, float, float, int], List[_Shape]]" = {}


class _Shape(NamedTuple):
    log_weight: float
    variances: List[float]  # of each cosine, for a variance of 1 of sqrt(n) x the mean


class Fit(NamedTuple):
    """What the samples say about the hypotheses."""

    error: RandomError  # of the mean
    variances: List[float]  # of the cosines 1, 2, ... under the most likely hypothesis


def fit(
    mw: Sequence[float],
    period_s: float,
    tau_s: float,
    step_mw: float,
    spoilt: FrozenSet[int] = frozenset(),
) -> Fit:
    """Of equidistant samples, with trends and lines left in.

    Args:
        step_mw: of the rounding; 0 where it is not known.
        spoilt: cosines that do not count, from 1 for the slowest: what was fitted and subtracted before took them with it.
    """
    group = max(1, -(-len(mw) // MOST_SAMPLES))
    mw = [sum(mw[start : start + group]) / group for start in range(0, len(mw) - group + 1, group)]
    period_s *= group
    count = len(mw)
    cosines = _cosines(mw, min(int(2.0 * HIGHEST_HZ * count * period_s), int(0.8 * count)))
    squares = [value * value for value in cosines]
    floor = step_mw**2 / 12.0 / group
    largest = max(squares)
    if largest <= 1e-9 * max(abs(mw[0]), 1.0) ** 2:
        return Fit(RandomError(0.0, FREEDOM), [max(floor, 1e-9)] * len(squares))
    shapes = _shapes(count, period_s, tau_s, len(squares))
    counted = [index for index in range(len(squares)) if index + 1 not in spoilt]
    low, high = max(0.1 * floor, 1e-3 * largest / len(squares)), 16.0 * max(largest, floor)
    ratio = (high / low) ** (1.0 / (STRENGTHS - 1))
    found: List[Tuple[float, float]] = []  # (log of the weight, variance of the mean)
    best: Optional[Tuple[float, List[float]]] = None
    for strength in (low * ratio**power for power in range(STRENGTHS)):
        for shape in shapes:
            variances = [strength * share + floor for share in shape.variances]
            fits = shape.log_weight - 0.5 * sum(
                math.log(variances[index]) + squares[index] / variances[index] for index in counted
            )
            found.append((fits, strength / count))
            if best is None or fits > best[0]:
                best = (fits, variances)
    assert best is not None
    weights = [math.exp(fits - best[0]) for fits, _ in found]
    half = _mixture_half(weights, [math.sqrt(variance) for _, variance in found])
    return Fit(RandomError(half / _T_95, FREEDOM), best[1])


def forget() -> None:
    """The hypotheses computed so far, for one who changes them."""
    _SHAPES.clear()


def _cosines(mw: Sequence[float], most: int) -> List[float]:
    """The projections on cos(pi j (i + 0.5) / n) for j = 1 .. `most`, each of unit length."""
    count = len(mw)
    mean = sum(mw) / count
    rest = [value - mean for value in mw]
    table = [math.cos(math.pi * index / (2 * count)) for index in range(4 * count)]
    scale = math.sqrt(2.0 / count)
    return [
        scale * sum(value * table[j * (2 * index + 1) % (4 * count)] for index, value in enumerate(rest))
        for j in range(1, max(most, 2) + 1)
    ]


def _shapes(count: int, period_s: float, tau_s: float, most: int) -> List[_Shape]:
    key = (count, float("{:.2g}".format(period_s)), tau_s, most)
    if key not in _SHAPES:
        if len(_SHAPES) > 50:
            _SHAPES.clear()
        one = [_variances(memory_s, *key) for memory_s in MEMORIES_S]
        short = _variances(SHORT_S, *key)
        log_one = math.log((1.0 - TWO_WEIGHT) / len(one))
        log_two = math.log(TWO_WEIGHT / len(TWO_MEMORIES))
        two = [
            [(1.0 - share) * fast + share * slow for fast, slow in zip(short, _variances(memory_s, *key))]
            for memory_s, share in TWO_MEMORIES
        ]
        _SHAPES[key] = [_Shape(log_one, each) for each in one] + [_Shape(log_two, each) for each in two]
    return _SHAPES[key]


def _variances(memory_s: float, count: int, period_s: float, tau_s: float, most: int) -> List[float]:
    """Of the cosines of first-order noise behind the sensor's filter, relative to that of sqrt(n) x the mean."""
    seen = [_covariance(lag * period_s, memory_s, tau_s) for lag in range(count)]
    mean = seen[0] + 2.0 * sum((1.0 - lag / count) * seen[lag] for lag in range(1, count))
    found = []
    for j in range(1, most + 1):
        angle = math.pi * j / count
        # The autocorrelation of a cosine over the window, in closed form.
        total = (1.0 - 1.0 / count) * seen[0] if j == count else seen[0]
        for lag in range(1, count):
            part = (1.0 - lag / count) * math.cos(angle * lag) - math.sin(angle * lag) / (count * math.sin(angle))
            total += 2.0 * part * seen[lag]
        found.append(max(total, 1e-12) / mean)
    return found


def _covariance(lag_s: float, memory_s: float, tau_s: float) -> float:
    """Of first-order noise of variance 1 behind a first-order filter."""
    if tau_s <= 0.0:
        return math.exp(-lag_s / memory_s)
    if abs(memory_s - tau_s) < 0.01 * tau_s:
        memory_s *= 1.02
    seen = memory_s * math.exp(-lag_s / memory_s) - tau_s * math.exp(-lag_s / tau_s)
    return seen * memory_s / (memory_s**2 - tau_s**2)


def _mixture_half(weights: Sequence[float], errors: Sequence[float]) -> float:
    """Half the interval of a mixture of normal distributions around 0."""
    by_error: Dict[float, float] = {}
    for weight, error in zip(weights, errors):
        by_error[error] = by_error.get(error, 0.0) + weight
    aim = CONFIDENCE * sum(weights)
    low, high = 0.0, 3.0 * max(errors)
    for _ in range(30):
        middle = (low + high) / 2.0
        inside = sum(weight * math.erf(middle / error / math.sqrt(2.0)) for error, weight in by_error.items())
        low, high = (middle, high) if inside < aim else (low, middle)
    return high

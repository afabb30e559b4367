"""The power of a window, from its samples: the mean, and how far it may lie from what the load draws in the long run."""

import math
from typing import FrozenSet, List, NamedTuple, Optional, Sequence, Tuple

from profiler.power import fluctuation, periodic
from profiler.power.interval import RandomError
from profiler.power.periodic import Series
from profiler.power.trace import Samples

LONGEST_GAP = 0.3  # share of a window that may lack samples in one piece
SPEED_COSINES = frozenset([1])  # half a period in a window: a fit of one unknown takes about one
SPEED_CHANGE = 0.02  # relative standard deviation of the speed; below it the speed is steady
_SPEED_BIN_S = 0.25
_GRID_S = 0.02  # of the filter that the speed is sent through

Progress = Sequence[Tuple[float, int]]  # (time, batches done since the start), in order of time


class EnergyError(ValueError):
    """A window without a usable power level; the message says why."""


class Window(NamedTuple):
    """A stretch of time on the monotonic clock."""

    start_s: float
    end_s: float


class Steady(NamedTuple):
    """The samples of a window after settling."""

    samples: int
    mean_mw: float  # each sample weighted by the time that it stands for
    stands_for: Window  # all of them together: the batches of this time are those of the energy
    series: Series  # the same on an even grid; gaps are filled with straight lines
    first_mw: Optional[float]  # the last sample before the window
    spoilt: FrozenSet[int] = frozenset()  # cosines of the window that a fit to the speed has taken with it

    @property
    def middle_s(self) -> float:
        return self.series.start_s + self.series.span_s / 2.0

    @property
    def variance(self) -> float:
        mean = sum(self.series.mw) / len(self.series.mw)
        return sum((mw - mean) ** 2 for mw in self.series.mw) / len(self.series.mw)


class Level(NamedTuple):
    """A steady level of power, seen through the filter."""

    mean_mw: float
    error: RandomError
    rounding_mw: List[float]  # bounds on the error from rounding, one per rail
    trend_mw_per_s: float


def steady_samples(trace: Samples, window: Window, settle_s: float, min_steady_s: float, cumulative: bool) -> Steady:
    """The samples in a window without its first `settle_s`. Raises EnergyError."""
    start_s = window.start_s + settle_s
    inside = [(t_s, mw) for t_s, mw in trace if start_s <= t_s < window.end_s]
    points = [(t_s, mw) for t_s, mw in inside if mw is not None]
    if len(points) < len(inside):
        raise EnergyError("{} of {} samples could not be read".format(len(inside) - len(points), len(inside)))
    if len(points) < 4:
        raise EnergyError("only {} samples in the window after settling for {} s".format(len(points), settle_s))
    gaps = [right[0] - left[0] for left, right in zip(points[:-1], points[1:])]  # noqa: RUF007 (not in 3.6)
    period_s = sorted(gaps)[len(gaps) // 2]
    span_s = points[-1][0] - points[0][0] + period_s
    if span_s < min_steady_s - period_s:
        raise EnergyError("only {:.1f} s of steady samples, {:.1f} s are needed".format(span_s, min_steady_s))
    longest_s = max(gaps)
    if longest_s > max(5.0 * period_s, 0.5) and longest_s > LONGEST_GAP * span_s:
        raise EnergyError("no samples for {:.1f} s: the sampler was delayed".format(longest_s))
    # A counter's reading covers the time since the one before, a momentary one the time around it.
    if cumulative:
        earlier = [t_s for t_s, _ in trace if t_s < points[0][0]][-1:]
        edges = [earlier[0] if earlier else points[0][0] - period_s, *(t_s for t_s, _ in points)]
    else:
        ends = [max(start_s, points[0][0] - period_s / 2.0), min(window.end_s, points[-1][0] + period_s / 2.0)]
        between = [(left[0] + right[0]) / 2.0 for left, right in zip(points[:-1], points[1:])]  # noqa: RUF007
        edges = [ends[0], *between, ends[1]]
    weights = [right - left for left, right in zip(edges[:-1], edges[1:])]  # noqa: RUF007
    mean_mw = sum(weight * mw for weight, (_, mw) in zip(weights, points)) / sum(weights)
    stands_for = Window(edges[0], edges[-1])
    before = [mw for t_s, mw in trace if t_s < window.start_s]
    return Steady(len(points), mean_mw, stands_for, _even(points, period_s), before[-1] if before else None)


def without_speed(steady: Steady, window: Window, progress: Progress, tau_s: float) -> Optional[Steady]:
    """Without what a change of the speed did to the power; None where the speed was steady.

    The power follows the speed of the batches, through the sensor's filter. That part is no fluctuation, and its lag at the
    end of the window is known: the integral of a filtered power lacks tau_s x its change.
    """
    speed = _speed(window, progress)
    mean = sum(speed) / max(len(speed), 1)
    steady_from = int((steady.series.start_s - window.start_s) / _GRID_S)
    after = speed[steady_from:]
    if not after or mean <= 0.0:
        return None
    mean = sum(after) / len(after)
    if math.sqrt(sum((each - mean) ** 2 for each in after) / len(after)) <= SPEED_CHANGE * mean:
        return None
    follows = 1.0 - math.exp(-_GRID_S / tau_s) if tau_s > 0.0 else 1.0
    seen = [speed[0]]
    for each in speed[1:]:
        seen.append(seen[-1] + (each - seen[-1]) * follows)
    series = steady.series
    x = [
        seen[min(len(seen) - 1, round((series.start_s + index * series.period_s - window.start_s) / _GRID_S))]
        for index in range(len(series.mw))
    ]
    x_mean, y_mean = sum(x) / len(x), sum(series.mw) / len(x)
    moment = sum((value - x_mean) ** 2 for value in x)
    if moment <= 0.0:
        return None
    slope = sum((value - x_mean) * (mw - y_mean) for value, mw in zip(x, series.mw)) / moment
    lag_mw = tau_s * slope * (x[-1] - x[0]) / series.span_s
    rest = [mw - slope * (value - x_mean) for value, mw in zip(x, series.mw)]
    cleaned = Series(series.start_s, series.period_s, rest)
    return steady._replace(mean_mw=steady.mean_mw + lag_mw, series=cleaned, spoilt=SPEED_COSINES)


def level(steady: Steady, tau_s: float, steps_mw: Sequence[float], seen_variance: float) -> Level:
    """The level of samples from which common lines and changes of speed are out.

    Args:
        steps_mw: of the rails of the total.
        seen_variance: of the samples as they were read: what moves between the steps of the sensor.
    """
    step_mw = math.sqrt(sum(step**2 for step in steps_mw))
    if steady.variance > step_mw**2 / 3.0:
        cleaned = periodic.without_lines(steady.series, tau_s, step_mw)
    else:
        cleaned = periodic.Cleaned(steady.series, 0.0, 1.0)
    series = cleaned.series
    error = fluctuation.fit(series.mw, series.period_s, tau_s, step_mw, steady.spoilt).error
    return Level(
        mean_mw=steady.mean_mw - cleaned.removed_mw,
        error=error.times(cleaned.factor),
        rounding_mw=rounding_bounds(steps_mw, seen_variance),
        trend_mw_per_s=trend(series),
    )


def rounding_bounds(steps_mw: Sequence[float], seen_variance: float) -> List[float]:
    """Half a step for each rail. One rail that moves over several steps rounds up as often as down: there it is less."""
    if len(steps_mw) != 1:
        return [step / 2.0 for step in steps_mw]  # which of the rails moves is not known
    step = steps_mw[0]
    moves = max(0.0, seen_variance / step**2 - 1.0 / 12.0)  # less the variance that rounding itself has
    return [step / 2.0 * math.exp(-2.0 * math.pi**2 * moves)]


def trend(series: Series) -> float:
    """The slope, in mW per s."""
    middle = (len(series.mw) - 1) / 2.0
    mean = sum(series.mw) / len(series.mw)
    moment = sum((index - middle) ** 2 for index in range(len(series.mw)))
    return sum((index - middle) * (mw - mean) for index, mw in enumerate(series.mw)) / moment / series.period_s


def batches_between(progress: Progress, start_s: float, end_s: float) -> float:
    """How many batches ran in that time; a batch that is only partly in it counts by its part."""
    return _done_at(progress, end_s) - _done_at(progress, start_s)


def _done_at(progress: Progress, t_s: float) -> float:
    low, high = 0, len(progress) - 1
    if t_s <= progress[0][0]:
        return float(progress[0][1])
    if t_s >= progress[high][0]:
        return float(progress[high][1])
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if progress[middle][0] <= t_s else (low, middle)
    (before_s, before), (after_s, after) = progress[low], progress[high]
    return before + (after - before) * (t_s - before_s) / (after_s - before_s)


def _speed(window: Window, progress: Progress) -> List[float]:
    """Batches per second every `_GRID_S`: the mean over `_SPEED_BIN_S`, since batches end in groups."""
    length_s = window.end_s - window.start_s
    bins = int(length_s / _SPEED_BIN_S)
    if bins < 1:
        return []
    edges = [_done_at(progress, window.start_s + index * length_s / bins) for index in range(bins + 1)]
    speeds = [(after - before) * bins / length_s for before, after in zip(edges[:-1], edges[1:])]  # noqa: RUF007
    count = int(length_s / _GRID_S)
    return [speeds[min(bins - 1, index * bins // count)] for index in range(count)]


def _even(points: Sequence[Tuple[float, float]], period_s: float) -> Series:
    start_s = points[0][0]
    count = round((points[-1][0] - start_s) / period_s) + 1
    mw: List[float] = []
    right = 1
    for index in range(count):
        t_s = start_s + index * period_s
        while right < len(points) - 1 and points[right][0] < t_s:
            right += 1
        (left_s, left_mw), (right_s, right_mw) = points[right - 1], points[right]
        share = min(1.0, max(0.0, (t_s - left_s) / (right_s - left_s)))
        mw.append(left_mw + share * (right_mw - left_mw))
    return Series(start_s, period_s, mw)

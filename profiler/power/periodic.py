"""Loads that come and go at a steady period, such as a service of the board: found as lines and taken out of the samples.

A whole number of periods has no effect on a mean, and a part of a period has a known one once the line is known. Without this
a load of 10 s period would pass for a level, and one of 1 s for a fluctuation with a long memory.
"""

import math
from typing import List, NamedTuple, Optional, Sequence, Tuple

from profiler.power import fluctuation

LINES = 3  # at most, in one window: a load that is switched on and off has overtones
CYCLES = 3.0  # a line of one window has at least as many periods in it
ABOVE = 15.0  # a line is that much above the median of the spectrum, relative to the expected one
COMMON_LINES = 2
COMMON_CYCLES = 2.0  # a line of all windows has at least as many periods between the first sample and the last
EXPLAINED = 0.75  # of the variance of all windows: a common line explains at least this share


class Series(NamedTuple):
    """Equidistant samples."""

    start_s: float
    period_s: float
    mw: List[float]

    @property
    def span_s(self) -> float:
        return len(self.mw) * self.period_s


class Cleaned(NamedTuple):
    series: Series
    removed_mw: float  # how much the lines changed the mean
    factor: float  # by which the standard error of the mean grows, since the lines were estimated from the same samples


def without_lines(series: Series, tau_s: float, step_mw: float) -> Cleaned:
    """Without the lines that this window shows alone."""
    whole, factor = series, 1.0
    for _ in range(LINES):
        hertz = _strongest(series, tau_s, step_mw)
        if hertz is None:
            break
        around = [hertz + offset / (12.0 * series.span_s) for offset in range(-4, 5)]
        lines = [_line([series], [1.0], each) for each in around]
        best = max(lines, key=lambda line: line.explained)
        series = Series(series.start_s, series.period_s, [mw - part for mw, part in zip(series.mw, best.parts[0])])
        factor *= best.factor
    return Cleaned(series, _mean(whole.mw) - _mean(series.mw), factor)


def without_common_lines(windows: Sequence[Series], step_mw: float) -> List[Series]:
    """Without the slow lines that idle and busy windows share: too slow to be seen in one window."""
    first_s, last = windows[0].start_s, windows[-1]
    record_s = last.start_s + last.span_s - first_s
    hertz = COMMON_CYCLES / record_s
    highest = CYCLES / min(series.span_s for series in windows)
    step_hz = 1.0 / (6.0 * record_s)
    candidates = [hertz + index * step_hz for index in range(max(0, int((highest - hertz) / step_hz) + 1))]
    found = list(windows)
    for _ in range(COMMON_LINES):
        variances = [_variance(series.mw) for series in found]
        if min(variances) <= step_mw**2 / 3.0 or not candidates:
            break  # where a window is still, there is no load that all share
        weights = [1.0 / variance for variance in variances]
        total = float(sum(len(series.mw) for series in found))  # the weighted sum of squares
        best = max((_line(found, weights, each) for each in candidates), key=lambda line: line.explained)
        # A drift of the board is no line of a long period.
        if best.explained < max(EXPLAINED * total, _explained_by_slope(found, weights)):
            break
        found = [
            Series(series.start_s, series.period_s, [mw - part for mw, part in zip(series.mw, parts)])
            for series, parts in zip(found, best.parts)
        ]
    return found


def _explained_by_slope(windows: Sequence[Series], weights: Sequence[float]) -> float:
    """Of the weighted sum of squares, by one slope for all windows, each around its own level."""
    moment = product = 0.0
    for series, weight in zip(windows, weights):
        middle = (len(series.mw) - 1) / 2.0
        times = [(index - middle) * series.period_s for index in range(len(series.mw))]
        moment += weight * sum(t_s * t_s for t_s in times)
        product += weight * sum(t_s * mw for t_s, mw in zip(times, series.mw))
    return product**2 / moment


class _Line(NamedTuple):
    explained: float  # of the weighted sum of squares
    parts: List[List[float]]  # what it adds to each sample of each window
    factor: float  # of the standard error of the mean; for one window


def _line(windows: Sequence[Series], weights: Sequence[float], hertz: float) -> _Line:
    """The best line of this frequency when each window has a level of its own."""
    waves = [_waves(series, hertz) for series in windows]
    cc = cs = ss = cy = sy = 0.0
    for series, (cosines, sines), weight in zip(windows, waves, weights):
        count = len(series.mw)
        c, s, y = sum(cosines), sum(sines), sum(series.mw)
        cc += weight * (sum(value * value for value in cosines) - c * c / count)
        ss += weight * (sum(value * value for value in sines) - s * s / count)
        cs += weight * (sum(left * right for left, right in zip(cosines, sines)) - c * s / count)
        cy += weight * (sum(left * right for left, right in zip(cosines, series.mw)) - c * y / count)
        sy += weight * (sum(left * right for left, right in zip(sines, series.mw)) - s * y / count)
    determinant = cc * ss - cs * cs
    if determinant <= 1e-6 * cc * ss:
        return _Line(0.0, [[0.0] * len(series.mw) for series in windows], 1.0)
    a, b = (ss * cy - cs * sy) / determinant, (cc * sy - cs * cy) / determinant
    parts = [[a * c + b * s for c, s in zip(cosines, sines)] for cosines, sines in waves]
    c, s = _mean(waves[0][0]), _mean(waves[0][1])
    shared = (ss * c * c - 2.0 * cs * c * s + cc * s * s) / determinant * weights[0]
    return _Line(a * cy + b * sy, parts, math.sqrt(1.0 + shared * len(windows[0].mw)))


def _waves(series: Series, hertz: float) -> Tuple[List[float], List[float]]:
    angles = [2.0 * math.pi * hertz * (series.start_s + index * series.period_s) for index in range(len(series.mw))]
    return [math.cos(angle) for angle in angles], [math.sin(angle) for angle in angles]


def _strongest(series: Series, tau_s: float, step_mw: float) -> Optional[float]:
    """The frequency that stands out most from the spectrum that the fluctuation predicts; None when none does."""
    expected = fluctuation.fit(series.mw, series.period_s, tau_s, step_mw).variances
    span_s = series.span_s
    lowest, highest = CYCLES / span_s, min(fluctuation.HIGHEST_HZ, len(expected) / (2.0 * span_s))
    ratios = []
    mean = _mean(series.mw)
    for index in range(int((highest - lowest) * 3.0 * span_s)):
        hertz = lowest + index / (3.0 * span_s)
        cosines, sines = _waves(series, hertz)
        c = sum((mw - mean) * value for mw, value in zip(series.mw, cosines))
        s = sum((mw - mean) * value for mw, value in zip(series.mw, sines))
        at = max(1, min(len(expected), round(2.0 * hertz * span_s)))
        ratios.append(((c * c + s * s) / expected[at - 1], hertz))
    if len(ratios) < 10:
        return None
    median = sorted(ratios)[len(ratios) // 2][0]
    strongest, hertz = max(ratios)
    return hertz if strongest > ABOVE * median else None


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _variance(values: Sequence[float]) -> float:
    mean = _mean(values)
    return sum((value - mean) ** 2 for value in values) / len(values)

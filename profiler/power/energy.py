"""From samples of power to millijoules per batch, with what is not known about them.

    idle ... settle | steady        busy, `runs` batches
                                    settle | steady ... settle | steady   idle again

A reading of the Jetsons' monitor is the power seen through a first-order low-pass (time constant `tau_s`, up to 0.44 s)
and then rounded to a step. So each window is cut by `SETTLE_S` at its start, samples closer than `tau_s` count as
fewer than they are, and a step stays an error bound however many samples there are: a filtered reading does not
dither. What the interval does not hold: the sensor's own calibration. See docs/energy.md.
"""

import math
import time
from typing import NamedTuple

SETTLE_S = 2.2  # five times 0.44 s: within 1 % of a new level
MIN_STEADY_S = 3.0
CONFIDENCE = 0.95
_GRID = 600  # cells on each side of zero in `half_width`
_REACH = 40.0  # standard errors; beyond it a t distribution of 2 degrees of freedom holds 0.06 %


class Window(NamedTuple):
    """A stretch of time on the monotonic clock."""

    start_s: float
    end_s: float


class Level(NamedTuple):
    """A steady level of power, seen through the filter."""

    mean_mw: float
    standard_error_mw: float
    freedom: float  # degrees of freedom behind the standard error
    lag_mw: float  # bound on what the filter had not yet followed when the window began, on its mean
    trend_mw_per_s: float
    samples: int
    effective_samples: float
    span_s: float


class Energy(NamedTuple):
    """One measurement; everything that is not known is None, and then `reason` says why."""

    gross_mj: float = None  # of one batch, everything the rails feed
    gross_interval_mj: tuple = None
    net_mj: float = None  # less what the board draws when idle under the same clocks
    net_interval_mj: tuple = None
    batch_ms: float = None  # mean over the whole busy window, gaps between batches included
    runs: int = None
    power_mw: float = None
    idle_before_mw: float = None
    idle_after_mw: float = None
    idle_drift_mw: float = None  # after minus before
    trend_mw_per_s: float = None  # of the power while busy
    resolution_mw: float = None  # sum over the rails of the total
    tau_s: float = None
    samples: int = None
    effective_samples: float = None
    steady_s: float = None
    confidence: float = CONFIDENCE
    reason: str = None
    warnings: tuple = ()

    def record(self):
        """Plain JSON for the journal."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in self._asdict().items()}


class EnergyError(ValueError):
    """A window that does not tell its level; the message says why."""


def estimate(trace, busy, runs, idle_before, idle_after, sensor, settle_s=SETTLE_S, min_steady_s=MIN_STEADY_S):
    """Energy of one batch.

    Args:
        trace: [(t_s, milliwatts or None)] of the total rail.
        busy: Window in which `runs` batches ran back to back, and nothing else did.
        idle_before, idle_after: Windows without work under the same clocks, or None: then there is no net energy.
        sensor: what `PowerSensor.describe()` gave: total, resolution_mw, tau_s, cumulative.

    Returns:
        Energy. It raises nothing because of what the trace holds.
    """
    labels = sensor.get("total") or ()
    steps = [(sensor.get("resolution_mw") or {}).get(label) for label in labels]
    facts = {
        "runs": runs,
        "tau_s": sensor.get("tau_s"),
        "resolution_mw": sum(steps) if steps and None not in steps else None,
    }
    if not labels:
        return Energy(reason=sensor.get("total_reason") or "no total rail", **facts)
    if facts["tau_s"] is None:
        return Energy(reason="the time constant of the sensor's filter is not known", **facts)
    if runs < 1 or busy.end_s <= busy.start_s:
        return Energy(reason="nothing ran", **facts)

    bounds = None if None in steps else [step / 2.0 for step in steps]
    rounding_mw = math.sqrt(sum(bound**2 for bound in bounds or ()))

    def level_of(window):
        cumulative = sensor.get("cumulative", False)
        return level(trace, window, facts["tau_s"], rounding_mw, settle_s, min_steady_s, cumulative)

    try:
        power = level_of(busy)
    except EnergyError as err:
        return Energy(reason="while busy: {}".format(err), **facts)
    batch_s = (busy.end_s - busy.start_s) / runs
    warnings = []
    facts.update(
        power_mw=power.mean_mw,
        batch_ms=batch_s * 1000.0,
        gross_mj=power.mean_mw * batch_s,
        trend_mw_per_s=power.trend_mw_per_s,
        samples=power.samples,
        effective_samples=power.effective_samples,
        steady_s=power.span_s,
    )
    change_mw = abs(power.trend_mw_per_s) * power.span_s
    # A mere fluctuation leans one way or the other too: its line changes by sqrt(12) times the error of the mean.
    leaning_mw = math.sqrt(12.0) * power.standard_error_mw
    if change_mw > max(0.02 * power.mean_mw, facts["resolution_mw"] or 0.0, leaning_mw):
        warnings.append(
            "not steady: the power changed by {:.0f} mW ({:.1f} %) within the window of {:.1f} s".format(
                change_mw, 100.0 * change_mw / power.mean_mw, power.span_s
            )
        )
    if bounds is None:
        reason = "no interval: the resolution of {} is not known".format(
            ", ".join(label for label, step in zip(labels, steps) if step is None)
        )
    else:
        reason = None
        half_mw = half_width(power.standard_error_mw, power.freedom, bounds + [power.lag_mw])
        facts["gross_interval_mj"] = _interval(facts["gross_mj"], half_mw * batch_s)

    if idle_before is None or idle_after is None:
        reason = reason or "no net energy: idle was not measured on both sides"
        return Energy(reason=reason, warnings=tuple(warnings), **facts)
    try:
        before, after = level_of(idle_before), level_of(idle_after)
    except EnergyError as err:
        return Energy(reason="no net energy: while idle: {}".format(err), warnings=tuple(warnings), **facts)
    idle_mw = (before.mean_mw + after.mean_mw) / 2.0
    drift_mw = after.mean_mw - before.mean_mw
    net_mw = power.mean_mw - idle_mw
    facts.update(
        idle_before_mw=before.mean_mw,
        idle_after_mw=after.mean_mw,
        idle_drift_mw=drift_mw,
        net_mj=net_mw * batch_s,
    )
    if net_mw > 0 and abs(drift_mw) > 0.05 * net_mw:
        warnings.append(
            "idle power went from {:.0f} to {:.0f} mW, {:.0f} % of the net power: "
            "let the board come to its temperature, or lock its clocks".format(
                before.mean_mw, after.mean_mw, 100.0 * abs(drift_mw) / net_mw
            )
        )
    if bounds is not None:
        error, freedom = _combine(
            [
                (power.standard_error_mw, power.freedom),
                (before.standard_error_mw / 2.0, before.freedom),
                (after.standard_error_mw / 2.0, after.freedom),
            ]
        )
        # Both idles may be rounded alike, then their mean is as wrong as each. While the board was busy, idle was
        # somewhere between the two, nobody knows where.
        lags = [power.lag_mw, (before.lag_mw + after.lag_mw) / 2.0]
        half_mw = half_width(error, freedom, bounds + bounds + lags + [abs(drift_mw) / 2.0])
        facts["net_interval_mj"] = _interval(facts["net_mj"], half_mw * batch_s)
    return Energy(reason=reason, warnings=tuple(warnings), **facts)


def level(trace, window, tau_s, rounding_mw=0.0, settle_s=SETTLE_S, min_steady_s=MIN_STEADY_S, cumulative=False):
    """The steady level in a window, without its first `settle_s`. Raises EnergyError.

    `rounding_mw` is the largest standard deviation that rounding alone can give to samples of a constant power.
    """
    start_s = window.start_s + settle_s
    points = [(t_s, mw) for t_s, mw in trace if start_s <= t_s < window.end_s]
    if any(mw is None for _, mw in points):
        raise EnergyError("{} of {} samples could not be read".format(sum(mw is None for _, mw in points), len(points)))
    if len(points) < 4:
        raise EnergyError("only {} samples in the window after settling for {} s".format(len(points), settle_s))
    gaps = [right[0] - left[0] for left, right in zip(points[:-1], points[1:])]  # noqa: RUF007 (not in 3.6)
    period_s = sorted(gaps)[len(gaps) // 2]
    span_s = points[-1][0] - points[0][0] + period_s
    if span_s < min_steady_s - period_s:
        raise EnergyError("only {:.1f} s of steady samples, {:.1f} s are needed".format(span_s, min_steady_s))
    longest_s = max(gaps)
    if longest_s > max(5.0 * period_s, 0.5) and longest_s > 0.2 * span_s:
        raise EnergyError("no samples for {:.1f} s: the sampler was held up".format(longest_s))

    # A counter's reading stands for the time since the one before, a momentary one for the time around it.
    if cumulative:
        before = [t_s for t_s, _ in trace if t_s < points[0][0]][-1:]
        weights = [points[0][0] - before[0] if before else period_s] + gaps
    else:
        weights = [(left + right) / 2.0 for left, right in zip(gaps[:1] + gaps, gaps + gaps[-1:])]
    whole = sum(weights)
    mean_mw = sum(weight * mw for weight, (_, mw) in zip(weights, points)) / whole

    middle_s = sum(t_s for t_s, _ in points) / len(points)
    plain_mw = sum(mw for _, mw in points) / len(points)
    moment = sum((t_s - middle_s) ** 2 for t_s, _ in points)
    trend = sum((t_s - middle_s) * (mw - plain_mw) for t_s, mw in points) / moment
    rest = [mw - plain_mw - trend * (t_s - middle_s) for t_s, mw in points]
    variance = sum(value * value for value in rest) / len(rest)
    correlation_s = max(tau_s, _correlation_s(rest, period_s, tau_s))
    effective = effective_samples(len(points), math.exp(-period_s / correlation_s) if correlation_s else 0.0)
    # Scatter that rounding can explain has its place in the interval already, as a bound. Mean and trend were both
    # taken from the samples, so two of the effective ones are spent.
    freedom = max(effective - 2.0, 1.0)
    error_mw = math.sqrt(max(variance - rounding_mw**2, 0.0) / freedom)
    lag_mw = 0.0
    if tau_s and any(t_s <= window.start_s for t_s, _ in trace):
        before_mw = [mw for t_s, mw in trace if t_s <= window.start_s][-1]
        step_mw = abs(mean_mw - before_mw) if before_mw is not None else mean_mw
        lag_mw = step_mw * math.exp(-settle_s / tau_s) * tau_s / span_s
    return Level(mean_mw, error_mw, freedom, lag_mw, trend, len(points), effective, span_s)


def effective_samples(count, correlation):
    """How many independent samples `count` of a first-order process are worth for their mean."""
    total = sum((1.0 - lag / count) * correlation**lag for lag in range(1, count))
    return count / (1.0 + 2.0 * total)


def half_width(standard_error, freedom, bounds, confidence=CONFIDENCE):
    """Half the interval of a sum of a t-distributed error and errors anywhere within +- each of `bounds`.

    The distribution is built on a grid: the t density, then smeared by one box per bound.
    """
    bounds = [bound for bound in bounds if bound > 0.0]
    reach = sum(bounds) + _REACH * standard_error
    if reach == 0.0:
        return 0.0
    cell = reach / _GRID
    if standard_error > 0.2 * cell:
        density = [
            (1.0 + (index * cell / standard_error) ** 2 / freedom) ** (-(freedom + 1.0) / 2.0)
            for index in range(-_GRID, _GRID + 1)
        ]
    else:
        density = [0.0] * (2 * _GRID + 1)
        density[_GRID] = 1.0
    for bound in bounds:
        density = _smear(density, round(bound / cell))
    aim = confidence * sum(density)
    held = density[_GRID]
    for index in range(1, _GRID + 1):
        if held >= aim:
            return (index - 0.5) * cell
        held += density[_GRID - index] + density[_GRID + index]
    return reach


def measure(
    sampler,
    run_for,
    sensor,
    idle_before=None,
    steady_s=5.0,
    settle_s=SETTLE_S,
    min_steady_s=MIN_STEADY_S,
    sleep=time.sleep,
    clock=time.monotonic,
):
    """Idle, work, idle; then the estimate.

    Args:
        sampler: a started PowerSampler.
        run_for: callable(seconds) that runs batches back to back for at least that long, without spinning while it
            waits, and returns (runs, start_s, end_s) on the monotonic clock.
        sensor: `PowerSensor.describe()`.
        idle_before: the idle Window of the measurement before, if nothing ran since: saves one wait.

    Returns:
        (Energy, the idle Window after the work).
    """
    whole_s = settle_s + steady_s
    if idle_before is None:
        idle_before = idle(whole_s, sleep, clock)
    runs, start_s, end_s = run_for(whole_s)
    idle_after = idle(whole_s, sleep, clock)
    trace = sampler.trace().total(sensor.get("total"))
    busy = Window(start_s, end_s)
    return estimate(trace, busy, runs, idle_before, idle_after, sensor, settle_s, min_steady_s), idle_after


def idle(seconds, sleep=time.sleep, clock=time.monotonic):
    """The Window of doing nothing for so long."""
    start_s = clock()
    sleep(seconds)
    return Window(start_s, clock())


def _correlation_s(rest, period_s, tau_s):
    """For how long the samples remember, by their correlation at two filter times; 0.0 when they show none.

    Not at neighbours: of a load that remembers, seen through a filter that remembers too, neighbours tell nothing.
    """
    lag = max(1, round(2.0 * tau_s / period_s))
    square = sum(value * value for value in rest)
    if square == 0.0 or lag >= len(rest):
        return 0.0
    correlation = sum(left * right for left, right in zip(rest, rest[lag:])) / square
    return -lag * period_s / math.log(min(correlation, 0.95)) if correlation > 0.0 else 0.0


def _combine(errors):
    """(standard error, degrees of freedom) of a sum, after Welch and Satterthwaite."""
    square = sum(error**2 for error, _ in errors)
    if square == 0.0:
        return 0.0, 1.0
    return math.sqrt(square), square**2 / sum(error**4 / freedom for error, freedom in errors)


def _smear(density, half_cells):
    """Average over a box of 2 x half_cells + 1 cells."""
    if half_cells == 0:
        return density
    sums = [0.0]
    for value in density:
        sums.append(sums[-1] + value)
    last = len(density)
    return [sums[min(index + half_cells + 1, last)] - sums[max(index - half_cells, 0)] for index in range(len(density))]


def _interval(centre, half):
    return (centre - half, centre + half)

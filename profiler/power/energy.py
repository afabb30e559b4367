"""From samples of power to millijoules per batch, with the uncertainty of both.

    idle ... settle | steady        busy, `runs` batches
                                    settle | steady ... settle | steady   idle again

A reading of the Jetsons' monitor is the power seen through a first-order low-pass (time constant `tau_s`, up to 0.44 s)
and then rounded to a step. So each window is cut by `SETTLE_S` at its start, samples closer than `tau_s` count as
fewer than they are, and a step stays an error bound however many samples there are: a filtered reading does not
dither. The interval leaves out the sensor's own calibration. See docs/energy.md.
"""

import math
import time
from typing import Callable, List, NamedTuple, Optional, Sequence, Tuple

from profiler.fields import Fields, JsonObject
from profiler.power.sampler import Sampler
from profiler.power.sensor import SensorDescription
from profiler.power.trace import Samples

SETTLE_S = 2.2  # five times 0.44 s: within 1 % of a new level
MIN_STEADY_S = 3.0
CONFIDENCE = 0.95
_GRID = 600  # cells on each side of zero in `half_width`
_REACH = 40.0  # standard errors; beyond it lies 0.06 % of a t distribution of 2 degrees of freedom


class Window(NamedTuple):
    """A stretch of time on the monotonic clock."""

    start_s: float
    end_s: float


class Level(NamedTuple):
    """A steady level of power, seen through the filter."""

    mean_mw: float
    standard_error_mw: float
    freedom: float  # degrees of freedom behind the standard error
    lag_mw: float  # bound on the error of the mean from the filter's lag at the start of the window
    trend_mw_per_s: float
    samples: int
    effective_samples: float
    span_s: float


class Energy(NamedTuple):
    """One measurement. What is not known is None, and then `reason` says why."""

    gross_mj: Optional[float] = None  # of one batch, everything the rails feed
    gross_interval_mj: Optional[Tuple[float, float]] = None
    net_mj: Optional[float] = None  # less what the board draws when idle under the same clocks
    net_interval_mj: Optional[Tuple[float, float]] = None
    batch_ms: Optional[float] = None  # mean over the whole busy window, gaps between batches included
    runs: Optional[int] = None
    power_mw: Optional[float] = None
    idle_before_mw: Optional[float] = None
    idle_after_mw: Optional[float] = None
    idle_drift_mw: Optional[float] = None  # after minus before
    trend_mw_per_s: Optional[float] = None  # of the power while busy
    resolution_mw: Optional[float] = None  # sum over the rails of the total
    tau_s: Optional[float] = None
    samples: Optional[int] = None
    effective_samples: Optional[float] = None
    steady_s: Optional[float] = None
    confidence: float = CONFIDENCE
    reason: Optional[str] = None
    warnings: Tuple[str, ...] = ()

    @classmethod
    def read(cls, fields: Fields) -> "Energy":
        return cls(
            gross_mj=fields.optional_number("gross_mj"),
            gross_interval_mj=_read_interval(fields, "gross_interval_mj"),
            net_mj=fields.optional_number("net_mj"),
            net_interval_mj=_read_interval(fields, "net_interval_mj"),
            batch_ms=fields.optional_number("batch_ms"),
            runs=fields.optional_whole("runs"),
            power_mw=fields.optional_number("power_mw"),
            idle_before_mw=fields.optional_number("idle_before_mw"),
            idle_after_mw=fields.optional_number("idle_after_mw"),
            idle_drift_mw=fields.optional_number("idle_drift_mw"),
            trend_mw_per_s=fields.optional_number("trend_mw_per_s"),
            resolution_mw=fields.optional_number("resolution_mw"),
            tau_s=fields.optional_number("tau_s"),
            samples=fields.optional_whole("samples"),
            effective_samples=fields.optional_number("effective_samples"),
            steady_s=fields.optional_number("steady_s"),
            confidence=fields.number("confidence", 0, 1),
            reason=fields.optional_text("reason"),
            warnings=tuple(fields.texts("warnings")),
        )

    def to_json(self) -> JsonObject:
        return {name: list(value) if isinstance(value, tuple) else value for name, value in self._asdict().items()}


class EnergyError(ValueError):
    """A window without a usable power level; the message says why."""


def estimate(
    trace: Samples,
    busy: Window,
    runs: int,
    idle_before: Optional[Window],
    idle_after: Optional[Window],
    sensor: SensorDescription,
    settle_s: float = SETTLE_S,
    min_steady_s: float = MIN_STEADY_S,
) -> Energy:
    """Energy of one batch.

    Args:
        trace: of the total rail.
        busy: in which `runs` batches ran back to back, and nothing else did.
        idle_before, idle_after: without work under the same clocks, or None: then there is no net energy.

    Returns:
        The energy. What the trace contains never raises: it becomes a reason.
    """
    labels, tau_s = sensor.total, sensor.tau_s
    steps = [sensor.resolution_mw.get(label) for label in labels]
    known = [step for step in steps if step is not None]
    bounds = [step / 2.0 for step in known] if len(known) == len(steps) else None
    energy = Energy(runs=runs, tau_s=tau_s, resolution_mw=sum(known) if known and bounds is not None else None)
    if not labels:
        return energy._replace(reason=sensor.total_reason or "no total rail")
    if tau_s is None:
        return energy._replace(reason="the time constant of the sensor's filter is not known")
    if runs < 1 or busy.end_s <= busy.start_s:
        return energy._replace(reason="nothing ran")
    rounding_mw = math.sqrt(sum(bound**2 for bound in bounds or ()))

    def level_of(window: Window) -> Level:
        return level(trace, window, tau_s, rounding_mw, settle_s, min_steady_s, sensor.cumulative)

    try:
        power = level_of(busy)
    except EnergyError as err:
        return energy._replace(reason="while busy: {}".format(err))
    batch_s = (busy.end_s - busy.start_s) / runs
    gross_mj = power.mean_mw * batch_s
    energy = energy._replace(
        power_mw=power.mean_mw,
        batch_ms=batch_s * 1000.0,
        gross_mj=gross_mj,
        trend_mw_per_s=power.trend_mw_per_s,
        samples=power.samples,
        effective_samples=power.effective_samples,
        steady_s=power.span_s,
        warnings=_unsteady(power, energy.resolution_mw or 0.0),
    )
    if bounds is None:
        energy = energy._replace(
            reason="no interval: the resolution of {} is not known".format(
                ", ".join(label for label, step in zip(labels, steps) if step is None)
            )
        )
    else:
        half_mw = half_width(power.standard_error_mw, power.freedom, bounds + [power.lag_mw])
        energy = energy._replace(gross_interval_mj=_interval(gross_mj, half_mw * batch_s))

    if idle_before is None or idle_after is None:
        return energy._replace(reason=energy.reason or "no net energy: idle was not measured on both sides")
    try:
        before, after = level_of(idle_before), level_of(idle_after)
    except EnergyError as err:
        return energy._replace(reason="no net energy: while idle: {}".format(err))
    drift_mw = after.mean_mw - before.mean_mw
    net_mw = power.mean_mw - (before.mean_mw + after.mean_mw) / 2.0
    energy = energy._replace(
        idle_before_mw=before.mean_mw,
        idle_after_mw=after.mean_mw,
        idle_drift_mw=drift_mw,
        net_mj=net_mw * batch_s,
    )
    if net_mw > 0 and abs(drift_mw) > 0.05 * net_mw:
        energy = energy._replace(
            warnings=energy.warnings
            + (
                "idle power went from {:.0f} to {:.0f} mW, {:.0f} % of the net power: "
                "let the board come to its temperature, or lock its clocks".format(
                    before.mean_mw, after.mean_mw, 100.0 * abs(drift_mw) / net_mw
                ),
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
        # somewhere between the two.
        lags = [power.lag_mw, (before.lag_mw + after.lag_mw) / 2.0]
        half_mw = half_width(error, freedom, bounds + bounds + lags + [abs(drift_mw) / 2.0])
        energy = energy._replace(net_interval_mj=_interval(net_mw * batch_s, half_mw * batch_s))
    return energy


def level(
    trace: Samples,
    window: Window,
    tau_s: float,
    rounding_mw: float = 0.0,
    settle_s: float = SETTLE_S,
    min_steady_s: float = MIN_STEADY_S,
    cumulative: bool = False,
) -> Level:
    """The steady level in a window, without its first `settle_s`. Raises EnergyError.

    `rounding_mw` is the largest standard deviation that rounding alone can give to samples of a constant power.
    """
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
    if longest_s > max(5.0 * period_s, 0.5) and longest_s > 0.2 * span_s:
        raise EnergyError("no samples for {:.1f} s: the sampler was delayed".format(longest_s))

    # A counter's reading covers the time since the one before, a momentary one the time around it.
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
    # Scatter that rounding can explain is in the interval already, as a bound. Mean and trend were both
    # taken from the samples, so two of the effective ones are spent.
    freedom = max(effective - 2.0, 1.0)
    error_mw = math.sqrt(max(variance - rounding_mw**2, 0.0) / freedom)
    lag_mw = 0.0
    if tau_s and any(t_s <= window.start_s for t_s, _ in trace):
        before_mw = [mw for t_s, mw in trace if t_s <= window.start_s][-1]
        step_mw = abs(mean_mw - before_mw) if before_mw is not None else mean_mw
        lag_mw = step_mw * math.exp(-settle_s / tau_s) * tau_s / span_s
    return Level(mean_mw, error_mw, freedom, lag_mw, trend, len(points), effective, span_s)


def effective_samples(count: int, correlation: float) -> float:
    """How many independent samples have a mean as exact as that of `count` samples of a first-order process."""
    total = sum((1.0 - lag / count) * correlation**lag for lag in range(1, count))
    return count / (1.0 + 2.0 * total)


def half_width(standard_error: float, freedom: float, bounds: Sequence[float], confidence: float = CONFIDENCE) -> float:
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
    covered = density[_GRID]
    for index in range(1, _GRID + 1):
        if covered >= aim:
            return (index - 0.5) * cell
        covered += density[_GRID - index] + density[_GRID + index]
    return reach


def measure(
    sampler: Sampler,
    run_for: Callable[[float], Tuple[int, float, float]],
    sensor: SensorDescription,
    idle_before: Optional[Window] = None,
    steady_s: float = 5.0,
    settle_s: float = SETTLE_S,
    min_steady_s: float = MIN_STEADY_S,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> Tuple[Energy, Window]:
    """Idle, work, idle; then the estimate.

    Args:
        sampler: started.
        run_for: callable(seconds) that runs batches back to back for at least that long, without spinning while it
            waits, and returns (runs, start_s, end_s) on the monotonic clock.
        sensor: of the sampler.
        idle_before: the idle Window of the measurement before, if nothing ran since: saves one wait.

    Returns:
        (Energy, the idle Window after the work).
    """
    whole_s = settle_s + steady_s
    if idle_before is None:
        idle_before = idle(whole_s, sleep, clock)
    runs, start_s, end_s = run_for(whole_s)
    idle_after = idle(whole_s, sleep, clock)
    trace = sampler.trace().total(sensor.total)
    busy = Window(start_s, end_s)
    return estimate(trace, busy, runs, idle_before, idle_after, sensor, settle_s, min_steady_s), idle_after


def idle(
    seconds: float, sleep: Callable[[float], None] = time.sleep, clock: Callable[[], float] = time.monotonic
) -> Window:
    """The Window of doing nothing for that time."""
    start_s = clock()
    sleep(seconds)
    return Window(start_s, clock())


def _correlation_s(rest: Sequence[float], period_s: float, tau_s: float) -> float:
    """The correlation time of the samples, from their correlation at a lag of two filter times; 0.0 without any.

    Not from neighbours: there the filter's correlation hides that of the load.
    """
    lag = max(1, round(2.0 * tau_s / period_s))
    square = sum(value * value for value in rest)
    if square == 0.0 or lag >= len(rest):
        return 0.0
    correlation = sum(left * right for left, right in zip(rest, rest[lag:])) / square
    return -lag * period_s / math.log(min(correlation, 0.95)) if correlation > 0.0 else 0.0


def _combine(errors: Sequence[Tuple[float, float]]) -> Tuple[float, float]:
    """(standard error, degrees of freedom) of a sum, after Welch and Satterthwaite."""
    square = sum(error**2 for error, _ in errors)
    if square == 0.0:
        return 0.0, 1.0
    return math.sqrt(square), square**2 / sum(error**4 / freedom for error, freedom in errors)


def _smear(density: List[float], half_cells: int) -> List[float]:
    """Average over a box of 2 x half_cells + 1 cells."""
    if half_cells == 0:
        return density
    sums = [0.0]
    for value in density:
        sums.append(sums[-1] + value)
    last = len(density)
    return [sums[min(index + half_cells + 1, last)] - sums[max(index - half_cells, 0)] for index in range(len(density))]


def _unsteady(power: Level, resolution_mw: float) -> Tuple[str, ...]:
    """A warning when the power changed within the window by more than its own fluctuation explains."""
    change_mw = abs(power.trend_mw_per_s) * power.span_s
    # A fluctuation alone has a slope too: its line changes by sqrt(12) times the error of the mean.
    slope_mw = math.sqrt(12.0) * power.standard_error_mw
    if change_mw <= max(0.02 * power.mean_mw, resolution_mw, slope_mw):
        return ()
    return (
        "not steady: the power changed by {:.0f} mW ({:.1f} %) within the window of {:.1f} s".format(
            change_mw, 100.0 * change_mw / power.mean_mw, power.span_s
        ),
    )


def _interval(centre: float, half: float) -> Tuple[float, float]:
    return (centre - half, centre + half)


def _read_interval(fields: Fields, field: str) -> Optional[Tuple[float, float]]:
    if fields.is_null(field):
        return None
    ends = fields.numbers(field)
    if len(ends) != 2:
        fields.fault(field, "expected two numbers, found {}".format(len(ends)))
        return None
    return (ends[0], ends[1])

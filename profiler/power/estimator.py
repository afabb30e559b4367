"""From samples of power to millijoules per batch, with the uncertainty of both.

    idle ... settle | steady        busy: batches back to back
                                    settle | steady ... settle | steady   idle again

A reading of the Jetsons' monitor is the power seen through a first-order low-pass (time constant `tau_s`, up to 0.44 s) and then
rounded to a step. So each window is cut by `SETTLE_S` at its start. The interval leaves out the sensor's own calibration. The
parts: level.py (one window), fluctuation.py and periodic.py (its error), interval.py. See docs/energy.md.
"""

import math
from typing import List, NamedTuple, Optional, Sequence, Tuple

from profiler.power.energy import Energy, ErrorParts
from profiler.power.interval import RandomError, add, around, half_width
from profiler.power.level import (
    EnergyError,
    Level,
    Progress,
    Steady,
    Window,
    batches_between,
    level,
    steady_samples,
    without_speed,
)
from profiler.power.periodic import without_common_lines
from profiler.power.sensor import SensorDescription
from profiler.power.trace import Samples

SETTLE_S = 2.2  # five times 0.44 s: within 1 % of a new level
MIN_STEADY_S = 3.0
OFF_THE_LINE = 0.4  # of the change between the idles: idle while busy lies at most that far from the line between them
_MANY = 30.0  # degrees of freedom of an error that is not estimated from a few samples


class WindowRules(NamedTuple):
    """How the windows are cut."""

    settle_s: float = SETTLE_S
    min_steady_s: float = MIN_STEADY_S


class _Sensor(NamedTuple):
    """What the estimate needs of a sensor."""

    tau_s: float
    steps_mw: List[float]  # of the rails of the total that have a known one
    unknown: List[str]  # rails without a known step
    cumulative: bool

    @classmethod
    def of(cls, sensor: SensorDescription, tau_s: float) -> "_Sensor":
        steps = [(label, sensor.resolution_mw.get(label)) for label in sensor.total]
        known = [step for _, step in steps if step is not None]
        return cls(tau_s, known, [label for label, step in steps if step is None], sensor.cumulative)

    @property
    def resolution_mw(self) -> Optional[float]:
        """Of the total; None where that of a rail is not known."""
        return sum(self.steps_mw) if self.steps_mw and not self.unknown else None


def estimate(
    trace: Samples,
    busy: Window,
    progress: Progress,
    idle_before: Optional[Window],
    idle_after: Optional[Window],
    sensor: SensorDescription,
    rules: WindowRules = WindowRules(),  # noqa: B008 (immutable)
) -> Energy:
    """Energy of one batch.

    Args:
        trace: of the total rail.
        busy: in which batches ran back to back, and nothing else did.
        progress: (time, batches done) from the start of `busy` to its end.
        idle_before, idle_after: without work under the same clocks, or None: then there is no net energy.

    Returns:
        The energy. What the trace contains never raises: it becomes a reason.
    """
    runs = progress[-1][1] - progress[0][1] if progress else 0
    facts = _Sensor.of(sensor, sensor.tau_s or 0.0)
    energy = Energy(runs=runs, tau_s=sensor.tau_s, resolution_mw=facts.resolution_mw)
    refused = _refused(sensor, runs, busy)
    if refused is not None:
        return energy._replace(reason=refused)
    try:
        work = steady_samples(trace, busy, rules.settle_s, rules.min_steady_s, facts.cumulative)
    except EnergyError as err:
        return energy._replace(reason="while busy: {}".format(err))
    idle, reason = _idle(trace, idle_before, idle_after, facts, rules)
    levels, warnings = _levels(work, idle, busy, progress, facts)
    batches = batches_between(progress, *work.stands_for)
    batch_s = (work.stands_for.end_s - work.stands_for.start_s) / batches if batches > 0.0 else 0.0
    if batch_s <= 0.0:
        return energy._replace(reason="no batch ended after settling")
    energy = energy._replace(
        batch_ms=batch_s * 1e3, samples=work.samples, steady_s=work.series.span_s, reason=reason, warnings=warnings
    )
    energy = _gross(energy, levels[0], _lag(work, facts.tau_s, rules.settle_s), batch_s, facts)
    return _net(energy, levels, [work, *idle], batch_s, facts) if idle else energy


def _refused(sensor: SensorDescription, runs: int, busy: Window) -> Optional[str]:
    """Why nothing can be estimated, whatever the trace contains."""
    if not sensor.total:
        return sensor.total_reason or "no total rail"
    if sensor.tau_s is None:
        return "the time constant of the sensor's filter is not known"
    if runs < 1 or busy.end_s <= busy.start_s:
        return "nothing ran"
    return None


def _idle(
    trace: Samples, before: Optional[Window], after: Optional[Window], sensor: _Sensor, rules: WindowRules
) -> Tuple[List[Steady], Optional[str]]:
    """Idle before and after, or none and why."""
    if before is None or after is None:
        return [], "no net energy: idle was not measured on both sides"
    try:
        return [
            steady_samples(trace, window, rules.settle_s, rules.min_steady_s, sensor.cumulative)
            for window in (before, after)
        ], None
    except EnergyError as err:
        return [], "no net energy: while idle: {}".format(err)


def _levels(
    work: Steady, idle: Sequence[Steady], busy: Window, progress: Progress, sensor: _Sensor
) -> Tuple[List[Level], Tuple[str, ...]]:
    """Of the busy window, idle before and idle after; warnings about the busy one."""
    variances = [each.variance for each in [work, *idle]]
    at_speed = without_speed(work, busy, progress, sensor.tau_s)
    windows = [at_speed or work, *idle]
    if idle:
        step_mw = math.sqrt(sum(step**2 for step in sensor.steps_mw))
        in_time = [windows[1], windows[0], windows[2]]
        cleaned = without_common_lines([each.series for each in in_time], step_mw)
        in_time = [
            each._replace(series=series, mean_mw=each.mean_mw + (sum(series.mw) - sum(each.series.mw)) / len(series.mw))
            for each, series in zip(in_time, cleaned)
        ]
        windows = [in_time[1], in_time[0], in_time[2]]
    found = [level(each, sensor.tau_s, sensor.steps_mw, variance) for each, variance in zip(windows, variances)]
    warnings = _unsteady(found[0], windows[0].series.span_s, sum(sensor.steps_mw))
    if at_speed is not None:
        warnings += ("the speed changed while busy: lock the clocks, or cool the board",)
    return found, warnings


def _lag(work: Steady, tau_s: float, settle_s: float) -> float:
    """What the mean lacks from the filter's lag at the start of the window, in mW, if the filter is as slow as described."""
    before_mw = work.first_mw if work.first_mw is not None else 0.0
    return (work.mean_mw - before_mw) * math.exp(-settle_s / tau_s) * tau_s / work.series.span_s if tau_s > 0.0 else 0.0


def _gross(energy: Energy, power: Level, lag_mw: float, batch_s: float, sensor: _Sensor) -> Energy:
    # The filter may be faster than described, so half of the lag is corrected and the other half is a bound.
    power_mw = power.mean_mw + lag_mw / 2.0
    energy = energy._replace(power_mw=power_mw, gross_mj=power_mw * batch_s, trend_mw_per_s=power.trend_mw_per_s)
    if sensor.unknown:
        return energy._replace(
            reason="no interval: the resolution of {} is not known".format(", ".join(sensor.unknown))
        )
    parts = _parts(power.error, [*power.rounding_mw, abs(lag_mw) / 2.0], batch_s)
    return energy._replace(gross_error=parts, gross_interval_mj=_interval(power_mw * batch_s, parts))


def _net(energy: Energy, levels: Sequence[Level], windows: Sequence[Steady], batch_s: float, sensor: _Sensor) -> Energy:
    """With the net energy: idle while busy lies on the line between the idles, or not far from it."""
    assert energy.power_mw is not None
    power, before, after = levels
    busy_s, before_s, after_s = (window.middle_s for window in windows)
    share = (busy_s - before_s) / (after_s - before_s)
    drift_mw = after.mean_mw - before.mean_mw
    net_mw = energy.power_mw - (before.mean_mw + share * drift_mw)
    energy = energy._replace(
        idle_before_mw=before.mean_mw,
        idle_after_mw=after.mean_mw,
        idle_drift_mw=drift_mw,
        net_mj=net_mw * batch_s,
    )
    if net_mw > 0 and abs(drift_mw) > 0.05 * net_mw:
        warning = (
            "idle power went from {:.0f} to {:.0f} mW, {:.0f} % of the net power: "
            "let the board come to its temperature, or lock its clocks"
        ).format(before.mean_mw, after.mean_mw, 100.0 * abs(drift_mw) / net_mw)
        energy = energy._replace(warnings=(*energy.warnings, warning))
    if sensor.unknown or energy.gross_error is None:
        return energy
    curve = RandomError(OFF_THE_LINE * abs(drift_mw) / math.sqrt(3.0), _MANY)  # uniform
    error = add([power.error, before.error.times(1.0 - share), after.error.times(share), curve])
    # Two idles at the same level are rounded alike, so their line is as wrong as each of them.
    alike = abs(drift_mw) < sum(sensor.steps_mw) / 2.0
    first = [(1.0 - share) * bound for bound in before.rounding_mw]
    second = [share * bound for bound in after.rounding_mw]
    idle = [sum(pair) for pair in zip(first, second)] if alike else first + second
    bounds = [bound / batch_s for bound in energy.gross_error.shared_mj]
    parts = _parts(error, bounds + idle, batch_s)
    return energy._replace(net_error=parts, net_interval_mj=_interval(net_mw * batch_s, parts))


def _parts(error: RandomError, bounds: Sequence[float], batch_s: float) -> ErrorParts:
    return ErrorParts(error.standard_error * batch_s, error.freedom, [bound * batch_s for bound in bounds])


def _interval(centre_mj: float, parts: ErrorParts) -> Tuple[float, float]:
    return around(centre_mj, half_width(RandomError(parts.random_mj, parts.freedom), parts.shared_mj))


def _unsteady(power: Level, span_s: float, resolution_mw: float) -> Tuple[str, ...]:
    """A warning when the power changed within the window by more than its own fluctuation explains."""
    change_mw = abs(power.trend_mw_per_s) * span_s
    # A fluctuation alone has a slope too: its line changes by sqrt(12) times the error of the mean.
    slope_mw = math.sqrt(12.0) * power.error.standard_error
    if change_mw <= max(0.02 * power.mean_mw, resolution_mw, slope_mw):
        return ()
    return (
        "not steady: the power changed by {:.0f} mW ({:.1f} %) within the window of {:.1f} s".format(
            change_mw, 100.0 * change_mw / power.mean_mw, span_s
        ),
    )

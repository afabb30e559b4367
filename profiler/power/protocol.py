"""The order of things while energy is measured: idle, work, idle; then the estimate."""

import time
from typing import Callable, Optional, Tuple

from profiler.power.energy import Energy
from profiler.power.estimator import SETTLE_S, WindowRules, estimate
from profiler.power.level import Progress, Window
from profiler.power.sampler import Sampler
from profiler.power.sensor import SensorDescription

IDLE_SHARE = 0.5  # an idle board fluctuates less than a busy one, so it needs less time
LEAST_IDLE_S = 4.0


def idle_s(steady_s: float) -> float:
    """How long the steady part of an idle window lasts."""
    return min(steady_s, max(LEAST_IDLE_S, IDLE_SHARE * steady_s))


def measure(
    sampler: Sampler,
    run_for: Callable[[float], Tuple[Window, Progress]],
    sensor: SensorDescription,
    idle_before: Optional[Window] = None,
    steady_s: float = 10.0,
    rules: WindowRules = WindowRules(),  # noqa: B008 (immutable)
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> Tuple[Energy, Window]:
    """Idle, work, idle; then the estimate.

    Args:
        sampler: started.
        run_for: callable(seconds) that runs batches back to back for at least that long, without spinning while it
            waits, and returns the window and the (time, batches done) within it, on the monotonic clock.
        sensor: of the sampler.
        idle_before: the idle Window of the measurement before, if nothing ran since: saves one wait.

    Returns:
        (Energy, the idle Window after the work).
    """
    still_s = rules.settle_s + idle_s(steady_s)
    if idle_before is None:
        idle_before = idle(still_s, sleep, clock)
    busy, progress = run_for(rules.settle_s + steady_s)
    idle_after = idle(still_s, sleep, clock)
    trace = sampler.trace().total(sensor.total)
    return estimate(trace, busy, progress, idle_before, idle_after, sensor, rules), idle_after


def idle(
    seconds: float, sleep: Callable[[float], None] = time.sleep, clock: Callable[[], float] = time.monotonic
) -> Window:
    """The Window of doing nothing for that time."""
    start_s = clock()
    sleep(seconds)
    return Window(start_s, clock())


def longest_s(steady_s: float) -> float:
    """The longest that the windows last together."""
    return 3 * SETTLE_S + steady_s + 2 * idle_s(steady_s)

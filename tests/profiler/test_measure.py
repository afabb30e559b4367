"""Timing, with a clock that a person can follow."""

import time

from profiler.measure import measure, timer_step_s


class Clock:
    """Seconds that pass only when an engine runs."""

    now_s = 0.0

    def __call__(self):
        return self.now_s


class SteadyEngine:
    def __init__(self, clock, run_ms):
        self.clock, self.run_ms, self.chunks = clock, run_ms, []

    def run(self, repeats):
        self.chunks.append(repeats)
        self.clock.now_s += repeats * self.run_ms / 1e3


def test_repetitions_are_calibrated_so_that_a_sample_is_long_enough():
    clock = Clock()
    engine = SteadyEngine(clock, run_ms=0.25)

    timings = measure(engine, warmup_ms=0, min_sample_ms=2.0, samples=3, clock=clock)

    assert timings.repeats == 8
    assert engine.chunks == [1, 2, 4, 8, 8, 8, 8]
    assert timings.samples_ms == [0.25] * 3
    assert timings.warmup_ms == [0.25] * 4


def test_a_slow_engine_is_not_repeated():
    clock = Clock()

    timings = measure(SteadyEngine(clock, run_ms=40.0), warmup_ms=5, min_sample_ms=2.0, samples=2, clock=clock)

    assert (timings.repeats, len(timings.warmup_ms), timings.samples_ms) == (1, 1, [40.0, 40.0])


def test_warm_up_lasts_at_least_the_requested_time():
    clock = Clock()

    timings = measure(SteadyEngine(clock, run_ms=1.0), warmup_ms=10, min_sample_ms=1, samples=1, clock=clock)

    assert len(timings.warmup_ms) == 10


def test_known_repetitions_are_used_as_they_are():
    clock = Clock()
    engine = SteadyEngine(clock, run_ms=0.5)

    timings = measure(engine, warmup_ms=0, min_sample_ms=100, samples=2, repeats=3, clock=clock)

    assert engine.chunks == [3, 3, 3]
    assert timings.timed_s == 9 * 0.5e-3


def test_the_timer_of_this_machine_has_a_step():
    assert 0 < timer_step_s(time.perf_counter) < 1e-3

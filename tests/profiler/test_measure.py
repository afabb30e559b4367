"""Timing, with a clock that a person can follow."""

import time

import pytest

from profiler.backends import Engine
from profiler.measure import measure, timer_step_s


class Clock:
    """Seconds that pass only when an engine runs."""

    now_s = 0.0

    def __call__(self):
        return self.now_s


class SteadyEngine(Engine):
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


@pytest.mark.parametrize("run_ms", [0.03, 0.3, 0.7, 1.1, 1.9, 2.1])
def test_every_sample_lasts_at_least_the_minimum_and_no_inference_longer(run_ms):
    clock = Clock()

    timings = measure(SteadyEngine(clock, run_ms), warmup_ms=5, min_sample_ms=2.0, samples=3, clock=clock)

    assert (timings.repeats - 1) * run_ms < 2.0 <= timings.repeats * run_ms


@pytest.mark.parametrize(
    ("run_ms", "repeats", "samples"),
    [
        (40.0, 1, 10),  # the number of inferences decides
        (0.25, 1, 40),  # the window of 10 ms decides
        (0.02, 1, 100),  # the most
        (0.004, 3, 100),  # too short for the timer to time alone
    ],
)
def test_single_inferences_fill_a_window_where_the_timer_allows_it(run_ms, repeats, samples):
    clock = Clock()

    timings = measure(
        SteadyEngine(clock, run_ms), warmup_ms=5, min_sample_ms=0.01, samples=10, window_ms=10.0, clock=clock
    )

    assert (timings.repeats, len(timings.samples_ms)) == (repeats, samples)
    assert timings.samples_ms == pytest.approx([run_ms] * samples)


def test_more_inferences_than_fill_the_window_are_taken_where_they_are_asked_for():
    clock = Clock()

    timings = measure(
        SteadyEngine(clock, 1.0), warmup_ms=5, min_sample_ms=0.01, samples=250, window_ms=10.0, clock=clock
    )

    assert len(timings.samples_ms) == 250


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

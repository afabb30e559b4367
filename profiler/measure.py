"""Timing: warm-up by time, repetitions calibrated so that a sample is long against the timer, then the samples."""

import gc
import math
import time
from typing import Callable, List, NamedTuple, Optional

from profiler.backends import Engine, StreamTimes

WARMUP_CHUNKS = 50  # about so many at most: each is a number in the journal
SETTLE_CHUNK_MS = 10.0  # between two looks at the clocks
TIMER_STEPS = 1000  # a sample lasts at least this many steps of the timer: reading it costs at most 0.1 %
SINGLE_TIMER_STEPS = 100  # a single inference: at most 1 %
SINGLE_WINDOW_MS = 10.0  # of single inferences in one visit, if that is more than the protocol's number of them
MOST_SINGLES = 100


class Timings(NamedTuple):
    """One visit's times. Every number in milliseconds is the mean of back-to-back inferences of one batch."""

    repeats: int
    warmup_ms: List[float]
    streams: List[StreamTimes]
    timed_s: float  # spent inside timed loops, warm-up included

    @property
    def samples_ms(self) -> List[float]:
        """Of all streams, one stream behind the other."""
        return [ms for stream in self.streams for ms in stream.samples_ms]


def timer_step_s(clock: Callable[[], float] = time.perf_counter) -> float:
    """The smallest step seen between two different readings of the clock, in seconds."""
    steps = []
    for _ in range(20):
        start = now = clock()
        while now == start:
            now = clock()
        steps.append(now - start)
    return min(steps)


def measure(
    engine: Engine,
    warmup_ms: float,
    min_sample_ms: float,
    samples: int,
    repeats: Optional[int] = None,
    window_ms: float = 0.0,
    clock: Callable[[], float] = time.perf_counter,
    settled: Callable[[], bool] = lambda: True,
    settle_ms: float = 0.0,
) -> Timings:
    """Time an engine: `engine.run(n)` returns when n inferences are complete.

    Args:
        warmup_ms: run at least this long before the first sample.
        min_sample_ms: a sample lasts at least this long, by the fastest run of the warm-up.
        samples: how many samples to take of each stream; with `window_ms` more, up to MOST_SINGLES, until they fill the window.
        repeats: inferences per sample; None to calibrate, which happens within the warm-up.
        settled: whether the processor's clock is steady; asked after the warm-up, which continues until it is.
        settle_ms: the longest that it continues.
    """
    warmup: List[float] = []
    collecting = gc.isenabled()
    gc.disable()
    try:
        begin = clock()
        chunk, fastest_ms, last_ms = repeats or 1, math.inf, 0.0
        few_ms = warmup_ms / WARMUP_CHUNKS
        while not warmup or (clock() - begin) * 1e3 < warmup_ms or (repeats is None and last_ms < min_sample_ms):
            start = clock()
            engine.run(chunk)
            last_ms = (clock() - start) * 1e3
            warmup.append(last_ms / chunk)
            fastest_ms = min(fastest_ms, last_ms / chunk)
            if last_ms < (few_ms if repeats is not None else max(few_ms, min_sample_ms)):
                chunk *= 2
        chunk = max(chunk, math.ceil(SETTLE_CHUNK_MS / fastest_ms)) if fastest_ms > 0 else chunk
        while not settled() and (clock() - begin) * 1e3 < warmup_ms + settle_ms:
            start = clock()
            engine.run(chunk)
            warmup.append((clock() - start) * 1e3 / chunk)
            fastest_ms = min(fastest_ms, warmup[-1])
        if repeats is None:
            repeats = max(1, math.ceil(min_sample_ms / fastest_ms)) if fastest_ms > 0 else chunk
        if fastest_ms > 0:
            samples = max(samples, min(MOST_SINGLES, math.ceil(window_ms / (repeats * fastest_ms))))
        taken = engine.timed(repeats, samples, clock)
        timed_s = clock() - begin
    finally:
        if collecting:
            gc.enable()
    streams = [StreamTimes([round(ms, 6) for ms in each.samples_ms], round(each.span_ms, 6)) for each in taken]
    return Timings(repeats, [round(ms, 6) for ms in warmup], streams, timed_s)

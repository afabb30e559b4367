"""Several streams of one model: they run at the same time, and every sample is one with all of them at work."""

import threading
import time

import numpy as np
import pytest

from profiler import backends
from profiler.backends.streams import Streams
from profiler.errors import MeasureError
from tests.profiler.test_onnxruntime_backend import residual_model


class Meeting(backends.Engine):
    """Each inference waits for one of every other engine."""

    def __init__(self, barrier):
        self.barrier = barrier

    def run(self, repeats):
        for _ in range(repeats):
            self.barrier.wait(10)


class Fast(backends.Engine):
    def __init__(self, done):
        self.done = done

    def run(self, repeats):
        for _ in range(repeats):
            self.done.release()


class Slow(Fast):
    """One inference takes as long as three of the fast engine."""

    def run(self, repeats):
        for _ in range(3 * repeats):
            assert self.done.acquire(timeout=10)


class Failing(backends.Engine):
    def run(self, repeats):
        raise MeasureError("run", "the device is lost")


def test_inferences_of_all_streams_run_at_the_same_time():
    barrier = threading.Barrier(3)

    Streams([Meeting(barrier) for _ in range(3)]).run(5)

    assert not barrier.broken


def test_a_faster_stream_continues_until_the_slowest_has_its_samples():
    done = threading.Semaphore(0)
    slow, fast = Streams([Slow(done), Fast(done)]).timed(repeats=1, samples=4, clock=time.perf_counter)

    assert len(slow.samples_ms) == 4
    assert len(fast.samples_ms) >= 12  # of the 18 that the slow one waited for, without those of its lead
    assert sum(slow.samples_ms) <= slow.span_ms


@pytest.mark.parametrize("place", [0, 1])
def test_the_failure_of_one_stream_ends_all_and_is_the_error(place):
    engines = [Fast(threading.Semaphore(0)), Fast(threading.Semaphore(0))]
    engines[place] = Failing()
    before = threading.active_count()

    with pytest.raises(MeasureError, match="the device is lost"):
        Streams(engines).timed(1, 5, time.perf_counter)

    assert threading.active_count() == before


def test_an_engine_that_cannot_is_refused_with_the_way_out():
    with pytest.raises(MeasureError, match="one stream at a time") as caught:
        backends.Engine().in_streams(2)

    assert caught.value.remedy == "measure without --streams"


def test_onnx_runtime_runs_two_streams_on_one_session():
    engine = backends.open_backend("onnxruntime", "fp32", None, 1, "/nowhere").load(residual_model())
    inputs = np.random.RandomState(0).standard_normal((1, 3, 16, 16)).astype(np.float32).tobytes()
    alone = engine.evaluate(inputs)
    two = engine.in_streams(2)

    streams = two.timed(2, 6, time.perf_counter)

    assert (two.streams, len(streams)) == (2, 2)
    assert all(len(each.samples_ms) >= 6 and min(each.samples_ms) > 0 for each in streams)
    assert two.evaluate(inputs) == alone
    assert two.device_times(1) is None

"""Several streams: inferences of one model that run at the same time, each stream in a thread of its own."""

import threading
from typing import Callable, List, Optional, Sequence

from profiler.backends import DeviceTimes, Engine, StreamTimes
from profiler.backends.ran_in import RanIn

LEAD = 2  # inferences of each stream before its first sample: the others have begun by then


class Streams(Engine):
    """Engines of one model at work at once. An inference of all of them together is one inference of each.

    Args:
        engines: at least one, each with inputs, outputs and a queue of its own, so that they may run at the same time.
    """

    def __init__(self, engines: Sequence[Engine]) -> None:
        self._engines = list(engines)
        self._first = self._engines[0]
        self.streams = len(self._engines)
        self.reads_back_apart = self._first.reads_back_apart

    def run(self, repeats: int) -> None:
        self._in_threads(lambda index: self._engines[index].run(repeats))

    def run_queued(self, repeats: int) -> None:
        self._in_threads(lambda index: self._engines[index].run_queued(repeats))

    def timed(self, repeats: int, samples: int, clock: Callable[[], float]) -> List[StreamTimes]:
        """Every stream takes `samples` of them or more: the faster ones continue until the slowest is done.

        A sample that ends after that is left out: for a part of it a stream was missing.
        """
        begun = threading.Barrier(self.streams)
        all_done = threading.Event()
        lock = threading.Lock()
        busy = [self.streams]
        found: List[Optional[StreamTimes]] = [None] * self.streams

        def work(index: int) -> None:
            run, taken = self._engines[index].run, []
            try:
                begun.wait()
                run(LEAD)
                begin_s = end_s = clock()
                while not all_done.is_set():
                    start_s = clock()
                    run(repeats)
                    now_s = clock()
                    if all_done.is_set():
                        break
                    end_s = now_s
                    taken.append((now_s - start_s) * 1e3 / repeats)
                    if len(taken) == samples:
                        with lock:
                            busy[0] -= 1
                            if busy[0] == 0:
                                all_done.set()
            except BaseException:
                begun.abort()
                all_done.set()  # the others must not run on
                raise
            found[index] = StreamTimes(taken, (end_s - begin_s) * 1e3)

        self._in_threads(work)
        return [times for times in found if times is not None]

    def _in_threads(self, work: Callable[[int], None]) -> None:
        """Do the work of every stream at the same time; the first failure is raised once all have ended."""
        failures: List[BaseException] = []

        def guarded(index: int) -> None:
            try:
                work(index)
            except BaseException as err:
                failures.append(err)

        threads = [threading.Thread(target=guarded, args=(index,), daemon=True) for index in range(1, self.streams)]
        for thread in threads:
            thread.start()
        guarded(0)
        for thread in threads:
            thread.join()
        for failure in failures:
            if not isinstance(failure, threading.BrokenBarrierError):  # that another stream failed
                raise failure

    def device_times(self, repeats: int) -> Optional[DeviceTimes]:
        """Streams share the device: no time on it belongs to one inference."""
        return None

    def memory_bytes(self) -> Optional[int]:
        return _sum([engine.memory_bytes() for engine in self._engines])

    def peak_memory_mb(self) -> Optional[float]:
        size = self.memory_bytes()
        return None if size is None else round(size / 1e6, 6)

    def ran_in(self, model: bytes) -> Optional[RanIn]:
        return self._first.ran_in(model)

    def engine_bytes(self) -> Optional[int]:
        return self._first.engine_bytes()

    def evaluate(self, inputs: bytes) -> bytes:
        return self._first.evaluate(inputs)


def _sum(sizes: Sequence[Optional[int]]) -> Optional[int]:
    """None where one of them is not known."""
    known = [size for size in sizes if size is not None]
    return sum(known) if len(known) == len(sizes) else None

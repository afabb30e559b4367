"""Energy of one visit: idle, the engine back to back for seconds, idle again, while a separate process reads the rails."""

import os
from typing import Callable, Dict, List, NamedTuple, Optional, Tuple

from profiler import power
from profiler.backends import Backend, Engine
from profiler.fields import Fields, JsonObject
from profiler.system import System

CHUNK_S = 0.05  # the engine runs this long between two readings of the clock
WARM_UP_S = 0.5  # before the busy window: floating clocks have risen by then
STALE_S = 10.0  # the idle window of the visit before serves this one if it is no older: an engine may be built between


class VisitEnergy(NamedTuple):
    """The journal's `energy` of one visit."""

    energy: power.Energy
    rails: Optional[List[str]]  # those added; None: nothing was measured
    windows: Optional[Dict[str, List[float]]]  # idle_before, busy, idle_after: [start, end] in s from the busy start

    @classmethod
    def read(cls, fields: Fields) -> "VisitEnergy":
        windows = fields.optional_child("windows")
        return cls(
            energy=power.Energy.read(fields),
            rails=None if fields.is_null("rails") else fields.texts("rails"),
            windows=None if windows is None else {name: windows.numbers(name) for name in windows.names()},
        )

    def to_json(self) -> JsonObject:
        return dict(self.energy.to_json(), rails=self.rails, windows=self.windows)


class EnergyMeter:
    """Measures visits with one sampler, which starts at the first."""

    def __init__(self, backend: Backend, system: System, board: JsonObject, home: str) -> None:
        self._backend = backend
        self._system = system
        self._board = board
        self._path = os.path.join(home, "power.trace")
        self._sampler: Optional[power.Sampler] = None
        self._idle: Optional[power.Window] = None
        self.busy = power.Window(0.0, 0.0)  # of the last visit
        self._unfit: Optional[str] = None  # why nothing can be measured

    def measure(
        self, engine: Engine, steady_s: float, take_samples: Callable[[], None], one_by_one: bool = False
    ) -> VisitEnergy:
        """Measure one visit.

        Args:
            take_samples: called once, right after the work.
            one_by_one: wait for each inference, as a product that runs the network does. An operator runs queued: the
                host waits once for a whole network, so an operator's energy must not contain a wait for each.
        """
        run = engine.run if one_by_one else engine.run_queued
        if self._sampler is not None and not self._sampler.running():
            self._sampler = self._idle = None  # it was killed: its trace has ended
        if self._sampler is None and self._unfit is None:
            sampler = self._backend.power_sampler(self._path, self._system, self._board)
            try:
                sampler.start()
                self._sampler = sampler
            except power.SamplerError as err:
                self._unfit = str(err)
        sensor = None if self._sampler is None else self._sampler.trace().sensor
        if self._sampler is None or sensor is None:
            take_samples()
            return VisitEnergy(power.Energy(reason=self._unfit or "the sampler names no sensor"), None, None)
        clock = self._backend.clock

        def run_for(seconds: float) -> Tuple[power.Window, power.Progress]:
            warm_up = back_to_back(run, WARM_UP_S, 1, clock)
            work = back_to_back(run, seconds, warm_up.chunk, clock, engine.streams)
            self.busy = work.window
            take_samples()
            return work.window, work.progress

        before = self._idle
        if before is not None and clock() - before.end_s > STALE_S:
            before = None
        if before is None:
            before = power.idle(power.SETTLE_S + power.idle_s(steady_s), self._backend.sleep, clock)
        found, after = power.measure(
            self._sampler, run_for, sensor, before, steady_s, sleep=self._backend.sleep, clock=clock
        )
        self._idle = after
        if found.power_mw is not None and found.power_mw <= 0:
            found = power.Energy(reason="the total reads {:.0f} mW while busy".format(found.power_mw))
        zero_s = self.busy.start_s
        windows = {
            name: [round(time_s - zero_s, 3) for time_s in window]
            for name, window in (("idle_before", before), ("busy", self.busy), ("idle_after", after))
        }
        return VisitEnergy(found, list(sensor.total) or None, windows)


class Work(NamedTuple):
    """Batches back to back."""

    chunk: int  # batches that last CHUNK_S
    progress: List[Tuple[float, int]]  # (time, batches done), from the start to the end

    @property
    def window(self) -> power.Window:
        return power.Window(self.progress[0][0], self.progress[-1][0])


def back_to_back(
    run: Callable[[int], None], at_least_s: float, chunk: int, clock: Callable[[], float], streams: int = 1
) -> Work:
    """Call `run` for at least that long, with `chunk` batches at first in every stream between two readings of the clock."""
    start_s = now_s = clock()
    progress = [(start_s, 0)]
    done = 0
    while now_s - start_s < at_least_s:
        before_s = now_s
        run(chunk)
        done += chunk * streams
        now_s = clock()
        progress.append((now_s, done))
        if now_s > before_s:
            chunk = max(1, int(chunk * CHUNK_S / (now_s - before_s)))
    return Work(chunk, progress)


def longest_s(steady_s: float) -> float:
    """The longest that one measurement lasts."""
    return power.longest_s(steady_s) + 2 * WARM_UP_S + 1.0

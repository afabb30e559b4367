"""Energy of one visit: idle, the engine back to back for seconds, idle again, while a process apart reads the rails."""

import os
from typing import Any, Callable, Dict

from profiler import power
from profiler.backends import Backend, Engine
from profiler.system import System

CHUNK_S = 0.05  # the engine runs this long between two looks at the clock
WARM_UP_S = 0.5  # before the busy window: clocks that float have risen by then
STALE_S = (
    10.0  # an idle window that ended longer ago is not the idle of this visit: an engine may have been built since
)


class EnergyMeter:
    """Measures visits with one sampler, which starts with the first."""

    def __init__(self, backend: Backend, system: System, board: Dict[str, Any], home: str) -> None:
        self._backend = backend
        self._system = system
        self._board = board
        self._path = os.path.join(home, "power.trace")
        self._sampler = None  # type: Any
        self._idle = None  # type: Optional[power.Window]
        self.busy = power.Window(0.0, 0.0)  # of the last visit
        self._unfit = None  # type: Optional[str]  # why nothing can be measured

    def measure(self, engine: Engine, steady_s: float, take_samples: Callable[[], None]) -> Dict[str, Any]:
        """The journal's `energy` of one visit. `take_samples` is called once, the board being as the work left it."""
        if self._sampler is None and self._unfit is None:
            sampler = self._backend.power_sampler(self._path, self._system, self._board)
            try:
                sampler.start()
                self._sampler = sampler
            except power.SamplerError as err:
                self._unfit = str(err)
        if self._unfit is not None:
            take_samples()
            return dict(power.Energy(reason=self._unfit).record(), rails=None, windows=None)
        sensor = self._sampler.trace().sensor
        clock = self._backend.clock

        def run_for(seconds: float) -> Any:
            _, chunk, _, _ = back_to_back(engine, WARM_UP_S, 1, clock)
            runs, _, start_s, end_s = back_to_back(engine, seconds, chunk, clock)
            self.busy = power.Window(start_s, end_s)
            take_samples()
            return runs, start_s, end_s

        before = self._idle
        if before is not None and clock() - before.end_s > STALE_S:
            before = None
        if before is None:
            before = power.idle(power.SETTLE_S + steady_s, self._backend.sleep, clock)
        found, self._idle = power.measure(
            self._sampler, run_for, sensor, before, steady_s, sleep=self._backend.sleep, clock=clock
        )
        if found.power_mw is not None and found.power_mw <= 0:
            found = power.Energy(reason="the total reads {:.0f} mW while busy".format(found.power_mw))
        zero_s = self.busy.start_s
        windows = {
            name: [round(time_s - zero_s, 3) for time_s in window]
            for name, window in (("idle_before", before), ("busy", self.busy), ("idle_after", self._idle))
        }
        return dict(found.record(), rails=sensor["total"], windows=windows)


def back_to_back(engine: Engine, at_least_s: float, chunk: int, clock: Callable[[], float]) -> Any:
    """Run an engine for so long; (runs, runs that last CHUNK_S, start, end)."""
    start_s = end_s = clock()
    runs = 0
    while end_s - start_s < at_least_s:
        engine.run(chunk)
        runs += chunk
        end_s = clock()
        if end_s > start_s:
            chunk = max(1, int(runs * CHUNK_S / (end_s - start_s)))
    return runs, chunk, start_s, end_s


def seconds(steady_s: float) -> float:
    """The longest that one measurement lasts."""
    return 3 * (power.SETTLE_S + steady_s) + 2 * WARM_UP_S + 1.0

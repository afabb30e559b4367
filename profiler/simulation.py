"""A board that does not exist: time, heat, clocks and rails, seen through the very files that a real board has.

`virtual.json` in the root says what it is made of (written by devices/virtual.py); its numbers are invented, in the
order of magnitude of the board whose name it bears. Time passes only when an engine runs or the board idles.

    clock     one step of the available frequencies per tick up while busy, down to the least when idle, within
              min_freq..max_freq of the files; above the trip temperature one step less per tick
    power     per rail: idle + clock_mw (f/fmax)^2.5 + gpu_mw (f/fmax)^2.5 x use of the GPU + memory_mw x use of memory
    sensor    first-order low-pass with tau_s, then the chip's steps: 40 uV at the shunt
    heat      first-order towards ambient_c + c_per_w x power
"""

import json
import math
import os
from typing import Any, Dict, NamedTuple

from profiler import clocks
from profiler.errors import BackendError
from profiler.power import SamplerError, Trace, find_sensors
from profiler.system import System

TICK_S = 0.01  # of the governor while busy
SAMPLE_S = 0.1  # of the power sampler
REST_S = 600.0  # between two starts of the agent: the board has cooled
SHUNT_STEP_UV = 40.0
LEAKAGE_PER_K = 0.002


class Load(NamedTuple):
    """What an engine asks of the board: shares of full use."""

    gpu: float
    memory: float


IDLE = Load(0.0, 0.0)


class _File:
    """A system file that is written in place: readers hold it open."""

    def __init__(self, path: str) -> None:
        self._fd = os.open(path, os.O_RDWR)
        self._text = b""

    def write(self, value: Any) -> None:
        text = "{}\n".format(value).encode("ascii")
        if text != self._text:
            os.pwrite(self._fd, text, 0)
            os.ftruncate(self._fd, len(text))
            self._text = text


class _Rail:
    def __init__(self, facts: Dict[str, Any], path: Any) -> None:
        self.facts = facts
        self.seen_mw = None  # type: Optional[float]  # behind the filter
        self._step_ma = SHUNT_STEP_UV / facts["shunt_mohm"]
        self._current = _File(path(facts["current_file"]))
        self._power = _File(path(facts["power_file"])) if facts["power_file"] else None

    def publish(self) -> None:
        millivolts = self.facts["millivolts"]
        milliamps = round(round(self.seen_mw * 1e3 / millivolts / self._step_ma) * self._step_ma)
        self._current.write(milliamps)
        if self._power is not None:
            self._power.write(int(milliamps * millivolts / 1000))


class Machine:
    """The board. Everything that happens to it is a function of what it was asked to do."""

    def __init__(self, system: System) -> None:
        """Raises BackendError: there is no virtual board at this root."""

        def path(name: str) -> str:
            return os.path.join(system.root, name)

        try:
            with open(path("virtual.json"), encoding="utf-8") as file:
                self.facts = json.load(file)
        except OSError:
            raise BackendError(
                "the backend simulated runs on virtual boards only", "use --host virtual:jetson-agx-xavier, or another"
            )
        gpu = clocks.gpu_state(system.sysfs)
        folder = clocks.gpu_clock(system.sysfs)
        assert gpu is not None and folder is not None, "a virtual board has a GPU"
        self._least_mhz, self._most_mhz = gpu["min_mhz"], gpu["max_mhz"]
        self._steps_mhz = sorted(gpu["available_mhz"])
        self.full_mhz = self._steps_mhz[-1]
        self._cap_mhz = self._most_mhz
        self.gpu_mhz = self._least_mhz
        self._rails = [_Rail(rail, path) for rail in self.facts["rails"]]
        heat = self.facts["thermal"]
        self._clock_file = _File(os.path.join(folder, "cur_freq"))
        self._temperature_file = _File(path(heat["zone_file"]))
        self._cooling_file = _File(path(heat["cooling_file"]))
        self._state_file = _File(path("virtual.state"))
        with open(path("virtual.state"), encoding="ascii") as file:
            held = json.load(file)
        self.now_s = held["now_s"]
        self.temperature_c = held["temperature_c"]
        self.spent_mj = 0.0  # by the whole board, in truth
        self._recorder = None  # type: Any
        self._next_sample_s = math.inf
        self.idle(REST_S)

    def power_mw(self, load: Load) -> Dict[str, float]:
        """What the rails truly carry, now, under this load."""
        speed = (self.gpu_mhz / self.full_mhz) ** 2.5
        leakage = 1 + LEAKAGE_PER_K * (self.temperature_c - 25)
        return {
            rail.facts["label"]: rail.facts["idle_mw"] * leakage
            + rail.facts["clock_mw"] * speed
            + rail.facts["gpu_mw"] * speed * load.gpu
            + rail.facts["memory_mw"] * load.memory
            for rail in self._rails
        }

    def work(self, seconds: float, load: Load) -> None:
        """Be busy for so long; the clock of the GPU moves at the end of it, so not much longer than TICK_S."""
        self._pass(seconds, load)
        self._govern(busy=True)

    def idle(self, seconds: float) -> None:
        end_s = self.now_s + seconds
        while self.now_s < end_s - 1e-9:
            self._pass(min(SAMPLE_S, end_s - self.now_s), IDLE)
            self._govern(busy=False)
        self.publish()

    def publish(self) -> None:
        """Let the files say how the board is."""
        self._clock_file.write(int(self.gpu_mhz * 1e6))
        self._temperature_file.write(int(self.temperature_c * 1000))
        self._cooling_file.write(sum(step > self._cap_mhz for step in self._steps_mhz if step <= self._most_mhz))
        self._state_file.write(json.dumps({"now_s": round(self.now_s, 9), "temperature_c": self.temperature_c}))

    def record(self, recorder: Any) -> None:
        """Call `recorder(now_s)` every SAMPLE_S from now on, the rails' files being up to date; None: no more."""
        self._recorder = recorder
        self._next_sample_s = self.now_s if recorder is not None else math.inf

    def _govern(self, busy: bool) -> None:
        heat = self.facts["thermal"]
        if self.temperature_c > heat["trip_c"]:
            self._cap_mhz = max(self._next(self._cap_mhz, -1), self._least_mhz)
        elif self.temperature_c < heat["trip_c"] - 3:
            self._cap_mhz = min(self._next(self._cap_mhz, +1), self._most_mhz)
        wanted = self._next(self.gpu_mhz, +1) if busy else self._least_mhz
        self.gpu_mhz = min(wanted, self._cap_mhz)

    def _next(self, mhz: float, direction: int) -> float:
        beyond = [step for step in self._steps_mhz if (step - mhz) * direction > 0]
        return min(beyond, key=lambda step: abs(step - mhz)) if beyond else mhz

    def _pass(self, seconds: float, load: Load) -> None:
        end_s = self.now_s + seconds
        while True:
            self._step(min(end_s, self._next_sample_s) - self.now_s, load)
            if self.now_s < self._next_sample_s:
                return
            for rail in self._rails:
                rail.publish()
            self._recorder(self.now_s)
            self._next_sample_s += SAMPLE_S

    def _step(self, seconds: float, load: Load) -> None:
        carried = self.power_mw(load)
        followed = 1 - math.exp(-seconds / self.facts["tau_s"])
        total_w = 0.0
        for rail in self._rails:
            mw = carried[rail.facts["label"]]
            rail.seen_mw = mw if rail.seen_mw is None else rail.seen_mw + (mw - rail.seen_mw) * followed
            total_w += mw / 1000 if rail.facts["total"] else 0.0
        self.spent_mj += total_w * 1000 * seconds
        heat = self.facts["thermal"]
        goal_c = heat["ambient_c"] + heat["c_per_w"] * total_w
        self.temperature_c += (goal_c - self.temperature_c) * (1 - math.exp(-seconds / heat["tau_s"]))
        self.now_s += seconds


class Sampler:
    """A PowerSampler in the board's own time: the agent's real sensor code on the board's files."""

    def __init__(self, machine: Machine, system: System, board: Dict[str, Any]) -> None:
        self._machine = machine
        self._system = system
        self._board = board
        self._sensor = None  # type: Optional[PowerSensor]
        self._trace = Trace()

    def start(self) -> None:
        found = find_sensors(self._system.sysfs, self._board)
        if found.best is None:
            raise SamplerError(found.header()["reason"])
        self._sensor = found.best
        self._trace = Trace(dict(found.best.describe(), period_s=SAMPLE_S))
        self._machine.record(self._take)

    def trace(self) -> Trace:
        return self._trace

    def _take(self, now_s: float) -> None:
        assert self._sensor is not None
        self._trace.append(now_s, self._sensor.read())

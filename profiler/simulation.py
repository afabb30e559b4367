"""A board that does not exist: time, heat, clocks and rails, seen through the same files as on a real board.

`virtual.json` in the root describes it (written by devices/virtual.py); its numbers are invented, in the order of
magnitude of the board of that name. Time passes only when an engine runs or the board idles.

    clock     one step of the available frequencies per tick up while busy, down to the lowest when idle, within
              min_freq..max_freq of the files; above the trip temperature one step less per tick
    power     per rail: idle + clock_mw (f/fmax)^2.5 + gpu_mw (f/fmax)^2.5 x use of the GPU + memory_mw x use of memory
    sensor    first-order low-pass with tau_s, then the chip's steps: 40 uV at the shunt
    heat      first-order towards ambient_c + c_per_w x power
"""

import json
import math
import os
import re
import weakref
from typing import Callable, Dict, List, NamedTuple, Optional

from profiler import clocks, power
from profiler.errors import BackendError
from profiler.fields import Fields, JsonObject, RecordError, parse, read_record
from profiler.power import SamplerError, Trace, find_sensors
from profiler.system import VIRTUAL_FILE, System

TICK_S = 0.01  # of the governor while busy
SAMPLE_S = 0.1  # of the power sampler
REST_S = 600.0  # between two starts of the agent: the board has cooled
LEAKAGE_PER_K = 0.002
SCHEMA = 6
STATE_FILE = "virtual.state"
NAMES = (
    "jetson-agx-thor",
    "jetson-agx-xavier",
    "jetson-nano",
    "jetson-orin-nano",
    "jetson-tx2",
)  # that devices/virtual.py can make


_VERSION = re.compile(r"\d{1,3}(?:\.\d+)*")


class RailSpec(NamedTuple):
    """A rail of the board: its power, and the files that show it."""

    label: str
    total: bool  # part of the board's total
    millivolts: float
    step_ma: float  # of the current
    idle_mw: float
    clock_mw: float
    gpu_mw: float
    memory_mw: float
    voltage_file: str
    current_file: str
    power_file: Optional[str]
    power_per_mw: float  # units of that file in one milliwatt

    @classmethod
    def read(cls, fields: Fields) -> "RailSpec":
        return cls(
            label=fields.text("label"),
            total=fields.flag("total"),
            millivolts=fields.number("millivolts", 1),
            step_ma=fields.number("step_ma", 1e-3),
            idle_mw=fields.number("idle_mw", 0),
            clock_mw=fields.number("clock_mw", 0),
            gpu_mw=fields.number("gpu_mw", 0),
            memory_mw=fields.number("memory_mw", 0),
            voltage_file=fields.text("voltage_file"),
            current_file=fields.text("current_file"),
            power_file=fields.optional_text("power_file"),
            power_per_mw=fields.number("power_per_mw", 1e-3),
        )


class ThermalSpec(NamedTuple):
    ambient_c: float
    c_per_w: float
    tau_s: float
    trip_c: float
    zone_file: str
    cooling_file: str

    @classmethod
    def read(cls, fields: Fields) -> "ThermalSpec":
        return cls(
            ambient_c=fields.number("ambient_c"),
            c_per_w=fields.number("c_per_w", 0),
            tau_s=fields.number("tau_s", 1e-3),
            trip_c=fields.number("trip_c"),
            zone_file=fields.text("zone_file"),
            cooling_file=fields.text("cooling_file"),
        )


class TensorRTSpec(NamedTuple):
    """The TensorRT of the board's JetPack: a virtual board refuses what it refuses."""

    version: str
    opset: Optional[int]  # the newest that it reads; None: not known

    @property
    def by_flag(self) -> bool:
        """A builder flag permits a precision; from 11 on the graph alone decides."""
        return int(self.version.partition(".")[0]) < 11

    @classmethod
    def read(cls, fields: Fields) -> "TensorRTSpec":
        return cls(fields.text("version", _VERSION, "a version, such as 8.5.2"), fields.optional_whole("opset", 1))


class MachineSpec(NamedTuple):
    """virtual.json: the parts of a virtual board."""

    name: str
    seed: int
    noise: float
    context: float
    tensorrt: TensorRTSpec
    macs_per_ns: Dict[str, float]  # by precision
    bandwidth_gb_s: float
    launch_us: float
    sync_us: float
    tau_s: float  # of the power sensors' filter
    thermal: ThermalSpec
    rails: List[RailSpec]

    @classmethod
    def read(cls, fields: Fields) -> "MachineSpec":
        fields.choice("kind", ("virtual-board",))
        fields.whole("schema", SCHEMA, SCHEMA)
        speeds = fields.child("macs_per_ns")
        return cls(
            name=fields.text("name"),
            seed=fields.whole("seed"),
            noise=fields.number("noise", 0, 1),
            context=fields.number("context", 0, 1),
            tensorrt=TensorRTSpec.read(fields.child("tensorrt")),
            macs_per_ns={precision: speeds.number(precision, 1e-6) for precision in speeds.names()},
            bandwidth_gb_s=fields.number("bandwidth_gb_s", 1e-6),
            launch_us=fields.number("launch_us", 0),
            sync_us=fields.number("sync_us", 0),
            tau_s=fields.number("tau_s", 1e-3),
            thermal=ThermalSpec.read(fields.child("thermal")),
            rails=[RailSpec.read(rail) for rail in fields.children("rails")],
        )

    def to_json(self) -> JsonObject:
        return dict(
            self._asdict(),
            tensorrt=dict(self.tensorrt._asdict()),
            thermal=dict(self.thermal._asdict()),
            rails=[dict(rail._asdict()) for rail in self.rails],
        )


class Climate(NamedTuple):
    """virtual.state: the state of the board between two runs of the agent."""

    now_s: float
    temperature_c: float

    @classmethod
    def read(cls, fields: Fields) -> "Climate":
        return cls(fields.number("now_s", 0), fields.number("temperature_c"))


class Utilisation(NamedTuple):
    """How much of the board an engine uses, as shares of full use."""

    gpu: float
    memory: float


IDLE = Utilisation(0.0, 0.0)


class _File:
    """A system file that is written in place: readers have it open."""

    def __init__(self, path: str) -> None:
        self._fd = os.open(path, os.O_RDWR)
        weakref.finalize(self, os.close, self._fd)
        self._text = b""

    def write(self, value: object) -> None:
        text = "{}\n".format(value).encode("ascii")
        if text != self._text:
            os.pwrite(self._fd, text, 0)
            os.ftruncate(self._fd, len(text))
            self._text = text


class _Rail:
    def __init__(self, spec: RailSpec, root: str) -> None:
        self.spec = spec
        self.seen_mw: Optional[float] = None  # behind the filter
        self._step_ma = spec.step_ma
        self._current = _File(os.path.join(root, spec.current_file))
        self._power = _File(os.path.join(root, spec.power_file)) if spec.power_file else None

    def publish(self) -> None:
        milliamps = round(round((self.seen_mw or 0.0) * 1e3 / self.spec.millivolts / self._step_ma) * self._step_ma)
        self._current.write(milliamps)
        if self._power is not None:
            self._power.write(int(milliamps * self.spec.millivolts / 1000 * self.spec.power_per_mw))


class VirtualMachine:
    """The board. Its state is a function of its work alone."""

    def __init__(self, system: System) -> None:
        """Raises BackendError: there is no virtual board at this root, or its files are damaged."""
        if not system.is_virtual:
            raise BackendError(
                "the backend simulated runs on virtual boards only",
                "leave out --backend to measure this board, or use a virtual board: --host "
                + " or ".join("virtual:" + name for name in NAMES),
            )
        try:
            self.spec = read_record(_parse_file(os.path.join(system.root, VIRTUAL_FILE)), MachineSpec.read)
            climate = read_record(_parse_file(os.path.join(system.root, STATE_FILE)), Climate.read)
        except (OSError, RecordError) as err:
            raise BackendError(
                "the virtual board at {} is damaged: {}".format(system.root, err),
                "delete that folder: the next run makes it again",
            )
        gpu = clocks.gpu_state(system.sysfs)
        folder = clocks.gpu_clock(system.sysfs)
        if gpu is None or folder is None or not (gpu["available_mhz"] and gpu["min_mhz"] and gpu["max_mhz"]):
            raise BackendError(
                "the virtual board at {} has no GPU clock".format(system.root),
                "delete that folder: the next run makes it again",
            )
        self._least_mhz: float = gpu["min_mhz"]
        self._most_mhz: float = gpu["max_mhz"]
        self._steps_mhz: List[float] = sorted(gpu["available_mhz"])
        self.full_mhz = self._steps_mhz[-1]
        self._cap_mhz = self._most_mhz
        self.gpu_mhz = self._least_mhz
        self._rails = [_Rail(rail, system.root) for rail in self.spec.rails]
        self._clock_file = _File(os.path.join(folder, "cur_freq"))
        self._temperature_file = _File(os.path.join(system.root, self.spec.thermal.zone_file))
        self._cooling_file = _File(os.path.join(system.root, self.spec.thermal.cooling_file))
        self._state_file = _File(os.path.join(system.root, STATE_FILE))
        self.now_s = climate.now_s
        self.temperature_c = climate.temperature_c
        self.spent_mj = 0.0  # by the whole board, in truth
        self._recorder: Optional[Callable[[float], None]] = None
        self._next_sample_s = math.inf
        self.idle(REST_S)

    def power_mw(self, load: Utilisation) -> Dict[str, float]:
        """The true power of the rails, now, under this load."""
        speed = (self.gpu_mhz / self.full_mhz) ** 2.5
        leakage = 1 + LEAKAGE_PER_K * (self.temperature_c - 25)
        return {
            rail.spec.label: rail.spec.idle_mw * leakage
            + rail.spec.clock_mw * speed
            + rail.spec.gpu_mw * speed * load.gpu
            + rail.spec.memory_mw * load.memory
            for rail in self._rails
        }

    def work(self, seconds: float, load: Utilisation) -> None:
        """Be busy for that time; the clock of the GPU moves at its end, so not much longer than TICK_S."""
        self._pass(seconds, load)
        self._govern(busy=True)

    def idle(self, seconds: float) -> None:
        end_s = self.now_s + seconds
        while self.now_s < end_s - 1e-9:
            self._pass(min(SAMPLE_S, end_s - self.now_s), IDLE)
            self._govern(busy=False)
        self.publish()

    def publish(self) -> None:
        """Write the state of the board to its files."""
        self._clock_file.write(int(self.gpu_mhz * 1e6))
        self._temperature_file.write(int(self.temperature_c * 1000))
        self._cooling_file.write(sum(step > self._cap_mhz for step in self._steps_mhz if step <= self._most_mhz))
        self._state_file.write(json.dumps(dict(Climate(round(self.now_s, 9), self.temperature_c)._asdict())))

    def record(self, recorder: Optional[Callable[[float], None]]) -> None:
        """Call `recorder(now_s)` every SAMPLE_S from now on, the rails' files being up to date; None: no more."""
        self._recorder = recorder
        self._next_sample_s = self.now_s if recorder is not None else math.inf

    def _govern(self, busy: bool) -> None:
        trip_c = self.spec.thermal.trip_c
        if self.temperature_c > trip_c:
            self._cap_mhz = max(self._next(self._cap_mhz, -1), self._least_mhz)
        elif self.temperature_c < trip_c - 3:
            self._cap_mhz = min(self._next(self._cap_mhz, +1), self._most_mhz)
        wanted = self._next(self.gpu_mhz, +1) if busy else self._least_mhz
        self.gpu_mhz = min(wanted, self._cap_mhz)

    def _next(self, mhz: float, direction: int) -> float:
        beyond = [step for step in self._steps_mhz if (step - mhz) * direction > 0]
        return min(beyond, key=lambda step: abs(step - mhz)) if beyond else mhz

    def _pass(self, seconds: float, load: Utilisation) -> None:
        end_s = self.now_s + seconds
        while True:
            self._step(min(end_s, self._next_sample_s) - self.now_s, load)
            if self.now_s < self._next_sample_s:
                return
            for rail in self._rails:
                rail.publish()
            if self._recorder is not None:
                self._recorder(self.now_s)
            self._next_sample_s += SAMPLE_S

    def _step(self, seconds: float, load: Utilisation) -> None:
        drawn = self.power_mw(load)
        followed = 1 - math.exp(-seconds / self.spec.tau_s)
        total_w = 0.0
        for rail in self._rails:
            mw = drawn[rail.spec.label]
            rail.seen_mw = mw if rail.seen_mw is None else rail.seen_mw + (mw - rail.seen_mw) * followed
            total_w += mw / 1000 if rail.spec.total else 0.0
        self.spent_mj += total_w * 1000 * seconds
        heat = self.spec.thermal
        goal_c = heat.ambient_c + heat.c_per_w * total_w
        self.temperature_c += (goal_c - self.temperature_c) * (1 - math.exp(-seconds / heat.tau_s))
        self.now_s += seconds


class VirtualSampler(power.Sampler):
    """A sampler in the board's own time: the agent's real sensor code on the board's files."""

    def __init__(self, machine: VirtualMachine, system: System, board: JsonObject) -> None:
        self._machine = machine
        self._system = system
        self._board = board
        self._sensor: Optional[power.PowerSensor] = None
        self._trace = Trace()

    def start(self) -> None:
        found = find_sensors(self._system.sysfs, self._board)
        if found.best is None:
            raise SamplerError(found.header()["reason"])
        self._sensor = found.best
        description = found.best.describe()
        self._trace = Trace(description._replace(details=dict(description.details, period_s=SAMPLE_S)))
        self._machine.record(self._take)

    def trace(self) -> Trace:
        return self._trace

    def _take(self, now_s: float) -> None:
        assert self._sensor is not None
        self._trace.append(now_s, self._sensor.read())


def _parse_file(path: str) -> object:
    with open(path, "rb") as file:
        return parse(file.read())

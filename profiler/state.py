"""The state of the machine before and after each visit, read from a few small system files that stay open."""

import collections
import glob
import os
import re
import time
import weakref
from typing import Callable, Deque, Dict, List, NamedTuple, Optional, Sequence, Set, Tuple

from profiler import clocks
from profiler.fields import Fields, JsonObject

# The kernel counts CPU time in ticks of 10 ms, so the share taken by others is read over a window at least this long.
FOREIGN_WINDOW_S = 1.0
FOREIGN_LIMIT = 0.2  # of one core; above it a visit carries a warning
CLOCK_DROP_LIMIT = 0.05  # relative
SWAP_LIMIT_MB = 1.0
ZONE_OFF_C = -200.0  # a zone of a part that is switched off reads -256


class BoardState(NamedTuple):
    """The machine at one moment; None: it cannot be read."""

    load1: Optional[float]
    cpu_mhz: Optional[float]
    gpu_mhz: Optional[float]
    emc_mhz: Optional[float]  # of the memory; root alone can read it
    temperature_c: Optional[float]  # of the hottest zone
    memory_available_mb: Optional[float]
    swap_used_mb: Optional[float]
    over_current_events: Optional[int]  # since boot
    throttled_by: Optional[List[str]]  # cooling devices at work, without fans

    @classmethod
    def read(cls, fields: Fields) -> "BoardState":
        return cls(
            load1=fields.optional_number("load1"),
            cpu_mhz=fields.optional_number("cpu_mhz"),
            gpu_mhz=fields.optional_number("gpu_mhz"),
            emc_mhz=fields.optional_number("emc_mhz"),
            temperature_c=fields.optional_number("temperature_c"),
            memory_available_mb=fields.optional_number("memory_available_mb"),
            swap_used_mb=fields.optional_number("swap_used_mb"),
            over_current_events=fields.optional_whole("over_current_events"),
            throttled_by=None if fields.is_null("throttled_by") else fields.texts("throttled_by"),
        )

    def to_json(self) -> JsonObject:
        return dict(self._asdict())


class VisitState(NamedTuple):
    """The machine before and after a visit."""

    before: BoardState
    after: BoardState
    foreign_cpu: Optional[float]  # share of one core that other processes used; None: the visit was too short

    @classmethod
    def read(cls, fields: Fields) -> "VisitState":
        """From an object with the fields `before` and `after`, as `to_json` writes them."""
        before, after = fields.child("before"), fields.child("after")
        return cls(BoardState.read(before), BoardState.read(after), after.optional_number("foreign_cpu", 0))

    def to_json(self) -> JsonObject:
        return {"before": self.before.to_json(), "after": dict(self.after.to_json(), foreign_cpu=self.foreign_cpu)}


# Cooling devices that slow nothing: they blow, warn, dim, or are a setting.
_SLOWS_NOTHING = ("fan", "hot-surface", "lcd", "backlight", "tcc offset")


def throttling_devices(sysfs: str) -> List[Tuple[str, str]]:
    """(type, folder) of the cooling devices that slow the processors down when they are at work.

    A device does so when a passive trip of a thermal zone is bound to it. Devices bound to active, hot and critical trips
    alone cool by other means or warn. The type decides where it says it, and where the kernel lists no binding.
    """
    trips = _trip_types(sysfs)
    found = []
    for folder in sorted(glob.glob(os.path.join(sysfs, "class/thermal/cooling_device*"))):
        kind = clocks.read_text(os.path.join(folder, "type")) or ""
        bound = trips.get(os.path.basename(folder))
        slows = not any(word in kind.lower() for word in _SLOWS_NOTHING)
        if kind and slows and ("throttle" in kind.lower() or not bound or "passive" in bound):
            found.append((kind, folder))
    return found


def _trip_types(sysfs: str) -> Dict[str, Set[str]]:
    """The types of the trips that each cooling device is bound to, by the name of its folder."""
    found: Dict[str, Set[str]] = {}
    for link in glob.glob(os.path.join(sysfs, "class/thermal/thermal_zone*/cdev*")):
        if not re.search(r"/cdev\d+$", link):
            continue
        number = clocks.read_text(link + "_trip_point") or ""
        kind = clocks.read_text(os.path.join(os.path.dirname(link), "trip_point_{}_type".format(number)))
        if kind:
            found.setdefault(os.path.basename(os.path.realpath(link)), set()).add(kind)
    return found


class _SystemFile:
    """A file of /proc or /sys that stays open and is read each time; text "" when it cannot be read."""

    def __init__(self, path: str) -> None:
        try:
            self._file: Optional[int] = os.open(path, os.O_RDONLY)
            weakref.finalize(self, os.close, self._file)
        except OSError:
            self._file = None

    def read(self) -> str:
        if self._file is None:
            return ""
        try:
            return os.pread(self._file, 4096, 0).decode("ascii", "replace")
        except OSError:
            return ""


class StateReader:
    """Reads the machine's state.

    Args:
        own_pids: the agent's processes; their CPU time is not foreign.
        ignored_zones: thermal zones, by type, that do not show the processor's temperature.
    """

    def __init__(
        self,
        own_pids: Sequence[int],
        ignored_zones: Sequence[str] = (),
        proc: str = "/proc",
        sysfs: str = "/sys",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._load = _SystemFile(os.path.join(proc, "loadavg"))
        self._memory = _SystemFile(os.path.join(proc, "meminfo"))
        self._cpu = _SystemFile(os.path.join(proc, "stat"))
        self._own = [_SystemFile(os.path.join(proc, str(pid), "stat")) for pid in own_pids]
        self._frequencies = [_SystemFile(os.path.join(policy, "scaling_cur_freq")) for policy in clocks.policies(sysfs)]
        self._temperatures = [
            _SystemFile(os.path.join(zone, "temp"))
            for zone in sorted(glob.glob(os.path.join(sysfs, "class/thermal/thermal_zone*")))
            if clocks.read_text(os.path.join(zone, "type")) not in ignored_zones
        ]
        gpu = clocks.gpu_clock(sysfs)
        self._gpu = [_SystemFile(os.path.join(gpu, "cur_freq"))] if gpu is not None else []
        self._emc = [_SystemFile(os.path.join(sysfs, path)) for path in clocks.EMC_RATES]
        # Over-current events are counted by the board.
        self._over_current = [
            _SystemFile(path) for path in sorted(glob.glob(os.path.join(sysfs, "class/hwmon/hwmon*/oc*_event_cnt")))
        ]
        self._cooling = [
            (kind, _SystemFile(os.path.join(device, "cur_state"))) for kind, device in throttling_devices(sysfs)
        ]
        self._clock = clock
        self._readings: Deque[Tuple[float, float]] = collections.deque()  # (s, foreign CPU s), oldest first
        self._note_foreign()

    def before(self) -> BoardState:
        """The state now, at the start of a visit."""
        self._note_foreign()
        return self._state()

    def after(self, before: BoardState, started_s: float) -> VisitState:
        """The states around a visit that ends now.

        `foreign_cpu` covers the time since `started_s` of the clock and at least FOREIGN_WINDOW_S; None while there is
        no such window.
        """
        state = self._state()
        self._note_foreign()
        return VisitState(before, state, self._foreign(started_s))

    def _state(self) -> BoardState:
        load = self._load.read().split()
        memory = dict(re.findall(r"^(\w+):\s*(\d+)", self._memory.read(), re.MULTILINE))
        available, swap, free = (memory.get(name) for name in ("MemAvailable", "SwapTotal", "SwapFree"))
        temperatures = [value for value in _numbers(self._temperatures, 1e-3) if value > ZONE_OFF_C]
        return BoardState(
            load1=float(load[0]) if load else None,
            cpu_mhz=_mean(_numbers(self._frequencies, 1e-3)),
            gpu_mhz=_mean(_numbers(self._gpu, 1e-6)),
            emc_mhz=_mean(_numbers(self._emc, 1e-6)[:1]),
            temperature_c=max(temperatures, default=None),
            memory_available_mb=round(int(available) / 1024, 1) if available else None,
            swap_used_mb=round((int(swap) - int(free)) / 1024, 1) if swap and free else None,
            over_current_events=int(sum(_numbers(self._over_current, 1))) if self._over_current else None,
            throttled_by=self._throttled_by(),
        )

    def _throttled_by(self) -> Optional[List[str]]:
        """The kinds of cooling devices at work, each once; None on a machine without cooling devices."""
        if not self._cooling:
            return None
        return sorted({kind for kind, file in self._cooling if max(_numbers([file], 1), default=0) > 0})

    def _note_foreign(self) -> None:
        fields = self._cpu.read().split("\n", 1)[0].split()
        if len(fields) < 9 or fields[0] != "cpu":
            return
        user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, fields[1:9])
        ticks = user + nice + system + irq + softirq + steal
        for own in self._own:
            of_process = own.read().rpartition(")")[2].split()  # the name before it may contain anything
            if len(of_process) > 12:
                ticks -= int(of_process[11]) + int(of_process[12])
        self._readings.append((self._clock(), ticks / os.sysconf("SC_CLK_TCK")))

    def _foreign(self, started_s: float) -> Optional[float]:
        if not self._readings:
            return None
        now_s, now_cpu_s = self._readings[-1]
        latest_start = min(started_s, now_s - FOREIGN_WINDOW_S)
        while len(self._readings) > 1 and self._readings[1][0] <= latest_start:
            self._readings.popleft()
        then_s, then_cpu_s = self._readings[0]
        if then_s > latest_start:
            return None
        return round(max(0.0, (now_cpu_s - then_cpu_s) / (now_s - then_s)), 3)


def temperatures_c(sysfs: str) -> Dict[str, float]:
    """Every thermal zone that can be read, by its type; for the probe."""
    found = {}
    for zone in sorted(glob.glob(os.path.join(sysfs, "class/thermal/thermal_zone*"))):
        kind = clocks.read_text(os.path.join(zone, "type")) or os.path.basename(zone)
        values = [value for value in _numbers([_SystemFile(os.path.join(zone, "temp"))], 1e-3) if value > ZONE_OFF_C]
        if values:
            found[kind] = values[0]
    return found


def warnings_about(visit: VisitState) -> List[str]:
    """What in the machine's state may distort a visit, with its size and a remedy."""
    before, after = visit.before, visit.after
    found = []
    if visit.foreign_cpu is not None and visit.foreign_cpu > FOREIGN_LIMIT:
        found.append(
            "other processes used {:.2f} of a core during this visit; stop them or measure again".format(
                visit.foreign_cpu
            )
        )
    for clock, was_mhz, now_mhz in (
        ("CPU", before.cpu_mhz, after.cpu_mhz),
        ("GPU", before.gpu_mhz, after.gpu_mhz),
        ("memory", before.emc_mhz, after.emc_mhz),
    ):
        if was_mhz is not None and now_mhz is not None and now_mhz < was_mhz * (1 - CLOCK_DROP_LIMIT):
            found.append(
                "{} clock fell from {:.0f} to {:.0f} MHz; lock the clocks or cool the board".format(
                    clock, was_mhz, now_mhz
                )
            )
    events = (before.over_current_events, after.over_current_events)
    if events[0] is not None and events[1] is not None and events[1] > events[0]:
        found.append(
            "the board throttled itself {} times for over-current or low voltage; use a stronger supply or a "
            "lower power mode".format(events[1] - events[0])
        )
    cooling = sorted(set(before.throttled_by or ()) | set(after.throttled_by or ()))
    if cooling:
        found.append("throttled for heat by {}; cool the board".format(", ".join(cooling)))
    swap_mb = (before.swap_used_mb, after.swap_used_mb)
    if swap_mb[0] is not None and swap_mb[1] is not None and swap_mb[1] > swap_mb[0] + SWAP_LIMIT_MB:
        found.append(
            "swap grew by {:.0f} MB during this visit; free memory on the board".format(swap_mb[1] - swap_mb[0])
        )
    return found


def _numbers(files: Sequence[_SystemFile], scale: float) -> List[float]:
    """What the kernel writes, at most a 64-bit number; a broken driver writes anything."""
    texts = (file.read().strip() for file in files)
    return [round(int(text) * scale, 1) for text in texts if text.lstrip("-").isdigit() and len(text) <= 20]


def _mean(numbers: List[float]) -> Optional[float]:
    return round(sum(numbers) / len(numbers), 1) if numbers else None

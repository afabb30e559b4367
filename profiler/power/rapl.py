"""RAPL energy counters of Intel and AMD processors, through the kernel's powercap files.

The total is that of the processor packages (and of the memory where it has a counter of its own): not of the machine.
"""

import os
import time
from typing import Callable, List, Optional, Sequence, Tuple

from profiler.fields import JsonObject
from profiler.power.sensor import Missing, PowerSensor, Reading
from profiler.power.sysfs import Refusal, entries, is_denied, read_number, read_text, refusals, why

# The counter moves in steps of about 61 uJ every millisecond (general knowledge): over a window of seconds, below this.
RESOLUTION_MW = 1.0


class EnergyCounter:
    """Mean power between two readings of an energy counter that wraps around."""

    def __init__(self, range_uj: Optional[float] = None) -> None:
        self._range_uj = range_uj
        self._last: Optional[Tuple[float, float]] = None  # (t_s, uJ)

    def power_mw(self, t_s: float, energy_uj: Optional[float]) -> Optional[float]:
        """Milliwatts since the call before; None for the first call, after a failed reading and when not known."""
        last, self._last = self._last, None if energy_uj is None else (t_s, energy_uj)
        if last is None or energy_uj is None or t_s <= last[0]:
            return None
        spent = energy_uj - last[1]
        if spent < 0:
            if not self._range_uj:
                return None
            spent += self._range_uj
        return spent / (t_s - last[0]) / 1000.0


class Rapl(PowerSensor):
    name = "rapl"
    cumulative = True
    tau_s = 0.0
    min_period_s = 0.01  # ten updates of the counter, so that the moment of an update matters little

    def __init__(self, zones: Sequence[Tuple[str, str]], clock: Callable[[], float] = time.monotonic) -> None:
        """`zones`: [(label, folder)]."""
        self._clock = clock
        self._files = [(label, os.path.join(folder, "energy_uj")) for label, folder in zones]
        self._counters = {
            label: EnergyCounter(read_number(os.path.join(folder, "max_energy_range_uj"))) for label, folder in zones
        }
        self.rails = tuple(label for label, _ in zones)
        self.resolution_mw = {label: RESOLUTION_MW for label in self.rails}
        self.total = self.rails

    def read(self) -> Reading:
        reading: Reading = {}
        for label, path in self._files:
            energy_uj = read_number(path)
            reading[label] = self._counters[label].power_mw(self._clock(), energy_uj)
        return reading

    def details(self) -> JsonObject:
        return {"files": dict(self._files), "covers": "processor packages and their memory, not the whole machine"}


def find_rapl(sysfs_root: str) -> Tuple[Optional[PowerSensor], List[Missing]]:
    """The packages, and the memory where it has a counter of its own."""
    zones: List[Tuple[str, str]] = []
    missing: List[Missing] = []
    for folder in entries(os.path.join(sysfs_root, "class/powercap")):
        parts = os.path.basename(folder).split(":")
        if parts[0] != "intel-rapl" or len(parts) < 2:
            continue  # intel-rapl-mmio counts the same packages a second time
        try:
            name = read_text(os.path.join(folder, "name"))
        except OSError:
            continue
        if len(parts) == 2 and name.startswith("package"):
            label = name
        elif len(parts) == 3 and name == "dram":
            label = "dram-" + parts[1]
        else:
            continue  # core and uncore are inside the package, psys around it
        refused = refusals([os.path.join(folder, "energy_uj")])
        if refused:
            missing.append(Missing(Rapl.name, label, "cannot be read: " + why(refused), _remedy(refused)))
        else:
            zones.append((label, folder))
    if not zones and not missing:
        where = os.path.join(sysfs_root, "class/powercap")
        missing.append(Missing(Rapl.name, "", "no RAPL counters in {}".format(where), "virtual machines have none"))
    sensor = Rapl(zones) if zones else None
    if sensor and missing:
        sensor.total = ()
        sensor.total_reason = "the total needs {}, which cannot be read".format(", ".join(m.rail for m in missing))
    return sensor, missing


def _remedy(refused: Sequence[Refusal]) -> str:
    if not is_denied(refused):
        return ""
    files = " ".join(path for path, _ in refused)
    return (
        "until the next boot: sudo chmod a+r {}; for good: "
        'SUBSYSTEM=="powercap", ACTION=="add", RUN+="/bin/chmod a+r /sys%p/energy_uj" '
        "in /etc/udev/rules.d/99-power.rules (kernels reserve it for root because it leaks other users' secrets: "
        "only on a machine of your own); or run the agent as root"
    ).format(files)

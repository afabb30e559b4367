"""Which sensors this machine has for us, and what is missing."""

from typing import List, NamedTuple

from profiler.power.ina3221 import find_ina3221
from profiler.power.nvml import find_nvml
from profiler.power.rapl import find_rapl
from profiler.power.sensor import Missing, PowerSensor


class Found(NamedTuple):
    """Sensors that can be read, best first, and everything that cannot, with its reason."""

    sensors: List[PowerSensor]
    missing: List[Missing]

    @property
    def best(self):
        """The sensor whose total is known, or None."""
        for sensor in self.sensors:
            if sensor.total:
                return sensor
        return None

    def header(self):
        """`energy` of a journal's header: what is measured and how, or why nothing is."""
        if self.best is not None:
            return {"available": True, "reason": None, "sensor": self.best.describe()}
        reasons = [sensor.name + ": " + sensor.total_reason for sensor in self.sensors]
        reasons += [entry.text() for entry in self.missing]
        return {"available": False, "reason": "\n".join(reasons), "sensor": None}

    def close(self):
        for sensor in self.sensors:
            sensor.close()


def find_sensors(sysfs_root="/sys", board=None):
    """Look for sensors.

    Args:
        sysfs_root: where the kernel's files are; a folder of text files is a board.
        board: facts from the board's description (a file of `devices/catalog`), or None. Used are `power.sensors`
            (which kinds to look for), `power.rails` (label, shunt_mohm, optional), `power.total` (labels to add)
            and `power.filter_tau_s`.

    Returns:
        Found.
    """
    power = (board or {}).get("power") or {}
    searches = {
        "ina3221": lambda: find_ina3221(sysfs_root, power),
        "rapl": lambda: find_rapl(sysfs_root),
        "nvml": find_nvml,
    }
    sensors, missing = [], []
    for kind in power.get("sensors") or ("ina3221", "rapl", "nvml"):
        sensor, lacking = searches[kind]()
        if sensor is not None:
            sensors.append(sensor)
        missing.extend(lacking)
    return Found(sensors, missing)

"""Which power sensors this machine has, and what is missing."""

from typing import List, NamedTuple, Optional

from profiler.fields import JsonObject
from profiler.power.ina238 import find_ina238
from profiler.power.ina3221 import find_ina3221
from profiler.power.nvml import find_nvml
from profiler.power.rapl import find_rapl
from profiler.power.sensor import Missing, PowerFacts, PowerSensor

KINDS = ("ina3221", "ina238", "rapl", "nvml")


class Found(NamedTuple):
    """Sensors that can be read, best first, and everything that cannot, with its reason."""

    sensors: List[PowerSensor]
    missing: List[Missing]

    @property
    def best(self) -> Optional[PowerSensor]:
        """The first sensor with a known total, or None."""
        for sensor in self.sensors:
            if sensor.total:
                return sensor
        return None

    def header(self) -> JsonObject:
        """`energy` of a journal's header: what is measured and how, or why nothing is."""
        if self.best is not None:
            return {"available": True, "reason": None, "sensor": self.best.describe().to_json()}
        reasons = [sensor.name + ": " + sensor.total_reason for sensor in self.sensors]
        reasons += [entry.text() for entry in self.missing]
        return {"available": False, "reason": "\n".join(reasons), "sensor": None}

    def close(self) -> None:
        for sensor in self.sensors:
            sensor.close()


def find_sensors(sysfs_root: str = "/sys", board: Optional[JsonObject] = None) -> Found:
    """Look for sensors.

    Args:
        sysfs_root: where the kernel's files are; a folder of text files is a board.
        board: the board's description (a file of `devices/catalog`), or None. Of it, `power.sensors` (kinds to look
            for), `power.rails`, `power.total` (labels to add) and `power.filter_tau_s` are used.

    Raises:
        RecordError: the description's `power` has faults.
    """
    power = PowerFacts.of_board(board)
    sensors: List[PowerSensor] = []
    missing: List[Missing] = []
    for kind in power.sensors or KINDS:
        if kind == "ina3221":
            sensor, lacking = find_ina3221(sysfs_root, power)
        elif kind == "ina238":
            sensor, lacking = find_ina238(sysfs_root, power)
        elif kind == "rapl":
            sensor, lacking = find_rapl(sysfs_root)
        elif kind == "nvml":
            sensor, lacking = find_nvml()
        else:
            sensor, lacking = None, [Missing(kind, "", "this agent has no such kind of sensor", "")]
        if sensor is not None:
            sensors.append(sensor)
        missing.extend(lacking)
    return Found(sensors, missing)

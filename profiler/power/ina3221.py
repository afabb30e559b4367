"""The INA3221 power monitor of the Jetson modules, through both kernel drivers.

JetPack 4: driver `ina3221x`, an IIO device; channels from 0; `in_power{n}_input` in mW.
JetPack 5 and later: driver `ina3221`, a hwmon device; channels from 1; volts and amperes, no power file.
Sources: OE4T/linux-tegra-4.9:drivers/staging/iio/meter/ina3221.c, OE4T/linux-tegra-5.10:drivers/hwmon/ina3221.c.

Bus, address, device and channel numbers differ between boards and releases; only labels are trusted. A board may
have two chips, one sensor covers both.
"""

import os
import re
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

from profiler.fields import JsonObject
from profiler.power.sensor import Missing, PowerFacts, PowerSensor, Reading
from profiler.power.sysfs import Refusal, entries, is_denied, read_number, read_text, refusals, why

SHUNT_STEP_UV = 40.0  # least step of the shunt voltage: the driver, and the chip's data sheet
# Least steps of the current for the shunts that NVIDIA's device trees use (1, 2, 5, 10, 20 mOhm), in mA.
CURRENT_STEPS_MA = (40, 20, 8, 4, 2)
# 512 averages of 6 x 140 us = 0.43 s, the slowest setting of any device tree seen; 0.44 s fitted to an Orin NX log.
SLOWEST_TAU_S = 0.44
UNUSED = ("", "NC")  # labels of channels that are not connected
# Rails that feed the whole module wherever they occur; any other rule needs a board description.
WHOLE_MODULE = ("POM_5V_IN", "VDD_IN")

IIO, HWMON = "ina3221x", "ina3221"
_DEVICE = re.compile(r"[0-9]+-[0-9a-f]{4}$")
_REMEDY = {
    IIO: (
        'for good: SUBSYSTEM=="iio", ACTION=="add", ATTR{name}=="ina3221*", '
        "RUN+=\"/bin/sh -c 'chmod a+r /sys%p/in_*'\" in /etc/udev/rules.d/99-power.rules"
    ),
    HWMON: (
        'for good: SUBSYSTEM=="hwmon", ACTION=="add", ATTR{name}=="ina3221", '
        "RUN+=\"/bin/sh -c 'chmod a+r /sys%p/in*_input /sys%p/curr*_input'\" in /etc/udev/rules.d/99-power.rules"
    ),
}


class ChipSettings(NamedTuple):
    """How a chip averages, as it reports it. They are part of the journal's header."""

    chip: str
    driver: str
    samples: Optional[int]
    update_interval_ms: Optional[float]
    running_mode: Optional[str]


class _Rail:
    """One channel: where it is read, and with which resolution."""

    def __init__(self, label: str, driver: str, folder: str, channel: int) -> None:
        self.label = label
        self.driver = driver
        self.folder = folder
        self.channel = channel
        if driver == IIO:
            self.files = [self._path("in_power{}_input")]
        else:
            self.files = [self._path("in{}_input"), self._path("curr{}_input")]

    def _path(self, pattern: str) -> str:
        return os.path.join(self.folder, pattern.format(self.channel))

    def read_mw(self) -> Optional[float]:
        """Milliwatts, or None if one of the files does not answer."""
        values = [value for value in map(read_number, self.files) if value is not None]
        if len(values) < len(self.files):
            return None
        return values[0] if self.driver == IIO else values[0] * values[1] / 1000.0

    def resolution_mw(self, shunt_mohm: Optional[float] = None) -> Optional[float]:
        """The step of this rail, or None: 40 uV over the shunt, times the voltage.

        JetPack 4 does not publish the shunt. There `shunt_mohm` of the board's description counts. Without it, the
        current is a multiple of the step, so the largest known step that divides a reading is an upper bound.
        """
        hwmon = self.driver == HWMON
        millivolts = read_number(self._path("in{}_input" if hwmon else "in_voltage{}_input"))
        if not millivolts:
            return None
        shunt_uohm = read_number(self._path("shunt{}_resistor")) if hwmon else None
        shunt_uohm = shunt_uohm or (shunt_mohm or 0) * 1000.0
        if shunt_uohm:
            return SHUNT_STEP_UV / shunt_uohm * millivolts
        milliamps = read_number(self._path("curr{}_input" if hwmon else "in_current{}_input"))
        steps = [step for step in CURRENT_STEPS_MA if milliamps and milliamps % step == 0]
        return steps[0] * millivolts / 1000.0 if steps else None

    def describe(self) -> JsonObject:
        shunt = self._path("shunt{}_resistor") if self.driver == HWMON else None
        return {"files": self.files, "shunt_uohm": read_number(shunt) if shunt else None}


class Ina3221(PowerSensor):
    """All readable rails of a module's power monitors."""

    name = "ina3221"

    def __init__(self, rails: List[_Rail], settings: List[ChipSettings], power: PowerFacts) -> None:
        shunts = {rail.label: rail.shunt_mohm for rail in power.rails}
        self._rails = rails
        self._settings = settings
        self.rails = tuple(rail.label for rail in rails)
        self.resolution_mw = {rail.label: rail.resolution_mw(shunts.get(rail.label)) for rail in rails}
        # Averaging is a running mean, so the whole interval (conversions x averages) is the filter's time constant.
        intervals = [chip.update_interval_ms / 1000.0 for chip in settings if chip.update_interval_ms]
        self.min_period_s = max(intervals or [0.0])
        self.tau_s = max(intervals + [power.filter_tau_s or 0.0]) or SLOWEST_TAU_S
        self.total, self.total_reason = _total(self.rails, power)

    def read(self) -> Reading:
        return {rail.label: rail.read_mw() for rail in self._rails}

    def details(self) -> JsonObject:
        return {
            "driver": self._rails[0].driver,
            "chips": [dict(chip._asdict()) for chip in self._settings],
            "channels": {rail.label: rail.describe() for rail in self._rails},
        }


def find_ina3221(sysfs_root: str, power: PowerFacts) -> Tuple[Optional[PowerSensor], List[Missing]]:
    """Every labelled channel of every INA3221 below `sysfs_root`."""
    rails: List[_Rail] = []
    settings: List[ChipSettings] = []
    missing: List[Missing] = []
    for driver in (IIO, HWMON):
        for chip in entries(os.path.join(sysfs_root, "bus/i2c/drivers", driver)):
            if not _DEVICE.search(chip):
                continue  # bind, unbind, module, uevent
            for folder in _device_folders(chip, driver):
                settings.append(_settings(chip, folder, driver))
                for rail in _channels(folder, driver):
                    refused = refusals(rail.files)
                    if refused:
                        missing.append(_refused(rail, refused))
                    elif rail.label in [other.label for other in rails]:
                        missing.append(
                            Missing(Ina3221.name, rail.label, "two channels carry this label; the first is read", "")
                        )
                    else:
                        rails.append(rail)
    seen = set(rail.label for rail in rails) | set(entry.rail for entry in missing)
    expected = [rail.label for rail in power.rails if rail.sensor == Ina3221.name and not rail.optional]
    if not settings:
        where = " and ".join(os.path.join(sysfs_root, "bus/i2c/drivers", driver) for driver in (IIO, HWMON))
        remedy = "on a Jetson Nano 2GB there is no power monitor; on others the kernel must have its driver"
        missing.append(Missing(Ina3221.name, "", "no power monitor: nothing in " + where, remedy if expected else ""))
    else:
        for label in expected:
            if label not in seen:
                reason = "no channel of the power monitors carries this label (found: {})".format(
                    ", ".join(sorted(seen))
                )
                missing.append(Missing(Ina3221.name, label, reason, "check that the board matches its description"))
    return (Ina3221(rails, settings, power) if rails else None), missing


def _device_folders(chip: str, driver: str) -> List[str]:
    if driver == HWMON:
        return [path for path in entries(os.path.join(chip, "hwmon")) if os.path.basename(path).startswith("hwmon")]
    numbered = [path for path in entries(chip) if os.path.basename(path).startswith("iio:device")]
    linked = os.path.join(chip, "iio_device")  # some kernels have this link and nothing else
    return numbered or ([linked] if os.path.isdir(linked) else [])


def _channels(folder: str, driver: str) -> List[_Rail]:
    """Labelled channels. A label of "sum of shunt voltages" is the chip's own sum and no rail."""
    rails = []
    for channel in (0, 1, 2) if driver == IIO else (1, 2, 3):
        name = "rail_name_{}" if driver == IIO else "in{}_label"
        try:
            label = read_text(os.path.join(folder, name.format(channel)))
        except OSError:
            continue
        if label not in UNUSED and not label.startswith("sum of "):
            rails.append(_Rail(label, driver, folder, channel))
    return rails


def _settings(chip: str, folder: str, driver: str) -> ChipSettings:
    text: Dict[str, Optional[str]] = {}
    for name in ("running_mode",) if driver == IIO else ("samples", "update_interval"):
        try:
            text[name] = read_text(os.path.join(folder, name))
        except OSError:
            text[name] = None
    number = read_number(os.path.join(folder, "update_interval")) if driver == HWMON else None
    samples = read_number(os.path.join(folder, "samples")) if driver == HWMON else None
    return ChipSettings(
        chip=os.path.basename(chip),
        driver=driver,
        samples=int(samples) if samples else None,
        update_interval_ms=number or None,
        running_mode=text.get("running_mode"),
    )


def _refused(rail: _Rail, refused: Sequence[Refusal]) -> Missing:
    if is_denied(refused):
        files = " ".join(path for path, _ in refused)
        remedy = "until the next boot: sudo chmod a+r {}; {}; or run the agent as root".format(
            files, _REMEDY[rail.driver]
        )
    else:
        remedy = "the channel may be switched off in the kernel: see in{}_enable in its folder".format(rail.channel)
    return Missing(Ina3221.name, rail.label, "cannot be read: " + why(refused), remedy)


def _total(labels: Sequence[str], power: PowerFacts) -> Tuple[Tuple[str, ...], str]:
    """(labels to add, reason if none)."""
    rule = power.total
    if rule is None:
        single = [label for label in WHOLE_MODULE if label in labels]
        if len(single) == 1:
            return (single[0],), ""
        return (), "the rule for this board's total is not known; its description must name it"
    lacking = [label for label in rule if label not in labels]
    if lacking:
        return (), "the total needs {}, which cannot be read".format(", ".join(lacking))
    return tuple(rule), ""

"""The INA238 power monitor through the kernel's driver: on AGX Thor it measures VIN, what the module and its carrier draw together.

The driver `ina238` makes a hwmon device with `power1_input` in uW, `in1_input` in mV and `curr1_input` in mA, and no label: the board's
description says which rail it is. The driver sets the chip up itself: 16 conversions of 1052 us of each of three inputs make one
reading, 50.5 ms. Neither that nor the shunt is among its files; the shunt is in the device tree (`of_node`).
Source: torvalds/linux:drivers/hwmon/ina238.c and Documentation/hwmon/ina238.rst. None of this was read on a board.
"""

import os
import re
import struct
from typing import List, NamedTuple, Optional, Tuple

from profiler.fields import JsonObject
from profiler.power.sensor import Missing, PowerFacts, PowerSensor, RailFacts, Reading
from profiler.power.sysfs import entries, is_denied, read_number, read_text, refusals, why

NAME = "ina238"  # of the driver, and of its hwmon device
READING_S = 16 * 3 * 1052e-6  # ADC_CONFIG 0xfb6a
# A mean over T passes as much of a fluctuation as a first-order low-pass with a time constant of T / 2.
MEAN_TO_TAU = 0.5
# The driver's calibration makes one step of the current 20 uV over the shunt, a quarter of it in the small range (gain 1).
STEP_UV_PER_GAIN = 5.0
DEFAULT_GAIN, DEFAULT_SHUNT_UOHM = 4, 10000  # of the driver, where the device tree has none
_DEVICE = re.compile(r"[0-9]+-([0-9a-f]{4})$")
_REMEDY = (
    "until the next boot: sudo chmod a+r {}; "
    'for good: SUBSYSTEM=="hwmon", ACTION=="add", ATTR{{name}}=="ina238", '
    "RUN+=\"/bin/sh -c 'chmod a+r /sys%p/power1_input /sys%p/in1_input'\" in /etc/udev/rules.d/99-power.rules; or run the agent as root"
)


class _Chip(NamedTuple):
    """One chip is one rail."""

    where: str  # bus and address: 2-0044
    folder: str  # of its hwmon device
    device: str

    @property
    def power_file(self) -> str:
        return os.path.join(self.folder, "power1_input")

    @property
    def shunt_uohm(self) -> Optional[int]:
        return _property(self.device, "shunt-resistor", DEFAULT_SHUNT_UOHM)

    @property
    def resolution_mw(self) -> Optional[float]:
        """One step of the current times the voltage; None where the device tree cannot be read."""
        millivolts = read_number(os.path.join(self.folder, "in1_input"))
        gain, shunt_uohm = _property(self.device, "ti,shunt-gain", DEFAULT_GAIN), self.shunt_uohm
        if not (millivolts and gain and shunt_uohm):
            return None
        return STEP_UV_PER_GAIN * gain / shunt_uohm * millivolts

    @property
    def reading_s(self) -> float:
        """How long one reading takes; newer drivers may state it."""
        stated_ms = read_number(os.path.join(self.folder, "update_interval"))
        return stated_ms / 1e3 if stated_ms else READING_S


class Ina238(PowerSensor):
    """The chips that could be read, each under the label of its rail."""

    name = NAME

    def __init__(self, chips: List[Tuple[str, _Chip]], power: PowerFacts) -> None:
        self._chips = chips
        self.rails = tuple(label for label, _ in chips)
        self.resolution_mw = {label: chip.resolution_mw for label, chip in chips}
        self.min_period_s = max(chip.reading_s for _, chip in chips)
        self.tau_s = self.min_period_s * MEAN_TO_TAU
        rule = power.total or []
        self.total = tuple(rule) if rule and set(rule) <= set(self.rails) else ()
        if not self.total:
            self.total_reason = "the rule for this board's total does not consist of {}".format(", ".join(self.rails))

    def read(self) -> Reading:
        reading: Reading = {}
        for label, chip in self._chips:
            microwatts = read_number(chip.power_file)
            reading[label] = None if microwatts is None else microwatts / 1e3
        return reading

    def details(self) -> JsonObject:
        return {
            "driver": NAME,
            "channels": {
                label: {"files": [chip.power_file], "chip": chip.where, "shunt_uohm": chip.shunt_uohm}
                for label, chip in self._chips
            },
        }


def find_ina238(sysfs_root: str, power: PowerFacts) -> Tuple[Optional[PowerSensor], List[Missing]]:
    """Every INA238 below `sysfs_root`; those that the board's description names and that are not there are missing."""
    drivers = os.path.join(sysfs_root, "bus/i2c/drivers", NAME)
    described = [rail for rail in power.rails if rail.sensor == NAME]
    found = _chips(drivers)
    chips: List[Tuple[str, _Chip]] = []
    missing: List[Missing] = []
    for chip in found:
        label = _label(chip, described, alone=len(found) == 1)
        refused = refusals([chip.power_file])
        if not refused:
            chips.append((label, chip))
            continue
        remedy = _REMEDY.format(chip.power_file) if is_denied(refused) else "the kernel must have its driver"
        missing.append(Missing(NAME, label, "cannot be read: " + why(refused), remedy))
    seen = [label for label, _ in chips] + [entry.rail for entry in missing]
    for rail in described:
        if rail.label not in seen and not rail.optional:
            remedy = "the kernel must have its driver (CONFIG_SENSORS_INA238)"
            missing.append(Missing(NAME, rail.label, "no power monitor: nothing in " + drivers, remedy))
    return (Ina238(chips, power) if chips else None), missing


def _chips(drivers: str) -> List[_Chip]:
    chips = []
    for device in entries(drivers):
        if not _DEVICE.search(device):
            continue  # bind, unbind, module, uevent
        for folder in entries(os.path.join(device, "hwmon")):
            try:
                name = read_text(os.path.join(folder, "name"))
            except OSError:
                continue
            if name == NAME:
                chips.append(_Chip(os.path.basename(device), folder, device))
    return chips


def _label(chip: _Chip, described: List[RailFacts], alone: bool) -> str:
    """By its address, since bus numbers change between releases; one chip and one rail belong together."""
    address = chip.where.partition("-")[2]
    for rail in described:
        if rail.where.partition("-")[2] == address or (alone and len(described) == 1):
            return rail.label
    return "{}@{}".format(NAME, chip.where)


def _property(device: str, name: str, default: int) -> Optional[int]:
    """A number of the device tree, four bytes; the driver's default where the node has none, None where it cannot be read."""
    node = os.path.join(device, "of_node")
    path = os.path.join(node, name)
    if os.path.isdir(node) and not os.path.exists(path):
        return default
    try:
        with open(path, "rb") as file:
            return int(struct.unpack(">I", file.read(4))[0])
    except (OSError, struct.error):
        return None

"""The INA238 of AGX Thor: which rail it is, its unit, its step and its averaging, and what is said where it cannot be read."""

import builtins
import errno
import json
from importlib import resources

import pytest

from devices.virtual import make_board
from profiler.power import find_sensors
from tests.profiler.power import boards

THOR = json.loads((resources.files("devices") / "catalog" / "jetson-agx-thor.json").read_text())
RAILS = [("VDD_GPU", 20000, 1000), ("VDD_CPU_SOC_MSS", 20000, 500), ("VIN_SYS_5V0", 5000, 900)]


@pytest.fixture
def thor(tmp_path):
    boards.hwmon_chip(tmp_path, RAILS, where="2-0040", number=4)
    return tmp_path


def test_its_power_in_microwatts_is_the_total_of_thor(thor):
    boards.ina238_chip(thor, 42_000_000)

    found = find_sensors(str(thor), THOR)

    assert found.missing == []
    assert found.best.name == "ina238" and found.best.total == ("VIN",)
    assert found.best.read() == {"VIN": 42000.0}
    assert [sensor.name for sensor in found.sensors] == ["ina238", "ina3221"]


def test_the_bus_number_may_change_and_the_address_may_not(thor):
    boards.ina238_chip(thor, 42_000_000, where="7-0044", number=5)
    boards.ina238_chip(thor, 5_000_000, where="7-0045", number=6)

    assert find_sensors(str(thor), THOR).best.read() == {"VIN": 42000.0, "ina238@7-0045": 5000.0}


def test_one_step_of_the_current_is_20_uv_over_the_shunt(thor):
    boards.ina238_chip(thor, 42_000_000, millivolts=20000, shunt_uohm=1000)  # 20 mA at 20 V

    assert find_sensors(str(thor), THOR).best.resolution_mw == {"VIN": 400.0}


def test_the_small_range_has_a_quarter_of_the_step(thor):
    boards.ina238_chip(thor, 42_000_000, millivolts=20000, shunt_uohm=1000, gain=1)

    assert find_sensors(str(thor), THOR).best.resolution_mw == {"VIN": 100.0}


def test_without_a_shunt_in_the_device_tree_the_driver_takes_10_mohm(thor):
    boards.ina238_chip(thor, 42_000_000, millivolts=20000, shunt_uohm=None)

    assert find_sensors(str(thor), THOR).best.resolution_mw == {"VIN": 40.0}


def test_without_the_device_tree_the_step_is_not_known(thor):
    folder = boards.ina238_chip(thor, 42_000_000)
    node = folder.parent.parent / "of_node"
    (node / "shunt-resistor").unlink()
    node.rmdir()

    assert find_sensors(str(thor), THOR).best.resolution_mw == {"VIN": None}


def test_a_reading_is_a_mean_over_three_times_16_conversions_unless_the_driver_says_otherwise(thor):
    folder = boards.ina238_chip(thor, 42_000_000)
    sensor = find_sensors(str(thor), THOR).best
    assert sensor.min_period_s == pytest.approx(0.0505, abs=1e-4)
    assert sensor.tau_s == pytest.approx(0.0252, abs=1e-4)

    boards.write(folder / "update_interval", 800)

    assert find_sensors(str(thor), THOR).best.tau_s == 0.4


def test_a_hwmon_device_of_another_name_is_left_alone(thor):
    boards.write(boards.ina238_chip(thor, 42_000_000) / "name", "ina237")

    assert "ina238" not in [sensor.name for sensor in find_sensors(str(thor), THOR).sensors]


def test_a_thor_without_the_driver_says_what_is_missing(thor):
    found = find_sensors(str(thor), THOR)

    assert found.best is None
    assert "ina238 VIN: no power monitor" in found.header()["reason"]
    assert "CONFIG_SENSORS_INA238" in found.header()["reason"]


def test_a_refused_file_is_named_with_its_remedy(thor, monkeypatch):
    boards.ina238_chip(thor, 42_000_000)
    real = builtins.open

    def refusing(path, *args, **kwargs):
        if str(path).endswith("power1_input"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path, *args, **kwargs)

    monkeypatch.setattr(builtins, "open", refusing)

    (entry,) = find_sensors(str(thor), THOR).missing
    assert entry.rail == "VIN" and "power1_input (Permission denied)" in entry.reason
    assert "sudo chmod a+r" in entry.remedy and 'ATTR{name}=="ina238"' in entry.remedy


def test_a_board_without_such_a_chip_misses_nothing(tmp_path):
    boards.hwmon_chip(tmp_path, boards.ORIN_NX)

    assert [entry for entry in find_sensors(str(tmp_path)).missing if entry.sensor == "ina238"] == []


def test_without_a_description_its_rail_is_no_total(tmp_path):
    boards.ina238_chip(tmp_path, 42_000_000)

    found = find_sensors(str(tmp_path))

    (sensor,) = [each for each in found.sensors if each.name == "ina238"]
    assert sensor.rails == ("ina238@2-0044",) and sensor.total == ()


def test_the_virtual_thor_has_one(tmp_path):
    make_board(tmp_path / "thor", "jetson-agx-thor")

    sensor = find_sensors(str(tmp_path / "thor/sys"), THOR).best

    assert (sensor.name, sensor.total) == ("ina238", ("VIN",))
    assert sensor.resolution_mw == {"VIN": 400.0}

"""Finding and reading sensors: the rails, their readings, and the reasons for those that cannot be read."""

import builtins
import errno

import pytest

from profiler.power import find_sensors
from profiler.power.nvml import find_nvml
from profiler.power.rapl import EnergyCounter
from tests.profiler.power import boards

INA = {"sensors": ["ina3221"]}
AGX_ORIN_TOTAL = ["VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"]


def one_sensor(sys, **power):
    found = find_sensors(str(sys), {"power": dict(INA, **power)})
    assert found.missing == []
    return found.sensors[0]


def test_jetpack_4_gives_milliwatts_by_label_whatever_the_order_of_channels(tmp_path):
    boards.iio_chip(tmp_path, boards.NANO)

    sensor = one_sensor(tmp_path)

    assert sensor.read() == {"POM_5V_IN": 3880.0, "POM_5V_GPU": 200.0, "POM_5V_CPU": 600.0}
    assert sensor.total_mw(sensor.read()) == 3880.0  # the other two are inside it


def test_jetpack_5_and_later_multiply_volts_and_amperes(tmp_path):
    boards.hwmon_chip(tmp_path, boards.ORIN_NX)

    sensor = one_sensor(tmp_path)

    assert sensor.read()["VDD_IN"] == pytest.approx(5064 * 1080 / 1000)
    assert sensor.total == ("VDD_IN",)
    assert sensor.rails == ("VDD_IN", "VDD_CPU_GPU_CV", "VDD_SOC")  # no "sum of shunt voltages"


def test_the_other_name_of_the_iio_device_is_found_too(tmp_path):
    folder = boards.iio_chip(tmp_path, boards.NANO)
    folder.rename(folder.parent / "iio_device")

    assert one_sensor(tmp_path).read()["POM_5V_IN"] == 3880.0


def test_a_total_over_two_chips_leaves_out_the_rail_that_another_feeds(tmp_path):
    boards.agx_orin(tmp_path)

    sensor = one_sensor(tmp_path, total=AGX_ORIN_TOTAL)

    assert "VDDQ_VDD2_1V8AO" in sensor.rails and "NC" not in sensor.rails
    assert sensor.total_mw(sensor.read()) == pytest.approx(19.968 * 360 + 5.024 * 860)


def test_without_a_rule_a_board_without_a_whole_module_rail_has_no_total(tmp_path):
    found = find_sensors(str(boards.agx_orin(tmp_path)), {"power": INA})

    assert found.best is None
    assert found.header()["available"] is False
    assert "the rule for this board's total is not known" in found.header()["reason"]


def test_a_step_follows_from_shunt_and_voltage(tmp_path):
    boards.hwmon_chip(tmp_path, boards.ORIN_NX)  # 40 uV / 5 mOhm = 8 mA at 5.064 V

    assert one_sensor(tmp_path).resolution_mw["VDD_IN"] == pytest.approx(40.5, abs=0.1)


def test_agx_orin_steps_are_ten_times_coarser(tmp_path):
    sensor = one_sensor(boards.agx_orin(tmp_path), total=AGX_ORIN_TOTAL)

    assert sensor.resolution_mw["VDD_GPU_SOC"] == pytest.approx(399.4, abs=0.1)
    assert sensor.resolution_mw["VIN_SYS_5V0"] == pytest.approx(100.5, abs=0.1)


def test_jetpack_4_bounds_the_step_by_what_divides_the_current(tmp_path):
    boards.iio_chip(tmp_path, boards.NANO)  # 776 mA is no multiple of 20 or 40 mA, but of 8

    assert one_sensor(tmp_path).resolution_mw["POM_5V_IN"] == 40.0


def test_on_jetpack_4_the_shunt_of_the_board_description_wins(tmp_path):
    boards.iio_chip(tmp_path, boards.NANO)

    sensor = one_sensor(tmp_path, rails=[{"label": "POM_5V_IN", "shunt_mohm": 20}])

    assert sensor.resolution_mw["POM_5V_IN"] == 10.0


def test_the_filter_is_the_slowest_that_chip_and_description_name(tmp_path):
    boards.hwmon_chip(tmp_path, boards.ORIN_NX, samples=512, update_interval_ms=430)

    sensor = one_sensor(tmp_path, filter_tau_s=0.44)

    assert sensor.tau_s == 0.44
    assert sensor.min_period_s == 0.43
    assert sensor.describe().to_json()["chips"] == [
        {"chip": "1-0040", "driver": "ina3221", "samples": 512, "update_interval_ms": 430.0, "running_mode": None}
    ]


def test_an_unknown_filter_counts_as_the_slowest(tmp_path):
    boards.iio_chip(tmp_path, boards.NANO)

    assert one_sensor(tmp_path).tau_s == 0.44


@pytest.fixture
def denied(monkeypatch):
    """Files with one of these texts in their name cannot be opened, even by root, who sometimes runs the tests."""
    texts = []
    real = builtins.open

    def refusing(path, *args, **kwargs):
        if any(text in str(path) for text in texts):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path, *args, **kwargs)

    monkeypatch.setattr(builtins, "open", refusing)
    return texts


def test_a_denied_rail_names_its_files_and_the_remedy_and_is_never_zero(tmp_path, denied):
    folder = boards.hwmon_chip(tmp_path, boards.ORIN_NX)
    denied.append("curr1_input")

    found = find_sensors(str(tmp_path), {"power": dict(INA, total=["VDD_IN"])})

    assert "VDD_IN" not in found.sensors[0].read()
    (missing,) = found.missing
    assert missing.rail == "VDD_IN"
    assert missing.reason == f"cannot be read: {folder}/curr1_input (Permission denied)"
    assert f"sudo chmod a+r {folder}/curr1_input" in missing.remedy
    assert 'SUBSYSTEM=="hwmon"' in missing.remedy
    assert found.best is None
    assert "the total needs VDD_IN, which cannot be read" in found.header()["reason"]


def test_denied_rails_give_no_sensor_and_a_reason_for_each(tmp_path, denied):
    boards.iio_chip(tmp_path, boards.NANO)
    denied.append("in_power")

    found = find_sensors(str(tmp_path), {"power": INA})

    assert found.sensors == []
    assert sorted(entry.rail for entry in found.missing) == ["POM_5V_CPU", "POM_5V_GPU", "POM_5V_IN"]
    assert all('SUBSYSTEM=="iio"' in entry.remedy for entry in found.missing)


def test_a_rail_that_stops_answering_reads_none_and_so_does_the_total(tmp_path):
    folder = boards.hwmon_chip(tmp_path, boards.ORIN_NX)
    sensor = one_sensor(tmp_path)

    (folder / "curr1_input").unlink()

    reading = sensor.read()
    assert reading["VDD_IN"] is None and reading["VDD_SOC"] is not None
    assert sensor.total_mw(reading) is None


def test_a_missing_rail_of_the_description_has_a_reason(tmp_path):
    boards.hwmon_chip(tmp_path, boards.ORIN_NX)

    found = find_sensors(str(tmp_path), {"power": dict(INA, rails=[{"label": "VDD_GPU_SOC"}])})

    assert "no channel of the power monitors carries this label" in found.missing[0].reason


def test_a_machine_without_any_monitor_names_the_searched_folders(tmp_path):
    found = find_sensors(str(tmp_path))

    assert found.sensors == []
    reason = found.header()["reason"]
    assert str(tmp_path / "bus/i2c/drivers/ina3221x") in reason and "class/powercap" in reason


def test_rapl_adds_packages_and_memory_but_not_what_is_inside_them(tmp_path):
    for zone, name, energy in (
        ("intel-rapl:0", "package-0", 1_000_000),
        ("intel-rapl:0:0", "core", 900_000),
        ("intel-rapl:0:1", "dram", 100_000),
        ("intel-rapl-mmio:0", "package-0", 1_000_000),
    ):
        folder = tmp_path / "class/powercap" / zone
        boards.write(folder / "name", name)
        boards.write(folder / "energy_uj", energy)
        boards.write(folder / "max_energy_range_uj", 2_000_000)
    sensor = find_sensors(str(tmp_path), {"power": {"sensors": ["rapl"]}}).best
    assert sensor.rails == ("package-0", "dram-0")
    now = [10.0]
    sensor._clock = lambda: now[0]

    assert sensor.read() == {"package-0": None, "dram-0": None}  # a counter has no power before its second reading
    now[0] = 10.5
    boards.write(tmp_path / "class/powercap/intel-rapl:0/energy_uj", 500_000)  # once around: 1.5 J more
    boards.write(tmp_path / "class/powercap/intel-rapl:0:1/energy_uj", 350_000)

    assert sensor.read() == {"package-0": 3000.0, "dram-0": 500.0}
    assert sensor.total == ("package-0", "dram-0")


def test_a_counter_with_a_range_continues_after_wrapping_and_one_without_reads_none():
    wrapping, endless = EnergyCounter(range_uj=1000.0), EnergyCounter()
    assert wrapping.power_mw(0.0, 900.0) is None
    assert wrapping.power_mw(1.0, 100.0) == pytest.approx(0.2)  # 200 uJ in one second

    endless.power_mw(0.0, 900.0)
    assert endless.power_mw(1.0, 100.0) is None


def test_a_failed_reading_does_not_become_a_long_interval():
    counter = EnergyCounter(range_uj=1e9)
    counter.power_mw(0.0, 0.0)
    assert counter.power_mw(1.0, None) is None
    assert counter.power_mw(2.0, 4000.0) is None
    assert counter.power_mw(3.0, 6000.0) == 2.0


class FakeNvml:
    """The calls of libnvidia-ml that are used, with one card."""

    def __init__(self, counter=True):
        self.energy_mj, self.power_mw, self.counter, self.shut = 5000, 61_000, counter, False

    def nvmlInit_v2(self):
        return 0

    def nvmlShutdown(self):
        self.shut = True
        return 0

    def nvmlDeviceGetCount_v2(self, count):
        count._obj.value = 1
        return 0

    def nvmlDeviceGetHandleByIndex_v2(self, index, handle):
        handle._obj.value = 7
        return 0

    def nvmlDeviceGetTotalEnergyConsumption(self, handle, value):
        value._obj.value = self.energy_mj
        return 0 if self.counter else 3  # NVML_ERROR_NOT_SUPPORTED

    def nvmlDeviceGetPowerUsage(self, handle, value):
        value._obj.value = self.power_mw
        return 0 if self.power_mw else 3


def test_nvml_prefers_the_energy_counter():
    card = FakeNvml()
    sensor, missing = find_nvml(lambda name: card)
    now = [0.0]
    sensor._clock = lambda: now[0]

    sensor.read()
    now[0], card.energy_mj = 0.5, 35_000

    assert (sensor.read(), missing) == ({"gpu-0": 60_000.0}, [])  # 30 J in half a second
    assert sensor.cumulative


def test_nvml_without_a_counter_takes_the_power():
    sensor, _ = find_nvml(lambda name: FakeNvml(counter=False))

    assert sensor.read() == {"gpu-0": 61_000.0}
    assert sensor.tau_s == 1.0


def test_a_card_that_reports_nothing_is_a_reason_and_the_library_is_closed():
    card = FakeNvml(counter=False)
    card.power_mw = 0

    sensor, missing = find_nvml(lambda name: card)

    assert sensor is None and card.shut
    assert missing[0].reason == "the card does not report its power"


def test_no_nvml_is_a_reason():
    def absent(name):
        raise OSError(f"{name}: cannot open shared object file")

    sensor, missing = find_nvml(absent)

    assert sensor is None
    assert "libnvidia-ml.so.1" in missing[0].reason

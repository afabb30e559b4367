"""The state of a machine, read from a folder of text files that represents a board."""

import os

import pytest

from profiler import board, clocks, state
from profiler.errors import AgentError
from profiler.state import BoardState, StateReader, VisitState, warnings_about

TICKS = os.sysconf("SC_CLK_TCK")
UNKNOWN = BoardState(*[None] * len(BoardState._fields))


def write(root, files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def processor(busy_s, own_s):
    """/proc/stat and the agent's own process, after these seconds of CPU time."""
    half = int(busy_s * TICKS) // 2
    return {
        "proc/stat": f"cpu  {half} 0 {half} 9999 50 0 0 0 0 0\ncpu0 1 2 3\n",
        "proc/77/stat": f"77 (a (b) c) S 1 77 77 0 -1 0 0 0 0 0 {int(own_s * TICKS)} 0 0 0 20 0\n",
    }


def reader(root, clock):
    return StateReader([77], ["PMIC-Die"], proc=str(root / "proc"), sysfs=str(root / "sys"), clock=lambda: clock[0])


def test_state_is_read_from_system_files(tmp_path):
    write(
        tmp_path,
        {
            "proc/loadavg": "0.42 0.20 0.10 1/85 7063\n",
            "proc/meminfo": "MemTotal: 8 kB\nMemFree: 4 kB\nMemAvailable:   2048000 kB\n",
            "sys/devices/system/cpu/cpufreq/policy0/scaling_cur_freq": "1400000\n",
            "sys/devices/system/cpu/cpufreq/policy2/scaling_cur_freq": "1600000\n",
            "sys/class/thermal/thermal_zone0/type": "CPU-therm\n",
            "sys/class/thermal/thermal_zone0/temp": "45500\n",
            "sys/class/thermal/thermal_zone1/type": "PMIC-Die\n",
            "sys/class/thermal/thermal_zone1/temp": "100000\n",
        },
    )

    state = reader(tmp_path, [0.0]).before()

    known = {field: value for field, value in state.to_json().items() if value is not None}
    assert known == {"load1": 0.42, "cpu_mhz": 1500.0, "temperature_c": 45.5, "memory_available_mb": 2000.0}


def test_what_cannot_be_read_is_none(tmp_path):
    states = reader(tmp_path, [0.0])

    before = states.before()

    assert set(before) == {None}
    assert states.after(before, 0.0).foreign_cpu is None


def test_foreign_load_leaves_out_the_agents_own_processes(tmp_path):
    clock = [10.0]
    write(tmp_path, processor(busy_s=100, own_s=50))
    states = reader(tmp_path, clock)
    clock[0] = 12.0
    write(tmp_path, processor(busy_s=103, own_s=52))

    assert states.after(UNKNOWN, 10.0).foreign_cpu == 0.5  # 3 s busy, 2 s of them ours, in 2 s


def test_foreign_load_is_unknown_over_less_than_a_second(tmp_path):
    clock = [10.0]
    write(tmp_path, processor(busy_s=100, own_s=50))
    states = reader(tmp_path, clock)
    clock[0] = 10.5

    assert states.after(UNKNOWN, 10.0).foreign_cpu is None


def test_a_short_visit_is_judged_over_the_last_second(tmp_path):
    clock = [0.0]
    write(tmp_path, processor(busy_s=100, own_s=50))
    states = reader(tmp_path, clock)
    clock[0] = 9.0
    write(tmp_path, processor(busy_s=200, own_s=50))
    states.before()
    clock[0] = 9.9
    states.before()
    clock[0] = 10.0
    write(tmp_path, processor(busy_s=200.5, own_s=50))

    assert states.after(UNKNOWN, 9.95).foreign_cpu == 0.5  # since 9.0, not since 0.0


def around(cpu_mhz, foreign_cpu):
    """A visit that starts at 921 MHz."""
    return VisitState(UNKNOWN._replace(cpu_mhz=921.0), UNKNOWN._replace(cpu_mhz=cpu_mhz), foreign_cpu)


def test_a_warning_has_a_size_and_a_remedy():
    assert warnings_about(around(614.0, 0.45)) == [
        "other processes used 0.45 of a core during this visit; stop them or measure again",
        "CPU clock fell from 921 to 614 MHz; lock the clocks or cool the board",
    ]
    assert warnings_about(around(None, None)) == []
    assert warnings_about(around(920.0, 0.1)) == []


@pytest.mark.parametrize(("low", "high", "expected"), [("1", "1", "locked"), ("1", "2", "floating"), (None, "2", None)])
def test_clocks_with_one_possible_frequency_are_locked(tmp_path, low, high, expected):
    policy = "devices/system/cpu/cpufreq/policy0/"
    limits = {"scaling_min_freq": low, "scaling_max_freq": high}
    write(tmp_path, {policy + name: value for name, value in limits.items() if value is not None})

    assert clocks.clock_state(str(tmp_path)) == expected


@pytest.mark.parametrize(("emc", "expected"), [("1", "locked"), ("0", "floating"), (None, "cpu-gpu-locked")])
@pytest.mark.parametrize("lock", clocks.EMC_LOCKS)
def test_locked_says_whether_the_memorys_clock_is_known_to_be_locked(tmp_path, lock, emc, expected):
    limits = {name: "1" for name in ("min_freq", "max_freq")}
    write(tmp_path, {"class/devfreq/17000000.gpu/" + name: value for name, value in limits.items()})
    write(tmp_path, {lock: emc} if emc else {})

    assert clocks.clock_state(str(tmp_path)) == expected


@pytest.mark.parametrize("rate", clocks.EMC_RATES)
def test_the_memorys_clock_is_read_where_it_can_be(tmp_path, rate):
    assert reader(tmp_path, [0.0]).before().emc_mhz is None
    write(tmp_path, {"sys/" + rate: "3199000000\n"})

    assert reader(tmp_path, [0.0]).before().emc_mhz == 3199.0


def test_a_memory_clock_that_falls_is_a_warning():
    visit = VisitState(UNKNOWN._replace(emc_mhz=3199.0), UNKNOWN._replace(emc_mhz=2133.0), None)

    assert warnings_about(visit) == ["memory clock fell from 3199 to 2133 MHz; lock the clocks or cool the board"]


def test_a_machine_without_clock_files_has_an_unknown_clock_state(tmp_path):
    assert clocks.clock_state(str(tmp_path)) is None


NANO = {"name": "nano", "identity": {"device_tree_model": "Jetson Nano"}}
GENERIC = {"name": "generic-linux", "identity": {"device_tree_model": None}}


def test_a_board_is_identified_by_its_device_tree(tmp_path):
    write(tmp_path, {"device-tree/model": "NVIDIA Jetson Nano Developer Kit\0"})

    assert board.identify([GENERIC, NANO], proc=str(tmp_path)) is NANO


def test_any_other_machine_is_a_generic_one(tmp_path):
    assert board.identify([NANO, GENERIC], proc=str(tmp_path)) is GENERIC


def test_a_catalog_that_fits_nothing_is_an_error(tmp_path):
    with pytest.raises(AgentError, match="no board description fits"):
        board.identify([NANO], proc=str(tmp_path))


def test_the_processor_is_named_on_every_architecture(tmp_path):
    write(tmp_path, {"cpuinfo": "processor : 0\nBogoMIPS: 38\nCPU part\t: 0xd07\n"})
    assert board.cpu_name(str(tmp_path)) == "ARM part 0xd07"

    write(tmp_path, {"cpuinfo": "processor : 0\nmodel name\t: AMD EPYC\n"})
    assert board.cpu_name(str(tmp_path)) == "AMD EPYC"


def test_numbers_that_no_kernel_writes_are_left_out(tmp_path):
    """Digits without an end, as a broken driver may write them, are no value of the board."""
    zone = tmp_path / "sys" / "class" / "thermal" / "thermal_zone0"
    zone.mkdir(parents=True)
    (tmp_path / "proc").mkdir()
    for text in ("9" * 400, "-" + "9" * 400):
        (zone / "temp").write_text(text)
        (tmp_path / "proc" / "meminfo").write_text(f"MemTotal: {text} kB\n")

        assert text not in str(state.temperatures_c(str(tmp_path / "sys")))
        assert board.memory_mb(str(tmp_path / "proc"), "MemTotal") is None

"""Units of one model: which unit a number comes from, and virtual units that differ."""

import json

import pytest

import devices
from devices.virtual import unit_factors
from lightnas_edge.records.differences import fingerprint_differences
from profiler import board
from profiler.system import System


def write(root, name, content):
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


def test_a_unit_is_named_by_its_serial_number_which_the_name_does_not_show(tmp_path):
    write(tmp_path, "proc/device-tree/serial-number", "1421721055678\0")
    write(tmp_path, "etc/machine-id", "3d1219c7c4c5404aaa1f6d2a48adfda4\n")
    found = board.unit(System(str(tmp_path)))
    write(tmp_path, "etc/machine-id", "another, as after flashing\n")

    assert found == board.unit(System(str(tmp_path))) and len(found) == 12
    assert "1421721" not in found
    write(tmp_path, "proc/device-tree/serial-number", "1421721055679\0")
    assert board.unit(System(str(tmp_path))) != found


@pytest.mark.parametrize("serial", (None, "", "0000000000000\0"))
def test_without_a_serial_number_the_machine_id_names_the_unit_and_without_both_it_is_unknown(tmp_path, serial):
    if serial is not None:
        write(tmp_path, "proc/device-tree/serial-number", serial)
    assert board.unit(System(str(tmp_path))) is None

    write(tmp_path, "etc/machine-id", "3d1219c7c4c5404aaa1f6d2a48adfda4\n")

    assert len(board.unit(System(str(tmp_path)))) == 12


def test_virtual_units_are_one_model_and_differ_in_speed_power_and_noise(agent_home):
    hosts = [f"virtual:jetson-orin-nano{unit}" for unit in ("", "#1", "#2")]
    connections = [devices.connect(host) for host in hosts]

    prints = [devices.probe(connection).fingerprint for connection in connections]

    assert len({one["unit"] for one in prints}) == 3
    assert not any(fingerprint_differences(prints[0], other) for other in prints[1:])
    assert {one["board"] for one in prints} == {"virtual:jetson-orin-nano"} and all(one["simulated"] for one in prints)
    specs = [json.loads((connection.root / "virtual.json").read_text()) for connection in connections]
    for field in ("seed", "noise", "bandwidth_gb_s", "launch_us"):
        assert len({spec[field] for spec in specs}) == 3, field
    for field in ("idle_mw", "gpu_mw"):
        assert len({spec["rails"][0][field] for spec in specs}) == 3, field


def test_a_virtual_unit_is_the_same_unit_every_time_and_the_nominal_board_differs_by_nothing():
    assert unit_factors("jetson-nano", 2) == unit_factors("jetson-nano", 2) != unit_factors("jetson-nano", 3)
    assert set(vars(unit_factors("jetson-nano", None)).values()) == {1.0}


@pytest.mark.parametrize(
    "name", ("jetson-nano#", "jetson-nano#0", "jetson-nano#two", "jetson-nano#1/..", "jetson-nano#-1")
)
def test_a_name_that_is_no_unit_is_refused_with_an_example(agent_home, name):
    with pytest.raises(devices.InventoryError, match="no virtual board") as refusal:
        devices.connect(f"virtual:{name}")

    assert "#2" in refusal.value.hint

"""Boards that field tests recorded: the agent's readers find on each what the board said.

`lightnas-edge field-test --replay ARCHIVE --tests tests/field_test/boards` adds one.
"""

import json
from pathlib import Path

import pytest

from devices.catalogue import load_catalogue
from lightnas_edge.field_test import unpack
from lightnas_edge.field_test.replay import write_test
from profiler import board, clocks
from profiler.power import find_sensors
from profiler.power.tegrastats import parse_log
from profiler.state import temperatures_c
from profiler.system import System

BOARDS = sorted(path.parent for path in (Path(__file__).parent / "boards").glob("*/probe.json"))
CATALOGUE = [model.to_json() for model in load_catalogue().values()]


@pytest.fixture(params=[*BOARDS, None], ids=[*(folder.name for folder in BOARDS), "virtual"])
def recorded(request, tmp_path):
    """(the board's system, what it said, its description); `virtual`: of the field test that these tests run."""
    folder = request.param
    if folder is None:
        virtual = request.getfixturevalue("virtual")
        folder = write_test(unpack(virtual.archive, tmp_path / "unpacked"), tmp_path / "boards")
    system = System(str(folder / "root"))
    return system, json.loads((folder / "probe.json").read_text()), board.identify(CATALOGUE, system.proc)


def test_the_board_is_identified_as_it_was(recorded):
    system, said, description = recorded
    facts = board.describe(description, system)

    for name in ("name", "model", "module", "l4t", "jetpack", "power_mode", "cpu", "cores", "memory_mb", "governors"):
        assert facts[name] == said["board"][name], name
    assert clocks.clock_state(system.sysfs) == said["fingerprint"]["clocks"]


def test_the_rails_and_zones_are_found_as_they_were(recorded):
    system, said, description = recorded
    sensors = find_sensors(system.sysfs, description)
    sensor = said["energy"]["sensor"]

    assert (sensors.best is None) == (sensor is None)
    if sensor is not None:
        assert list(sensors.best.rails) == sensor["rails"]
        assert list(sensors.best.total) == sensor["total"]
        assert sensors.best.resolution_mw == sensor["resolution_mw"]
    assert sorted(temperatures_c(system.sysfs)) == sorted(said["temperatures_c"])


def test_every_line_of_tegrastats_is_understood(recorded):
    printed = Path(recorded[0].root) / "usr/sbin/tegrastats.interval"
    if not printed.exists():
        pytest.skip("this board printed none")

    assert parse_log(printed.read_text().splitlines())[1] == []

"""`profile-device --host a,b,c` on virtual units: shared work, resuming, units that differ."""

import json
import shlex
from pathlib import Path

import pytest

import devices
import luts
from devices.virtual import unit_factors
from lightnas_edge.errors import FleetError
from lightnas_edge.fleet import units_of
from lightnas_edge.measuring import sentinels
from lightnas_edge.space import load_space
from tests.cli.commands import run
from tests.fleet.counting import places, visits_of
from tests.fleet.units import hosts, slow_down

SPACE = load_space("tiny")
KEYS = [shaped.key for shaped in SPACE.shaped_operators()]
SENTINELS = [shaped.key for shaped in sentinels(SPACE)]
ROUNDS = 6


def profile(*units, out="pooled.lut.jsonl", **options):
    words = [f"--{name.replace('_', '-')}" for name, value in options.items() if value is True]
    words += [part for name, value in options.items() if value is not True for part in (f"--{name}", value)]
    return run(
        "profile",
        "--host",
        hosts(*units),
        "--space",
        "tiny",
        "--precision",
        "fp16",
        "--rounds",
        ROUNDS,
        "--out",
        out,
        *words,
    )


def unit_tables(folder=Path("pooled.units")):
    return {path.name.removesuffix(".lut.jsonl")[-1]: luts.read(path) for path in sorted(folder.glob("*.lut.jsonl"))}


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """Three units that measured one table, in its own folder: (folder, answer)."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("shared")
        patch.chdir(folder)
        patch.setenv("LIGHTNAS_EDGE_HOME", str(folder / "agent-home"))
        return folder, profile(1, 2, 3)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch, agent_home):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_three_units_share_a_table_and_nothing_is_lost_or_doubled(shared):
    folder, answer = shared
    assert answer.code == 0, answer.err
    assert " on 3 boards unless measured before" in answer.err
    pooled, tables = luts.read(folder / "pooled.lut.jsonl"), unit_tables(folder / "pooled.units")
    assert pooled.coverage(KEYS).complete and pooled.simulated and not pooled.faults
    assert visits_of(pooled) == visits_of(*tables.values())
    assert set(places(pooled).values()) == {1}
    ordinary = [key for key in KEYS if key not in SENTINELS]
    assert all(visits_of(pooled)[key] == ROUNDS for key in ordinary)
    for lut in tables.values():
        assert set(SENTINELS) <= set(lut.entries)
        assert 0 < len(set(ordinary) & set(lut.entries)) < len(ordinary)
    assert pooled.fingerprint["unit"] is None and len({lut.fingerprint["unit"] for lut in tables.values()}) == 3


def test_the_ratios_of_units_are_those_that_the_units_were_made_with_and_the_table_is_that_of_the_middle_one(shared):
    folder, _ = shared
    factors = {str(unit): unit_factors("jetson-orin-nano", unit) for unit in (1, 2, 3)}
    truth = {name: (1 / unit.compute, 1 / unit.bandwidth, unit.host) for name, unit in factors.items()}
    middle = sorted(truth, key=lambda name: sum(truth[name]))[1]
    tables = unit_tables(folder / "pooled.units")

    found = luts.compare_units(tables)

    assert found.alike
    for ratio in found.ratios:
        # An operator's time has a share of each: arithmetic, memory and launches.
        shares = [mine / its for mine, its in zip(truth[ratio.name], truth[middle], strict=True)]
        assert min(shares) - 0.003 < ratio.value < max(shares) + 0.003
        assert ratio.interval[0] < ratio.value < ratio.interval[1]
    against = luts.drift_ratio(tables[middle], luts.read(folder / "pooled.lut.jsonl"))
    assert against.value == pytest.approx(1, abs=0.003)


def test_the_same_command_measures_nothing_again(shared, monkeypatch):
    folder, _ = shared
    monkeypatch.chdir(folder)
    monkeypatch.setenv("LIGHTNAS_EDGE_HOME", str(folder / "agent-home"))
    before = visits_of(luts.read("pooled.lut.jsonl"))

    answer = profile(1, 2, 3)

    assert answer.code == 0, answer.err
    assert visits_of(luts.read("pooled.lut.jsonl")) == before


def test_a_unit_that_joins_later_takes_what_is_left_and_earlier_units_stay_in_the_table():
    profile(1, 2, only="*_e3@*")
    first = visits_of(luts.read("pooled.lut.jsonl"))

    answer = profile(2, 3)

    assert answer.code == 0, answer.err
    pooled = luts.read("pooled.lut.jsonl")
    assert pooled.coverage(KEYS).complete and len(unit_tables()) == 3
    assert all(visits_of(pooled)[key] == count for key, count in first.items() if key not in SENTINELS)


def test_units_that_differ_are_not_pooled_and_both_ways_out_continue_from_what_is_measured():
    slow_down(2, 1.05)

    refused = profile(1, 2)

    assert refused.code == 1
    assert "not pooled" in refused.err and "virtual:jetson-orin-nano#2 by more than" in refused.err
    assert not Path("pooled.lut.jsonl").exists()
    before = visits_of(*unit_tables().values())
    pooled = profile(1, 2, pool=True)
    assert pooled.code == 0 and Path("pooled.lut.jsonl").exists()
    samples = [line for line in pooled.out.splitlines() if line.startswith("  lightnas-edge sample ")]
    assert len(samples) == 2 and all("--pool" in shlex.split(line) for line in samples), "random, and with --frontier"
    assert visits_of(luts.read("pooled.lut.jsonl")) == before
    each = profile(1, 2, per_unit=True)
    assert each.code == 0, each.err
    assert "boards unless" not in each.err
    for lut in unit_tables().values():
        assert lut.coverage(KEYS).complete and set(visits_of(lut).values()) == {ROUNDS}


def test_energy_is_shared_too():
    answer = profile(1, 2, energy=True, only="*_k3_e3@*", pool=True, json=True)

    assert answer.code == 0, answer.err
    pooled = luts.read("pooled.lut.jsonl")
    assert all(entry.energy_mj is not None for entry in pooled.entries.values())
    ordinary = [key for key in pooled.entries if key not in SENTINELS]
    for key in ordinary:
        assert sum(visit.energy is not None for visit in pooled.entries[key].visits) == 2
    units = json.loads(answer.out)["units"]
    assert [set(unit["ratios"]) for unit in units] == [{"latency_ms", "energy_mj"}] * 2


def test_boards_of_other_models_do_not_share_a_job():
    answer = run(
        "profile", "--host", "virtual:jetson-nano#1,virtual:jetson-tx2#1", "--space", "tiny", "--precision", "fp16"
    )

    assert answer.code == 1
    assert "different models or states" in answer.err and "board" in answer.err


def test_one_unit_under_two_names_is_refused(tmp_path):
    connections = [devices.connect("virtual:jetson-nano#1") for _ in range(2)]
    with pytest.raises(FleetError, match="are the same unit"):
        units_of([(connection, devices.probe(connection)) for connection in connections])


def test_options_for_several_hosts_need_several():
    answer = profile(1, per_unit=True)

    assert answer.code == 2 and "--per-unit needs several hosts" in answer.err

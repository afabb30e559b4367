"""`sample`, `verify`, `probe`, `pull` with several hosts, and `lut merge`, on virtual units."""

import json
from pathlib import Path

import pytest

import luts
from lightnas_edge import graph
from lightnas_edge.records.fleet import FleetRecord
from lightnas_edge.space import load_space
from tests.cli.commands import run
from tests.fleet.counting import places, visits_of
from tests.fleet.units import hosts, slow_down

SPACE = load_space("tiny")
HEAD = SPACE.shaped_operators()[-1]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch, agent_home):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "net.onnx"
    path.write_bytes(graph.model_bytes(graph.operator_model(HEAD)))
    return path


def profile_alone(unit, *options):
    out = f"unit{unit}.lut.jsonl"
    answer = run(
        "profile", "--host", hosts(unit), "--space", "tiny", "--precision", "fp16", "--rounds", 4, "--out", out,
        "--only", "*_k3_e3@*", *options,
    )  # fmt: skip
    assert answer.code == 0, answer.err
    return Path(out)


def verify(model, *units, target=20.0):
    return run(
        "verify",
        "--model",
        model,
        "--host",
        hosts(*units),
        "--latency-ms",
        target,
        "--rounds",
        12,
        "--out",
        "v",
        "--json",
    )


def test_probe_asks_every_board_and_names_the_one_that_fails():
    answer = run("probe", "--host", f"{hosts(1, 2)},virtual:jetson-tk1", "--json")

    assert answer.code == 2 and "virtual:jetson-tk1: there is no virtual board" in answer.err
    assert len({found["fingerprint"]["unit"] for found in json.loads(answer.out)}) == 2


def test_pull_fetches_the_tables_of_every_board(tmp_path):
    written = [profile_alone(unit) for unit in (1, 2)]

    answer = run("pull", "--host", hosts(1, 2), "--out", "pulled", "--json")

    assert answer.code == 0, answer.err
    pulled = [Path(table["lut"]) for document in json.loads(answer.out) for table in document["tables"]]
    assert [path.read_bytes() for path in pulled] == [path.read_bytes() for path in written]


def test_tables_of_two_units_are_merged_visit_by_visit():
    first, second = profile_alone(1), profile_alone(2)

    answer = run("lut", "merge", first, second, first, "--out", "both.lut.jsonl")

    assert answer.code == 0, answer.err
    both = luts.read("both.lut.jsonl")
    assert visits_of(both) == visits_of(luts.read(first), luts.read(second))
    assert set(places(both).values()) == {1} and both.fingerprint["unit"] is None
    assert "2 units" in answer.out


def test_tables_of_units_that_differ_are_merged_on_request_only():
    slow_down(2, 1.05)
    first, second = profile_alone(1), profile_alone(2)

    refused = run("lut", "merge", first, second, "--out", "both.lut.jsonl")
    assert refused.code == 1 and "not pooled" in refused.err and not Path("both.lut.jsonl").exists()
    answer = run("lut", "merge", first, second, "--out", "both.lut.jsonl", "--pool")

    assert answer.code == 0 and Path("both.lut.jsonl").exists()


def test_tables_of_one_name_in_two_folders_are_compared_like_any_others():
    slow_down(2, 1.05)
    for unit in (1, 2):
        Path(f"folder{unit}").mkdir()
        profile_alone(unit).rename(f"folder{unit}/orin.lut.jsonl")

    answer = run("lut", "merge", "folder1/orin.lut.jsonl", "folder2/orin.lut.jsonl", "--out", "both.lut.jsonl")

    assert answer.code == 1 and "not pooled" in answer.err and "folder2/orin.lut.jsonl" in answer.out


def test_a_table_that_holds_other_measurements_is_kept_when_another_takes_its_name():
    first, second = profile_alone(1), profile_alone(2)
    before = second.read_bytes()

    assert run("lut", "merge", first, "--out", "copy.lut.jsonl").code == 0
    assert run("lut", "merge", first, "--out", "copy.lut.jsonl").code == 0
    assert not Path("copy.lut.jsonl.old").exists()  # it holds the same
    assert run("lut", "merge", "copy.lut.jsonl", "--out", second).code == 0

    assert second.with_name(second.name + ".old").read_bytes() == before
    assert visits_of(luts.read(second)) == visits_of(luts.read(first))


def test_a_table_is_not_merged_into_itself():
    first = profile_alone(1)
    before = first.read_bytes()

    answer = run("lut", "merge", first, "--out", first)

    assert answer.code == 1 and "is one of the tables" in answer.err and first.read_bytes() == before


def test_networks_are_shared_among_units():
    answer = run(
        "sample", "--host", hosts(1, 2), "--space", "tiny", "--precision", "fp16", "--count", 4, "--rounds", 4,
        "--out", "nets.lut.jsonl",
    )  # fmt: skip

    assert answer.code == 0, answer.err
    nets = luts.read("nets.lut.jsonl")
    assert len(nets.networks) == 4 and {len(entry.visits) for entry in nets.networks.values()} == {4}
    assert len(list(Path("nets.units").glob("*.lut.jsonl"))) == 2


def test_three_verified_units_give_a_guarantee_for_all(model):
    answer = verify(model, 1, 2, 3)

    assert answer.code == 0, answer.err
    found = json.loads(answer.out)
    (guarantee,) = found["fleet"]["guarantees"]
    assert guarantee["verdict"] == "kept" and guarantee["simulated"]
    values = [unit["value"] for unit in guarantee["units"]]
    assert max(values) < guarantee["bound"] < 20 and len({unit["unit"] for unit in guarantee["units"]}) == 3
    assert FleetRecord.load(Path("v/fleet.json")).to_json() == found["fleet"]
    assert len(list(Path("v/units").glob("*/verification.json"))) == 3
    assert "95 % of units keep 20 ms" in Path("v/report.html").read_text()


def test_boards_of_two_models_are_refused_before_one_is_verified(model):
    answer = run(
        "verify",
        "--model",
        model,
        "--host",
        "virtual:jetson-nano#1,virtual:jetson-tx2#1",
        "--latency-ms",
        50,
        "--out",
        "v",
    )

    assert answer.code == 1 and "different models or states" in answer.err and not Path("v").exists()


def test_a_verification_of_several_boards_without_a_budget_is_refused_once(model):
    answer = run("verify", "--model", model, "--host", hosts(1, 2), "--out", "v")

    assert answer.code == 2 and answer.err.count("no budget was asked") == 1 and not Path("v").exists()


def test_every_power_mode_has_a_verdict_and_the_one_with_the_least_energy_is_named(model):
    answer = run(
        "verify", "--model", model, "--host", "virtual:jetson-nano#1", "--precision", "fp16", "--latency-ms", 50, "--rounds", 12,
        "--out", "v", "--power-modes", "all", "--json",
    )  # fmt: skip

    assert answer.code == 0, answer.err
    found = json.loads(answer.out)
    modes = {each["power_mode"]: each["verification"] for each in found["modes"]}
    assert set(modes) == {"MAXN", "5W"}
    assert [record["fingerprint"]["power_mode"] for record in modes.values()] == list(modes)
    energies = {mode: record["energy"]["gross_mj"] for mode, record in modes.items()}
    assert found["lowest_energy"] == min(energies, key=energies.get)
    assert energies["5W"] < energies["MAXN"]


def test_of_several_units_the_mode_is_named_that_every_one_keeps_with_the_least_energy(model):
    units = "virtual:jetson-nano#1,virtual:jetson-nano#2"
    answer = run(
        "verify", "--model", model, "--host", units, "--precision", "fp16", "--latency-ms", 50, "--rounds", 12, "--out", "v",
        "--power-modes", "all", "--json",
    )  # fmt: skip

    assert answer.code == 0, answer.err
    found = json.loads(answer.out)
    modes = {each["power_mode"]: each for each in found["modes"]}
    assert set(modes) == {"MAXN", "5W"}
    most = {mode: max(each["energy"]["gross_mj"] for each in about["verifications"]) for mode, about in modes.items()}
    assert found["lowest_energy"] == min(most, key=most.get)
    for mode, about in modes.items():
        assert [each["fingerprint"]["power_mode"] for each in about["verifications"]] == [mode] * 2
        assert len({each["fingerprint"]["unit"] for each in about["verifications"]}) == 2
        assert Path("v", "modes", mode, "fleet.json").exists()


def test_a_power_mode_that_the_board_lacks_is_named_with_those_it_has(model):
    answer = run(
        "verify", "--model", model, "--host", "virtual:jetson-nano#1", "--latency-ms", 50, "--power-modes", "12W"
    )

    assert answer.code == 2 and "no mode 12W" in answer.err and "MAXN" in answer.err

"""`sample --adaptive` on a board that does not exist."""

import json

import pytest

import luts
from lightnas_edge.measuring import network_key, reference_architectures
from lightnas_edge.space import load_space
from tests.cli.commands import run
from tests.predictor.boards import small_space

BOARD = ("--host", "virtual:jetson-agx-xavier", "--space", "tiny", "--rounds", 3, "--out", "nets.lut.jsonl")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("LIGHTNAS_EDGE_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_it_measures_until_the_interval_is_narrow_enough_and_continues_where_it_stopped(folder):
    short = run("sample", *BOARD, "--adaptive", "--until", 1.5, "--count", 12)
    assert short.code == 0
    assert "--count 12 is reached; the target of ±1.5 % needs more networks" in short.out

    answer = run("sample", *BOARD, "--adaptive", "--until", 1.5, "--count", 40)

    assert answer.code == 0
    assert "SIMULATED: " in answer.out and "the target of ±1.5 % is reached" in answer.out
    record = json.loads((folder / "nets.adaptive.json").read_text())
    points = [point["networks"] for point in record["curve"]]
    assert points[:2] == [10, 12] and len(points) > 2
    assert record["stopped"] == "reached" and record["planned"] == []
    assert record["curve"][-1]["half_width"] <= 0.015 < record["curve"][-2]["half_width"]
    table = luts.read(folder / "nets.lut.jsonl")
    assert len(table.networks) == points[-1]
    assert {len(entry.visits) for entry in table.networks.values()} == {3}
    first = [network_key(network) for network in reference_architectures(load_space("tiny"))]
    assert set(first) <= set(table.networks)


def test_a_batch_that_was_planned_is_measured_first(folder):
    """As a run leaves it that was stopped while it measured."""
    assert run("sample", *BOARD, "--adaptive", "--until", 0.1, "--count", 10).code == 0
    path = folder / "nets.adaptive.json"
    record = json.loads(path.read_text())
    planned = ["skip"] * 8
    path.write_text(json.dumps(record | {"planned": [planned], "tried": [planned], "stopped": None}))

    assert run("sample", *BOARD, "--adaptive", "--until", 0.1, "--count", 11).code == 0

    measured = [entry.subject["operators"] for entry in luts.read(folder / "nets.lut.jsonl").networks.values()]
    assert len(measured) == 11 and planned in measured


def test_a_record_without_its_table_starts_from_the_beginning(folder):
    assert run("sample", *BOARD, "--adaptive", "--count", 10).code == 0
    (folder / "nets.lut.jsonl").unlink()

    answer = run("sample", *BOARD, "--adaptive", "--count", 10)

    assert answer.code == 0
    assert len(luts.read(folder / "nets.lut.jsonl").networks) == 10
    assert (folder / "nets.adaptive.json.old").exists()


@pytest.mark.parametrize("frontier", [(), ("--frontier",)])
def test_it_says_so_where_a_space_has_no_further_network(folder, frontier):
    (folder / "few.json").write_text(json.dumps(small_space(2).to_json()))  # 9 networks

    board = ["few.json" if word == "tiny" else word for word in BOARD]
    answer = run("sample", *board, "--adaptive", *frontier, "--until", 0.01, "--count", 15)

    assert answer.code == 0 and len(luts.read(folder / "nets.lut.jsonl").networks) <= 9
    assert "no further network of this kind is found in the space" in answer.out and "is reached" not in answer.out


@pytest.mark.parametrize(
    "content",
    ["{", '{"kind": "adaptive-sampling"}', '{"curve": [{"networks": 3}], "planned": [], "tried": []}', "[]"],
)
def test_a_damaged_record_is_an_error_with_a_way_out(folder, content):
    assert run("sample", *BOARD, "--count", 1).code == 0
    (folder / "nets.adaptive.json").write_text(content)

    answer = run("sample", *BOARD, "--adaptive")

    assert answer.code == 1 and "nets.adaptive.json" in answer.err and "remove it" in answer.err


@pytest.mark.parametrize("option", [("--until", 2), ("--round-networks", 2)])
def test_options_of_adaptive_sampling_alone_are_refused(folder, option):
    answer = run("sample", *BOARD, *option)

    assert answer.code == 2 and f"{option[0]} needs --adaptive" in answer.err


def test_a_percentage_beyond_reason_is_refused(folder, capsys):
    answer = run("sample", *BOARD, "--adaptive", "--until", 100)

    assert answer.code == 2 and "expected per cent, above 0 and below 100" in answer.err


def test_energy_can_be_predicted(folder):
    answer = run("sample", *BOARD, "--adaptive", "--energy", "--metric", "energy_mj", "--until", 8, "--json")

    assert answer.code == 0
    record = json.loads(answer.out)
    assert record["goal"]["metric"] == "energy_mj" and record["stopped"] is not None
    networks = luts.read(folder / "nets.lut.jsonl").networks
    assert len(networks) == record["curve"][-1]["networks"]
    assert all(entry.energy_mj is not None for entry in networks.values())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--metric", "energy_mj"), "needs --energy"),
        (("--around-mj", 3), "latency_ms is not in the unit of --around-mj"),
        (("--metric", "energy_mj", "--energy", "--around-ms", 3), "energy_mj is not in the unit of --around-ms"),
    ],
)
def test_metrics_and_units_that_do_not_fit_are_refused(folder, options, words):
    answer = run("sample", *BOARD, "--adaptive", *options)

    assert answer.code == 2 and words in answer.err

"""What to measure next, as `profile-device` and `fit` say it."""

import json
import shlex

import pytest

from lightnas_edge.cli import all_commands, profile_device_alone
from tests.cli.commands import run

HOST = ("--host", "virtual:jetson-nano", "--space", "tiny", "--rounds", 3)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("LIGHTNAS_EDGE_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def parsed(command):
    program, *words = shlex.split(command)
    return (profile_device_alone() if program == "profile-device" else all_commands()).parse_args(words)


def test_after_a_table_come_networks_with_the_same_settings_and_a_fit(folder):
    answer = run(
        "profile", *HOST, "--classes", 7, "--precision", "fp16", "--batch", 4, "--threads", 2, "--lock-clocks", "--json"
    )

    assert answer.code == 0, answer.err
    record = json.loads(answer.out)
    sample, fit, frontier, again = (parsed(command) for command in record["next"]["commands"])
    for each in sample, frontier:
        assert (each.host, each.space, each.classes) == ("virtual:jetson-nano", "tiny", 7)
        assert (each.precision, each.batch, each.threads, each.lock_clocks) == ("fp16", 4, 2, True)
    assert frontier.frontier and frontier.predictor == fit.out and fit == again
    assert sample.count >= 20 and 0.25 <= frontier.count / record["next"]["networks"] <= 0.4
    assert sample.count + frontier.count == record["next"]["networks"] <= 100
    assert record["next"]["board_minutes"] > 0
    assert str(fit.lut) == record["lut"] and fit.classes == 7


def test_the_printed_commands_run_as_they_stand(folder):
    answer = run("profile", *HOST)
    sample, fit, frontier, again = (
        line.strip() for line in answer.out.splitlines() if line.startswith("  lightnas-edge ")
    )

    assert "next: measure " in answer.out and " whole networks (about " in answer.out
    assert run(*shlex.split(sample)[1:], "--rounds", 3).code == 0
    assert run(*shlex.split(fit)[1:]).code == 0
    chosen = run(*shlex.split(frontier)[1:], "--rounds", 3)
    assert chosen.code == 0, chosen.err
    fitted = run(*shlex.split(again)[1:])
    assert fitted.code == 0, fitted.err
    assert "SIMULATED: plan of measuring" in fitted.out and "extrapolated" in fitted.out
    assert "the operators' table " in fitted.out


def test_after_a_part_of_a_table_comes_the_rest_into_the_same_file(folder):
    answer = run("profile", *HOST, "--only", "stem", "--out", "my table.lut.jsonl", "--json")

    record = json.loads(answer.out)
    rest, sample = (parsed(command) for command in record["next"]["commands"])
    assert str(rest.out) == "my table.lut.jsonl" and rest.only == []
    assert record["next"]["networks"] is None and sample.count == 20


def test_plans_are_in_the_json_of_a_fit(folder):
    run("profile", *HOST, "--out", "ops.lut.jsonl")
    run("sample", *HOST, "--count", 24, "--out", "nets.lut.jsonl")

    answer = run("fit", "--space", "tiny", "--lut", "ops.lut.jsonl", "--samples", "nets.lut.jsonl", "--json")

    plans = json.loads(answer.out)["plans"]
    assert {point["plan"] for point in plans["points"]} == {"table only", "networks only", "both"}
    assert all(point["board_minutes"] > 0 and point["mape"] > 0 for point in plans["points"])
    assert isinstance(plans["table_helps"], bool) and plans["simulated"]


def test_a_table_of_other_classes_than_the_spaces_is_checked_with_its_own_and_filled_in_its_own_way(folder):
    run("profile", *HOST, "--classes", 7, "--precision", "fp16", "--out", "t.lut.jsonl")
    whole = run("lut", "check", "t.lut.jsonl")
    lines = (folder / "t.lut.jsonl").read_text().splitlines(keepends=True)
    (folder / "t.lut.jsonl").write_text("".join(line for line in lines if '"key":"stem@' not in line))

    lacking = run("lut", "check", "t.lut.jsonl")

    assert whole.code == 0 and "24 of 24 operators found" in whole.out
    assert lacking.code == 1
    filled = parsed(lacking.err.split("`")[1])
    assert (filled.space, filled.classes, filled.precision) == ("tiny", 7, "fp16")
    assert run(*shlex.split(lacking.err.split("`")[1])[1:], "--rounds", 3).code == 0
    assert run("lut", "check", "t.lut.jsonl").code == 0


def test_the_range_of_a_virtual_board_is_marked_and_classes_are_not_ignored(folder):
    run("profile", *HOST, "--out", "t.lut.jsonl")

    answer = run("range", "--lut", "t.lut.jsonl", "--space", "tiny")
    refused = run("range", "--predictor", "xavier-lightnas-b8", "--classes", 7)
    search = run("search", "--lut", "xavier-lightnas-b8", "--classes", 7, "--latency-ms", 20, "--data", "digits")

    assert answer.out.startswith("SIMULATED: tiny, batch 1")
    assert refused.code == 2 and "--classes needs --space" in refused.err
    assert search.code == 2 and "--classes needs --space" in search.err

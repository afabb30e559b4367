"""`refine`, run for real on this machine: from a found network to one with other channels, verified like any other."""

import json

import pytest

import luts
from tests.cli.commands import run


@pytest.fixture(scope="module")
def refined(whole_loop, tmp_path_factory):
    """The whole_loop's run, refined in short, then trained, exported, verified, reported."""
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setenv("LIGHTNAS_EDGE_HOME", str(whole_loop.folder / "agent-home"))
    monkeypatch.chdir(whole_loop.folder)
    short = ("--rounds", 4, "--candidates", 2, "--steps", 3, "--seeds", 2, "--vary", "widths")
    answer = {"refine": run("refine", "run", "--host", "localhost", *short)}
    answer["again"] = run("refine", "run", "--host", "localhost", *short, "--json")
    answer["train"] = run("train", "run-refined", "--epochs", 1)
    answer["export"] = run("export", "run-refined")
    answer["verify"] = run("verify", "run-refined", "--host", "localhost", "--rounds", 12)
    answer["report"] = run("report", "run-refined")
    monkeypatch.undo()
    return answer


def test_every_step_after_refining_is_the_usual_one(refined):
    assert {name: answer.code for name, answer in refined.items()} == dict.fromkeys(refined, 0)


def test_refine_reports_what_it_found_and_how_certain_that_is(refined):
    answer = refined["refine"]

    assert "best of 2 of " in answer.out
    assert "target 100 ms: run-refined/architecture.json" in answer.out
    assert "training loss sum over 3 steps, 2 seeds: " in answer.out
    assert "train both networks and compare their accuracy" in answer.err


def test_run_again_it_measures_nothing_and_says_the_same(refined, whole_loop):
    record = json.loads(refined["again"].out)

    assert "measured in" not in refined["again"].err
    assert record == json.loads((whole_loop.folder / "run-refined" / "refine" / "result.json").read_text())
    assert record["proxy"] == "training_loss_sum"
    assert record["predicted_ms"] <= record["upper_ms"] <= record["target_ms"] == 100


def test_the_refined_network_is_verified_against_the_reference_session_of_the_runs_table(refined, whole_loop):
    record = json.loads((whole_loop.folder / "run-refined" / "verify" / "verification.json").read_text())

    assert record["verdict"] == "met"
    assert record["outputs"]["top1_agreement"] == 1.0
    assert record["comparison"]["drift"]["ratio"] > 0
    assert record["comparison"]["predicted"]["latency_ms"] > 0


def test_the_report_knows_every_block_of_the_refined_network(refined, whole_loop):
    record = json.loads((whole_loop.folder / "run-refined" / "report.json").read_text())

    assert record["refined"]["verdict"] in ("better", "worse", "inconclusive")
    assert "from which this run was refined" in record["missing"]["search"]
    assert "Refined from ../run" in (whole_loop.folder / "run-refined" / "report.html").read_text()
    blocks = record["network"]["blocks"]
    assert all(block["latency_ms"] for block in blocks if not block["identity"])
    table = luts.read(whole_loop.folder / "run-refined" / "lut.jsonl")
    assert not table.faults


def test_what_cannot_be_refined_is_reported_as_elsewhere(whole_loop, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    assert "`lightnas-edge search` writes a run directory" in run("refine", "nothing").err
    assert run("refine", "nothing", "--factors", "0,1").code == 2


def test_a_simulated_board_is_called_simulated(tmp_path, monkeypatch):
    monkeypatch.setenv("LIGHTNAS_EDGE_HOME", str(tmp_path / "agent-home"))
    monkeypatch.chdir(tmp_path)
    host = "virtual:jetson-nano"
    run("profile", "--host", host, "--space", "tiny", "--rounds", 3, "--out", "v.lut.jsonl")
    run(
        "search", "--space", "tiny", "--lut", "v.lut.jsonl", "--latency-ms", 3, "--force", "--data", "digits", "--out", "run",
        "--epochs", 2, "--batch-size", 128,
    )  # fmt: skip

    short = ("--rounds", 3, "--candidates", 1, "--steps", 2, "--seeds", 2, "--vary", "widths")
    answer = run("refine", "run", "--host", host, *short)

    assert answer.code == 0
    assert "comes from a SIMULATED board" in answer.err
    assert json.loads((tmp_path / "run-refined" / "predictor.json").read_text())["simulated"]
    assert (
        run("refine", "run", "--host", "localhost", "--out", "here").code == 1
    )  # its numbers would be of another kind

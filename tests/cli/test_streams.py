"""`--streams`: a condition of every budget, and of the table."""

import json
from pathlib import Path

import pytest

from lightnas_edge.cli import main, profile_device
from tests.models import files

BOARD = "virtual:jetson-orin-nano"


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.setenv("LIGHTNAS_EDGE_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    files.saved(tmp_path, files.convolution())


def verified(host, streams, *more):
    """Exit code and record of a convolution with a batch of 2."""
    code = main(
        ["verify", "--model", "net.onnx", "--host", host, "--shape", "2x3x8x8", "--latency-ms", "1000", "--streams",
         str(streams), "--out", f"out{streams}", *more]
    )  # fmt: skip
    return code, json.loads(Path(f"out{streams}", "verification.json").read_text())


def test_two_streams_do_more_in_a_second_and_the_verdict_is_about_the_slower_one(capsys):
    _, one = verified(BOARD, 1)
    code, two = verified(BOARD, 2, "--min-throughput", "100")
    shown = capsys.readouterr().out

    assert (code, two["verdict"]) == (0, "met")
    assert two["fingerprint"]["streams"] == 2 and "streams" not in one["fingerprint"]
    measured = two["measured"]
    assert measured["median"]["latency_ms"] == max(each["median"]["latency_ms"] for each in measured["streams"])
    assert measured["throughput"]["per_s"] > 1.2 * one["measured"]["throughput"]["per_s"]
    assert one["measured"]["throughput"]["per_s"] == pytest.approx(
        2e3 / one["measured"]["mean"]["latency_ms"], rel=0.05
    )
    assert "SIMULATED throughput" in shown and "stream 2: p50" in shown
    assert "of 2 streams at the same time (throughput " in Path("out2", "report.html").read_text()
    assert [budget["metric"] for budget in two["budgets"]] == ["latency_ms", "throughput_per_s"]


@pytest.mark.timeout(120)
def test_two_streams_run_for_real_on_this_machine():
    code, record = verified("localhost", 2, "--rounds", "12")

    assert (code, record["verdict"]) == (0, "met")
    assert [each["n"] >= 12 * 10 for each in record["measured"]["streams"]] == [True, True]
    assert record["outputs"]["cosine"] > 0.9999


def test_tables_of_other_streams_are_never_mixed(capsys):
    options = ["--host", BOARD, "--space", "tiny", "--only", "stem", "--rounds", "3", "--batch", "2"]
    assert profile_device([*options, "--out", "one.lut.jsonl"]) == 0
    assert profile_device([*options, "--streams", "2", "--out", "two.lut.jsonl"]) == 0
    capsys.readouterr()

    code = main(["lut", "merge", "one.lut.jsonl", "two.lut.jsonl", "--out", "both.lut.jsonl"])

    assert code == 1
    assert "streams" in capsys.readouterr().err


def test_more_streams_than_the_agent_takes_are_refused(capsys):
    assert main(["verify", "--model", "net.onnx", "--latency-ms", "5", "--streams", "65"]) == 2
    assert "expected 1 to 64 streams" in capsys.readouterr().err

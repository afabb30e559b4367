"""Every command, run for real on this machine, and what it leaves behind."""

import json
import re

import pytest

import luts
from lightnas_edge.space import Architecture, load_space


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_step_succeeds(whole_loop):
    failed = {name: answer for name, answer in whole_loop.answer.items() if answer.code != 0}
    assert not failed


@pytest.mark.parametrize("command", ["profile", "sample", "fit", "search", "train", "verify"])
def test_without_a_terminal_long_steps_say_how_far_they_are(whole_loop, command):
    assert re.search(
        r"^[\w .]+: \d+ of \d+ \(\d+ %\), .* elapsed, .* left", whole_loop.answer[command].err, re.MULTILINE
    )


def test_a_campaign_begins_with_an_estimate(whole_loop):
    assert "estimate: 24 operators x 4 rounds, about " in whole_loop.answer["profile"].err


def test_profile_says_how_much_of_the_space_it_found_and_how_well(whole_loop):
    answer = whole_loop.answer["profile"].out

    assert "24 of 24 measured" in answer
    assert "tiny: 24 of 24 operators found; repeatability: " in answer
    table = luts.read(whole_loop.folder / "ops.lut.jsonl")
    assert not table.faults
    assert {len(entry.visits) for entry in table.entries.values()} == {4}


def test_sample_measures_networks_and_sentinels(whole_loop):
    table = luts.read(whole_loop.folder / "nets.lut.jsonl")

    assert len(table.networks) == 6
    assert len(table.entries) == 12


def test_fit_prints_held_out_errors_with_the_repeatability(whole_loop):
    answer = whole_loop.answer["fit"].out

    for name in (
        "RMSE ms",
        "MAPE",
        "Kendall tau",
        "LUT alone",
        "LUT calibrated",
        "repeatability: ",
    ):
        assert name in answer


def test_range_is_ordered(whole_loop):
    reach = json.loads(whole_loop.answer["range"].out)

    assert isinstance(reach["lowest"]["extrapolated"], bool)
    assert 0 < reach["lowest"]["latency_ms"] < reach["median"]["latency_ms"] < reach["highest"]["latency_ms"]


def test_search_leaves_a_whole_run_directory(whole_loop):
    run = whole_loop.folder / "run"

    record = json.loads((run / "run.json").read_text())
    assert record["targets"] == {"latency_ms": 100.0}
    assert record["data"]["source"] == "digits"
    phases = [line["phase"] for line in lines(run / "search" / "metrics.jsonl") if line["kind"] == "search-step"]
    assert set(phases) == {"warmup", "weights", "architecture"}
    assert (run / "search" / "checkpoint.pt").exists()
    network = Architecture.load(run / "architecture.json", load_space("tiny"))
    predicted = json.loads((run / "architecture.json").read_text())["predicted"]
    assert len(network.operators) == 8
    assert predicted["metrics"]["latency_ms"]["upper"] <= 100
    assert (run / "lut.jsonl").read_bytes() == (whole_loop.folder / "ops.lut.jsonl").read_bytes()


def test_train_reports_accuracy_and_on_what(whole_loop):
    assert re.search(r"top-1 accuracy [\d.]+ % \(n=3(59|60|61);", whole_loop.answer["train"].out)
    assert (whole_loop.folder / "run" / "train" / "weights.safetensors").exists()


def test_export_says_how_far_it_is_from_pytorch(whole_loop):
    assert "maximum difference from PyTorch" in whole_loop.answer["export"].out


def test_verify_measures_and_judges(whole_loop):
    record = json.loads((whole_loop.folder / "run" / "verify" / "verification.json").read_text())

    assert record["verdict"] == "met"  # 100 ms for a network of less than one
    assert record["measured"]["rounds"] == len(record["measured"]["samples_ms"]) == 12
    assert record["measured"]["n"] >= 12 * 10
    assert record["comparison"]["drift"]["ratio"] > 0
    assert record["outputs"]["top1_agreement"] == 1.0
    assert record["accuracy"]["top1"] == record["accuracy"]["reference_top1"]
    assert record["simulated"] is False
    assert record["energy"] is None
    answer = whole_loop.answer["verify"].out
    assert answer.startswith("measured p50 ")
    assert "at most 100.0: met" in answer


def test_the_report_is_one_small_file_that_fetches_nothing(whole_loop):
    page = (whole_loop.folder / "run" / "report.html").read_bytes()

    assert len(page) < 2_000_000
    text = page.decode()
    assert "met" in text
    for fetching in ('src="http', 'href="http', "@import", "url(http"):
        assert fetching not in text
    assert json.loads((whole_loop.folder / "run" / "report.json").read_text())["kind"] == "report"
    assert (whole_loop.folder / "run" / "report.md").read_text().startswith("#")

"""Several metrics from one campaign, on a board that does not exist."""

import json

import pytest

from lightnas_edge.predictor import load_predictor, reachable_range
from lightnas_edge.runs import Run
from tests.cli.commands import run


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """Operators and networks of tiny with energy, and a table without it."""
    folder = tmp_path_factory.mktemp("metrics")
    board = ("--host", "virtual:jetson-agx-xavier", "--space", "tiny", "--rounds", 3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIGHTNAS_EDGE_HOME", str(folder / "home"))
        assert run("profile", *board, "--energy", "--out", folder / "ops.lut.jsonl").code == 0
        assert run("sample", *board, "--count", 6, "--energy", "--out", folder / "nets.lut.jsonl").code == 0
        assert run("sample", *board, "--count", 2, "--out", folder / "plain.lut.jsonl").code == 0
    return folder


def latency_only(folder):
    """latency.lut.jsonl: the table of operators without the visits that have an energy."""
    lines = (folder / "ops.lut.jsonl").read_text().splitlines()
    latency = [line for line in lines if '"energy":{"' not in line or '"kind":"lut"' in line]
    (folder / "latency.lut.jsonl").write_text("\n".join(latency) + "\n")


def test_one_fit_writes_a_predictor_per_metric(measured, monkeypatch):
    monkeypatch.chdir(measured)

    answer = run(
        "fit", "--space", "tiny", "--lut", "ops.lut.jsonl", "--samples", "nets.lut.jsonl",
        "--metric", "latency_ms", "--metric", "energy_mj", "--metric", "peak_memory_mb",
    )  # fmt: skip

    assert answer.code == 0
    latency, energy, memory = (
        json.loads((measured / f"tiny{metric}.predictor.json").read_text())
        for metric in ("", ".energy_mj", ".peak_memory_mb")
    )
    assert (memory["metric"], memory["unit"]) == ("peak_memory_mb", "MB")
    assert (latency["metric"], latency["unit"]) == ("latency_ms", "ms")
    assert (energy["metric"], energy["unit"]) == ("energy_mj", "mJ")
    assert energy["simulated"] and energy["fit"]["networks"] == 6
    assert "energy_mj, held-out networks" in answer.out and "RMSE mJ" in answer.out
    assert "SIMULATED predictor" in answer.out


def test_a_search_keeps_a_median_and_a_tail_that_were_learned_from_the_same_networks(measured, monkeypatch):
    monkeypatch.chdir(measured)
    statistics = ("latency_ms", "mean_ms", "p95_ms", "p99_ms")
    chosen = [word for metric in statistics for word in ("--metric", metric)]

    answer = run("fit", "--space", "tiny", "--lut", "ops.lut.jsonl", "--samples", "nets.lut.jsonl", *chosen)
    assert answer.code == 0, answer.err
    assert "times the repeatability of p95_ms" in answer.out
    fitted = {metric: load_predictor(measured / f"tiny{suffix}.predictor.json") for metric, suffix in zip(
        statistics, ("", ".mean_ms", ".p95_ms", ".p99_ms"), strict=True
    )}  # fmt: skip
    middle = {metric: reachable_range(predictor).median for metric, predictor in fitted.items()}
    assert middle["latency_ms"] < middle["p95_ms"] < middle["p99_ms"]
    answer = run(
        "search", "--predictor", "tiny.predictor.json", "--predictor", "tiny.p95_ms.predictor.json",
        "--latency-ms", middle["latency_ms"], "--p95-ms", middle["p95_ms"], "--data", "digits", "--epochs", 2,
        "--candidates", 2, "--out", "both",
    )  # fmt: skip

    assert answer.code == 0, answer.err
    found = Run.open(measured / "both")
    assert found.targets == {metric: middle[metric] for metric in ("latency_ms", "p95_ms")}
    for metric, target in found.targets.items():
        assert fitted[metric].predict_one(found.architecture) <= target
    assert "p95_ms SIMULATED, predicted" in answer.out


def test_a_search_states_the_energy_of_every_network_although_it_is_not_limited(measured, monkeypatch):
    monkeypatch.chdir(measured)
    assert run("fit", "--space", "tiny", "--lut", "ops.lut.jsonl", "--samples", "nets.lut.jsonl").code == 0
    middle = reachable_range(load_predictor(measured / "tiny.predictor.json")).median

    answer = run(
        "search", "--predictor", "tiny.predictor.json", "--targets", f"{0.9 * middle}:{middle}:{0.1 * middle}",
        "--data", "digits", "--epochs", 2, "--candidates", 1, "--out", "joules",
    )  # fmt: skip

    assert answer.code == 0, answer.err
    assert "energy mJ (90 %)" in answer.out
    front = json.loads((measured / "joules" / "front.json").read_text())
    assert len(front["networks"]) == 2
    for network in front["networks"]:
        low, high = network["energy"]["interval_mj"]
        assert 0 < low < network["energy"]["energy_mj"] < high and list(network["metrics"]) == ["latency_ms"]
        assert f"{network['energy']['energy_mj']:.3f} ({low:.3f} to {high:.3f})" in answer.out
    report = run("report", "joules")
    assert report.code == 0 and "predicted" in (measured / "joules" / "report.md").read_text()
    row = json.loads((measured / "joules" / "report.json").read_text())["networks"][0]
    assert row["predicted_energy"] == front["networks"][0]["energy"] and row["energy"] is None


def test_a_search_says_where_energy_is_not_available(measured, monkeypatch):
    monkeypatch.chdir(measured)

    latency_only(measured)

    answer = run(
        "search", "--lut", "latency.lut.jsonl", "--space", "tiny", "--latency-ms", 1.5, "--data", "digits", "--epochs", 2,
        "--candidates", 1, "--out", "unknown", "--force",
    )  # fmt: skip

    assert answer.code == 0, answer.err
    assert "energy of one batch: not available" in answer.out
    assert json.loads((measured / "unknown" / "front.json").read_text())["networks"][0]["energy"] is None


def test_operators_alone_are_refused_for_a_tail(measured, monkeypatch):
    monkeypatch.chdir(measured)

    answer = run("fit", "--space", "tiny", "--lut", "ops.lut.jsonl", "--metric", "p95_ms")

    assert answer.code == 1
    assert "a table of operators does not give p95_ms of a network" in answer.err
    assert "lightnas-edge sample" in answer.err


def test_a_metric_that_was_not_measured_names_the_networks_and_the_way(measured, monkeypatch):
    monkeypatch.chdir(measured)

    answer = run("fit", "--space", "tiny", "--samples", "plain.lut.jsonl", "--metric", "energy_mj")

    assert answer.code == 1
    assert "energy_mj is not known for 2 of 2 measured networks: net-" in answer.err
    assert "--energy" in answer.err


def test_one_file_cannot_hold_two_metrics(measured, monkeypatch):
    monkeypatch.chdir(measured)

    answer = run(
        "fit", "--space", "tiny", "--lut", "ops.lut.jsonl", "--out", "p.json",
        "--metric", "latency_ms", "--metric", "p95_ms",
    )  # fmt: skip

    assert answer.code == 2 and "one --metric at a time" in answer.err


def test_range_shows_joules_with_the_latency_of_a_table_that_has_both(measured, monkeypatch):
    monkeypatch.chdir(measured)

    found = json.loads(run("range", "--space", "tiny", "--lut", "ops.lut.jsonl", "--json").out)
    text = run("range", "--space", "tiny", "--lut", "ops.lut.jsonl").out

    assert 0 < found["lowest"]["energy_mj"] < found["highest"]["energy_mj"]
    low, high = found["lowest"]["energy_interval_mj"]
    assert low < found["lowest"]["energy_mj"] < high
    assert text.count(" mJ") == 2


def test_range_reports_that_energy_is_not_available_where_it_was_not_measured(measured, monkeypatch):
    monkeypatch.chdir(measured)
    latency_only(measured)

    found = json.loads(run("range", "--space", "tiny", "--lut", "latency.lut.jsonl", "--json").out)
    text = run("range", "--space", "tiny", "--lut", "latency.lut.jsonl").out

    assert found["lowest"]["energy_mj"] is None
    assert text.count("energy not available") == 2

"""Why a network was chosen, reported from a real search of several budgets."""

import json
import shutil
from dataclasses import replace

import pytest

from lightnas_edge.predictor import CountedPredictor
from lightnas_edge.report import build_report, draw_front, read_snapshot
from lightnas_edge.runs import Run
from lightnas_edge.search import Budget, Constraint, add_budgets, begin_run, read_front, run_search
from tests.search.problems import CONFIG, SPACE, budget, data


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("choice")
    budgets = [budget(target, f"{target:g}ms") for target in (4.0, 6.0, 9.0, 12.0)]
    config = replace(CONFIG, candidates=4)
    begin_run(folder, SPACE, data(), budgets, config)
    return folder, run_search(folder, SPACE, data(), budgets, config)


def test_a_networks_report_shows_its_budget_and_what_it_was_compared_with(run):
    folder, results = run
    result = next(result for result in results if result.others)

    report = build_report(folder / "networks" / result.budget.name)

    record, page = json.loads(report.json.read_text()), report.html.read_text()
    (row,) = record["budgets"]
    assert row["predicted"] == result.predicted["latency_ms"] and row["used"] == result.used["latency_ms"] <= 1
    assert len(record["choice"]["others"]) == len(result.others)
    assert "Why this network" in page and f"{result.chosen.loss:.3g}" in page
    assert "Why this network" in report.markdown.read_text()
    assert "search" not in report.missing, "the search lies two folders above"


def test_a_network_that_a_supernet_at_chance_chose_is_reported_with_a_warning(run, tmp_path):
    folder, results = run
    shutil.copytree(folder, tmp_path / "run")
    place = tmp_path / "run" / "networks" / results[0].budget.name
    found = json.loads((place / "architecture.json").read_text())
    found["choice"]["sampled_paths"] = {"accuracy": 0.51, "chance": 0.5, "images": 32}
    (place / "architecture.json").write_text(json.dumps(found))

    report = build_report(place)

    for text in (report.html.read_text(), report.markdown.read_text()):
        assert "the supernet is at chance: its top-1 accuracy on 32 held-out images is 51.0 %" in text
        assert "keeps the budget; how much its operators compute, or chance, decides the rest" in text


def test_the_trace_of_a_budget_is_its_own(run):
    folder, results = run
    epochs = [json.loads(line) for line in (folder / "search" / "metrics.jsonl").read_text().splitlines()]
    last = [line for line in epochs if line["kind"] == "search-epoch"][-1]
    traces = [read_snapshot(folder / "networks" / result.budget.name).search for result in results]
    for index, trace in enumerate(traces):
        assert (trace.metric, trace.unit) == ("latency_ms", "ms")
        assert trace.target == results[index].budget.targets["latency_ms"]
    for index, trace in enumerate(traces[1:], start=1):
        assert trace.multipliers[-1] == last["budgets"][index]["multipliers"]["latency_ms"]
        assert trace.derived[-1] == last["budgets"][index]["derived"]["latency_ms"]


def test_the_report_of_the_whole_search_shows_the_front(run):
    folder, _ = run

    report = build_report(folder)

    assert "4 networks of one search" in report.line
    for text in (report.html.read_text(), report.markdown.read_text()):
        assert "not verified" in text
        assert all(f"networks/{target}ms" in text for target in (4, 6, 9, 12))
        assert f"lightnas-edge verify {folder} --all" in text and "to its end" not in text
    assert "network" not in report.missing, "each of the four has its own"


def test_a_network_that_was_added_does_not_show_the_trace_of_another(tmp_path):
    first, second = budget(6.0, "6ms"), budget(9.0, "9ms")
    begin_run(tmp_path, SPACE, data(), [first], CONFIG)
    run_search(tmp_path, SPACE, data(), first, CONFIG)
    add_budgets(tmp_path, SPACE, data(), [second], CONFIG)

    own, added = build_report(tmp_path), build_report(tmp_path / "networks" / "9ms")

    assert not {"search", "probabilities"} & own.missing.keys()
    assert "added after the search had ended" in added.missing["search"]


def test_without_a_latency_among_the_limits_the_trace_has_the_metric_and_unit_of_the_first(tmp_path):
    small = Budget("small", (Constraint(CountedPredictor(SPACE, "params_m"), 0.004),))
    begin_run(tmp_path, SPACE, data(), [small], CONFIG)
    run_search(tmp_path, SPACE, data(), small, CONFIG)

    report = build_report(tmp_path)

    trace = read_snapshot(tmp_path).search
    assert (trace.metric, trace.unit, trace.target) == ("params_m", "M", 0.004)
    assert all(value < 0.1 for value in (*trace.derived, *trace.sampled))
    assert "search" not in report.missing
    assert "number of parameters in millions: at most 0.00400 M" in report.markdown.read_text()
    assert "parameters in M" in report.html.read_text() and "latency in ms" not in report.html.read_text()
    assert report.line.startswith("SIMULATED: parameters predicted 0.00") or report.line.startswith(
        "parameters predicted 0.00"
    )


def test_the_front_is_a_picture_of_its_own(run, tmp_path):
    networks = read_front(Run.open(run[0])).networks

    draw_front(tmp_path / "front.svg", networks)

    text = (tmp_path / "front.svg").read_text()
    assert text.startswith("<svg xmlns=") and "var(--" not in text and "supernet" in text
    assert "imagined, SIMULATED" in text and all(network.simulated for network in networks)

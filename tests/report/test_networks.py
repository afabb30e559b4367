"""A search with several networks has one report: a row for each, with a link to its page once it is written."""

import json

from lightnas_edge.deploy.judge import Evidence, Predicted
from lightnas_edge.records.report import ReportRecord
from lightnas_edge.report import build_all_reports, build_report
from tests import run_folders
from tests.report.conftest import FOUND, SPACE, write_export, write_training

BUDGETS_MS = {"fast": 0.5, "slow": 0.9}


def write_search(folder, verified=("fast", "slow"), simulated=False):
    """A search of two networks; those in `verified` took 0.6 ms."""
    run = run_folders.begin(folder, SPACE, targets={})
    for name, target_ms in BUDGETS_MS.items():
        below = run_folders.begin(
            run.folder / "networks" / name, SPACE, targets={"latency_ms": target_ms}, search="../.."
        )
        run_folders.find(below, FOUND, 0.55)
        if name not in verified:
            continue
        write_training(below, 0)
        write_export(below)
        export = below.export.record
        record = run_folders.verification(
            {"latency_ms": target_ms}, Evidence(run_folders.measured(0.6), predicted={"latency_ms": Predicted(0.55, None)}), model_sha256=export.sha256,
            weights_sha256=export.weights_sha256, data_sha256=export.data_sha256, simulated=simulated,
        )  # fmt: skip
        journal = below.verify_folder / "unfinished.jsonl"
        journal.parent.mkdir(parents=True, exist_ok=True)
        journal.write_text("")
        below.save_verification(record, journal)
    return folder


def test_every_network_has_its_page_and_the_overview_links_to_it(tmp_path):
    folder = write_search(tmp_path / "search")

    found = build_all_reports(folder)

    assert set(found.networks) == set(BUDGETS_MS)
    page = found.overview.html.read_text()
    for name in BUDGETS_MS:
        assert f'<a href="networks/{name}/report.html">' in page
        assert (folder / "networks" / name / "report.html").exists()
    record = ReportRecord.load(found.overview.json)
    assert {row.name: row.verdict for row in record.networks} == {"fast": "missed", "slow": "met"}
    assert record.verdict == "missed" and "missed by fast" in page
    assert all(row.statistics and row.budgets[0].predicted == 0.55 for row in record.networks)
    assert found.overview.line == "2 networks of one search: 1 met, 1 missed"


def test_the_overview_does_not_miss_what_every_network_has_for_itself(tmp_path):
    """A search of several networks has no table, export or verification of its own: only its plots may be absent."""
    found = build_all_reports(write_search(tmp_path / "search"))

    page = found.overview.html.read_text()
    of_networks = {"network", "predictor", "table", "epochs", "training", "export", "verification"}
    assert not of_networks & set(found.overview.missing)
    for heading in ("The network found", "Latency of each block", "The predictor", "Training", "The file to deploy"):
        assert f"<h2>{heading}" not in page
        assert f"<h2>{heading}" in found.networks["slow"].html.read_text()
    assert of_networks & set(found.networks["slow"].missing), "a page of one network does name its missing table"


def test_a_page_that_is_not_written_is_not_linked(tmp_path):
    page = build_report(write_search(tmp_path / "search")).html.read_text()

    assert "<a href=" not in page


def test_a_network_that_is_not_verified_says_so_and_all_are_not_called_met(tmp_path):
    report = build_report(write_search(tmp_path / "search", verified=("slow",)))

    record = json.loads(report.json.read_text())
    assert record["verdict"] is None
    assert report.line == "2 networks of one search: 1 met, 1 not verified"
    assert "budgets met" not in report.html.read_text()
    assert f"lightnas-edge verify {tmp_path / 'search'} --all" in report.markdown.read_text()


def test_simulated_networks_are_marked_in_every_row(tmp_path):
    report = build_report(write_search(tmp_path / "search", simulated=True))

    rows = [line for line in report.markdown.read_text().splitlines() if line.startswith("| networks/")]
    assert len(rows) == 2 and all(row.count("SIMULATED") >= 3 for row in rows)
    assert report.line.startswith("SIMULATED: ")

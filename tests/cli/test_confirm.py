"""`search --confirm` at the command line, on this machine."""

import json
import shutil

import pytest

import luts
from lightnas_edge.predictor import load_predictor
from lightnas_edge.runs import Run
from tests.cli.commands import run

QUICK = ("--data", "digits", "--epochs", 2, "--batch-size", 128, "--workers", 0)


@pytest.fixture(scope="module")
def confirmed(whole_loop, tmp_path_factory):
    """Two budgets of the tiny space, confirmed on localhost under the predictor that was measured there."""
    folder = tmp_path_factory.mktemp("confirmed")
    predictor = whole_loop.folder / "p.predictor.json"
    reach = json.loads(whole_loop.answer["range"].out)
    low, high = (reach[end]["latency_ms"] for end in ("lowest", "highest"))
    targets = ",".join(f"{low + share * (high - low):.4f}" for share in (0.4, 0.7))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIGHTNAS_EDGE_HOME", str(folder / "home"))
        answer = run(
            "search", "--predictor", predictor, "--targets", targets, "--host", "localhost", "--confirm", 3,
            "--out", folder / "run", *QUICK,
        )  # fmt: skip
    return folder, predictor, targets, answer


def test_finalists_are_measured_on_this_machine(confirmed):
    folder, predictor, _, answer = confirmed

    assert answer.code == 0, answer.err
    front = json.loads((folder / "run" / "front.json").read_text())
    assert len(front["networks"]) == 2
    (plan,) = (folder / "run" / "confirm").glob("*.json")
    planned = [network for networks in json.loads(plan.read_text())["rounds"] for network in networks]
    for network in front["networks"]:
        found = network["confirmation"]
        own = [each["operators"] for each in planned if each["budget"] == network["name"]]
        assert found["host"] == "localhost" and 1 <= len(own) <= 3 and found["networks"]
        # One that was measured for the other budget is listed where it is the one handed over.
        assert all(each["operators"] in [*own, network["operators"]] for each in found["networks"])
        tables = [luts.read(folder / "run" / table) for table in found["tables"]]
        assert not any(table.simulated for table in tables)
        assert all(len(entry.visits) >= 15 for table in tables for entry in table.networks.values())
        for measured in found["networks"]:
            assert measured["metrics"]["latency_ms"]["measured"] > 0
    before = load_predictor(predictor).fit.networks
    for place in Run.open(folder / "run").networks:
        kept = load_predictor(place.predictors["latency_ms"])
        assert kept.fit.networks == before + sum(len(table.networks) for table in tables)


def test_the_answer_shows_what_was_predicted_and_measured(confirmed):
    *_, answer = confirmed

    assert "predicted before" in answer.out and "estimate" in answer.out
    assert "networks measured on localhost; " in answer.out or "1 network measured on localhost; " in answer.out
    assert "keeps the budget" in answer.out or "over the budget" in answer.out


def test_the_report_shows_what_was_measured(confirmed, tmp_path):
    folder, *_ = confirmed
    copy = tmp_path / "run"
    shutil.copytree(folder / "run", copy)

    assert run("report", copy, "--all").code == 0

    for place in (copy / "networks").iterdir():
        page, text = (place / "report.html").read_text(), (place / "report.md").read_text()
        assert "Measured before it was handed over" in page
        assert "Before a network was handed over, " in page and "Before a network was handed over, " in text
        assert "Predicted before" in text


def test_the_same_command_again_measures_nothing(confirmed, monkeypatch):
    folder, predictor, targets, _ = confirmed
    monkeypatch.setenv("LIGHTNAS_EDGE_HOME", str(folder / "home"))
    journals = {path: path.read_bytes() for path in (folder / "run" / "confirm").iterdir()}

    answer = run(
        "search", "--predictor", predictor, "--targets", targets, "--host", "localhost", "--confirm", 3,
        "--out", folder / "run", "--json", *QUICK,
    )  # fmt: skip

    assert answer.code == 0
    assert {path: path.read_bytes() for path in (folder / "run" / "confirm").iterdir()} == journals
    assert all(network["confirmation"] for network in json.loads(answer.out)["networks"])


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ((), 2, "--confirm measures networks on a board"),
        (("--host", "localhost", "--boards", "localhost,virtual:jetson-nano"), 2, "--confirm measures on one board"),
        (("--host", "virtual:jetson-nano"), 1, "are of different boards or states: "),
    ],
)
def test_what_cannot_be_confirmed_is_refused_before_a_run_is_begun(
    whole_loop, tmp_path, monkeypatch, arguments, code, words
):
    monkeypatch.setenv("LIGHTNAS_EDGE_HOME", str(tmp_path / "home"))
    reach = json.loads(whole_loop.answer["range"].out)

    answer = run(
        "search", "--predictor", whole_loop.folder / "p.predictor.json", "--latency-ms", reach["median"]["latency_ms"],
        "--confirm", 2, "--out", tmp_path / "run", *QUICK, *arguments,
    )  # fmt: skip

    assert answer.code == code and words in answer.err
    assert not (tmp_path / "run").exists()


def test_a_host_alone_is_the_source_and_the_board(tmp_path, monkeypatch):
    """Its table is measured, and then the finalists; SIMULATED everywhere."""
    monkeypatch.setenv("LIGHTNAS_EDGE_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)

    answer = run(
        "search", "--space", "tiny", "--host", "virtual:jetson-tx2", "--latency-ms", 0.75, "--force", "--confirm", 2, "--out", "run",
        *QUICK,
    )  # fmt: skip

    assert answer.code == 0, answer.err
    assert "SIMULATED" in answer.out and "measured on virtual:jetson-tx2" in answer.out
    record = json.loads((tmp_path / "run" / "architecture.json").read_text())
    assert record["choice"]["confirmation"]["measured"] is not None
    assert json.loads((tmp_path / "run" / "run.json").read_text())["host"] == "virtual:jetson-tx2"

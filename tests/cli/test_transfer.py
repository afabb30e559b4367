"""`fit --prior` and `sample --adaptive --prior`, from one board that does not exist to another."""

import json

import pytest

from tests.cli.commands import run


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("transfer")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIGHTNAS_EDGE_HOME", str(folder / "home"))
        patch.chdir(folder)
        for board, count in (("jetson-agx-xavier", 40), ("jetson-tx2", 10)):
            answer = run(
                "sample", "--host", f"virtual:{board}", "--space", "tiny", "--rounds", 3, "--count", count,
                "--out", f"{board}.lut.jsonl",
            )  # fmt: skip
            assert answer.code == 0
        answer = run("fit", "--space", "tiny", "--samples", "jetson-agx-xavier.lut.jsonl", "--out", "xavier.json")
        assert answer.code == 0
    return folder


def test_ten_networks_and_another_boards_predictor_make_one(folder, monkeypatch):
    monkeypatch.chdir(folder)

    answer = run(
        "fit", "--space", "tiny", "--samples", "jetson-tx2.lut.jsonl", "--prior", "xavier.json", "--curve",
        "--out", "tx2.json",
    )  # fmt: skip

    assert answer.code == 0
    assert (
        "transferred" in answer.out
        and "learning curve: MAPE on the other networks" in answer.out
        and "5 networks" in answer.out
    )
    fit = json.loads((folder / "tx2.json").read_text())
    assert fit["fingerprint"]["board"] == "virtual:jetson-tx2"
    assert fit["fit"]["chosen"] == "transferred" and fit["fit"]["prior"]["file"] == "xavier.json"
    assert fit["fit"]["prior"]["fingerprint"]["board"] == "virtual:jetson-agx-xavier"
    assert {point["networks"] for point in fit["fit"]["curve"]} == {1, 2, 3, 5}


def test_adaptive_sampling_starts_from_the_other_board(folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setenv("LIGHTNAS_EDGE_HOME", str(folder / "home"))

    answer = run(
        "sample", "--host", "virtual:jetson-tx2", "--space", "tiny", "--rounds", 3, "--adaptive", "--until", 2,
        "--prior", "xavier.json", "--out", "jetson-tx2.lut.jsonl", "--json",
    )  # fmt: skip

    assert answer.code == 0
    record = json.loads(answer.out)
    assert record["stopped"] == "reached" and record["curve"][-1]["networks"] <= 15


def test_a_prior_without_networks_of_this_board_is_refused(folder, monkeypatch):
    monkeypatch.chdir(folder)

    answer = run("fit", "--space", "tiny", "--lut", "none", "--prior", "xavier.json")

    assert answer.code == 2 and "--prior needs measured networks" in answer.err

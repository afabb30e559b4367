"""`sample --around-ms` and `--frontier` without --adaptive: networks where a search chooses."""

import json

import numpy as np
import pytest

import luts
from lightnas_edge.predictor import load_predictor, lut_predictor
from lightnas_edge.predictor.frontier import frontier_networks
from lightnas_edge.space import Architecture, load_space
from tests.cli.commands import run

HOST = "virtual:jetson-agx-xavier"
BOARD = ("--host", HOST, "--space", "tiny", "--rounds", 3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A table of operators, networks of the same board and of another, and a predictor of each."""
    folder = tmp_path_factory.mktemp("around")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIGHTNAS_EDGE_HOME", str(folder / "home"))
        patch.chdir(folder)
        assert run("profile", *BOARD, "--out", "ops.lut.jsonl").code == 0
        assert run("sample", *BOARD, "--count", 20, "--out", "nets.lut.jsonl").code == 0
        fit = ("fit", "--space", "tiny", "--samples", "nets.lut.jsonl", "--lut", "ops.lut.jsonl")
        assert run(*fit, "--out", "own.predictor.json").code == 0
        other = (
            "--host",
            "virtual:jetson-tx2",
            "--space",
            "tiny",
            "--rounds",
            3,
            "--count",
            20,
            "--out",
            "other.lut.jsonl",
        )
        assert run("sample", *other).code == 0
        assert run("fit", "--space", "tiny", "--samples", "other.lut.jsonl", "--out", "other.predictor.json").code == 0
        yield folder


def sampled(path):
    space = load_space("tiny")
    return [Architecture.from_json(entry.subject, space) for entry in luts.read(path).networks.values()]


def middle(folder):
    predictor = load_predictor(folder / "own.predictor.json")
    indices = np.random.default_rng(0).integers(
        len(predictor.space.operators), size=(1000, len(predictor.space.layers))
    )
    return round(float(np.quantile(predictor.predict_indices(indices), 0.3)), 4)


def test_with_a_predictor_all_are_near(folder, tmp_path):
    target = middle(folder)
    out = tmp_path / "near.lut.jsonl"

    answer = run(
        "sample",
        *BOARD,
        "--around-ms",
        target,
        "--predictor",
        folder / "own.predictor.json",
        "--count",
        8,
        "--out",
        out,
    )

    assert answer.code == 0, answer.err
    assert f"networks within 2 % of {target:g} ms" in answer.err
    networks, predictor = sampled(out), load_predictor(folder / "own.predictor.json")
    assert len(networks) == 8
    assert [predictor.predict_one(each) for each in networks] == pytest.approx([target] * 8, rel=0.02)
    measured = [entry.latency_ms for entry in luts.read(out).networks.values()]
    assert measured == pytest.approx([target] * 8, rel=0.1)


def test_the_frontier_has_networks_such_as_a_search_chooses_and_a_larger_count_adds_some(folder, tmp_path):
    out, predictor = tmp_path / "frontier.lut.jsonl", load_predictor(folder / "own.predictor.json")
    frontier = ("--frontier", "--predictor", folder / "own.predictor.json", "--out", out)
    answer = run("sample", *BOARD, *frontier, "--count", 4)
    first = sampled(out)

    assert answer.code == 0, answer.err
    assert "networks with the most multiplications within limits on latency_ms as " in answer.err
    assert run("sample", *BOARD, *frontier, "--count", 8).code == 0
    networks = set(sampled(out))
    assert set(first) <= networks and networks == set(frontier_networks(predictor, 8))
    assert run("sample", *BOARD, *frontier, "--around-ms", middle(folder), "--count", 10).code == 0
    further = set(sampled(out)) - networks
    assert len(further) >= 8
    assert max(predictor.predict_one(each) for each in further) <= middle(folder)
    assert (
        run(
            "fit", "--space", "tiny", "--samples", folder / "nets.lut.jsonl", "--samples", out, "--out", tmp_path / "p"
        ).code
        == 0
    )


def test_a_larger_count_adds_to_those_measured(folder, tmp_path):
    common = (
        "--around-ms",
        middle(folder),
        "--predictor",
        folder / "own.predictor.json",
        "--out",
        tmp_path / "n.lut.jsonl",
    )
    assert run("sample", *BOARD, *common, "--count", 3).code == 0
    first = sampled(tmp_path / "n.lut.jsonl")

    assert run("sample", *BOARD, *common, "--count", 6).code == 0

    networks = sampled(tmp_path / "n.lut.jsonl")
    assert len(networks) == 6 and set(first) <= set(networks)


def test_with_a_table_the_sum_decides(folder, tmp_path):
    table, out = folder / "ops.lut.jsonl", tmp_path / "n.lut.jsonl"
    predictor = lut_predictor(load_space("tiny"), luts.read(table))
    target = predictor.predict_one(Architecture.random(load_space("tiny"), np.random.default_rng(1)))

    assert run("sample", *BOARD, "--around-ms", target, "--lut", table, "--count", 4, "--out", out).code == 0

    assert [predictor.predict_one(each) for each in sampled(out)] == pytest.approx([target] * 4, rel=0.02)


def test_a_prior_of_another_board_is_scaled_by_the_reference_networks(folder, tmp_path):
    target, out = middle(folder), tmp_path / "n.lut.jsonl"
    near = ("--around-ms", target, "--prior", folder / "other.predictor.json", "--out", out)
    refused = run("sample", *BOARD, *near, "--count", 4)
    assert refused.code == 1 and "0 of 10 reference networks are measured" in refused.err
    assert run("sample", *BOARD, "--count", 10, "--out", out).code == 0

    assert run("sample", *BOARD, *near, "--count", 4).code == 0

    own = load_predictor(folder / "own.predictor.json")
    assert [own.predict_one(each) for each in sampled(out)[10:]] == pytest.approx([target] * 4, rel=0.06)


def test_energy_is_sampled_near_an_energy(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run("sample", *BOARD, "--energy", "--count", 8, "--out", "e.lut.jsonl").code == 0
    fit = ("fit", "--space", "tiny", "--samples", "e.lut.jsonl", "--metric", "energy_mj", "--method", "samples")
    assert run(*fit, "--out", "e.predictor.json").code == 0
    predictor = load_predictor(tmp_path / "e.predictor.json")
    target = predictor.predict_one(Architecture.random(load_space("tiny"), np.random.default_rng(1)))

    answer = run(
        "sample", *BOARD, "--energy", "--metric", "energy_mj", "--around-mj", target, "--predictor", "e.predictor.json",
        "--count", 2, "--out", "n.lut.jsonl", "--json",
    )  # fmt: skip

    assert answer.code == 0, answer.err
    assert json.loads(answer.out)["networks"] == 2
    predicted = [predictor.predict_one(each) for each in sampled(tmp_path / "n.lut.jsonl")]
    assert predicted == pytest.approx([target] * 2, rel=0.02)


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (("--around-ms", 999, "--lut", "ops.lut.jsonl"), 1, "no network of space tiny is predicted near 999 ms"),
        (("--around-ms", 0.5), 2, "no predictor: "),
        (("--around-ms", 0.5, "--predictor", "other.predictor.json"), 1, "are of different boards or states: board "),
        (
            ("--predictor", "own.predictor.json"),
            2,
            "--predictor needs --frontier, --around-ms, --around-mj or --adaptive",
        ),
        (("--lut", "ops.lut.jsonl"), 2, "--lut needs --frontier, --around-ms, --around-mj or --adaptive"),
        (
            ("--around-ms", 0.5, "--predictor", "own.predictor.json", "--adaptive"),
            2,
            "--predictor: not with --adaptive",
        ),
        (
            ("--energy", "--metric", "energy_mj", "--around-mj", 2, "--predictor", "own.predictor.json"),
            2,
            "predicts latency_ms, not energy_mj",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(folder, monkeypatch, options, code, words):
    monkeypatch.chdir(folder)

    answer = run("sample", *BOARD, *options, "--out", "refused.lut.jsonl")

    assert answer.code == code and words in answer.err
    assert not (folder / "refused.lut.jsonl").exists()

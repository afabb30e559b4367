"""What `fit` says about the networks that a search chooses."""

import json
import shlex

import numpy as np

from lightnas_edge.cli._frontier import frontier_of
from lightnas_edge.predictor import fit_additive
from tests.cli.commands import run
from tests.predictor.boards import observed, random_architectures, small_space

SPACE = small_space(8, ("mbconv_k3_e3", "mbconv_k5_e3", "mbconv_k3_e6", "mbconv_k5_e6", "skip"))


def fitted(networks, far=0.0):
    """A board with something beyond the sum, in proportion to `far`: networks of many wide operators are slower by its square."""
    indices = np.stack([each.indices(SPACE) for each in random_architectures(SPACE, networks)])
    wide = np.isin(indices, [2, 3]).sum(axis=1)
    value = 1 + 0.05 * wide + 0.02 * (indices != 4).sum(axis=1) + far * (wide - 3.2) ** 2
    noise = 0.001 * np.random.default_rng(0).normal(size=networks)
    return fit_additive(SPACE, None, observed(SPACE, indices, value + noise))


def test_with_few_networks_it_says_nothing(tmp_path):
    assert frontier_of(fitted(19), tmp_path / "p.json") is None


def test_networks_are_proposed_where_the_interval_of_chosen_ones_is_much_wider(tmp_path):
    found = frontier_of(fitted(60, far=0.005), tmp_path / "p.json")

    assert found.frontier > 1.2 * found.random > 0
    words = shlex.split(found.command.strip("`"))
    assert words[:2] == ["lightnas-edge", "sample"] and "--frontier" in words
    assert words[words.index("--count") + 1] == "40"
    assert words[words.index("--predictor") + 1] == str(tmp_path / "p.json")
    assert found.lines()[1].startswith("next: ")


def test_none_are_proposed_where_it_is_not(tmp_path):
    found = frontier_of(fitted(200), tmp_path / "p.json")

    assert found.frontier <= 1.2 * found.random
    assert found.command is None and len(found.lines()) == 1


def test_fit_prints_both_and_has_them_in_its_json(tmp_path, monkeypatch):
    monkeypatch.setenv("LIGHTNAS_EDGE_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    board = ("--host", "virtual:jetson-nano", "--space", "tiny", "--rounds", 3)
    assert run("sample", *board, "--count", 20, "--out", "nets.lut.jsonl").code == 0
    fit = ("fit", "--space", "tiny", "--samples", "nets.lut.jsonl")

    printed, answered = run(*fit), json.loads(run(*fit, "--json").out)

    found = answered["frontier"]
    assert f"± {100 * found['half_width_frontier']:.2f} % where a search chooses" in printed.out
    assert f"± {100 * found['half_width_random']:.2f} % for random networks" in printed.out

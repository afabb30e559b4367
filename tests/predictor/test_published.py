"""The published AGX Xavier predictor as the board: seven candidates, 21 layers, 22.8 ms on average."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

import luts
from lightnas_edge.errors import PredictorError
from lightnas_edge.predictor import (
    Observations,
    choose_batch,
    fit_additive,
    load_predictor,
    reachable_range,
    read_published_predictor,
)
from lightnas_edge.predictor.base import one_hot_of
from lightnas_edge.predictor.terms import Terms
from lightnas_edge.space import Architecture, load_space
from tests.luts.journals import write_measured

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("LIGHTNAS_EDGE_DATA", ROOT.parent / "shared" / "data")) / "lightnas_xavier"
SPACE = load_space("lightnas")

pytestmark = pytest.mark.skipif(
    not DATA.is_dir(), reason=f"the published predictor is not at {DATA}; set LIGHTNAS_EDGE_DATA"
)


@pytest.fixture(scope="module")
def board():
    return read_published_predictor(DATA / "lightnas_predictor.npz", SPACE)


def measured(board, count, noise, seed=0):
    generator = np.random.default_rng(seed)
    indices = generator.integers(7, size=(count, 21))
    latency = board.predict_indices(indices) + noise * generator.normal(size=count)
    return Observations(SPACE, indices, latency, np.full(count, noise / 3), board.fingerprint, batch=8)


def rmse_ms(predictor, board):
    indices = np.random.default_rng(99).integers(7, size=(5000, 21))
    return float(np.sqrt(np.mean((predictor.predict_indices(indices) - board.predict_indices(indices)) ** 2)))


def test_the_six_published_networks_come_out_as_published(board):
    for network in json.loads((DATA / "lightnets.json").read_text()):
        architecture = Architecture.from_names(SPACE, network["blocks"])
        assert board.predict_one(architecture) == pytest.approx(network["predictor_latency_ms"], abs=1e-4)


def test_its_range_is_all_skip_to_all_k7_e6(board):
    found = reachable_range(board)

    assert not found.exact
    assert found.lowest == pytest.approx(5.30, abs=0.01)
    assert found.highest == pytest.approx(39.10, abs=0.01)
    assert found.median == pytest.approx(22.8, abs=0.1)


def test_it_is_saved_and_read_like_any_other(board, tmp_path):
    board.save(tmp_path / "p.json")

    assert rmse_ms(load_predictor(tmp_path / "p.json", SPACE), board) == 0.0


def test_a_space_it_was_not_made_for_is_refused():
    with pytest.raises(PredictorError, match="does not fit space tiny with 32 inputs"):
        read_published_predictor(DATA / "lightnas_predictor.npz", load_space("tiny"))


@pytest.mark.parametrize(
    ("count", "noise", "expected_ms"),
    [(10, 0.03, 0.30), (100, 0.03, 0.042), (200, 0.03, 0.029), (200, 0.1, 0.062)],
)
def test_networks_alone_predict_the_whole_board(board, count, noise, expected_ms):
    """Without any table; the interval contains new measurements about 90 % of the time."""
    predictor = fit_additive(SPACE, None, measured(board, count, noise))

    assert rmse_ms(predictor, board) < expected_ms
    fresh = measured(board, 1000, noise, seed=5)
    low, high = predictor.interval(fresh.one_hot, 0.9)
    assert np.mean((low <= fresh.value) & (fresh.value <= high)) > 0.85


@pytest.mark.parametrize(("count", "expected_ms"), [(10, 0.3), (50, 0.12), (200, 0.033)])
def test_a_wrong_table_is_corrected(board, tmp_path, count, expected_ms):
    """Entries 20 % too high in common and 10 % at random: the networks correct them."""
    exact = fit_additive(SPACE, None, measured(board, 3000, 0.0))
    generator = np.random.default_rng(1)
    table = {
        key: max(1.2 * cost * (1 + 0.1 * generator.normal()), 1e-3)
        for key, cost in zip(Terms.of(SPACE).keys, exact.mean[1:], strict=True)
    }
    table |= {shaped.key: 1.2 * exact.mean[0] / 3 for shaped in SPACE.fixed}
    lut = luts.read(write_measured(tmp_path / "t", table, rounds=3, fingerprint=board.fingerprint))

    predictor = fit_additive(SPACE, lut, measured(board, count, 0.03))

    assert rmse_ms(predictor, board) < expected_ms
    assert predictor.deviation(one_hot_of(SPACE, np.zeros((1, 21), dtype=int)))[0] < 1.0


def test_networks_of_skips_only_are_extrapolated_and_their_stated_errors_are_as_large_as_the_true_ones(board):
    """Random networks do not show the cost of an empty network: 1.5 ms more than the sum of their costs."""
    predictor = fit_additive(SPACE, None, measured(board, 100, 0.03))
    empty = one_hot_of(SPACE, np.full((1, 21), 6))

    error_ms = board.predict(empty)[0] - predictor.predict(empty)[0]
    assert 1.0 < error_ms < 5 * predictor.deviation(empty)[0]
    assert predictor.deviation(empty)[0] < error_ms
    assert predictor.extrapolated(empty).all()
    assert predictor.extrapolated(measured(board, 2000, 0.03, seed=5).one_hot).mean() < 0.05


def test_chosen_networks_are_more_informative_than_random_ones(board):
    """From the same 20 random networks to 60, in batches of 20; 0.03 ms of noise."""
    errors = {}
    for way in ("random", "chosen"):
        indices = np.random.default_rng(0).integers(7, size=(20, 21))
        while True:
            latency = board.predict_indices(indices) + 0.03 * np.random.default_rng(1).normal(size=len(indices))
            seen = Observations(SPACE, indices, latency, np.full(len(indices), 0.01), board.fingerprint, batch=8)
            predictor = fit_additive(SPACE, None, seen)
            if len(indices) == 60:
                break
            if way == "random":
                more = np.random.default_rng(len(indices)).integers(7, size=(20, 21))
            else:
                known = {Architecture.from_indices(SPACE, row) for row in indices}
                more = np.stack([one.indices(SPACE) for one in choose_batch(predictor, known, 20)])
            indices = np.concatenate([indices, more])
        errors[way] = rmse_ms(predictor, board)
    assert errors["chosen"] < 0.8 * errors["random"]

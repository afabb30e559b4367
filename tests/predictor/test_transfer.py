"""A predictor of one board, transferred to the next with a few networks."""

from __future__ import annotations

import numpy as np
import pytest

from lightnas_edge.errors import FingerprintError, PredictorError
from lightnas_edge.predictor import Observations, fit_additive, fit_best, learning_curve, load_predictor, lut_predictor
from lightnas_edge.predictor.base import one_hot_of
from lightnas_edge.predictor.terms import Terms
from lightnas_edge.space import load_space
from tests.luts.journals import FINGERPRINT
from tests.predictor.boards import profile, small_space, table_truth_ms

SPACE = load_space("tiny")
TERMS = Terms.of(SPACE)
OLD_COST = np.concatenate([[0.5], 0.1 + 0.3 * np.random.default_rng(0).random(len(TERMS.keys))])
# 1.7 times as slow, an overhead of 0.02 ms per block, 3 % of its own per operator.
NEW_COST = 1.7 * OLD_COST * (1 + 0.03 * np.random.default_rng(1).normal(size=len(OLD_COST))) + 0.02
NEW_BOARD = FINGERPRINT | {"board": "another", "simulated": False}
FRESH = np.random.default_rng(99).integers(4, size=(500, 8))


def networks(cost, count, seed, fingerprint, metric="latency_ms"):
    indices = np.random.default_rng(seed).integers(4, size=(count, 8))
    value = TERMS.counts(indices) @ cost + 0.003 * np.random.default_rng(seed + 1).normal(size=count)
    return Observations(SPACE, indices, value, np.full(count, 0.001), dict(fingerprint), metric=metric)


@pytest.fixture(scope="module")
def old():
    return fit_additive(SPACE, None, networks(OLD_COST, 100, 5, FINGERPRINT))


def error(predictor):
    truth = TERMS.counts(FRESH) @ NEW_COST
    return float(np.sqrt(np.mean((predictor.predict_indices(FRESH) / truth - 1) ** 2)))


def test_ten_networks_transfer_a_predictor_to_another_board(old):
    ten = networks(NEW_COST, 10, 7, NEW_BOARD)

    transferred, alone = fit_additive(SPACE, None, ten, prior=old), fit_additive(SPACE, None, ten)

    assert error(transferred) < 0.015 and error(transferred) < 0.5 * error(alone)
    truth = TERMS.counts(FRESH) @ NEW_COST
    low, high = transferred.interval(one_hot_of(SPACE, FRESH), 0.9)
    assert np.mean((low <= truth) & (truth <= high)) > 0.85


def test_it_is_of_the_new_board_and_names_its_source(old, tmp_path):
    transferred = fit_additive(SPACE, None, networks(NEW_COST, 10, 7, NEW_BOARD), prior=old)
    transferred.save(tmp_path / "p.json")
    again = load_predictor(tmp_path / "p.json")

    assert again.fingerprint == NEW_BOARD and again.fit.networks == 10
    assert again.fit.prior.fingerprint == FINGERPRINT and again.fit.prior.networks == 100
    assert again.fit.prior.ratio == pytest.approx(1.77, abs=0.05)
    assert not old.simulated and not again.simulated


def test_a_transfer_from_a_simulated_board_is_simulated(old):
    from dataclasses import replace

    simulated = fit_additive(SPACE, None, networks(OLD_COST, 30, 5, FINGERPRINT))
    simulated.origin = replace(simulated.origin, simulated=True)

    assert fit_additive(SPACE, None, networks(NEW_COST, 10, 7, NEW_BOARD), prior=simulated).simulated


def test_the_best_of_both_is_chosen_on_held_out_networks(old):
    predictor, comparison = fit_best(SPACE, None, networks(NEW_COST, 12, 7, NEW_BOARD), prior=old)

    assert [row.method for row in comparison.rows] == ["transferred", "samples alone"]
    assert predictor.fit.chosen == "transferred"


def test_the_error_falls_with_the_number_of_networks(old):
    curve = learning_curve(SPACE, None, networks(NEW_COST, 40, 7, NEW_BOARD), prior=old)

    transferred = {point.networks: point for point in curve if point.method == "transferred"}
    alone = {point.networks: point for point in curve if point.method == "samples alone"}
    assert list(transferred) == [1, 2, 3, 5, 10, 20, 30]
    assert transferred[20].mape < transferred[5].mape < transferred[1].mape
    assert transferred[5].mape < 0.5 * alone[5].mape
    assert curve[0].to_json().keys() == {"method", "networks", "rmse", "mape", "coverage_90"}


def test_a_prior_needs_networks_and_takes_the_place_of_a_table(old, tmp_path):
    small = small_space()
    table = profile(tmp_path / "t", small, table_truth_ms(small))
    with pytest.raises(PredictorError, match="transferred to another board with measured networks"):
        fit_additive(SPACE, None, [], prior=old)
    with pytest.raises(PredictorError, match="the prior is of latency_ms in space small"):
        fit_additive(
            SPACE, None, networks(NEW_COST, 10, 7, NEW_BOARD), prior=lut_predictor(small, table)
        )  # fmt: skip
    with pytest.raises(PredictorError, match="the networks are of energy_mj"):
        fit_additive(SPACE, None, networks(NEW_COST, 10, 7, NEW_BOARD, metric="energy_mj"), prior=old)


def test_a_prior_with_negative_predictions_is_refused(old):
    negative = fit_additive(SPACE, None, networks(OLD_COST, 30, 5, FINGERPRINT))
    negative.mean[0] = -100.0

    with pytest.raises(PredictorError, match="no scale factor relates them"):
        fit_additive(SPACE, None, networks(NEW_COST, 10, 7, NEW_BOARD), prior=negative)


def test_a_simulated_prior_is_compared_and_never_chosen_for_a_real_board(old):
    from dataclasses import replace

    simulated = fit_additive(SPACE, None, networks(OLD_COST, 100, 5, FINGERPRINT))
    simulated.origin = replace(simulated.origin, simulated=True)

    predictor, comparison = fit_best(SPACE, None, networks(NEW_COST, 12, 7, NEW_BOARD), prior=simulated)

    assert comparison.rows[0].method == "transferred" and comparison.best == "samples alone"
    assert not predictor.simulated


def test_networks_of_another_board_do_not_update_a_predictor(old):
    with pytest.raises(FingerprintError, match="board 'generic-linux' and 'another'") as caught:
        old.updated(networks(NEW_COST, 3, 7, NEW_BOARD))

    assert "--prior" in caught.value.hint
    with pytest.raises(PredictorError, match="of latency_ms, the measured networks are of energy_mj"):
        old.updated(networks(OLD_COST, 3, 7, FINGERPRINT, metric="energy_mj"))

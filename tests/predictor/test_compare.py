"""Scores on held-out networks, and the choice of a method by them."""

from __future__ import annotations

import numpy as np
import pytest

from lightnas_edge.errors import FingerprintError, PredictorError
from lightnas_edge.predictor import compare, evaluate, fit_best, fit_mlp, lut_predictor
from tests.luts.journals import FINGERPRINT
from tests.predictor.boards import (
    observed,
    profile,
    random_architectures,
    sample,
    small_space,
    sum_ms,
    table_truth_ms,
)

SPACE = small_space()
TABLE_MS = table_truth_ms(SPACE)


def test_scores_can_be_checked_by_hand(tmp_path):
    """Predicted by the table, measured 2 % higher: MAPE 1 - 1/1.02, inside 5 % but not inside 1 %."""
    predictor = lut_predictor(SPACE, profile(tmp_path / "t", SPACE))
    indices = np.array([[0, 0, 0, 0], [1, 1, 1, 1]])
    measured = 1.02 * predictor.predict_indices(indices)

    scores = evaluate(predictor, observed(SPACE, indices, measured))

    assert scores.n == 2
    assert scores.mape == pytest.approx(1 - 1 / 1.02) and scores.bias == pytest.approx(1 / 1.02 - 1)
    assert (scores.within_1, scores.within_5, scores.within_10) == (0.0, 1.0, 1.0)
    assert scores.rmse == pytest.approx(np.sqrt(np.mean((measured - measured / 1.02) ** 2)))
    assert scores.kendall_tau == 1.0 and scores.coverage_90 == 1.0
    assert scores.repeatability is None


def test_networks_of_another_board_are_refused(tmp_path):
    predictor = lut_predictor(SPACE, profile(tmp_path / "t", SPACE))
    other = sample(
        tmp_path / "s", SPACE, random_architectures(SPACE, 3), lambda a: 1.0, fingerprint=FINGERPRINT | {"batch": 8}
    )

    with pytest.raises(FingerprintError, match="batch 1 and 8"):
        evaluate(predictor, [other])


def test_calibration_beats_the_table_when_networks_cost_more_than_their_operators(tmp_path):
    lut = profile(tmp_path / "t", SPACE)
    networks = sample(
        tmp_path / "s", SPACE, random_architectures(SPACE, 12), lambda a: 0.2 + 1.1 * sum_ms(SPACE, TABLE_MS, a),
        {key: TABLE_MS[key] for key in list(TABLE_MS)[:5]}, noise=0.002,
    )  # fmt: skip

    predictor, comparison = fit_best(SPACE, lut, [networks])

    assert [row.method for row in comparison.rows] == ["LUT calibrated", "samples alone", "LUT alone"]
    assert comparison.skipped == ("MLP: needs 50 networks in every fold, has 9",)
    assert comparison.rows[0].scores.mape < 0.01 < comparison.rows[2].scores.mape
    assert predictor.fit.chosen == "LUT calibrated"
    assert predictor.fit.held_out.n == 12
    assert predictor.fit.held_out.repeatability < 0.005


def test_the_mlp_is_chosen_where_costs_do_not_add_up():
    """Every slow block makes the others slower: latency grows with the square of their number."""
    space = small_space(8)
    indices = np.random.default_rng(0).integers(3, size=(400, 8))
    latency = 1.0 + 0.05 * (indices == 1).sum(axis=1) ** 2

    comparison = compare(space, None, observed(space, indices, latency), folds=2)

    assert comparison.best == "MLP"
    assert {row.method for row in comparison.rows} == {"MLP", "samples alone"}


def test_an_unrelated_table_is_not_chosen(tmp_path):
    """Costs of the layers in the reverse order of the table's."""
    shuffled = dict(zip(TABLE_MS, reversed(TABLE_MS.values()), strict=True))
    networks = sample(
        tmp_path / "s", SPACE, random_architectures(SPACE, 40), lambda a: sum_ms(SPACE, shuffled, a), noise=0.002
    )

    predictor, comparison = fit_best(SPACE, profile(tmp_path / "t", SPACE), [networks])

    rmse = {row.method: row.scores.rmse for row in comparison.rows}
    assert rmse["samples alone"] < 0.5 * rmse["LUT alone"]
    assert predictor.fit.chosen == comparison.best == min(rmse, key=rmse.get)


def test_gradient_boosting_is_compared_and_never_chosen():
    """Two layers cost only together: trees can learn that, sums cannot."""
    space = small_space(4)
    indices = np.random.default_rng(0).integers(3, size=(300, 4))
    latency = 1.0 + 2.0 * ((indices[:, 0] == 1) & (indices[:, 1] == 1))

    predictor, comparison = fit_best(space, None, observed(space, indices, latency), folds=2, baseline=True)

    rows = {row.method: row for row in comparison.rows}
    assert rows["gradient boosting"].scores.rmse < 0.1 < rows["samples alone"].scores.rmse
    assert rows["gradient boosting"].scores.coverage_90 is None
    assert comparison.best != "gradient boosting" and predictor.fit.chosen == comparison.best
    assert "gradient boosting" in [row.method for row in predictor.fit.comparison]


def test_a_network_that_was_measured_twice_is_never_fitted_and_held_out():
    """Twenty times the same network: one fold only, so nothing can be held out."""
    comparison = compare(SPACE, None, observed(SPACE, np.zeros((20, 4), dtype=np.int64), np.ones(20)))

    assert comparison.rows == () and comparison.skipped == ("held-out scores need at least 2 different networks",)


def test_one_network_calibrates_without_a_score(tmp_path):
    lut = profile(tmp_path / "t", SPACE)
    networks = sample(tmp_path / "s", SPACE, random_architectures(SPACE, 1), lambda a: 2.0)

    predictor, _ = fit_best(SPACE, lut, [networks])

    assert predictor.fit.chosen == "LUT calibrated" and predictor.fit.held_out is None
    assert predictor.fit.networks == 1


def test_without_networks_the_table_has_no_held_out_scores(tmp_path):
    predictor, comparison = fit_best(SPACE, profile(tmp_path / "t", SPACE), [])

    assert predictor.fit.networks == 0
    assert predictor.fit.skipped == comparison.skipped
    (said,) = predictor.fit.skipped
    assert said.startswith("no measured networks: the table alone, without held-out scores")
    assert "a median is above the sum of robust costs" in said


def test_a_method_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(PredictorError, match="no such method for these data: 'forest'"):
        fit_best(SPACE, None, observed(SPACE, np.eye(4, dtype=int), np.ones(4)), method="forest")


def test_the_mlp_refuses_few_networks():
    with pytest.raises(PredictorError, match="needs at least 50 measured networks, found 4"):
        fit_mlp(SPACE, observed(SPACE, np.eye(4, dtype=int), np.ones(4)))


def test_the_mlp_is_the_same_for_the_same_seed_and_its_torch_module_agrees():
    import torch

    indices = np.random.default_rng(0).integers(3, size=(60, 4))
    data = observed(SPACE, indices, 1.0 + 0.1 * (indices == 1).sum(axis=1))

    one, two = (fit_mlp(SPACE, data, seed=3, epochs=5) for _ in range(2))

    assert (one.predict(data.one_hot) == two.predict(data.one_hot)).all()
    torched = one.torch_module()(torch.tensor(data.one_hot, dtype=torch.float32)).numpy()
    assert torched == pytest.approx(one.predict(data.one_hot), rel=1e-5)
    assert one.linear_terms() is None and one.fit.method.startswith("MLP 12-128-64-1")

"""Intervals against held-out networks, and the applicability domain."""

from __future__ import annotations

import json

import numpy as np
import pytest

from lightnas_edge.errors import PredictorError
from lightnas_edge.predictor import evaluate, fit_additive, fit_best, fit_mlp, load_predictor, lut_predictor
from lightnas_edge.predictor.applicability import UNKNOWN, ApplicabilityDomain, usual_limit
from lightnas_edge.predictor.base import one_hot_of
from lightnas_edge.predictor.calibration import calibrate, leave_one_out
from lightnas_edge.predictor.terms import Terms
from lightnas_edge.space import Architecture
from tests.predictor.boards import observed, profile, small_space

SPACE = small_space(8)
TERMS = Terms.of(SPACE)


def networks(count, seed, noise=0.01, skips=0.04):
    """Costs 0.1 to 0.4 ms and a constant of 0.5 ms, the same for every seed."""
    cost = np.concatenate([[0.5], 0.1 + 0.3 * np.random.default_rng(0).random(len(TERMS.keys))])
    generator = np.random.default_rng(seed)
    indices = generator.integers(2, size=(count, 8))
    indices[generator.random(indices.shape) < skips] = 2
    return indices, TERMS.counts(indices) @ cost + noise * generator.normal(size=count)


def test_leaving_one_out_in_closed_form_is_leaving_it_out():
    """One cost, prior N(0, 4), three measurements of it with variance 1: by hand, without the first, 4 * 5 / 9."""
    value = np.array([3.0, 2.0, 3.0])
    precision = 1 / 4 + 3
    found = leave_one_out(np.array([8 / precision]), np.array([[1 / precision]]), np.ones((3, 1)), value, np.ones(3))

    assert found.residual[0] == pytest.approx(3 - 4 * 5 / 9)
    assert found.model_std[0] ** 2 == pytest.approx(4 / 9)


def test_a_hundred_residuals_decide_the_factor_and_three_hardly_move_it():
    normal = np.random.default_rng(0).normal(size=100)

    assert calibrate(2 * normal, 3).std_factor == pytest.approx(2 * normal.std() * np.sqrt(100 / 97), rel=0.05)
    assert calibrate(normal, 3).degrees_of_freedom == 97
    assert calibrate(np.zeros(0), 3).std_factor == 1.0
    assert 0.6 < calibrate(np.full(3, 0.1), 3).std_factor < 1.0  # three small residuals are weak evidence


def test_heavy_tails_are_recognised():
    assert calibrate(np.random.default_rng(0).standard_t(3, size=300), 3).degrees_of_freedom <= 5


def test_a_measurement_differs_by_the_discrepancy_and_by_the_error_of_measuring():
    """Ten networks, each known to 0.05 ms: the noise holds these 0.05 ms, whatever the factor of the calibration is."""
    indices, value = networks(10, seed=1, noise=0.0)
    predictor = fit_additive(SPACE, None, observed(SPACE, indices, value, error_ms=0.05))

    measuring = np.sqrt(predictor.noise**2 - predictor.discrepancy**2)
    assert measuring == pytest.approx(predictor.fit.calibration.std_factor * 0.05, rel=1e-3)


def test_one_network_of_another_kind_does_not_declare_its_kind_measured():
    usual = np.exp(0.1 * np.random.default_rng(0).normal(size=99))

    assert usual_limit(np.append(usual, 40.0)) < 1.6
    assert usual_limit(usual) <= usual.max()
    assert usual_limit(np.array([0.3])) == pytest.approx(0.3)


def test_about_one_in_n_networks_like_the_measured_ones_is_above_the_usual_limit():
    generator = np.random.default_rng(0)
    beyond = [
        (np.exp(0.2 * generator.normal(size=500)) > usual_limit(np.exp(0.2 * generator.normal(size=50)))).mean()
        for _ in range(50)
    ]

    assert 0.005 < np.mean(beyond) < 0.06


def test_intervals_cover_what_they_promise_although_the_stated_errors_are_wrong(tmp_path):
    """Journals that state a tenth and one and a half times the true error: in both cases the coverage is 85 to 95 %."""
    new, truth = networks(400, seed=99)
    for stated in (0.001, 0.015):
        coverage = []
        for seed in range(1, 13):
            indices, value = networks(40, seed)
            predictor = fit_additive(SPACE, None, observed(SPACE, indices, value, error_ms=stated))
            coverage.append(evaluate(predictor, observed(SPACE, new, truth)).coverage_90)
        assert 0.85 <= np.mean(coverage) <= 0.95


def test_networks_like_the_measured_ones_are_in_the_domain_and_shallow_ones_are_not():
    indices, value = networks(60, seed=1)
    predictor = fit_additive(SPACE, None, observed(SPACE, indices, value))

    like, _ = networks(500, seed=2)
    empty = np.full((1, 8), 2)
    assert predictor.extrapolated(one_hot_of(SPACE, like)).mean() < 0.1
    assert not predictor.extrapolated(one_hot_of(SPACE, indices)).any()
    assert predictor.extrapolated(one_hot_of(SPACE, empty)).all()


def test_an_operator_that_no_network_had_is_extrapolated_without_a_table():
    """Every other operator was measured often: held out, no network was as uncertain."""
    indices, value = networks(60, seed=1, skips=0.0)
    seen = indices[:, 3] != 1
    predictor = fit_additive(SPACE, None, observed(SPACE, indices[seen], value[seen]))

    unseen, known = indices[~seen], indices[seen]
    assert predictor.extrapolated(one_hot_of(SPACE, unseen)).all()
    assert not predictor.extrapolated(one_hot_of(SPACE, known)).any()


def test_the_mlp_extrapolates_to_operators_that_no_network_had():
    indices, value = networks(120, seed=1)
    seen = indices[:, 3] != 1
    mlp = fit_mlp(SPACE, observed(SPACE, indices[seen], value[seen]), epochs=3)

    assert mlp.extrapolated(one_hot_of(SPACE, indices[~seen])).all()
    assert mlp.extrapolated(one_hot_of(SPACE, indices[seen])).mean() < 0.1


def test_a_table_alone_extrapolates_everywhere(tmp_path):
    predictor = lut_predictor(SPACE, profile(tmp_path / "t", SPACE))

    query = one_hot_of(SPACE, np.zeros((2, 8), dtype=int))
    predictor.save(tmp_path / "p.json")
    assert predictor.extrapolated(query).all() and load_predictor(tmp_path / "p.json").extrapolated(query).all()
    measured = predictor.updated_with(Architecture.from_indices(SPACE, np.zeros(8, dtype=int)), 1.2, 0.001)
    assert measured.applicability.value == (1.2, 1.2) and measured.applicability.blocks == (8, 8)


def test_measuring_a_network_extends_the_domain():
    indices, value = networks(30, seed=1)
    predictor = fit_additive(SPACE, None, observed(SPACE, indices, value))
    empty = Architecture.from_names(SPACE, ["skip"] * 8)

    after = predictor.updated_with(empty, 0.6, 0.001)

    assert predictor.extrapolated(empty.one_hot(SPACE)[None])[0]
    assert not after.extrapolated(empty.one_hot(SPACE)[None])[0]


def test_the_domain_is_kept_in_the_file(tmp_path):
    indices, value = networks(60, seed=1)
    data = observed(SPACE, indices, value)
    query = one_hot_of(SPACE, networks(200, seed=3, skips=0.7)[0])
    for predictor in (fit_additive(SPACE, None, data), fit_mlp(SPACE, data, epochs=2)):
        predictor.save(tmp_path / "p.json")
        again = load_predictor(tmp_path / "p.json")

        assert 0 < predictor.extrapolated(query).mean() < 1
        assert (again.extrapolated(query) == predictor.extrapolated(query)).all()
        assert again.quantile(0.9) == predictor.quantile(0.9)


def test_a_damaged_domain_is_named(tmp_path):
    indices, value = networks(20, seed=1)
    predictor = fit_additive(SPACE, None, observed(SPACE, indices, value))
    record = predictor.to_record().to_json()
    record["parameters"]["applicability_domain"]["value"] = [3, 2]
    (tmp_path / "p.json").write_text(json.dumps(record))

    with pytest.raises(PredictorError, match=r"parameters.applicability_domain.value: expected the lower end first"):
        load_predictor(tmp_path / "p.json")


def test_an_unknown_domain_flags_nothing():
    indices, value = networks(20, seed=1)
    predictor = fit_additive(SPACE, None, observed(SPACE, indices, value))
    predictor.applicability = UNKNOWN

    assert not predictor.extrapolated(one_hot_of(SPACE, np.full((1, 8), 2))).any()


def test_an_unknown_domain_stays_unknown_in_a_file_and_after_a_measurement(tmp_path):
    predictor = lut_predictor(SPACE, profile(tmp_path / "t", SPACE))
    predictor.applicability = UNKNOWN

    predictor.save(tmp_path / "p.json")

    again = load_predictor(tmp_path / "p.json")
    assert again.applicability == UNKNOWN
    assert again.updated_with(Architecture.from_names(SPACE, ["skip"] * 8), 0.6, 0.001).applicability == UNKNOWN


@pytest.mark.parametrize("basis", ["unmeasured", "unknown"])
def test_a_domain_with_ranges_that_no_network_gave_is_refused(tmp_path, basis):
    indices, value = networks(20, seed=1)
    record = fit_additive(SPACE, None, observed(SPACE, indices, value)).to_record().to_json()
    record["parameters"]["applicability_domain"]["basis"] = basis
    (tmp_path / "p.json").write_text(json.dumps(record))

    with pytest.raises(PredictorError, match="expected value and blocks where the basis is `measured`"):
        load_predictor(tmp_path / "p.json")


def test_the_edges_of_the_domain_can_be_checked_by_hand():
    """Measured 1 to 2 ms with 3 to 6 blocks: 0.9 to 2.1 ms and 2 to 7 blocks are in the domain."""
    domain = ApplicabilityDomain("measured", (1.0, 2.0), (3, 6), model_std=0.1)
    value, blocks = np.array([0.91, 0.89, 2.09, 2.11, 1.5, 1.5, 1.5]), np.array([3, 3, 6, 6, 2, 1, 8])

    found = domain.extrapolated(value, blocks, np.full(7, 0.1), np.zeros((7, 1, 1)))

    assert found.tolist() == [False, True, False, True, False, True, True]
    assert domain.extrapolated(np.array([1.5]), np.array([4]), np.array([0.2]), np.zeros((1, 1, 1))).all()


def test_scores_separate_extrapolated_networks():
    indices, value = networks(60, seed=1)
    _, comparison = fit_best(SPACE, None, observed(SPACE, indices, value))
    scores = comparison.rows[0].scores

    assert 0 <= scores.extrapolated < 0.3
    assert 0.8 <= scores.coverage_90_in_domain <= 1

"""Intervals held against networks that were held out, and the word for what lies beyond them."""

from __future__ import annotations

import numpy as np
import pytest

from lightnas_edge.errors import PredictorError
from lightnas_edge.predictor import evaluate, fit_additive, fit_best, fit_mlp, load_predictor, lut_predictor
from lightnas_edge.predictor.additive import Terms
from lightnas_edge.predictor.applicability import ApplicabilityDomain
from lightnas_edge.predictor.base import one_hot_of
from lightnas_edge.predictor.calibration import calibrate, leave_one_out
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
    assert found.doubt[0] ** 2 == pytest.approx(4 / 9)


def test_a_hundred_residuals_decide_the_scale_and_three_hardly_move_it():
    normal = np.random.default_rng(0).normal(size=100)

    assert calibrate(2 * normal).scale == pytest.approx(2 * normal.std() * np.sqrt(100 / 97), rel=0.05)
    assert calibrate(normal).degrees == 97
    assert calibrate(np.zeros(0)).scale == 1.0
    assert 0.6 < calibrate(np.full(3, 0.1)).scale < 1.0  # three lucky hits are no proof


def test_heavy_tails_are_seen_for_what_they_are():
    assert calibrate(np.random.default_rng(0).standard_t(3, size=300)).degrees <= 5


def test_intervals_hold_what_they_promise_where_the_stated_errors_do_not(tmp_path):
    """Journals that state a tenth and one and a half times the true error: either way 85 to 95 % of other networks are held."""
    new, truth = networks(400, seed=99)
    for stated in (0.001, 0.015):
        held = []
        for seed in range(1, 13):
            indices, value = networks(40, seed)
            predictor = fit_additive(SPACE, None, observed(SPACE, indices, value, error_ms=stated))
            held.append(evaluate(predictor, observed(SPACE, new, truth)).coverage_90)
        assert 0.85 <= np.mean(held) <= 0.95


def test_networks_like_the_measured_ones_are_inside_and_shallow_ones_are_not():
    indices, value = networks(60, seed=1)
    predictor = fit_additive(SPACE, None, observed(SPACE, indices, value))

    like, _ = networks(500, seed=2)
    empty = np.full((1, 8), 2)
    assert predictor.outside(one_hot_of(SPACE, like)).mean() < 0.1
    assert not predictor.outside(one_hot_of(SPACE, indices)).any()
    assert predictor.outside(one_hot_of(SPACE, empty)).all()


def test_an_operator_that_no_network_showed_is_outside_without_a_table():
    indices, value = networks(60, seed=1)
    seen = indices[:, 3] != 1
    predictor = fit_additive(SPACE, None, observed(SPACE, indices[seen], value[seen]))

    unseen, known = indices[~seen], indices[seen]
    assert predictor.outside(one_hot_of(SPACE, unseen)).all()
    assert not predictor.outside(one_hot_of(SPACE, known)).any()


def test_the_mlp_calls_outside_what_stood_nowhere():
    indices, value = networks(120, seed=1)
    seen = indices[:, 3] != 1
    mlp = fit_mlp(SPACE, observed(SPACE, indices[seen], value[seen]), epochs=3)

    assert mlp.outside(one_hot_of(SPACE, indices[~seen])).all()
    assert mlp.outside(one_hot_of(SPACE, indices[seen])).mean() < 0.1


def test_a_table_alone_has_seen_no_network(tmp_path):
    predictor = lut_predictor(SPACE, profile(tmp_path / "t", SPACE))

    query = one_hot_of(SPACE, np.zeros((2, 8), dtype=int))
    predictor.save(tmp_path / "p.json")
    assert predictor.outside(query).all() and load_predictor(tmp_path / "p.json").outside(query).all()
    measured = predictor.updated_with(Architecture.from_indices(SPACE, np.zeros(8, dtype=int)), 1.2, 0.001)
    assert measured.applicability.value == (1.2, 1.2) and measured.applicability.blocks == (8, 8)


def test_measuring_a_network_brings_it_inside():
    indices, value = networks(30, seed=1)
    predictor = fit_additive(SPACE, None, observed(SPACE, indices, value))
    empty = Architecture.from_names(SPACE, ["skip"] * 8)

    after = predictor.updated_with(empty, 0.6, 0.001)

    assert predictor.outside(empty.one_hot(SPACE)[None])[0]
    assert not after.outside(empty.one_hot(SPACE)[None])[0]


def test_what_was_measured_is_kept_in_the_file(tmp_path):
    indices, value = networks(60, seed=1)
    data = observed(SPACE, indices, value)
    query = one_hot_of(SPACE, networks(200, seed=3, skips=0.7)[0])
    for predictor in (fit_additive(SPACE, None, data), fit_mlp(SPACE, data, epochs=2)):
        predictor.save(tmp_path / "p.json")
        again = load_predictor(tmp_path / "p.json")

        assert 0 < predictor.outside(query).mean() < 1
        assert (again.outside(query) == predictor.outside(query)).all()
        assert again.quantile(0.9) == predictor.quantile(0.9)


def test_a_damaged_support_is_named(tmp_path):
    import json

    indices, value = networks(20, seed=1)
    predictor = fit_additive(SPACE, None, observed(SPACE, indices, value))
    record = predictor.to_json()
    record["parameters"]["support"]["value"] = [3, 2]
    (tmp_path / "p.json").write_text(json.dumps(record))

    with pytest.raises(PredictorError, match=r"parameters.applicability: value: expected two numbers.*\[3, 2\]"):
        load_predictor(tmp_path / "p.json")


def test_a_file_from_before_flags_nothing():
    indices, value = networks(20, seed=1)
    predictor = fit_additive(SPACE, None, observed(SPACE, indices, value))
    predictor.applicability = None

    assert not predictor.outside(one_hot_of(SPACE, np.full((1, 8), 2))).any()


def test_the_edges_of_support_can_be_checked_by_hand():
    """Measured 1 to 2 ms with 3 to 6 blocks: 0.9 to 2.1 ms and 2 to 7 blocks are inside."""
    support = ApplicabilityDomain((1.0, 2.0), (3, 6), doubt=0.1)
    value, blocks = np.array([0.91, 0.89, 2.09, 2.11, 1.5, 1.5, 1.5]), np.array([3, 3, 6, 6, 2, 1, 8])

    found = support.outside(value, blocks, np.full(7, 0.1), np.zeros((7, 1, 1)))

    assert found.tolist() == [False, True, False, True, False, True, True]
    assert support.outside(np.array([1.5]), np.array([4]), np.array([0.2]), np.zeros((1, 1, 1))).all()


def test_scores_tell_the_networks_outside_apart():
    indices, value = networks(60, seed=1)
    _, comparison = fit_best(SPACE, None, observed(SPACE, indices, value))
    scores = comparison.rows[0].scores

    assert 0 <= scores.outside < 0.3
    assert 0.8 <= scores.coverage_90_inside <= 1

"""Upper bounds in the form that the selection solves with."""

from __future__ import annotations

import numpy as np
import pytest

from lightnas_edge.predictor import CountedPredictor, fit_additive, fit_mlp, lut_predictor
from lightnas_edge.predictor.base import one_hot_of
from tests.predictor.boards import observed, profile, small_space

SPACE = small_space()
SHAPE = len(SPACE.layers), len(SPACE.operators)


def networks(count: int, seed: int = 0):
    return np.random.default_rng(seed).integers(SHAPE[1], size=(count, SHAPE[0]))


def fitted():
    generator = np.random.default_rng(5)
    indices = networks(40)
    latency_ms = 1.0 + 0.1 * indices.sum(axis=1) + 0.05 * generator.normal(size=40)
    return fit_additive(SPACE, None, observed(SPACE, indices, latency_ms))


@pytest.mark.parametrize("confidence", [None, 0.5, 0.9, 0.99])
def test_the_convex_bound_of_a_network_is_its_upper_bound(confidence):
    predictor = fitted()
    one_hot = one_hot_of(SPACE, networks(20, seed=1))

    bound = predictor.convex_bound(confidence)

    expected = predictor.predict(one_hot) if confidence is None else predictor.upper(one_hot, confidence)
    assert [bound.at(row)[0] for row in one_hot.reshape(20, -1)] == pytest.approx(expected.tolist(), rel=1e-9)


def test_the_tangent_of_a_convex_bound_lies_below_it_everywhere():
    bound = fitted().convex_bound(0.95)
    points = np.random.default_rng(2).dirichlet(np.ones(SHAPE[1]), size=(30, SHAPE[0])).reshape(30, -1)

    for point in points:
        value, slope = bound.at(point)
        assert all(bound.at(other)[0] >= value + slope @ (other - point) - 1e-12 for other in points)


def test_the_gradient_of_a_convex_bound_is_its_slope():
    bound = fitted().convex_bound(0.95)
    point = np.full(SHAPE[0] * SHAPE[1], 1 / SHAPE[1])
    _, slope = bound.at(point)

    steps = 1e-6 * np.eye(len(point))
    found = [(bound.at(point + step)[0] - bound.at(point - step)[0]) / 2e-6 for step in steps]

    assert found == pytest.approx(slope.tolist(), rel=1e-5)


def test_a_counted_metric_is_bounded_by_its_count_at_every_confidence():
    predictor = CountedPredictor(SPACE, "macs_m")
    one_hot = one_hot_of(SPACE, networks(1))

    for confidence in (None, 0.99):
        bound = predictor.convex_bound(confidence)
        assert bound.at(one_hot.ravel())[0] == pytest.approx(predictor.predict(one_hot)[0])


def test_no_convex_bound_is_known_of_an_mlp():
    indices = networks(60)
    predictor = fit_mlp(SPACE, observed(SPACE, indices, 1.0 + 0.1 * indices.sum(axis=1)), epochs=2)

    assert predictor.convex_bound(None) is None
    assert predictor.convex_bound(0.9) is None


def test_a_bound_below_the_prediction_is_not_convex(tmp_path):
    predictor = lut_predictor(SPACE, profile(tmp_path / "t", SPACE))

    assert predictor.convex_bound(0.5) is not None
    assert predictor.convex_bound(0.4) is None

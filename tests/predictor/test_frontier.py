"""Networks such as a search chooses, to be measured."""

import itertools

import numpy as np
import pytest

from lightnas_edge.errors import PredictorError
from lightnas_edge.predictor import CountedPredictor, fit_additive, fit_mlp
from lightnas_edge.predictor.frontier import best_within, frontier_networks
from lightnas_edge.space import Architecture
from tests.predictor.boards import observed, profile, random_architectures, small_space

SPACE = small_space(6)


@pytest.fixture(scope="module")
def predictor(tmp_path_factory):
    return fit_additive(SPACE, profile(tmp_path_factory.mktemp("frontier") / "ops.lut.jsonl", SPACE), [])


def indices_of(networks):
    return np.stack([network.indices(SPACE) for network in networks])


def macs_m(networks):
    return CountedPredictor(SPACE, "macs_m").predict_indices(indices_of(networks))


def test_the_best_within_a_limit_is_nearly_that_of_all_networks():
    generator = np.random.default_rng(0)
    cost, scores = generator.uniform(0.1, 1, (5, 3)), generator.uniform(0, 1, (20, 5, 3))
    every = np.array(list(itertools.product(range(3), repeat=5)))
    costs = 0.5 + cost[np.arange(5), every].sum(axis=1)
    limits = np.quantile(costs, np.linspace(0.02, 0.98, 20))

    found = best_within(0.5, cost, scores, limits)

    for network, score, limit in zip(found, scores, limits, strict=True):
        value = score[np.arange(5), every].sum(axis=1)
        best = value[costs <= limit].max()
        assert 0.5 + cost[np.arange(5), network].sum() <= limit
        assert score[np.arange(5), network].sum() >= 0.85 * best


def test_a_limit_below_every_network_gives_the_one_of_the_lowest_cost():
    cost = np.array([[2.0, 1.0], [3.0, 4.0]])

    assert best_within(0.0, cost, np.ones((1, 2, 2)), np.array([0.5])).tolist() == [[1, 0]]


def test_they_have_more_multiplications_than_random_networks_of_their_latency(predictor):
    found, others = frontier_networks(predictor, 40), random_architectures(SPACE, 500)
    at_ms, others_ms = (predictor.predict_indices(indices_of(each)) for each in (found, others))
    rows = np.abs(at_ms[:, None] - others_ms).argsort(axis=1)[:, :10]

    assert len(set(found)) == 40
    assert np.mean(macs_m(found) > macs_m(others)[rows].mean(axis=1)) > 0.9


def test_they_cover_the_range_and_all_operators(predictor):
    found = frontier_networks(predictor, 40)
    others_ms = predictor.predict_indices(indices_of(random_architectures(SPACE, 500)))
    at_ms = predictor.predict_indices(indices_of(found))

    assert np.quantile(at_ms, 0.1) < np.quantile(others_ms, 0.3)
    assert np.quantile(at_ms, 0.9) > np.quantile(others_ms, 0.7)
    assert {operator for network in found for operator in network.operators} == set(SPACE.operators)


def test_with_a_limit_they_are_just_below_it(predictor):
    limit = float(np.median(predictor.predict_indices(indices_of(random_architectures(SPACE, 500)))))

    found = frontier_networks(predictor, 10, limit=limit)

    at_ms = predictor.predict_indices(indices_of(found))
    assert at_ms.max() <= limit and at_ms.min() > 0.9 * limit


def test_a_larger_count_adds_networks_and_another_seed_gives_others(predictor):
    few, many = frontier_networks(predictor, 10), frontier_networks(predictor, 80)

    assert many[:10] == few
    assert set(frontier_networks(predictor, 10, seed=1)) != set(few)
    assert not set(frontier_networks(predictor, 10, known=few)) & set(few)


def test_a_space_that_has_few_gives_those_it_has_and_then_none(predictor):
    lowest = Architecture.from_indices(SPACE, predictor.linear_terms()[1].argmin(axis=1))
    limit = predictor.predict_one(lowest) * (1 + 1e-9)

    found = frontier_networks(predictor, 50, limit=limit)

    assert lowest in found and len(found) < 50
    assert frontier_networks(predictor, 5, limit=limit, known=found) == []


def test_a_limit_out_of_reach_and_a_predictor_without_costs_are_refused(predictor, tmp_path):
    with pytest.raises(PredictorError, match="is predicted near 99"):
        frontier_networks(predictor, 5, limit=99)
    networks = indices_of(random_architectures(SPACE, 60))
    mlp = fit_mlp(SPACE, observed(SPACE, networks, 1 + networks.sum(axis=1)), epochs=2)
    with pytest.raises(PredictorError, match="a predictor of type mlp is none"):
        frontier_networks(mlp, 5)

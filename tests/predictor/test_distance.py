"""Intervals far from the measured networks, where a search looks."""

from __future__ import annotations

import numpy as np
import pytest

from lightnas_edge.predictor import CountedPredictor, fit_additive, load_predictor
from lightnas_edge.predictor.base import one_hot_of
from lightnas_edge.predictor.distance import DistantDiscrepancy
from lightnas_edge.predictor.terms import Terms
from lightnas_edge.search.constraints import Constraint
from lightnas_edge.search.selection import select
from lightnas_edge.space import Architecture, load_space
from tests.predictor.boards import observed, small_space

SPACE = load_space("tiny")
TERMS = Terms.of(SPACE)
OPERATORS = len(SPACE.operators)
MACS = CountedPredictor(SPACE, "macs_m")


def random_networks(count, seed):
    return np.random.default_rng(seed).integers(OPERATORS, size=(count, len(SPACE.layers)))


SUMS = DistantDiscrepancy.of(TERMS, TERMS.counts(random_networks(2000, 0))).root


def curved_ms(indices, seed=0):
    """Costs of operators, and a quadratic form of a network's sums that none of the operators has: drawn at random."""
    form = np.random.default_rng([1, seed]).normal(size=(SUMS.shape[1], SUMS.shape[1]))
    counts = TERMS.counts(indices)
    sums = counts @ SUMS
    additive = counts[:, 1:] @ np.linspace(0.1, 0.3, len(TERMS.keys))
    return 1.0 + additive + 0.006 * np.einsum("ni,ij,nj->n", sums, form, sums)


def fitted(seed=1, count=80):
    indices = random_networks(count, seed)
    noise = 0.01 * np.random.default_rng(seed).normal(size=count)
    return fit_additive(SPACE, None, observed(SPACE, indices, curved_ms(indices, seed) + noise, error_ms=0.01))


def test_the_usual_squared_distance_is_the_root_mean_square_of_random_networks():
    distant = DistantDiscrepancy.of(TERMS, TERMS.counts(random_networks(500, 1)))

    square = ((TERMS.counts(random_networks(5000, 2)) @ distant.root) ** 2).sum(axis=1)

    directions = distant.root.shape[1]
    assert directions <= 4
    assert np.sqrt(np.mean(square**2)) == pytest.approx(np.sqrt(directions * (directions + 2)), rel=0.15)


def test_the_discrepancy_is_one_step_at_twice_the_usual_squared_distance():
    """One direction: usual squared distance sqrt(3). By hand: squares of 1, sqrt(3), 2 sqrt(3) and 5 sqrt(3)."""
    distant = DistantDiscrepancy(np.array([[0.0], [1.0]]), step_std=0.02)
    lengths = np.sqrt(np.sqrt(3) * np.array([1 / np.sqrt(3), 1, 2, 5]))

    found = distant.std(np.stack([np.ones(4), lengths], axis=1))

    assert found == pytest.approx([0, 0, 0.02, 0.08], abs=1e-12)


def test_few_networks_alike_do_not_make_all_others_distant():
    """Three measured networks without any spread: the space's own networks count as five more."""
    distant = DistantDiscrepancy.of(TERMS, TERMS.counts(np.zeros((3, len(SPACE.layers)), dtype=int)))

    assert distant.std(TERMS.counts(random_networks(500, 2))).max() < 30


def test_a_space_without_a_choice_has_no_distance():
    one = small_space(3, operators=("mbconv_k3_e3",))

    assert DistantDiscrepancy.of(Terms.of(one), np.ones((4, 4))) is None
    predictor = fit_additive(one, None, observed(one, np.zeros((4, 3), dtype=int), np.full(4, 1.0)))
    assert np.isfinite(predictor.deviation(one_hot_of(one, np.zeros((1, 3), dtype=int)))).all()


def test_the_most_multiplications_within_a_limit_keep_their_95_percent_bound():
    """Of 20 boards that are no sums: without the discrepancy of distant networks, a bound holds as often as not."""
    kept, near = [], []
    for seed in range(20):
        predictor = fitted(seed)
        limits = np.quantile(predictor.predict_indices(random_networks(200, seed)), [0.5, 0.9])
        optima = [select(SPACE, MACS.cost, [Constraint(predictor, limit)]).architecture for limit in limits]
        one_hot = np.stack([network.one_hot(SPACE) for network in optima])
        measured = curved_ms(np.stack([network.indices(SPACE) for network in optima]), seed)
        kept += (measured <= predictor.upper(one_hot, 0.95)).tolist()
        predictor.distant = None
        del predictor.distant_factor
        near += (measured <= predictor.upper(one_hot, 0.95)).tolist()
    assert np.mean(kept) >= 0.9
    assert np.mean(near) < 0.75


def test_networks_measured_far_away_are_no_longer_far():
    predictor = fitted()
    limit = float(np.quantile(predictor.predict_indices(random_networks(200, 1)), 0.9))
    found: list[Architecture] = []
    for _ in range(6):
        found.append(select(SPACE, MACS.cost, [Constraint(predictor, limit)], exclude=found).architecture)
    indices = np.stack([network.indices(SPACE) for network in found])
    one_hot = one_hot_of(SPACE, indices)

    after = predictor.updated(observed(SPACE, indices[:5], curved_ms(indices[:5], 1), error_ms=0.01))

    assert after.floor_std(one_hot)[5] < 0.8 * predictor.floor_std(one_hot)[5]
    error, before = (abs(one.predict(one_hot)[5] - curved_ms(indices, 1)[5]) for one in (after, predictor))
    assert error < before


def test_the_covariance_of_networks_has_their_variances_and_those_alike_err_together():
    predictor = fitted()
    random = one_hot_of(SPACE, random_networks(20, 3))
    highest = one_hot_of(SPACE, np.repeat([MACS.cost.argmax(axis=1)], 2, axis=0))

    found = predictor.covariance_of(random)
    measuring = predictor.noise**2 - predictor.discrepancy**2
    assert np.diag(found) + measuring == pytest.approx(predictor.deviation(random) ** 2)
    assert np.linalg.eigvalsh(found)[0] > 0
    far = predictor.covariance_of(highest)
    assert far[0, 1] > 0.5 * far[0, 0]


def test_the_distance_is_kept_in_the_file(tmp_path):
    predictor = fitted()
    predictor.save(tmp_path / "p.json")

    again = load_predictor(tmp_path / "p.json")

    one_hot = one_hot_of(SPACE, random_networks(50, 3))
    assert again.deviation(one_hot) == pytest.approx(predictor.deviation(one_hot))

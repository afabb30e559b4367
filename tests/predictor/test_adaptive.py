"""Adaptive sampling: progress of the fit, when to stop, which networks are next."""

from __future__ import annotations

import numpy as np
import pytest

from lightnas_edge.errors import PredictorError
from lightnas_edge.predictor import FitProgress, assess, choose_batch, fit_additive, stopping_reason
from lightnas_edge.predictor.adaptive import networks_of_interest
from lightnas_edge.predictor.base import one_hot_of
from lightnas_edge.predictor.terms import Terms
from lightnas_edge.space import Architecture, load_space
from tests.predictor.boards import observed

SPACE = load_space("tiny")
TERMS = Terms.of(SPACE)
COST = np.concatenate([[0.5], 0.1 + 0.3 * np.random.default_rng(0).random(len(TERMS.keys))])
NOISE = 0.005


def measure(indices, seed):
    return TERMS.counts(indices) @ COST + NOISE * np.random.default_rng(seed).normal(size=len(indices))


def fitted(indices, seed=1):
    data = observed(SPACE, indices, measure(indices, seed), error_ms=NOISE / 10)
    return fit_additive(SPACE, None, data), data


@pytest.mark.parametrize(
    ("networks", "half_width", "floor", "noise", "expected"),
    [
        (15, 0.009, 0.005, 0.004, "reached"),
        (15, 0.02, 0.019, 0.018, None),  # too few to separate noise from uncertainty
        (20, 0.02, 0.019, 0.018, "noise"),
        (20, 0.02, 0.019, 0.002, "discrepancy"),
        (20, 0.02, 0.010, 0.002, None),
        (60, 0.02, 0.010, 0.002, "count"),
    ],
)
def test_sampling_stops_at_the_target_at_the_floor_or_at_the_count(networks, half_width, floor, noise, expected):
    progress = FitProgress(
        networks=networks, half_width=half_width, floor=floor, discrepancy=float(np.sqrt(floor**2 - noise**2)), noise=noise,
        leave_one_out=0.01, repeatability=0.003,
    )  # fmt: skip

    assert stopping_reason(progress, until=0.01, most=60) == expected


def test_the_progress_is_that_of_the_predictors_own_intervals():
    predictor, data = fitted(np.random.default_rng(2).integers(4, size=(60, 8)))
    one_hot = one_hot_of(SPACE, networks_of_interest(predictor, None))
    low, high = predictor.interval(one_hot, 0.9)

    progress = assess(predictor, data)

    assert progress.networks == 60
    assert progress.half_width == pytest.approx(float(np.median((high - low) / 2 / predictor.predict(one_hot))))
    assert 0 < progress.floor < progress.half_width
    assert np.hypot(progress.discrepancy, progress.noise) == pytest.approx(progress.floor)
    assert progress.repeatability is None and progress.to_json()["repeatability"] is None


def test_a_batch_holds_no_known_network():
    indices = np.random.default_rng(2).integers(4, size=(12, 8))
    predictor, _ = fitted(indices)
    known = {Architecture.from_indices(SPACE, row) for row in indices}

    first = choose_batch(predictor, known, 5)
    second = choose_batch(predictor, known | set(first), 5)

    assert len(set(first)) == len(set(second)) == 5
    assert not set(first) & (known | set(second))


def test_networks_near_a_value_are_near_it():
    predictor, _ = fitted(np.random.default_rng(2).integers(4, size=(60, 8)))
    for around in (2.2, 2.9):
        found = networks_of_interest(predictor, around)
        assert len(found) == 512 and len(np.unique(found, axis=0)) > 100
        assert np.median(np.abs(predictor.predict_indices(found) / around - 1)) < 0.03

    with pytest.raises(PredictorError, match="no network of space tiny is predicted near 99 ms; the space reaches"):
        networks_of_interest(predictor, 99.0)


def test_chosen_batches_are_more_informative_than_random_ones():
    """Three starts, to 25 networks each way: less error on 500 other networks."""
    fresh = np.random.default_rng(99).integers(4, size=(500, 8))
    errors = {"chosen": [], "random": []}
    for seed in range(3):
        start = np.random.default_rng(seed).integers(4, size=(10, 8))
        for way in errors:
            indices = start
            for _ in range(3):
                predictor, _ = fitted(indices, seed)
                known = {Architecture.from_indices(SPACE, row) for row in indices}
                if way == "chosen":
                    more = np.stack([one.indices(SPACE) for one in choose_batch(predictor, known, 5)])
                else:
                    more = np.random.default_rng(100 + len(indices) + seed).integers(4, size=(5, 8))
                indices = np.concatenate([indices, more])
            predictor, _ = fitted(indices, seed)
            errors[way].append(np.sqrt(np.mean((predictor.predict_indices(fresh) - TERMS.counts(fresh) @ COST) ** 2)))
    assert np.mean(errors["chosen"]) < 0.9 * np.mean(errors["random"])

"""Measured networks from several files: which session sets the scale, and how certain the correction is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from lightnas_edge.errors import PredictorError
from lightnas_edge.predictor import fit_additive, load_observations
from lightnas_edge.predictor.base import one_hot_of
from lightnas_edge.predictor.terms import Terms
from tests.predictor.boards import observed, profile, random_architectures, sample, small_space, sum_ms, table_truth_ms

SPACE = small_space(8)
TABLE_MS = table_truth_ms(SPACE)
SENTINELS = {key: TABLE_MS[key] for key in list(TABLE_MS)[:6]}
NETWORKS = random_architectures(SPACE, 8)
TERMS = Terms.of(SPACE)


def truth_ms(architecture):
    return sum_ms(SPACE, TABLE_MS, architecture)


def session(path, speed, networks=NETWORKS, **how):
    return sample(path, SPACE, networks, truth_ms, SENTINELS, drift=lambda r: speed, **how)


@pytest.mark.parametrize(("first", "second"), [(1.0, 1.3), (1.3, 1.0)])
def test_without_a_table_the_first_file_is_the_reference_session(tmp_path, first, second):
    files = [session(tmp_path / "1", first, NETWORKS[:4]), session(tmp_path / "2", second, NETWORKS[4:])]

    values = load_observations(SPACE, files).value

    assert sorted(values) == pytest.approx(sorted(first * truth_ms(network) for network in NETWORKS))


@pytest.mark.parametrize("speed", [1.0, 1.3])
def test_with_a_table_its_session_is_the_reference_of_every_file(tmp_path, speed):
    lut = profile(tmp_path / "t", SPACE, drift=lambda r: speed)
    files = [session(tmp_path / "1", 0.9, NETWORKS[:4]), session(tmp_path / "2", 1.1, NETWORKS[4:])]

    values = load_observations(SPACE, files, lut).value

    assert sorted(values) == pytest.approx(sorted(speed * truth_ms(network) for network in NETWORKS))


def test_the_correction_of_a_session_has_an_error_that_all_of_its_networks_share(tmp_path):
    one = session(tmp_path / "1", 1.0, NETWORKS[:4], noise=0.02, seed=1)
    two = session(tmp_path / "2", 1.1, NETWORKS[4:], noise=0.02, seed=2)

    found = load_observations(SPACE, [one, two])

    assert found.drift_error[0] == 0 and 0 < found.drift_error[1] < 0.05
    assert found.common_error.shape == (8, 1)
    assert found.common_error[:, 0] == pytest.approx(found.value * found.drift_error[1] * found.shares[:, 1])
    assert found.take(np.array([0, 1])).common_error.shape == (2, 0)


def test_a_session_without_shared_operators_may_be_off_by_as_much_as_machines_drift(tmp_path):
    bare = sample(tmp_path / "s", SPACE, NETWORKS, truth_ms)

    assert load_observations(SPACE, [bare], profile(tmp_path / "t", SPACE)).drift_error == (0.05,)


def two_sessions(shift, error):
    """20 networks of the reference session, then 20 of one that a wrong correction makes slower."""
    cost = np.concatenate([[0.5], 0.1 + 0.3 * np.random.default_rng(0).random(len(TERMS.keys))])
    generator = np.random.default_rng(1)
    indices = generator.integers(3, size=(40, 8))
    truth = TERMS.counts(indices) @ cost
    value = (truth + 0.002 * generator.normal(size=40)) * np.where(np.arange(40) < 20, 1.0, 1 + shift)
    data = observed(SPACE, indices, value, error_ms=0.002)
    return replace(data, shares=np.eye(2)[np.repeat([0, 1], 20)], drift_error=(0.0, error)), cost


def test_a_session_that_disagrees_with_the_reference_does_not_move_the_predictions():
    data, cost = two_sessions(shift=0.03, error=0.02)
    new = np.random.default_rng(2).integers(3, size=(200, 8))

    def bias(observations):
        predictor = fit_additive(SPACE, None, observations)
        return float(np.mean(predictor.predict_indices(new) / (TERMS.counts(new) @ cost) - 1))

    assert abs(bias(data)) < 0.005
    assert bias(replace(data, shares=None, drift_error=())) > 0.01


def test_intervals_contain_the_reference_session_where_all_networks_are_of_another_one():
    """Its correction is off by one and a half standard errors."""
    data, cost = two_sessions(shift=0.03, error=0.02)
    other = data.take(np.arange(20, 40))
    new = np.random.default_rng(2).integers(3, size=(200, 8))
    one_hot, truth = one_hot_of(SPACE, new), TERMS.counts(new) @ cost

    def coverage(observations):
        low, high = fit_additive(SPACE, None, observations).interval(one_hot, 0.95)
        return float(np.mean((low <= truth) & (truth <= high)))

    assert coverage(other) > 0.95
    assert coverage(replace(other, shares=None, drift_error=())) < 0.7


def test_more_networks_of_another_session_update_a_predictor_less_than_networks_of_its_own():
    data, _ = two_sessions(shift=0.03, error=0.02)
    predictor = fit_additive(SPACE, None, data.take(np.arange(20)))
    one_hot = data.take(np.arange(20, 40)).one_hot

    def moved(observations):
        return float(np.mean(predictor.updated(observations).predict(one_hot) - predictor.predict(one_hot)))

    other = data.take(np.arange(20, 40))
    assert 0 < moved(other) < 0.5 * moved(replace(other, shares=None, drift_error=()))


def test_the_drift_of_a_session_does_not_explain_the_noise_of_its_networks():
    """A drift known to 5 % and networks that scatter by 10 %: costs stay at what the networks show, however many they are."""
    off = []
    for seed in range(6):
        networks = random_architectures(SPACE, 60, seed)
        value = np.array([truth_ms(network) for network in networks])
        noisy = value * np.exp(0.1 * np.random.default_rng(seed).normal(size=60))
        indices = np.stack([network.indices(SPACE) for network in networks])
        seen = observed(SPACE, indices, noisy, error_ms=0.01)
        seen = replace(seen, shares=np.ones((60, 1)), drift_error=(0.05,))
        off.append(np.mean(fit_additive(SPACE, None, seen).predict_indices(indices) / value - 1))
    assert abs(np.mean(off)) < 0.02


def test_networks_that_several_files_share_are_one_row_each(tmp_path):
    """The first networks of every seed are the same. As rows of their own, the one that is held out would be known from the other."""
    one = session(tmp_path / "1", 1.0, NETWORKS[:6], noise=0.02, seed=1)
    two = session(tmp_path / "2", 1.1, NETWORKS[2:], noise=0.02, seed=2)

    found, alone = load_observations(SPACE, [one, two]), load_observations(SPACE, [one])

    assert len(found) == len(NETWORKS)
    assert found.shares.sum(axis=1) == pytest.approx(np.ones(len(found)))
    both = (found.shares > 0).all(axis=1)
    assert both.sum() == 4
    known = {tuple(row): error for row, error in zip(alone.indices.tolist(), alone.standard_error, strict=True)}
    shared = [
        (known[tuple(row)], error)
        for row, error in zip(found.indices[both].tolist(), found.standard_error[both], strict=True)
    ]
    assert all(after < before for before, after in shared), "two measurements know more than one"
    assert len(load_observations(SPACE, [one, one])) == len(alone)


def test_what_a_model_does_not_explain_of_a_network_stays_in_all_of_its_measurements():
    """Intervals of three measurements of 20 networks hold as those of one, and the stated error is that of other networks."""
    counts = TERMS.counts(np.random.default_rng(5).integers(3, size=(220, 8)))
    cost = np.concatenate([[0.5], 0.1 + 0.3 * np.random.default_rng(0).random(len(TERMS.keys))])
    indices = np.random.default_rng(5).integers(3, size=(220, 8))
    generator = np.random.default_rng(6)
    truth = (counts @ cost) * np.exp(0.03 * generator.normal(size=220))
    once = observed(SPACE, indices[:20], truth[:20], error_ms=0.002)
    thrice = observed(
        SPACE, np.tile(indices[:20], (3, 1)), np.tile(truth[:20], 3) + 0.002 * generator.normal(size=60), error_ms=0.002
    )
    one_hot = one_hot_of(SPACE, indices[20:])

    def coverage(observations):
        predictor = fit_additive(SPACE, None, observations)
        low, high = predictor.interval(one_hot, 0.9)
        return predictor.fit.networks, float(np.mean((low <= truth[20:]) & (truth[20:] <= high)))

    assert coverage(thrice)[0] == coverage(once)[0] == 20
    assert coverage(thrice)[1] == pytest.approx(coverage(once)[1], abs=0.05)


def test_networks_of_a_space_of_other_shapes_are_refused_and_other_classes_are_not(tmp_path):
    """Their operators have the same names, so that they would fit, with costs that are several times off."""
    space = small_space()
    measured = sample(tmp_path / "s", space, random_architectures(space, 3), lambda a: 1.0)

    with pytest.raises(PredictorError, match=r"holds networks of space 'small' .* not of 'small'"):
        load_observations(replace(space, input_size=2 * space.input_size), [measured])
    assert len(load_observations(space.with_classes(77), [measured])) == 3

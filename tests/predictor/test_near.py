"""Random networks that are predicted near a value."""

import numpy as np
import pytest

from lightnas_edge.errors import PredictorError
from lightnas_edge.measuring import reference_architectures
from lightnas_edge.predictor import fit_additive
from lightnas_edge.predictor.near import NEAR, networks_near, transferred_by_reference
from lightnas_edge.space import Architecture
from tests.predictor.boards import observed, profile, random_architectures, sample, small_space, sum_ms, table_truth_ms

SPACE = small_space(8)
TRUTH = table_truth_ms(SPACE)


@pytest.fixture(scope="module")
def predictor(tmp_path_factory):
    return fit_additive(SPACE, profile(tmp_path_factory.mktemp("near") / "ops.lut.jsonl", SPACE), [])


@pytest.fixture(scope="module")
def target_ms(predictor):
    """Near which most networks are."""
    return predictor.predict_one(Architecture.from_indices(SPACE, [0, 1, 1, 0, 1, 0, 2, 2]))


def test_they_are_within_two_per_cent_and_differ(predictor, target_ms):
    found = networks_near(predictor, target_ms, 40)

    predicted = predictor.predict_indices(np.stack([network.indices(SPACE) for network in found]))
    assert len(set(found)) == 40
    assert np.abs(predicted / target_ms - 1).max() <= NEAR
    assert len({operator for network in found for operator in network.operators}) == len(SPACE.operators)


def test_a_larger_count_adds_networks_and_another_seed_gives_others(predictor, target_ms):
    few, many = networks_near(predictor, target_ms, 10), networks_near(predictor, target_ms, 80)

    assert many[:10] == few
    assert set(networks_near(predictor, target_ms, 10, seed=1)) != set(few)


def test_known_networks_are_not_named_again(predictor, target_ms):
    known = networks_near(predictor, target_ms, 10)

    assert not set(networks_near(predictor, target_ms, 10, known=known)) & set(known)


def test_a_space_that_has_few_gives_those_it_has(predictor):
    lowest = min(sum_ms(SPACE, TRUTH, each) for each in random_architectures(SPACE, 3000))

    found = networks_near(predictor, lowest, 500)

    assert 0 < len(found) < 500


@pytest.mark.parametrize("value", [0.05, 99.0])
def test_a_value_out_of_reach_is_refused_with_the_range(predictor, value):
    with pytest.raises(PredictorError, match="no network of space small is predicted near") as raised:
        networks_near(predictor, value, 5)
    assert "the space reaches" in str(raised.value)


def test_a_prior_is_scaled_by_the_reference_networks_alone(tmp_path):
    """The other networks of the table would change the choice while it is measured."""
    networks = random_architectures(SPACE, 60, seed=3)
    indices = np.stack([network.indices(SPACE) for network in networks])
    prior = fit_additive(SPACE, None, observed(SPACE, indices, [sum_ms(SPACE, TRUTH, each) for each in networks]))
    reference = reference_architectures(SPACE)
    table = sample(tmp_path / "r.lut.jsonl", SPACE, reference, lambda each: 2 * sum_ms(SPACE, TRUTH, each))
    more = sample(
        tmp_path / "m.lut.jsonl", SPACE, [*reference, *random_architectures(SPACE, 5, seed=9)],
        lambda each: (2 if each in reference else 7) * sum_ms(SPACE, TRUTH, each),
    )  # fmt: skip

    one, two = (transferred_by_reference(SPACE, prior, each) for each in (table, more))

    network = Architecture.random(SPACE, np.random.default_rng(5))
    assert one.predict_one(network) == pytest.approx(2 * sum_ms(SPACE, TRUTH, network), rel=0.02)
    assert two.predict_one(network) == pytest.approx(one.predict_one(network), rel=1e-9)


def test_a_prior_without_reference_networks_says_what_to_measure(tmp_path, predictor):
    others = [each for each in random_architectures(SPACE, 8, seed=4) if each not in reference_architectures(SPACE)]
    table = sample(tmp_path / "o.lut.jsonl", SPACE, others, lambda each: 1.0)

    for measured in (None, table):
        with pytest.raises(PredictorError, match="0 of 10 reference networks are measured") as raised:
            transferred_by_reference(SPACE, predictor, measured)
        assert "--count 10" in raised.value.hint

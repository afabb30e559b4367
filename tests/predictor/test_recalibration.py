"""Intervals after networks were measured that a predictor had chosen."""

from dataclasses import replace

import numpy as np
import pytest

from lightnas_edge.predictor import AdditivePredictor, fit_additive
from lightnas_edge.predictor.recalibration import predictive_residuals, recalibrated
from tests.predictor.boards import observed, random_architectures, small_space, sum_ms, table_truth_ms

SPACE = small_space(8)
TRUTH = table_truth_ms(SPACE)


def measured(networks, *, seed=0, noise_ms=0.01, factor=1.0, error_ms=1e-3):
    """Networks with noise that no sum of operators expresses."""
    generator = np.random.default_rng(seed)
    indices = np.stack([network.indices(SPACE) for network in networks])
    truth = np.array([sum_ms(SPACE, TRUTH, network) for network in networks])
    return observed(SPACE, indices, factor * truth + generator.normal(0, noise_ms, len(networks)), error_ms)


@pytest.fixture(scope="module")
def predictor():
    return fit_additive(SPACE, None, measured(random_architectures(SPACE, 60)))


def test_networks_as_predicted_update_the_costs_and_no_more(predictor):
    further = measured(random_architectures(SPACE, 5, seed=7), seed=1)

    after = recalibrated(predictor, further)

    assert after.mean == pytest.approx(predictor.updated(further).mean, abs=0.003)
    assert after.fit.networks == predictor.fit.networks + 5


def test_networks_that_are_all_slower_than_predicted_move_the_prediction_of_others_like_them(predictor):
    """An update at the stated uncertainty of the costs believes in the costs and calls every one of them noise."""
    networks = random_architectures(SPACE, 12, seed=31)
    further, others = (measured(part, seed=4, factor=1.06) for part in (networks[:8], networks[8:]))

    plain, after = predictor.updated(further), recalibrated(predictor, further)

    left = [np.abs(others.value - each.predict(others.one_hot)).mean() for each in (predictor, plain, after)]
    assert left[2] < 0.5 * left[0] and left[2] < left[1]


def test_residuals_of_a_right_predictor_have_a_variance_of_one(predictor):
    residuals = np.concatenate(
        [
            predictive_residuals(predictor, measured(random_architectures(SPACE, 6, seed=seed), seed=seed))
            for seed in range(20, 80)
        ]
    )

    assert np.mean(residuals**2) == pytest.approx(1.0, abs=0.35)


def test_an_error_that_alike_networks_share_counts_once(predictor):
    """Five finalists that are all too slow by the same amount are hardly more of a surprise than one."""
    one = random_architectures(SPACE, 1, seed=11)[0]
    indices = np.repeat(one.indices(SPACE)[None], 5, axis=0)
    shifted = sum_ms(SPACE, TRUTH, one) + 0.05
    first = predictive_residuals(predictor, observed(SPACE, indices[:1], [shifted]))
    all_five = predictive_residuals(predictor, observed(SPACE, indices, [shifted] * 5))

    assert abs(all_five[0]) == pytest.approx(abs(first[0]))
    assert (np.abs(all_five[1:]) < np.abs(all_five[0])).all()


def test_surprises_widen_the_intervals_and_good_predictions_do_not(predictor):
    networks = random_architectures(SPACE, 8, seed=13)
    one_hot = np.stack([network.one_hot(SPACE) for network in random_architectures(SPACE, 20, seed=14)])

    surprised = recalibrated(predictor, measured(networks, noise_ms=0.06, seed=2))
    confirmed = recalibrated(predictor, measured(networks, noise_ms=0.01, seed=2))

    assert surprised.deviation(one_hot).mean() > 1.5 * predictor.deviation(one_hot).mean()
    assert confirmed.deviation(one_hot).mean() < 1.2 * predictor.deviation(one_hot).mean()


def test_the_interval_at_the_measured_networks_holds_more_often_afterwards():
    """Networks that differ from the fitted ones by what the model cannot express."""
    held = []
    for seed in range(12):
        predictor = fit_additive(SPACE, None, measured(random_architectures(SPACE, 40, seed=seed), seed=seed))
        chosen = random_architectures(SPACE, 16, seed=100 + seed)
        values = measured(chosen, seed=200 + seed, factor=1.05, noise_ms=0.03)
        first, rest = values.take(np.arange(8)), values.take(np.arange(8, 16))
        after = recalibrated(predictor, first)
        held.append([
            np.mean(rest.value <= each.upper(rest.one_hot, 0.95)) for each in (predictor, after)
        ])  # fmt: skip
    before, after = np.mean(held, axis=0)

    assert before < 0.3, "5 % more than predicted is five deviations"
    assert after >= 0.85


def test_it_is_saved_and_read_as_any_other(predictor, tmp_path):
    from lightnas_edge.predictor import load_predictor

    after = recalibrated(predictor, measured(random_architectures(SPACE, 4, seed=17), seed=3))
    after.save(tmp_path / "p.predictor.json")
    read = load_predictor(tmp_path / "p.predictor.json", SPACE)
    one_hot = np.stack([network.one_hot(SPACE) for network in random_architectures(SPACE, 5, seed=18)])

    assert read.upper(one_hot, 0.95) == pytest.approx(after.upper(one_hot, 0.95))


def test_the_estimate_of_a_measured_network_is_its_posterior(predictor):
    """Against the joint normal distribution of costs, what each network deviates, and measurements, solved whole."""
    plain = AdditivePredictor(
        SPACE, predictor.origin, predictor.mean, predictor.covariance, predictor.noise, terms=predictor.terms,
    )  # fmt: skip
    further = measured(random_architectures(SPACE, 5, seed=7), seed=1, noise_ms=0.03, error_ms=0.02)
    prior = plain.covariance_of(further.one_hot)  # of the networks themselves
    gain = prior @ np.linalg.inv(prior + np.diag(further.standard_error**2))
    expected = plain.predict(further.one_hot)
    mean, covariance = expected + gain @ (further.value - expected), prior - gain @ prior

    found, std = plain.updated(further).of_measured(further.one_hot, further.value, further.standard_error)

    assert found == pytest.approx(mean) and std == pytest.approx(np.sqrt(np.diag(covariance)))


def test_the_network_that_came_out_fastest_is_not_estimated_too_fast(predictor):
    """Of eight measured ones; measuring errs three times as much as networks differ from the sum of their costs."""
    measured_bias, estimated_bias = [], []
    for seed in range(40):
        networks = random_architectures(SPACE, 8, seed=seed)
        true = measured(networks, seed=100 + seed)
        noisy = replace(
            true, value=true.value + np.random.default_rng(seed).normal(0, 0.03, 8), standard_error=np.full(8, 0.03)
        )
        after = recalibrated(predictor, noisy)
        luckiest = int((noisy.value - after.predict(noisy.one_hot)).argmin())
        estimate, _ = after.of_measured(noisy.one_hot, noisy.value, noisy.standard_error)
        measured_bias.append(noisy.value[luckiest] - true.value[luckiest])
        estimated_bias.append(estimate[luckiest] - true.value[luckiest])

    assert np.mean(measured_bias) < -0.03
    assert abs(np.mean(estimated_bias)) < 0.2 * abs(np.mean(measured_bias))


def test_tails_that_residuals_have_shown_stay_heavy(predictor):
    """Few networks demand heavy tails until there are more of them; outliers among many are not undone by a handful without any."""
    networks = random_architectures(SPACE, 90, seed=5)
    plain = measured(networks)
    outliers = np.where(np.arange(90) % 6 == 0, np.random.default_rng(1).normal(0, 0.12, 90), 0.0)
    scattered = fit_additive(SPACE, None, replace(plain, value=plain.value + outliers))
    further = measured(random_architectures(SPACE, 8, seed=7), seed=1)

    before, after = scattered.fit.calibration, recalibrated(scattered, further).fit.calibration

    assert before.heavy_tails and after.heavy_tails
    assert after.degrees_of_freedom == before.degrees_of_freedom
    light = recalibrated(predictor, further).fit.calibration
    assert not light.heavy_tails
    assert light.degrees_of_freedom > predictor.fit.calibration.degrees_of_freedom
    assert "heavy_tails" in before.to_json() and "heavy_tails" not in light.to_json()

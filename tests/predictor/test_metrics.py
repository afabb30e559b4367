"""Energy, tail latency and memory by the same machinery as latency."""

from __future__ import annotations

import numpy as np
import pytest

import luts
from lightnas_edge.errors import PredictorError
from lightnas_edge.measuring.jobs import network_key
from lightnas_edge.predictor import evaluate, fit_additive, fit_best, load_observations, load_predictor, lut_predictor
from tests.luts.journals import header, visit, write
from tests.predictor.boards import random_architectures, small_space, sum_ms, table_truth_ms

SPACE = small_space()
TRUTH = table_truth_ms(SPACE)  # ms; energy is 30 mJ per ms and 2 mJ more for each model
NETWORKS = random_architectures(SPACE, 20)


def energy_mj(ms):
    return 2.0 + 30.0 * ms


def measured(key, ms, *, times=1.0, energy=True, round=0, **subject):
    gross = times * energy_mj(ms)
    record = {
        "gross_mj": gross, "gross_interval_mj": [0.99 * gross, 1.01 * gross], "net_mj": 0.4 * gross,
        "net_interval_mj": [0.39 * gross, 0.41 * gross],
        "gross_error": {"random_mj": 0.0, "freedom": 8.0, "shared_mj": [0.01 * gross]},
        "net_error": {"random_mj": 0.0, "freedom": 8.0, "shared_mj": [0.01 * gross]},
    }  # fmt: skip
    return visit(key, [ms] * 19 + [3 * ms], round=round, energy=record if energy else None, **subject)


def table(path, without=()):
    visits = [measured(k, ms, energy=k not in without, round=r) for r in range(3) for k, ms in TRUTH.items()]
    return luts.read(write(path, header(space=SPACE.name, space_sha256=SPACE.sha256), *visits))


def networks(path, *, times=1.0, without=0):
    """Whole networks spend 2 mJ once, not once per operator, and the sentinels show the drift of the session."""
    visits = [measured(key, ms, times=times, round=r) for r in range(3) for key, ms in list(TRUTH.items())[:6]]
    for r in range(3):
        for index, network in enumerate(NETWORKS):
            ms = sum_ms(SPACE, TRUTH, network)
            with_energy = index >= without
            visits.append(
                measured(
                    network_key(network), ms, times=times, energy=with_energy, round=r, architecture=network.to_json()
                )
            )
    return luts.read(write(path, header(space=SPACE.name, space_sha256=SPACE.sha256), *visits))


def test_energy_is_predicted_in_millijoules_from_the_same_files(tmp_path):
    predictor, _ = fit_best(SPACE, table(tmp_path / "t"), [networks(tmp_path / "s")], metric="energy_mj")

    truth = [energy_mj(sum_ms(SPACE, TRUTH, network)) for network in NETWORKS]
    assert predictor.metric == "energy_mj" and predictor.unit == "mJ"
    assert [predictor.predict_one(network) for network in NETWORKS] == pytest.approx(truth, rel=0.01)
    assert predictor.fit.chosen == "LUT calibrated"
    predictor.save(tmp_path / "p.json")
    assert load_predictor(tmp_path / "p.json").metric == "energy_mj"


def test_net_energy_has_values_of_its_own(tmp_path):
    net = lut_predictor(SPACE, table(tmp_path / "t"), metric="net_energy_mj")
    chain = [shaped.key for shaped in SPACE.chain(NETWORKS[0]) if not shaped.is_identity]

    assert net.predict_one(NETWORKS[0]) == pytest.approx(sum(0.4 * energy_mj(TRUTH[key]) for key in chain))


def test_statistics_of_inferences_are_learned_from_networks_with_robust_costs_as_regressors(tmp_path):
    """Of 20 inferences the slowest takes three times as long: the mean is 10 % above the median, p99 three times it."""
    lut, samples = table(tmp_path / "t"), [networks(tmp_path / "s")]

    for metric, factor in (("latency_ms", 1.0), ("mean_ms", 1.1), ("p99_ms", 3.0)):
        predictor = fit_additive(SPACE, lut, samples, metric=metric)
        truth = [factor * sum_ms(SPACE, TRUTH, network) for network in NETWORKS]
        assert predictor.metric == metric
        assert [predictor.predict_one(network) for network in NETWORKS] == pytest.approx(truth, rel=0.01)


def test_operators_alone_give_no_mean_and_no_tail_of_a_network(tmp_path):
    """A sum of first deciles has no tail; the median is close to it on a quiet machine."""
    lut = table(tmp_path / "t")

    for metric in luts.NETWORK_METRICS:
        for make in (
            lambda metric: lut_predictor(SPACE, lut, metric=metric),
            lambda metric: fit_additive(SPACE, lut, [], metric=metric),
            lambda metric: fit_best(SPACE, lut, [], metric=metric),
        ):
            with pytest.raises(PredictorError, match=f"a table of operators does not give {metric}") as caught:
                make(metric)
            assert "lightnas-edge sample" in caught.value.hint and f"--metric {metric}" in caught.value.hint
    _, comparison = fit_best(SPACE, lut, [networks(tmp_path / "s")], metric="p95_ms")
    assert "LUT alone" not in [row.method for row in comparison.rows]
    predictor, _ = fit_best(SPACE, lut, [])
    assert "a median is above the sum of robust costs" in predictor.fit.skipped[0]


def test_networks_with_few_inferences_say_how_uncertain_their_tail_is(tmp_path):
    """60 inferences of each network: enough for the median, too few for p95 (80) and p99 (400)."""
    samples = [networks(tmp_path / "s")]

    assert load_observations(SPACE, samples).notes == ()
    for metric, needed in (("p95_ms", 80), ("p99_ms", 400)):
        (note,) = load_observations(SPACE, samples, metric=metric).notes
        assert note.startswith(f"20 of 20 networks have fewer than {needed} inferences: their {metric} is known to ")


def test_the_repeatability_is_that_of_the_metric(tmp_path):
    """Networks whose late inferences come and go repeat in the median and not in p95."""
    generator = np.random.default_rng(0)
    visits = []
    for r in range(12):
        for index, network in enumerate(NETWORKS):
            late = 1.5 if generator.random() < 0.5 else 1.0
            samples = [1.0 + 0.01 * index] * 18 + [late * (1.0 + 0.01 * index)] * 2
            visits.append(visit(f"net-{index}", samples, round=r, architecture=network.to_json(), repeats=1))
    sample = luts.read(write(tmp_path / "s", header(space=SPACE.name, space_sha256=SPACE.sha256), *visits))

    assert load_observations(SPACE, [sample]).repeatability < 1e-6
    assert load_observations(SPACE, [sample], metric="p95_ms").repeatability > 0.001


def test_the_sentinels_show_the_drift_of_the_energy(tmp_path):
    observations = load_observations(
        SPACE, [networks(tmp_path / "s", times=1.1)], table(tmp_path / "t"), metric="energy_mj"
    )

    truth = [energy_mj(sum_ms(SPACE, TRUTH, network)) for network in NETWORKS]
    assert sorted(observations.value) == pytest.approx(sorted(truth))
    assert observations.notes[0].startswith("s: drift x1.1000 relative to t")
    assert observations.metric == "energy_mj"


def test_a_table_with_holes_in_a_metric_is_refused_with_the_keys(tmp_path):
    keys = [shaped.key for shaped in SPACE.shaped_operators()]

    with pytest.raises(luts.LutMissError, match=f"energy_mj is not known for 2 of {len(keys)}") as caught:
        lut_predictor(SPACE, table(tmp_path / "t", without=keys[3:5]), metric="energy_mj")

    assert keys[3] in str(caught.value) and keys[4] in str(caught.value)
    lut_predictor(SPACE, table(tmp_path / "t", without=keys[3:5]))  # latency is whole


def test_networks_without_the_metric_are_left_out_and_named(tmp_path):
    observations = load_observations(SPACE, [networks(tmp_path / "s", without=2)], metric="energy_mj")

    left_out = ", ".join(network_key(network) for network in NETWORKS[:2])
    assert len(observations) == 18
    assert observations.notes == (f"energy_mj is not known for 2 of 20 measured networks: {left_out}; left out",)


def test_no_network_with_the_metric_is_an_error_that_says_how_to_get_it(tmp_path):
    with pytest.raises(PredictorError, match="energy_mj is not known for 20 of 20 measured networks") as caught:
        fit_additive(SPACE, None, [networks(tmp_path / "s", without=20)], metric="energy_mj")

    assert "--energy" in caught.value.hint


def test_a_predictor_is_not_evaluated_on_another_metric(tmp_path):
    samples = [networks(tmp_path / "s")]
    predictor = fit_additive(SPACE, None, samples, metric="energy_mj")

    assert evaluate(predictor, samples).rmse < 0.1 * float(np.mean([energy_mj(1.0)]))
    with pytest.raises(PredictorError, match="of energy_mj, the measured networks are of latency_ms"):
        evaluate(predictor, load_observations(SPACE, samples))
    with pytest.raises(PredictorError, match="are of latency_ms, not of energy_mj"):
        fit_additive(SPACE, None, load_observations(SPACE, samples), metric="energy_mj")


def test_a_metric_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(PredictorError, match="no such metric: 'watts'"):
        lut_predictor(SPACE, table(tmp_path / "t"), metric="watts")

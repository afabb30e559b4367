"""Whole networks and model files: statistics of single inferences, phases, remedies."""

from __future__ import annotations

import math

import numpy as np
import pytest

import luts
from tests.luts.journals import FINGERPRINT, header, visit, write

NETWORK = {"kind": "architecture", "schema": 1, "space": "tiny", "operators": ["skip"]}
MODEL = {"name": "net.onnx", "sha256": "0" * 64}


def of_network(samples, **changes):
    return visit("net-1", [float(sample) for sample in samples], **{"architecture": NETWORK, "repeats": 1} | changes)


def read(path, *visits, **changes):
    return luts.read(write(path, header(**changes), *visits))


def test_a_network_has_the_statistics_of_its_single_inferences(tmp_path):
    """Of 1, 2, ..., 100 ms: half of them lie below 50.5 ms, 95 below 95.5 ms and 99 below 99.5 ms."""
    entry = read(tmp_path / "t", of_network(range(1, 101))).networks["net-1"]

    assert entry.latency_ms == entry.quantity("latency_ms").value == pytest.approx(50.5)
    assert entry.mean_ms == entry.quantity("mean_ms").value == pytest.approx(50.5)
    assert entry.p95_ms == entry.quantity("p95_ms").value == pytest.approx(95.5)
    assert entry.p99_ms == entry.quantity("p99_ms").value == pytest.approx(99.5)
    assert entry.robust_ms == pytest.approx(10.9)
    assert math.isnan(entry.quantity("p99_ms").standard_error)  # of one round


def test_every_round_weighs_equally(tmp_path):
    """A round of ten inferences of 1 ms and one of a single inference of 3 ms: the mean is 2 ms."""
    entry = read(tmp_path / "t", of_network([1.0] * 10), of_network([3.0], round=1)).networks["net-1"]

    assert entry.mean_ms == pytest.approx(2.0)
    assert entry.latency_ms == pytest.approx(1.0 + 2.0 * (0.5 - 0.475) / (0.75 - 0.475))


def test_an_even_number_of_rounds_of_equal_length_gives_the_plain_quantile(tmp_path):
    generator = np.random.default_rng(0)
    rounds = [1 + generator.random(20) for _ in range(10)]
    entry = read(tmp_path / "t", *(of_network(samples, round=r) for r, samples in enumerate(rounds))).networks["net-1"]

    for metric, level in (("latency_ms", 0.5), ("p95_ms", 0.95), ("p99_ms", 0.99)):
        expected = np.quantile(np.array(entry.corrected_ms), level, method="hazen")
        assert entry.quantity(metric).value == pytest.approx(expected)


def test_the_standard_error_is_how_far_the_statistic_scatters_between_tables(tmp_path):
    """Rounds at 1 % of each other, a tenth of the inferences 20 % late; 40 tables give the scatter."""
    generator = np.random.default_rng(1)
    found = {metric: [] for metric in luts.LATENCY_METRICS}
    for table in range(40):
        visits = []
        for r in range(20):
            samples = (1 + 0.01 * generator.normal()) * (1 + 0.2 * (generator.random(40) < 0.1) * generator.random(40))
            visits.append(of_network(samples, round=r))
        entry = read(tmp_path / f"t{table}", *visits).networks["net-1"]
        for metric, quantities in found.items():
            quantities.append(entry.quantity(metric))

    for metric, quantities in found.items():
        scatter = np.std([each.value for each in quantities], ddof=1)
        stated = np.median([each.standard_error for each in quantities])
        assert 0.6 * scatter < stated < 1.7 * scatter, metric


def test_a_tail_of_few_inferences_is_less_certain_than_resampling_says(tmp_path):
    """60 inferences: 0.6 of them are expected beyond p99, and four are needed; the median needs eight in all."""
    generator = np.random.default_rng(2)
    visits = [of_network(1 + 0.1 * generator.random(10), round=r) for r in range(6)]
    entry = read(tmp_path / "t", *visits).networks["net-1"]

    values = np.array([np.array(visit.samples_ms) for visit in entry.visits])
    draws = np.random.default_rng(0).integers(6, size=(200, 6))
    resampled = {
        level: np.std([np.quantile(values[draw], level, method="hazen") for draw in draws], ddof=1)
        for level in (0.5, 0.99)
    }
    assert entry.quantity("latency_ms").standard_error == pytest.approx(resampled[0.5], rel=0.05)
    assert entry.quantity("p99_ms").standard_error == pytest.approx(math.sqrt(4 / 0.6) * resampled[0.99], rel=0.05)


def test_means_of_several_inferences_dilute_a_tail_and_the_entry_warns(tmp_path):
    warned = "samples are means of 4 inferences: p95 and p99 are diluted"
    single = read(tmp_path / "s", of_network([1.0])).networks["net-1"]
    means = read(tmp_path / "m", of_network([1.0], repeats=4)).networks["net-1"]
    operator = read(tmp_path / "o", visit("a@1", [1.0], repeats=4)).entries["a@1"]

    assert (single.repeats, means.repeats, operator.repeats) == (1, 4, 4)
    assert warned in means.warnings
    assert not any("diluted" in warning for entry in (single, operator) for warning in entry.warnings)


def test_visits_under_sustained_load_are_kept_apart(tmp_path):
    """They have rounds of their own, so equal numbers are no repetition; neither entries nor drift see them."""
    load = [of_network([9.0], round=r, phase="sustained", session="b") for r in range(3)]
    earlier = of_network([8.0], phase="sustained", session="a")
    lut = read(tmp_path / "t", earlier, *load, of_network([1.0, 1.0], session="b"))

    assert lut.faults == ()
    assert [sustained.samples_ms for sustained in lut.sustained] == [(9.0,)] * 3
    assert lut.networks["net-1"].samples_ms == (1.0, 1.0)
    assert list(lut.drift) == [("b", 0)]


def test_a_table_about_a_model_file_has_no_space_and_its_remedies_name_the_file(tmp_path):
    fingerprint = FINGERPRINT | {"batch": None, "precision": "fp16"}
    lut = read(
        tmp_path / "t", visit("model-1", [1.0, 2.0], operator=None, model_file=MODEL, repeats=1),
        space=None, space_sha256=None, classes=None, fingerprint=fingerprint,
    )  # fmt: skip

    entry = lut.networks["model-1"]
    assert entry.is_model and entry.is_network
    assert entry.latency_ms == pytest.approx(1.5)
    assert lut.command_options == "--host HOST --model FILE --precision fp16"
    assert "`profile-device --host HOST --model FILE --precision fp16 --rounds 15`" in entry.warnings[0]
    with pytest.raises(luts.LutMissError) as caught:
        lut.latency_ms("model-2")
    assert caught.value.hint == "to fill the table: `profile-device --host HOST --model FILE --precision fp16`"


def test_a_frame_names_every_statistic(tmp_path):
    frame = read(tmp_path / "t", of_network(range(1, 101))).to_frame().set_index("key").loc["net-1"]

    found = {name: frame[name] for name in ("latency_ms", "mean_ms", "p95_ms", "p99_ms", "robust_ms", "repeats")}
    assert found == pytest.approx(
        {"latency_ms": 50.5, "mean_ms": 50.5, "p95_ms": 95.5, "p99_ms": 99.5, "robust_ms": 10.9, "repeats": 1}
    )


def test_single_inferences_of_networks_do_not_spoil_the_drift(tmp_path):
    """Rounds drift by 6 %. Operators: five means each. Networks: a hundred inferences, some late. The quickest of a
    hundred lies lower than the quickest of five means, in every round alike, so it is part of the key's cost."""
    generator = np.random.default_rng(3)
    truth = [1 + 0.06 * math.sin(r / 3) for r in range(15)]

    def late(size):
        return 1 + 0.02 * generator.exponential(size=size) + 0.5 * (generator.random(size) < 0.02)

    operators, networks = [], []
    for r, drift in enumerate(truth):
        for key in range(12):
            means = late((5, 20)).mean(axis=1)
            operators.append(visit(f"op{key}@1", list(0.1 * drift * means), round=r))
        for key in range(40):
            samples = drift * late(100 if key % 2 else 30)
            networks.append(visit(f"net-{key}", list(samples), round=r, architecture=NETWORK, repeats=1))

    def error(*visits):
        lut = read(tmp_path / f"t{len(visits)}", *visits)
        logs = np.log([lut.drift["aaaaaaaa", r] / truth[r] for r in range(15)])
        return float(np.std(logs))

    assert error(*operators, *networks) <= error(*operators) < 0.003

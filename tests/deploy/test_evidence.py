"""What is judged is computed from visits: statistics of single inferences, accuracy, the load before them."""

import numpy as np
import pytest

import luts
from lightnas_edge.deploy import evidence
from lightnas_edge.records.deployment import LatencyEstimate
from lightnas_edge.records.lut import MachineState


def visit(samples, *, round_=0, repeats=1, t_s=0.0, **more):
    return luts.Visit(
        key="net-0", session="00", round=round_, repeats=repeats, t_s=t_s, samples_ms=tuple(samples),
        architecture={"kind": "architecture"}, **more,
    )  # fmt: skip


def entry(rounds, **more):
    visits = tuple(visit(samples, round_=index, **more) for index, samples in enumerate(rounds))
    return luts.Entry("net-0", visits, (1.0,) * len(visits))


def test_statistics_have_the_names_and_values_that_trtexec_prints():
    measured = evidence.measured_latency(entry([[1.0, 2.0, 3.0, 4.0]] * 10))

    assert (measured.min_ms, measured.max_ms) == (1.0, 4.0)
    assert measured.mean.latency_ms == pytest.approx(2.5)
    assert 2.0 <= measured.median.latency_ms <= 3.0
    assert (measured.n, measured.rounds, measured.inferences_per_sample) == (40, 10, 1)


def test_the_verdicts_numbers_are_not_corrected_for_drift():
    plain = entry([[1.0, 1.0]] * 10)
    drifted = luts.Entry(plain.key, plain.visits, (2.0,) * 10)

    assert evidence.measured_latency(drifted).median.latency_ms == pytest.approx(1.0)


def test_the_noise_of_the_sentinels_is_no_deviation_by_day():
    """Ratios that scatter by 2 %: all of it noise, or, with exact ratios, all of it the networks' own."""
    network = entry([[1.0, 1.01]] * 12)
    measured = evidence.measured_latency(network)
    per_key = {f"s{index}": 1.0 + 0.02 * (-1) ** index for index in range(12)}
    predicted = LatencyEstimate(latency_ms=1.0, interval_ms=None)

    def deviation(error):
        drift = luts.Ratio(1.0, (0.99, 1.01), 0.95, per_key, dict.fromkeys(per_key, error))
        return evidence.comparison(network, "latency_ms", measured, predicted, drift).day_deviation

    assert deviation(0.03) < 0.01 < 0.015 < deviation(0.0)
    assert deviation(float("nan")) == deviation(0.0), "an error that is not known explains nothing"


def test_of_several_streams_the_slowest_is_judged_and_each_is_named():
    """Two streams take 1 and 2 ms, three and two inferences in 4 ms: 1.25 a millisecond, each a batch of 8."""
    streams = ({"samples": 3, "span_ms": 4.0}, {"samples": 2, "span_ms": 4.0})
    network = entry([[1.0, 1.0, 1.0, 2.0, 2.0]] * 80, streams=streams)

    measured = evidence.measured_latency(network, batch=8)

    assert (measured.median.latency_ms, measured.p95.latency_ms, measured.min_ms, measured.n) == (2.0, 2.0, 1.0, 400)
    assert [(each.n, each.median.latency_ms) for each in measured.streams] == [(240, 1.0), (160, 2.0)]
    assert measured.throughput.per_s == pytest.approx(8 * 1250.0)
    assert measured.throughput.interval_per_s is not None


def test_the_throughput_of_one_stream_is_that_of_its_inferences_back_to_back():
    """Rounds of 1 and of 2 ms: the mean of 1000 and 500 a second, and no interval below 72 rounds."""
    measured = evidence.measured_latency(entry([[1.0, 1.0], [2.0, 2.0]] * 6), batch=None)

    assert measured.throughput.per_s == pytest.approx(750.0)
    assert (measured.throughput.interval_per_s, measured.streams) == (None, ())


def test_streams_that_do_not_share_out_the_samples_are_refused():
    with pytest.raises(ValueError, match="expected streams of all samples, found 3"):
        visit([1.0, 1.0], streams=({"samples": 1, "span_ms": 1.0}, {"samples": 2, "span_ms": 1.0}))


def test_means_of_several_inferences_are_counted():
    assert evidence.measured_latency(entry([[1.0]] * 10, repeats=3)).inferences_per_sample == 3


def test_accuracy_is_paired_on_the_same_images():
    """Of four images the engine gets one wrong that the reference has right."""
    labels = np.array([0, 1, 0, 1])
    reference = np.array([[2.0, 0.0], [0.0, 2.0], [2.0, 0.0], [0.0, 2.0]], np.float32)
    outputs = reference.copy()
    outputs[3] = [2.0, 0.0]

    found = evidence.accuracy(labels, outputs, reference)

    assert (found.top1, found.reference_top1, found.drop) == (0.75, 1.0, 0.25)
    assert found.drop_interval[0] < 0.25 < found.drop_interval[1]


def test_the_load_before_the_rounds_is_told_by_its_first_and_its_last_minute():
    """Ten minutes in which the latency rises from 1.0 to 1.2 and the temperature by 30 degrees."""
    visits = [
        visit(
            [1.0 + 0.2 * min(1, t / 300)] * 5,
            t_s=50.0 + t,
            round_=t // 10,
            after=MachineState(temperature_c=40 + t / 20),
        )
        for t in range(0, 601, 10)
    ]

    load = evidence.sustained(visits, 600.0)

    assert load.elapsed_s == 600
    assert load.first_ms == pytest.approx(1.02, abs=0.001)  # the median of 0, 10, ... 60 s
    assert load.last_ms == pytest.approx(1.2)
    assert load.change == pytest.approx(1.2 / 1.02 - 1, abs=0.001)
    assert load.trend_per_minute == pytest.approx(0.0, abs=1e-9)
    assert (load.windows[0].temperature_c, load.windows[-1].temperature_c) == (40, 70)


def test_a_latency_that_still_rises_at_the_end_has_a_trend():
    visits = [visit([1.0 + t / 600] * 5, t_s=float(t), round_=t) for t in range(0, 120, 5)]

    assert evidence.sustained(visits, 120.0).trend_per_minute == pytest.approx(0.1 / 1.16, rel=0.1)


def test_no_load_is_no_record():
    assert evidence.sustained([], 60.0) is None

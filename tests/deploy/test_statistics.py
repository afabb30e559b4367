"""Statistics of single inferences and intervals that come from whole rounds."""

from __future__ import annotations

import math

import numpy as np
import pytest

from lightnas_edge.deploy.statistics import (
    DAY_DEVIATION,
    against,
    corrected_interval,
    day_deviation,
    estimate,
    least_rounds,
    noise,
)

METRICS = ("latency_ms", "mean_ms", "p90_ms", "p95_ms", "p99_ms")


def rounds_of(count, *, between=0.01, within=0.01, inferences=20, seed=0):
    """Rounds around 10 ms: what a round has in common, and what its inferences differ by, both relative."""
    rng = np.random.default_rng(seed)
    return [10 * (1 + between * rng.standard_normal() + within * rng.standard_normal(inferences)) for _ in range(count)]


# -- the statistic -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("metric", "value"), [("latency_ms", 50.5), ("mean_ms", 50.5), ("p90_ms", 90.5), ("p95_ms", 95.5), ("p99_ms", 99.5)]
)
def test_the_statistics_of_one_to_a_hundred(metric, value):
    rounds = [np.arange(1.0, 101.0)] * 3

    assert estimate(rounds, metric).value == pytest.approx(value)


@pytest.mark.parametrize("metric", ["latency_ms", "mean_ms"])
def test_a_round_of_many_samples_weighs_as_much_as_one_of_few(metric):
    """Two rounds of 10 ms and one of 20 ms, which has ten times the samples: most rounds take 10 ms."""
    rounds = [np.full(10, 10.0), np.full(10, 10.0), np.full(100, 20.0)]

    assert estimate(rounds, metric).value == pytest.approx({"latency_ms": 10.0, "mean_ms": 40 / 3}[metric])


# -- too few rounds ------------------------------------------------------------------------------------------


def test_a_percentile_needs_as_many_rounds_as_would_show_a_slow_one():
    """0.95 ** 72 = 2.49 % is the chance that 72 rounds show none of the slow twentieth; 0.95 ** 71 = 2.62 %."""
    assert least_rounds("p95_ms") == 72
    assert least_rounds("p90_ms") == 36
    assert least_rounds("p99_ms") == 368
    assert least_rounds("latency_ms") == 12


def test_a_mean_needs_as_many_rounds_as_would_show_an_event_in_one_of_twenty():
    assert least_rounds("mean_ms") == 72


def test_more_confidence_needs_more_rounds():
    assert least_rounds("p95_ms", 0.99) == math.ceil(math.log(0.005) / math.log(0.95)) == 104


@pytest.mark.parametrize("metric", METRICS)
def test_too_few_rounds_are_refused_and_enough_are_not(metric):
    rounds = rounds_of(least_rounds(metric))

    few = estimate(rounds[:-1], metric)
    enough = estimate(rounds, metric)

    assert few.interval is None
    assert few.rounds_needed == least_rounds(metric)
    assert against(rounds[:-1], metric, 100.0) == "inconclusive"
    assert enough.interval is not None
    assert enough.rounds_needed is None
    assert against(rounds, metric, 100.0) == "met"


# -- the interval and the verdict ----------------------------------------------------------------------------


@pytest.mark.parametrize("metric", METRICS)
def test_a_verdict_is_the_side_of_the_interval_that_the_target_is_on(metric):
    rounds = rounds_of(400)
    low, high = estimate(rounds, metric).interval

    assert low <= estimate(rounds, metric).value <= high
    assert against(rounds, metric, high) == "met"
    assert against(rounds, metric, np.nextafter(high, 0)) == "inconclusive"
    assert against(rounds, metric, low) == "inconclusive"
    assert against(rounds, metric, np.nextafter(low, 0)) == "missed"


def test_a_larger_target_is_never_harder_to_meet():
    rounds = rounds_of(15)
    order = {"missed": 0, "inconclusive": 1, "met": 2}

    found = [order[against(rounds, "latency_ms", target)] for target in np.linspace(9.5, 10.5, 101)]

    assert found == sorted(found)
    assert set(found) == {0, 1, 2}


@pytest.mark.parametrize("metric", METRICS)
def test_a_network_that_takes_twice_as_long_has_twice_the_interval(metric):
    rounds = rounds_of(400, seed=3)

    one = estimate(rounds, metric).interval
    two = estimate([2 * samples for samples in rounds], metric).interval

    assert two == pytest.approx([2 * limit for limit in one], rel=1e-12)


@pytest.mark.parametrize("metric", METRICS)
def test_samples_that_are_all_equal_have_an_interval_of_no_width(metric):
    assert estimate([np.full(10, 7.0)] * 400, metric).interval == (7.0, 7.0)


@pytest.mark.parametrize("metric", ["latency_ms", "mean_ms"])
def test_more_inferences_in_a_round_do_not_replace_rounds(metric):
    """Where rounds differ and inferences do not, ten times the inferences say nothing more."""
    rounds = rounds_of(80, within=0.0, inferences=10)

    found = estimate([np.repeat(samples, 10) for samples in rounds], metric).interval

    assert found == pytest.approx(estimate(rounds, metric).interval)
    assert found[1] - found[0] > 0.02


def test_a_round_in_which_nothing_is_beyond_the_threshold_could_have_been_beyond_it_as_a_whole():
    """100 rounds of one speed, and 4 of another: p95 may be either."""
    speeds = np.full(104, 10.0)
    speeds[[10, 37, 61, 90]] = 15.0
    rounds = [speed * (1 + 1e-4 * np.linspace(-1, 1, 20)) for speed in speeds]

    low, high = estimate(rounds, "p95_ms").interval

    assert low < 10.1
    assert high > 14.9


def test_one_round_with_most_of_the_slow_inferences_keeps_a_percentile_from_being_met():
    """Thirty of eighty rounds have one slow inference of twenty: 1.9 % are slow, surely fewer than 5 %.

    One more round with twelve slow ones makes it 2.6 %. Two more such rounds could have been seen: not surely below 5 %.
    """
    slow = np.zeros(80, dtype=int)
    slow[np.arange(30) * 79 // 30] = 1

    def rounds(of_each):
        mixed = np.random.default_rng(1).permutation(of_each)
        return [np.where(np.arange(20) < count, 15.0, 10.0) + 0.01 * np.arange(20) for count in mixed]

    even = against(rounds(slow), "p95_ms", 14.0)
    slow[41] = 12

    assert even == "met"
    assert against(rounds(slow), "p95_ms", 14.0) == "inconclusive"


def test_rounds_that_are_like_their_neighbours_say_less():
    """The same eighty rounds, mixed, and in runs of ten that are alike."""
    rng = np.random.default_rng(2)
    speeds = np.repeat([10.0, 12.0] * 4, 10) + 0.01 * rng.standard_normal(80)
    in_runs = [np.full(10, speed) for speed in speeds]
    mixed = [in_runs[index] for index in rng.permutation(80)]

    def width(rounds):
        low, high = estimate(rounds, "mean_ms").interval
        return high - low

    assert width(in_runs) > 1.5 * width(mixed)


def test_a_trend_over_all_rounds_is_no_error():
    """A machine that slows down steadily by 10 % has a mean over the time that was measured."""
    rounds = rounds_of(80, between=0.002, within=0.002)
    trend = [samples * (1 + 0.1 * part) for samples, part in zip(rounds, np.linspace(-0.5, 0.5, 80), strict=True)]

    low, high = estimate(trend, "mean_ms").interval
    mixed = estimate([trend[index] for index in np.random.default_rng(0).permutation(80)], "mean_ms").interval

    assert high - low < 0.5 * (mixed[1] - mixed[0])


def test_a_burst_that_was_seen_moves_the_upper_limit_of_the_mean_further_than_the_lower_one():
    speeds = [10.0, 10.1] * 40
    speeds[7] = speeds[23] = 14.0

    found = estimate([np.full(10, speed) for speed in speeds], "mean_ms")

    assert found.interval[1] - found.value > 1.3 * (found.value - found.interval[0])


# -- error rates, with fixed seeds: docs/verdicts.md has the whole table ----------------------------------------


@pytest.mark.parametrize(("metric", "rounds"), [("latency_ms", 15), ("mean_ms", 80), ("p90_ms", 40)])
def test_intervals_hold_in_about_95_of_100_verifications(metric, rounds):
    """Half of the variance is between rounds: an interval from independent samples would hold in about half."""
    true_ms = {"latency_ms": 10.0, "mean_ms": 10.0, "p90_ms": 10 + 0.1 * math.sqrt(2) * 1.28155}[metric]

    held = sum(
        low <= true_ms <= high
        for low, high in (estimate(rounds_of(rounds, seed=seed), metric).interval for seed in range(300))
    )

    assert 0.92 <= held / 300 <= 0.995


def test_two_per_cent_are_told_apart_in_fifteen_rounds_at_one_per_cent_of_noise():
    rounds = [rounds_of(15, between=0.007, within=0.007, seed=seed) for seed in range(50)]

    assert sum(against(each, "latency_ms", 10.2) == "met" for each in rounds) >= 45
    assert sum(against(each, "latency_ms", 9.8) == "missed" for each in rounds) >= 45


def test_a_bimodal_machine_is_not_called_met_for_its_fast_mode():
    """Slow in half of the rounds, so that the median is no more below the middle than above it."""
    said = []
    for seed in range(200):
        slow = np.random.default_rng(seed).random(15) < 0.5
        rounds = [speed * (1 + 0.002 * np.linspace(-1, 1, 10)) for speed in np.where(slow, 12.0, 10.0)]
        said.append(against(rounds, "latency_ms", 11.0))

    assert said.count("met") <= 0.05 * len(said)
    assert said.count("missed") <= 0.05 * len(said)


# -- noise and another day -----------------------------------------------------------------------------------


def test_noise_is_the_median_over_the_first_decile():
    """Of 1, 2, ..., 100 the median is 50.5 and the first decile 10.5."""
    assert noise([np.arange(1.0, 101.0)]) == pytest.approx(50.5 / 10.5 - 1)
    assert noise([np.full(10, 3.0)] * 5) == 0


def test_without_two_sentinels_the_usual_deviation_by_day_is_taken():
    assert day_deviation([]) == day_deviation([1.2]) == DAY_DEVIATION == 0.01


def test_sentinels_that_scatter_raise_the_deviation_of_one_network_whatever_their_number():
    """It is the deviation of one, not the error of the mean of many."""
    few = day_deviation(np.exp([0.03, -0.03] * 3))
    many = day_deviation(np.exp([0.03, -0.03] * 300))

    assert few == pytest.approx(math.sqrt((5 * 0.03**2 * 6 / 5 + 4 * 0.01**2) / 9))
    assert many == pytest.approx(0.03, rel=0.01)


def test_a_common_drift_of_all_sentinels_is_no_deviation():
    assert day_deviation([1.3] * 500) < 0.001


def test_what_the_measurement_of_the_sentinels_explains_is_no_deviation_by_day():
    ratios = np.exp([0.02, -0.02] * 6)

    assert day_deviation(ratios, [0.02] * 12) < 0.6 * day_deviation(ratios)


def test_a_corrected_interval_adds_three_independent_errors():
    """Relative errors of 1 % each: the square root of 3 times 1.96 %, around 10 ms."""
    drift = (math.exp(-0.01 * 1.959964), math.exp(0.01 * 1.959964))

    low, high = corrected_interval(10.0, 0.1, drift, 0.95, 0.01)

    assert math.log(high / 10) == pytest.approx(0.01 * 1.959964 * math.sqrt(3), rel=1e-6)
    assert low * high == pytest.approx(100.0)


def test_a_corrected_latency_of_unknown_error_has_no_interval():
    assert corrected_interval(10.0, math.nan, (0.99, 1.01), 0.95, 0.01) is None

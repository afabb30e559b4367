"""Energy of an entry, from the visits that have it."""

import math

import numpy as np
import pytest

import luts
from lightnas_edge.records.lut import EnergyErrorParts, EnergyEstimate
from luts.energy import UnitFactor, combine, half_width
from profiler.power import interval


def error(random_mj=0.05, shared_mj=(0.02,), freedom=8.0):
    return EnergyErrorParts(random_mj=random_mj, freedom=freedom, shared_mj=shared_mj)


def estimate(gross, net, parts=None):
    parts = parts or error()
    return EnergyEstimate(
        gross_mj=gross, gross_error=parts, net_mj=net, net_error=None if net is None else parts
    )  # fmt: skip


def half(interval):
    return (interval[1] - interval[0]) / 2


def test_visits_are_averaged_and_the_interval_is_around_their_mean():
    energy = combine([estimate(2.0, 1.0), None, estimate(2.02, 1.02)])

    assert energy.gross_mj == pytest.approx(2.01) and energy.net_mj == pytest.approx(1.01)
    assert sum(energy.gross_interval_mj) / 2 == pytest.approx(2.01)
    assert sum(energy.net_interval_mj) / 2 == pytest.approx(1.01)
    assert energy.visits == 2


def test_more_visits_make_the_interval_narrower():
    widths = [half(combine([estimate(2.0, 1.0)] * count).gross_interval_mj) for count in (1, 3, 9)]

    assert widths[0] > 1.5 * widths[1] > 2.2 * widths[2]


def test_what_visits_share_does_not_average_out():
    """Rounding to the sensor's step is the same in each."""
    still = error(random_mj=0.0, shared_mj=(0.02,))

    assert half(combine([estimate(2.0, 1.0, still)] * 9).gross_interval_mj) == pytest.approx(0.019, rel=0.01)


@pytest.mark.parametrize("count", (1, 8))
def test_the_error_of_a_units_level_does_not_average_out(count):
    """Of 2 % and 1 %: all visits of the unit are divided by the same factor."""
    factor = UnitFactor(gross=1.25, net=1.25, gross_error=0.02, net_error=0.01)
    precise = error(random_mj=0.001, shared_mj=())

    energy = combine([factor.corrected(estimate(12.5, 5.0, precise))] * count)

    assert (energy.gross_mj, energy.net_mj) == pytest.approx((10.0, 4.0))
    assert half(energy.gross_interval_mj) == pytest.approx(1.96 * 0.02 * 10.0, rel=0.01)
    assert half(energy.net_interval_mj) == pytest.approx(1.96 * 0.01 * 4.0, rel=0.01)


def test_visits_that_differ_by_more_than_their_errors_widen_the_interval():
    """By their scatter, and by Student's t for so few: 2.0, 2.5 and 3.0 mJ, each known to 0.05."""
    energy = combine([estimate(gross, 1.0) for gross in (2.0, 2.5, 3.0)])

    assert half(energy.gross_interval_mj) == pytest.approx(4.3 * 0.5 / math.sqrt(3), rel=0.05)
    assert half(energy.net_interval_mj) < 0.1


def test_intervals_of_five_visits_cover_the_truth():
    draw = np.random.default_rng(1)
    covered = widths = 0.0
    for _ in range(400):
        shared = draw.uniform(-0.02, 0.02)
        visits = [estimate(2.0 + shared + draw.normal(0, 0.05), None) for _ in range(5)]
        low, high = combine(visits).gross_interval_mj
        covered += low <= 2.0 <= high
        widths += (high - low) / 2
    needed = 1.96 * math.hypot(0.05 / math.sqrt(5), 0.02 / math.sqrt(3))
    assert 0.93 <= covered / 400 <= 0.99
    assert 1.0 <= widths / 400 / needed <= 1.3


def test_the_host_and_the_agent_have_the_same_interval():
    for standard_error, freedom, bounds in ((0.0, 5, [20]), (1.0, 2, []), (0.5, 8, [1, 2]), (3.0, 8, [0.1])):
        assert half_width(standard_error, freedom, bounds) == pytest.approx(
            interval.half_width(interval.RandomError(standard_error, freedom), bounds), rel=0.02
        )


def test_what_was_not_measured_is_none_and_never_zero():
    assert combine([None, None]) is None
    assert combine([EnergyEstimate(gross_mj=None, reason="the rail cannot be read")]) is None


def test_without_idle_there_is_no_net():
    energy = combine([estimate(2.0, None)])

    assert (energy.net_mj, energy.net_interval_mj) == (None, None)
    assert str(energy).startswith("2 mJ (1.8")


def test_one_visit_without_an_error_takes_the_interval_from_all():
    without = estimate(2.0, 1.0).model_copy(update={"gross_error": None})

    assert combine([estimate(2.0, 1.0), without]).gross_interval_mj is None


def test_the_combined_energy_is_of_the_public_type():
    assert isinstance(combine([estimate(1.0, 0.5)]), luts.Energy)

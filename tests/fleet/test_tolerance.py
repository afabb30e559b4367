"""A guarantee for all units from a few: the factors of the tables, the verdicts, and the coverage."""

import math

import numpy as np
import pytest

from lightnas_edge.fleet.tolerance import guarantee, tolerance_factor
from lightnas_edge.records.fleet import UnitValue

Z95 = 1.6448536269514722  # of the normal distribution


def units(*values, named=True):
    return [
        UnitValue(host=f"orin{number}", unit=f"{number:012x}" if named else None, value=value, verdict="met")
        for number, value in enumerate(values)
    ]


def about(*values, target=20.0):
    return guarantee("latency_ms", "ms", target, units(*values))


@pytest.mark.parametrize(
    ("count", "factor"), [(2, 13.090), (3, 5.311), (5, 3.400), (10, 2.568), (30, 2.080)]
)  # ISO 16269-6
def test_the_factors_are_those_of_the_published_tables(count, factor):
    assert tolerance_factor(count) == pytest.approx(factor, abs=0.001)


@pytest.mark.parametrize("count", (3, 5, 10))
@pytest.mark.parametrize("spread", (0.005, 0.05))
def test_the_bound_covers_the_share_in_at_least_90_of_100_fleets(count, spread):
    generator = np.random.default_rng(count)
    fleets, covered = 2000, 0
    truth = 18.0 * math.exp(Z95 * spread)
    for _ in range(fleets):
        covered += about(*(18.0 * np.exp(generator.normal(0, spread, count)))).bound >= truth

    assert covered / fleets >= 0.90 - 3 * math.sqrt(0.09 / fleets)
    assert covered / fleets <= 0.90 + 3 * math.sqrt(0.09 / fleets)  # no wider than needed


def test_below_three_units_there_is_no_guarantee():
    for values in ((), (18.0,), (18.0, 18.1)):
        found = about(*values)

        assert found.verdict == "not available" and found.bound is None and found.more_units == 3 - len(values)
        assert "not available" in found.reason


def test_units_far_below_the_target_keep_it_and_units_above_do_not():
    kept, missed = about(18.0, 18.1, 17.9, 18.05), about(21.0, 21.1, 20.9, 21.05)

    assert kept.verdict == "kept" and kept.bound < 20 and "95 % of units keep 20 ms" in kept.reason
    assert missed.verdict == "not kept" and missed.more_units == kept.more_units == 0


def test_what_is_not_settled_says_how_many_more_units_would_settle_it():
    found = about(18.6, 19.0, 18.2)

    assert found.verdict == "undecided" and found.bound > 20
    count = len(found.units) + found.more_units
    mean, deviation = math.log(found.median), found.deviation
    assert mean + tolerance_factor(count) * deviation <= math.log(20)
    assert mean + tolerance_factor(count - 1) * deviation > math.log(20)
    assert f"{found.more_units} more unit" in found.reason


def test_a_target_at_the_value_that_the_share_keeps_is_settled_by_no_number_of_units():
    found = about(18.6, 19.0, 18.2, target=18.6 * math.exp(Z95 * 0.0216))

    assert found.verdict == "undecided" and (found.more_units is None or found.more_units > 200)


def test_a_unit_that_was_verified_twice_counts_once_and_boards_without_identity_count_each():
    twice = [*units(18.0, 18.1), UnitValue(host="again", unit=f"{0:012x}", value=18.2, verdict="met")]

    assert guarantee("latency_ms", "ms", 20.0, twice).verdict == "not available"
    assert guarantee("latency_ms", "ms", 20.0, units(18.0, 18.1, 18.2, named=False)).verdict == "kept"


def test_equal_units_have_a_bound_at_their_value():
    assert about(18.0, 18.0, 18.0).bound == pytest.approx(18.0)
    assert about(20.5, 20.5, 20.5).verdict == "not kept"


def test_a_unit_without_a_usable_value_leaves_nothing_to_say_about_all_units():
    """Without it the others are no random sample; with it a fast network that computes something else would count."""
    found = guarantee("latency_ms", "ms", 20.0, units(10.0, 10.1, 10.2), unusable=["orin1: it computes something else"])

    assert (found.verdict, found.bound) == ("not available", None)
    assert found.reason == "not available: orin1: it computes something else"

"""Energy of an entry, from the visits that have it."""

import pytest

import luts
from lightnas_edge.records.lut import EnergyEstimate
from luts.energy import combine


def estimate(gross, net, width=0.1):
    around = lambda value: None if value is None else (value - width, value + width)  # noqa: E731
    return EnergyEstimate(
        gross_mj=gross, gross_interval_mj=around(gross), net_mj=net, net_interval_mj=around(net)
    )  # fmt: skip


def test_visits_are_averaged_and_their_intervals_spanned():
    energy = combine([estimate(2.0, 1.0), None, estimate(2.2, 1.2)])

    assert energy.gross_mj == pytest.approx(2.1) and energy.net_mj == pytest.approx(1.1)
    assert energy.gross_interval_mj == pytest.approx((1.9, 2.3))
    assert energy.net_interval_mj == pytest.approx((0.9, 1.3))
    assert energy.visits == 2


def test_what_was_not_measured_is_none_and_never_zero():
    assert combine([None, None]) is None
    assert combine([EnergyEstimate(gross_mj=None, reason="the rail cannot be read")]) is None


def test_without_idle_there_is_no_net():
    energy = combine([estimate(2.0, None)])

    assert (energy.net_mj, energy.net_interval_mj) == (None, None)
    assert str(energy) == "2 mJ (1.9 to 2.1)"


def test_one_visit_without_an_interval_takes_it_from_all():
    assert (
        combine(
            [estimate(2.0, 1.0), estimate(2.0, 1.0).model_copy(update={"gross_interval_mj": None})]
        ).gross_interval_mj
        is None
    )


def test_the_combined_energy_is_of_the_public_type():
    assert isinstance(combine([estimate(1.0, 0.5)]), luts.Energy)

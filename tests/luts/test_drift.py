"""Which rounds have a drift of their own, and which sessions set the scale."""

from __future__ import annotations

import pytest

import luts
from luts.drift import MIN_KEYS, estimate_drift
from tests.luts.journals import header, visit, write

SLOWER = 1.2


def two_rounds(path, keys):
    """The second round is slower by a fifth; each key is measured in both."""
    records = [header()]
    for round, factor in enumerate((1.0, SLOWER)):
        records += [visit(f"op{key}@1", [0.1 * (1 + key) * factor], round=round) for key in range(keys)]
    return luts.read(write(path, *records))


def test_four_shared_keys_give_a_round_a_drift_of_its_own(tmp_path):
    assert MIN_KEYS == 4
    drift = two_rounds(tmp_path / "t", 4).drift

    assert drift["aaaaaaaa", 1] / drift["aaaaaaaa", 0] == pytest.approx(SLOWER, rel=1e-3)


def test_three_shared_keys_give_a_round_none(tmp_path):
    assert set(two_rounds(tmp_path / "t", 3).drift.values()) == {1.0}


def sessions(path, rounds):
    """Five keys in every session, each session slower than the one before."""
    records = [header()]
    for number, (name, count) in enumerate(rounds.items()):
        for round in range(count):
            records += [visit(f"op{key}@1", [0.1 * 1.1**number], session=name, round=round) for key in range(5)]
    return luts.read(write(path, *records)).visits


@pytest.mark.parametrize("reference", ["aaaaaaaa", "bbbbbbbb", "cccccccc"])
def test_the_reference_session_has_a_drift_of_one_however_few_rounds_it_has(tmp_path, reference):
    rounds = {"aaaaaaaa": 3, "bbbbbbbb": 9, "cccccccc": 30}
    drift = estimate_drift(sessions(tmp_path / "t", rounds), frozenset({reference}))

    step = {"aaaaaaaa": 0, "bbbbbbbb": 1, "cccccccc": 2}
    for (session, _), factor in drift.items():
        assert factor == pytest.approx(1.1 ** (step[session] - step[reference]), rel=1e-3)


def test_without_a_measured_reference_the_middle_of_all_visits_has_a_drift_of_one(tmp_path):
    drift = estimate_drift(sessions(tmp_path / "t", {"aaaaaaaa": 3, "bbbbbbbb": 9}), frozenset({"dddddddd"}))

    assert drift["bbbbbbbb", 0] == pytest.approx(1.0, rel=1e-3)

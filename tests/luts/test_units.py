"""Units of one model: levels from keys that not every unit measured."""

import pytest

import luts
from tests.luts.journals import FINGERPRINT, write_measured
from tests.luts.refusals import share

TRUTH_MS = {f"op{index}@1": 0.1 * 1.2**index for index in range(12)}
SPEEDS = {"a": 1.0, "b": 1.03, "c": 0.97}


def table(folder, unit, keys, speed, seed):
    truth = {key: TRUTH_MS[key] * speed for key in keys}
    fingerprint = FINGERPRINT | {"unit": unit * 12}
    path = write_measured(
        folder / f"{unit}.lut.jsonl", truth, noise=0.002, session=unit * 8, seed=seed, fingerprint=fingerprint
    )
    return luts.read(path)


def compared(folder, keys):
    """keys: those that each unit measured."""
    return luts.compare_units(
        {unit: table(folder, unit, keys[unit], speed, seed) for seed, (unit, speed) in enumerate(SPEEDS.items())}
    )


def test_a_unit_that_measured_little_does_not_hide_how_the_others_differ(tmp_path):
    every = list(TRUTH_MS)

    found = compared(tmp_path, {"a": every, "b": every, "c": every[:3]})

    assert set(found.keys) == set(every)
    ratios = {ratio.name: ratio for ratio in found.ratios}
    for unit, speed in SPEEDS.items():
        assert ratios[unit].value == pytest.approx(speed, abs=0.003)
    assert ratios["b"].differs and not ratios["a"].differs


def test_units_are_compared_over_others_with_which_they_share_keys(tmp_path):
    every = list(TRUTH_MS)

    found = compared(tmp_path, {"a": every, "b": every[:6], "c": every[6:]})

    assert {ratio.name: pytest.approx(ratio.value, abs=0.003) for ratio in found.ratios} == SPEEDS
    assert not found.by_operator


@pytest.mark.parametrize("shared", (0, 1))
def test_a_unit_that_shares_fewer_than_two_keys_leaves_it_unknown_how_much_the_units_differ(tmp_path, shared):
    every = list(TRUTH_MS)

    found = compared(tmp_path, {"a": every[: 6 + shared], "b": every[: 6 + shared], "c": every[6:]})

    assert not found.keys and not found.alike


def test_units_that_are_alike_are_not_called_different_and_units_apart_are():
    """Sessions of a unit differ by 0.3 %; units by nothing, or by 10 % (standard deviation)."""
    assert share(3, 0.003, fleets=6) == 0.0
    assert share(3, 0.003, fleets=6, spread=0.10) >= 5 / 6


def test_a_pooled_table_has_every_intact_visit_once(tmp_path):
    one, two = (table(tmp_path, unit, list(TRUTH_MS)[:3], 1.0, seed) for seed, unit in enumerate("ab"))
    again = tmp_path / "again.lut.jsonl"
    again.write_bytes(one.path.read_bytes().replace(b'"round":2', b'"round":9'))  # the checksums of these lines fail
    pooled = tmp_path / "pooled.lut.jsonl"

    luts.write_pooled([one, two, luts.read(again)], pooled)

    lines = pooled.read_bytes().splitlines()
    header = one.path.read_bytes().splitlines()[:1]
    assert lines == one.path.read_bytes().splitlines() + two.path.read_bytes().splitlines() + header
    assert luts.read(pooled).faults == ()


def test_a_pooled_table_puts_a_file_with_other_measurements_away(tmp_path):
    one, two = (table(tmp_path, unit, list(TRUTH_MS)[:3], 1.0, seed) for seed, unit in enumerate("ab"))
    pooled, old = tmp_path / "pooled.lut.jsonl", tmp_path / "pooled.lut.jsonl.old"

    luts.write_pooled([one], pooled)
    luts.write_pooled([one, two], pooled)  # the same and more
    assert not old.exists()
    both = pooled.read_bytes()
    luts.write_pooled([two], pooled)

    assert old.read_bytes() == both
    assert {visit.session for visit in luts.read(pooled).visits} == {"b" * 8}


@pytest.mark.parametrize("diligent", ["a", "b", "c"])
def test_a_pooled_table_has_the_numbers_of_the_middle_unit_whichever_unit_measured_most(tmp_path, diligent):
    """`c` is the fastest and `b` the slowest; one of them measures everything, as where the others were lost early."""
    every = list(TRUTH_MS)
    tables = {
        unit: table(tmp_path, unit, every if unit == diligent else every[:5], speed, seed)
        for seed, (unit, speed) in enumerate(SPEEDS.items())
    }

    pooled = luts.write_pooled(list(tables.values()), tmp_path / "pooled.lut.jsonl")

    for key, entry in pooled.entries.items():
        assert entry.latency_ms == pytest.approx(TRUTH_MS[key], rel=0.005)


def test_the_table_of_two_units_lies_between_them(tmp_path):
    every = list(TRUTH_MS)
    tables = [table(tmp_path, "b", every, 1.03, 0), table(tmp_path, "c", every[:5], 0.97, 1)]

    pooled = luts.write_pooled(tables, tmp_path / "pooled.lut.jsonl")

    for key, entry in pooled.entries.items():
        assert entry.latency_ms == pytest.approx(TRUTH_MS[key], rel=0.005)

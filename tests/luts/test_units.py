"""Units of one model: levels from keys that not every unit measured."""

import numpy as np
import pytest

import luts
from lightnas_edge.errors import FingerprintError
from luts.levels import linked_units
from tests.luts.journals import FINGERPRINT, header, seal, visit, write, write_measured
from tests.luts.refusals import share

TRUTH_MS = {f"op{index}@1": 0.1 * 1.2**index for index in range(12)}
KINDS = {"gross": 2.0, "net": 1.0}  # millijoules for a millisecond of TRUTH_MS
POWERS = {"a": 1.05, "b": 1.0, "c": 0.96}
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


def energy_table(folder, unit, keys, power, seed):
    """Each key has energy in two visits, with an error of 0.2 %."""
    draw = np.random.default_rng(seed)
    lines = [seal(header(fingerprint=FINGERPRINT | {"unit": unit * 12}))]
    for round_ in range(2):
        for key in keys:
            values = {
                f"{kind}_mj": TRUTH_MS[key] * share * power * (1 + 0.002 * draw.normal())
                for kind, share in KINDS.items()
            }
            error = {"random_mj": 0.002 * TRUTH_MS[key], "freedom": 30.0, "shared_mj": [0.001 * TRUTH_MS[key]]}
            energy = {**values, "gross_error": error, "net_error": error}
            lines.append(seal(visit(key, [TRUTH_MS[key]], round=round_, session=unit * 8, energy=energy)))
    folder.mkdir(exist_ok=True)
    path = folder / f"{unit}.lut.jsonl"
    path.write_bytes(b"".join(lines))
    return luts.read(path)


@pytest.mark.parametrize("shared", (12, 4))
def test_energies_of_a_pooled_table_are_those_of_the_middle_unit(tmp_path, shared):
    """Units share some keys; of the others each measured a part, and its power may not pass for that of the operators."""
    every = list(TRUTH_MS)
    own = {unit: every[:shared] + every[shared:][number::3] for number, unit in enumerate(POWERS)}
    tables = [energy_table(tmp_path, unit, own[unit], power, seed) for seed, (unit, power) in enumerate(POWERS.items())]

    pooled = luts.write_pooled(tables, tmp_path / "pooled.lut.jsonl")

    for key, entry in pooled.entries.items():
        assert entry.energy_mj.gross_mj == pytest.approx(2 * TRUTH_MS[key], rel=0.01)
        assert entry.energy_mj.net_mj == pytest.approx(TRUTH_MS[key], rel=0.01)
        if key in every[:shared]:  # by all units, which differ by 9 %
            low, high = entry.energy_mj.gross_interval_mj
            assert (high - low) / entry.energy_mj.gross_mj < 0.02
    assert luts.repeatability(pooled, metric="energy_mj").operators < 0.006
    assert tables[0].entries[every[0]].energy_mj.gross_mj == pytest.approx(2 * 1.05 * TRUTH_MS[every[0]], rel=0.01)


def test_energies_of_units_that_share_no_key_are_left_as_they_were_measured(tmp_path):
    every = list(TRUTH_MS)
    tables = [energy_table(tmp_path, unit, keys, 1.05, 0) for unit, keys in (("a", every[:6]), ("b", every[6:]))]

    pooled = luts.write_pooled(tables, tmp_path / "pooled.lut.jsonl")

    assert pooled.entries[every[0]].energy_mj.gross_mj == pytest.approx(2.1 * TRUTH_MS[every[0]], rel=0.01)


@pytest.mark.parametrize("energies", (0, 1))
def test_a_unit_without_energies_leaves_those_of_the_others_comparable(tmp_path, energies):
    """`d` was lost before it had measured energy, or cannot: a, b and c are the units of which the middle one is taken."""
    every = list(TRUTH_MS)
    own = {unit: every[:5] + every[5:][number::3] for number, unit in enumerate(POWERS)}
    tables = [energy_table(tmp_path, unit, own[unit], power, seed) for seed, (unit, power) in enumerate(POWERS.items())]
    lost = table(tmp_path, "d", every, 1.0, 9)
    few = [energy_table(tmp_path / "few", "d", every[:energies], 1.2, 9)] if energies else []

    pooled = luts.write_pooled([*tables, *few, lost], tmp_path / "pooled.lut.jsonl")

    for key in every[energies:]:
        assert pooled.entries[key].energy_mj.gross_mj == pytest.approx(2 * TRUTH_MS[key], rel=0.01)
        assert pooled.entries[key].energy_mj.net_mj == pytest.approx(TRUTH_MS[key], rel=0.01)


@pytest.mark.parametrize(
    ("known", "linked"),
    [
        (["ab", "ab", "c"], "ab"),
        (["ab", "ab", "ac", "cd"], "ab"),  # c shares one key with a, and another with d, which shares no other
        (["ab", "ab", "cd", "cd", "de", "ce"], "cde"),
        (["ab", "bc", "ac"], "abc"),
        (["a", "b"], ""),
        ([], ""),
    ],
)
def test_units_are_linked_by_two_shared_keys(known, linked):
    """Args: known: the units that measured each key."""
    units = "abcde"
    found = linked_units(np.array([[unit in key for unit in units] for key in known], bool).reshape(len(known), 5))

    assert "".join(unit for unit, is_linked in zip(units, found, strict=True) if is_linked) == linked


def test_the_table_of_two_units_lies_between_them(tmp_path):
    every = list(TRUTH_MS)
    tables = [table(tmp_path, "b", every, 1.03, 0), table(tmp_path, "c", every[:5], 0.97, 1)]

    pooled = luts.write_pooled(tables, tmp_path / "pooled.lut.jsonl")

    for key, entry in pooled.entries.items():
        assert entry.latency_ms == pytest.approx(TRUTH_MS[key], rel=0.005)


def test_visits_behind_a_damaged_header_are_of_an_unknown_board(tmp_path):
    path = write(
        tmp_path / "t.lut.jsonl",
        header(), visit("a@1", [1.0]),
        header(fingerprint=FINGERPRINT | {"board": "another"}), visit("a@1", [5.0], session="b" * 8), visit("b@1", [5.0], session="b" * 8),
        header(), visit("a@1", [1.0], session="c" * 8),
    )  # fmt: skip
    with pytest.raises(FingerprintError):
        luts.read(path)
    path.write_bytes(path.read_bytes().replace(b'"board":"another"', b'"board":"anothes"'))

    lut = luts.read(path)
    pooled = luts.write_pooled([lut], tmp_path / "pooled.lut.jsonl")

    assert [fault.line for fault in lut.faults] == [3] and "it was a header: what follows" in lut.faults[0].what
    assert not pooled.faults
    for each in (lut, pooled):
        assert list(each.entries) == ["a@1"] and each.latency_ms("a@1") == 1.0
        assert {visit.session for visit in each.visits} == {"a" * 8, "c" * 8}

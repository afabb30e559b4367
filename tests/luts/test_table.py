"""The estimator: the cost of a key, its uncertainty, and the warnings."""

from __future__ import annotations

import math

import numpy as np
import pytest

import luts
from tests.luts.journals import header, visit, write, write_measured

TRUTH_MS = {f"op{index}@1": 0.1 * 1.2**index for index in range(20)}


def relative_errors(lut: luts.Lut, truth_ms: dict[str, float]) -> np.ndarray:
    """Errors of the costs relative to each other: a common factor is not an error."""
    logs = np.log([lut.latency_ms(key) / truth for key, truth in truth_ms.items()])
    return logs - np.median(logs)


def test_without_noise_the_latency_is_the_truth_and_the_drift_is_found_exactly(tmp_path):
    """Rounds at 1, 1, 1 and 2 times the time: the median round is the reference, the slow one is divided out."""
    path = write_measured(tmp_path / "t", TRUTH_MS, rounds=4, drift=lambda round: 2.0 if round == 3 else 1.0)

    lut = luts.read(path)

    assert lut.drift == pytest.approx({("aaaaaaaa", 0): 1, ("aaaaaaaa", 1): 1, ("aaaaaaaa", 2): 1, ("aaaaaaaa", 3): 2})
    assert lut.latency_ms("op0@1") == pytest.approx(0.1)
    assert max(lut.entries["op0@1"].samples_ms) == pytest.approx(0.2)  # the raw samples stay
    assert max(lut.entries["op0@1"].corrected_ms) == pytest.approx(0.1)


def test_the_latency_is_the_first_decile_of_the_corrected_samples(tmp_path):
    path = write(tmp_path / "t", header(), visit("a@1", [float(value) for value in range(11, 0, -1)]))

    assert luts.read(path).latency_ms("a@1") == 2.0


def test_drift_and_bursts_cost_little_accuracy(tmp_path):
    """Drift of ±10 %, 1 % of noise, every tenth visit slowed by up to 60 %: costs stay within half a per cent."""
    path = write_measured(
        tmp_path / "t", TRUTH_MS, rounds=25, drift=lambda r: 1 + 0.1 * math.sin(r), noise=0.01, bursts=0.1
    )

    lut = luts.read(path)

    assert np.sqrt(np.mean(relative_errors(lut, TRUTH_MS) ** 2)) < 0.005
    assert luts.repeatability(lut).operators < 0.005


def test_a_machine_shared_with_other_work_still_gives_a_table(tmp_path):
    """Two visits of three are slowed by 10 to 150 %, on top of 6 % of drift: the costs stay within 3 %."""
    generator = np.random.default_rng(0)
    records = [header()]
    for round in range(25):
        for key, cost in TRUTH_MS.items():
            slowed = 1.1 + 1.4 * generator.random(5) if generator.random() < 0.67 else np.ones(5)
            noise = 1 + 0.01 * np.abs(generator.normal(size=5))
            samples = cost * (1 + 0.06 * math.sin(round / 3)) * slowed * noise
            records.append(visit(key, samples.tolist(), round=round))

    lut = luts.read(write(tmp_path / "t", *records))

    assert np.sqrt(np.mean(relative_errors(lut, TRUTH_MS) ** 2)) < 0.01
    assert np.abs(relative_errors(lut, TRUTH_MS)).max() < 0.03
    assert all(entry.unstable for entry in lut.entries.values())  # and each entry is marked


def test_a_resumed_session_with_other_keys_and_another_speed_fits_in(tmp_path):
    """Session two runs 8 % slower and holds only half of the keys, and some that session one never saw."""
    keys = list(TRUTH_MS)
    one = write_measured(tmp_path / "one", {key: TRUTH_MS[key] for key in keys[:15]}, noise=0.005)
    two = write_measured(
        tmp_path / "two", {key: TRUTH_MS[key] for key in keys[10:]}, drift=lambda r: 1.08, noise=0.005, session="b" * 8
    )
    both = tmp_path / "both"
    both.write_bytes(one.read_bytes() + two.read_bytes())

    lut = luts.read(both)

    assert lut.drift["bbbbbbbb", 0] / lut.drift["aaaaaaaa", 0] == pytest.approx(1.08, abs=0.005)
    assert np.abs(relative_errors(lut, TRUTH_MS)).max() < 0.005


def test_six_sentinels_are_enough_to_link_two_sessions_of_otherwise_different_keys(tmp_path):
    """Twenty keys see only one session each: they must not outvote the sentinels."""
    keys = list(TRUTH_MS)
    one = write_measured(tmp_path / "one", {key: TRUTH_MS[key] for key in keys[:13]})
    two = write_measured(
        tmp_path / "two", {key: TRUTH_MS[key] for key in keys[:6] + keys[13:]}, drift=lambda r: 1.1, session="bbbbbbbb"
    )

    lut = luts.merge([luts.read(one), luts.read(two)])

    assert np.abs(relative_errors(lut, TRUTH_MS)).max() < 1e-6


@pytest.mark.parametrize("seed", range(20))
def test_sessions_that_share_no_key_are_each_left_as_they_are(tmp_path, seed):
    """The drift between them is unknown, so none is divided out."""
    generator = np.random.default_rng(seed)
    records = [header(), visit("stem@1", [0.01])]
    for key, cost in TRUTH_MS.items():
        samples = cost * (1 + 0.05 * np.abs(generator.normal(size=5)))
        records.append(visit(key, samples.tolist(), session="bbbbbbbb"))

    lut = luts.read(write(tmp_path / "t", *records))

    assert lut.drift == {("aaaaaaaa", 0): 1.0, ("bbbbbbbb", 0): 1.0}


def test_a_table_that_another_one_was_added_to_keeps_its_reference_sessions(tmp_path):
    """However much longer the other one is: what was predicted from the first is still comparable."""
    one = write_measured(tmp_path / "one", TRUTH_MS, rounds=5)
    two = write_measured(tmp_path / "two", TRUTH_MS, drift=lambda r: 1.3, session="bbbbbbbb", rounds=50)
    both = tmp_path / "both"
    both.write_bytes(one.read_bytes() + two.read_bytes())

    for lut in (luts.read(both), luts.merge([luts.read(one), luts.read(two)])):
        assert np.abs(relative_errors(lut, TRUTH_MS)).max() < 1e-6


def test_one_key_alone_keeps_its_spread_instead_of_calling_it_drift(tmp_path):
    path = write(tmp_path / "t", header(), *[visit("a@1", [1.0 + 0.1 * (r % 2)], round=r) for r in range(9)])

    lut = luts.read(path)

    assert set(lut.drift.values()) == {1.0}
    assert lut.entries["a@1"].unstable


def test_a_cut_off_round_with_a_single_key_takes_the_drift_of_the_nearest_round(tmp_path):
    truth = dict(list(TRUTH_MS.items())[:5])
    records = [header()]
    for round in range(5):
        factor = 1.2 if round >= 3 else 1.0
        visited = truth if round < 4 else ["op0@1"]
        records += [visit(key, [truth[key] * factor], round=round) for key in visited]

    lut = luts.read(write(tmp_path / "t", *records))

    assert lut.drift["aaaaaaaa", 4] == lut.drift["aaaaaaaa", 3] == pytest.approx(1.2)


def test_an_unstable_entry_says_how_much_and_what_to_do(tmp_path):
    records = [visit(key, [cost], round=r) for r in range(8) for key, cost in TRUTH_MS.items()]
    records += [visit("unstable@1", [1.0 + 0.2 * (r % 2)], round=r) for r in range(8)]

    entry = luts.read(write(tmp_path / "t", header(), *records)).entries["unstable@1"]

    assert entry.unstable
    assert entry.warnings == (
        "unstable: spread 13.5 % of the median (limit 3 %); stop other work, lock the clocks or cool the board, then "
        "measure more rounds: `profile-device --host HOST --space tiny --classes 10 --only unstable@1 --rounds 16`",
    )


def test_too_few_rounds_leave_the_spread_unknown_and_the_entry_unstable(tmp_path):
    entry = luts.read(write(tmp_path / "t", header(), visit("a@1", [1.0, 1.0]))).entries["a@1"]

    assert math.isnan(entry.spread) and math.isnan(entry.standard_error_ms)
    assert entry.unstable and "measured in 1 round only, the spread is unknown" in entry.warnings[0]


def test_the_standard_error_is_what_repeating_the_measurement_shows(tmp_path):
    """Forty tables of equal truth: their latencies scatter as the tables' own standard errors say, within a third."""
    paths = [write_measured(tmp_path / str(seed), TRUTH_MS, rounds=15, noise=0.02, seed=seed) for seed in range(40)]
    tables = [luts.read(path) for path in paths]
    scatter = np.std([relative_errors(lut, TRUTH_MS) for lut in tables], axis=0).mean()
    stated = np.mean([e.standard_error_ms / e.latency_ms for lut in tables[:5] for e in lut.entries.values()])

    assert stated == pytest.approx(scatter, rel=0.33)
    assert luts.repeatability(tables[0]).operators == pytest.approx(scatter, rel=0.5)
    assert luts.repeatability(tables[0], tables[1]).operators == pytest.approx(scatter, rel=0.5)


def test_coverage_names_what_is_missing_and_what_failed(tmp_path):
    error = {"code": "crash", "message": "out of memory", "remedy": ""}
    lut = luts.read(write(tmp_path / "t", header(), visit("a@1", [1.0]), visit("b@1", [], error=error)))

    coverage = lut.coverage(["a@1", "b@1", "c@1"])

    assert not coverage.complete
    assert str(coverage) == "1 of 3 operators found; missing: c@1; failed: b@1"
    assert str(lut.coverage(["a@1"])) == "1 of 1 operators found"
    with pytest.raises(luts.LutMissError) as caught:
        lut.latencies_ms(["a@1", "c@1"])
    assert "1 of 2 operators found; missing: c@1" in str(caught.value)
    assert "`profile-device --host HOST --space tiny --classes 10 --only c@1`" in caught.value.hint


def test_networks_are_kept_apart_from_operators(tmp_path):
    architecture = {"kind": "architecture", "schema": 1, "space": "tiny", "operators": ["skip"]}
    path = write(tmp_path / "t", header(), visit("a@1", [1.0]), visit("net-1", [9.0], architecture=architecture))

    lut = luts.read(path)

    assert list(lut.entries) == ["a@1"] and list(lut.networks) == ["net-1"]
    assert lut.networks["net-1"].subject == architecture


def test_the_frame_has_the_medians_of_enqueue_and_gpu_time_apart_from_the_latency(tmp_path):
    times = [(0.2, 1.0), (0.3, 1.1), (0.4, 3.0)]
    visits = [
        visit("a@1", [4.0], round=number, enqueue_ms=enqueue_ms, gpu_ms=gpu_ms)
        for number, (enqueue_ms, gpu_ms) in enumerate(times)
    ]
    path = write(tmp_path / "lut.jsonl", header(), *visits, visit("b@1", [4.0], enqueue_ms=None, gpu_ms=None))

    frame = luts.read(path).to_frame().set_index("key")

    assert frame.loc["a@1", ["latency_ms", "enqueue_ms", "gpu_ms"]].tolist() == [4.0, 0.3, 1.1]
    assert frame.loc["b@1", ["enqueue_ms", "gpu_ms"]].isna().all()


def test_the_frame_has_a_row_per_key_and_holes_where_nothing_is_known(tmp_path):
    error = {"code": "crash", "message": "out of memory"}
    path = write(tmp_path / "t", header(), visit("a@1", [1.0, 6.0]), visit("b@1", [], error=error))

    frame = luts.read(path).to_frame().set_index("key")

    assert frame.loc["a@1", "latency_ms"] == 1.5
    assert frame["latency_ms"].isna().to_dict() == {"a@1": False, "b@1": True}
    assert frame.loc["b@1", "error"] == "crash: out of memory"


def energy(gross_mj, half_mj, net_mj):
    return {
        "gross_mj": gross_mj, "gross_interval_mj": [gross_mj - half_mj, gross_mj + half_mj], "net_mj": net_mj,
        "gross_error": {"random_mj": half_mj / 1.96, "freedom": 1e6, "shared_mj": []},
        "net_interval_mj": None, "reason": None,
    }  # fmt: skip


def test_every_metric_of_an_entry_comes_with_its_error_and_the_unknown_is_none(tmp_path):
    """Samples 1..20 ms: their first decile is 2.9. A standard error of 1 mJ in each of three visits is one of 0.58 mJ."""
    samples = [float(value) for value in range(1, 21)]
    visits = [visit("a@1", samples, round=r, energy=energy(10.0, 1.96, 4.0)) for r in range(3)]
    entry = luts.read(write(tmp_path / "t", header(), *visits)).entries["a@1"]

    for metric in luts.LATENCY_METRICS:  # of an operator: what the statistics of networks are learned from
        assert entry.quantity(metric).value == entry.robust_ms == pytest.approx(2.9)
    assert entry.quantity("energy_mj").value == 10.0
    assert entry.quantity("energy_mj").standard_error == pytest.approx(3**-0.5, rel=0.02)
    assert entry.quantity("net_energy_mj").value == 4.0
    assert math.isnan(entry.quantity("net_energy_mj").standard_error)
    assert entry.quantity("peak_memory_mb") is None
    known = [visit("a@1", samples, peak_memory_mb=memory) for memory in (5.0,)]
    assert luts.read(write(tmp_path / "m", header(), *known)).entries["a@1"].quantity("peak_memory_mb").value == 5.0
    with pytest.raises(ValueError, match="no such metric: 'watts'"):
        entry.quantity("watts")


def test_entries_without_a_metric_are_named_with_what_the_board_said(tmp_path):
    about = {"available": False, "reason": "no rail is known as the total"}
    records = [
        header(energy=about),
        visit("a@1", [1.0], energy=energy(3.0, 0.1, 1.0)),
        visit("b@1", [1.0]),
        visit("c@1", [1.0], energy={"gross_mj": None, "reason": "a rail fails"}),
    ]

    with pytest.raises(luts.LutMissError) as caught:
        luts.read(write(tmp_path / "t", *records)).quantities(["a@1", "b@1", "c@1"], "energy_mj")

    assert "energy_mj is not known for 2 of 3: b@1, c@1" in str(caught.value)
    assert "no rail is known as the total" in str(caught.value) and "a rail fails" in str(caught.value)
    assert "--energy" in caught.value.hint

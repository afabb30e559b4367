"""Merging tables, drift between two sessions, repeatability."""

from __future__ import annotations

import math

import numpy as np
import pytest

import luts
from lightnas_edge.errors import FingerprintError
from luts.drift import _weighted_median
from tests.luts.journals import FINGERPRINT, header, visit, write, write_measured

TRUTH_MS = {f"op{index}@1": 0.1 * 1.2**index for index in range(8)}


def test_the_drift_ratio_is_how_much_slower_the_other_session_was(tmp_path):
    monday = luts.read(write_measured(tmp_path / "1", TRUTH_MS, noise=0.01, seed=1))
    friday = luts.read(write_measured(tmp_path / "2", TRUTH_MS, noise=0.01, seed=2, drift=lambda r: 1.1))

    ratio = luts.drift_ratio(monday, friday, list(TRUTH_MS)[:6])

    assert ratio.value == pytest.approx(1.1, rel=0.01)
    assert ratio.interval[0] < 1.1 < ratio.interval[1]
    assert ratio.interval[1] - ratio.interval[0] < 0.03
    assert list(ratio.per_key) == list(TRUTH_MS)[:6]


def test_the_drift_ratio_of_keys_that_are_not_shared_is_unknown(tmp_path):
    one = luts.read(write(tmp_path / "1", header(), visit("a@1", [1.0])))
    two = luts.read(write(tmp_path / "2", header(), visit("b@1", [1.0])))

    with pytest.raises(luts.LutMissError, match="share no operator, so the drift between them is unknown"):
        luts.drift_ratio(one, two, ["a@1", "b@1"])


def test_one_operator_disagreeing_does_not_move_the_ratio(tmp_path):
    one = luts.read(write_measured(tmp_path / "1", TRUTH_MS))
    two = luts.read(write_measured(tmp_path / "2", TRUTH_MS | {"op0@1": 0.2}, drift=lambda r: 1.05))

    assert luts.drift_ratio(one, two).value == pytest.approx(1.05)


def test_tables_of_one_board_merge_and_shared_visits_count_once(tmp_path):
    one = luts.read(write(tmp_path / "1", header(), visit("a@1", [1.0])))
    two = luts.read(write(tmp_path / "2", header(), visit("a@1", [1.0]), visit("b@1", [2.0])))

    merged = luts.merge([one, two])

    assert [len(entry.visits) for entry in merged.entries.values()] == [1, 1]
    assert merged.latency_ms("b@1") == 2.0


def test_tables_of_different_states_do_not_merge_and_the_fields_are_listed(tmp_path):
    one = luts.read(write(tmp_path / "1", header()))
    two = luts.read(write(tmp_path / "2", header(fingerprint=FINGERPRINT | {"batch": 8, "precision": "fp16"})))

    for attempt in (lambda: luts.merge([one, two]), lambda: luts.drift_ratio(one, two)):
        with pytest.raises(FingerprintError, match="batch 1 and 8; precision 'fp32' and 'fp16'"):
            attempt()


def test_repeatability_of_a_noiseless_table_is_zero_and_of_no_networks_unknown(tmp_path):
    found = luts.repeatability(luts.read(write_measured(tmp_path / "1", TRUTH_MS, rounds=6)))

    assert found.operators == pytest.approx(0, abs=1e-12)
    assert math.isnan(found.networks)
    assert str(found) == "operators 0.00 % (n=8), networks unknown"


def test_networks_of_different_spaces_do_not_mix_though_their_keys_are_equal(tmp_path):
    """A key names operators; their shapes are those of the space."""
    network = {"kind": "architecture", "schema": 1, "space": "mine", "operators": ["skip"]}
    records = [
        (
            header(space="mine", space_sha256=digit * 64),
            visit("net-1", [value], session=digit * 8, architecture=network),
        )
        for digit, value in (("1", 1.0), ("2", 5.0))
    ]
    one, two = (luts.read(write(tmp_path / str(number), *each)) for number, each in enumerate(records))
    operators = luts.read(write(tmp_path / "o", header(space="mine", space_sha256="3" * 64), visit("a@1", [1.0])))

    for attempt in (
        lambda: luts.merge([one, two]),
        lambda: luts.write_pooled([one, two], tmp_path / "pooled"),
        lambda: luts.read(write(tmp_path / "both", *records[0], *records[1])),
    ):
        with pytest.raises(FingerprintError, match="networks of different search spaces"):
            attempt()
    assert not (tmp_path / "pooled").exists()
    assert len(luts.merge([one, operators]).networks) == 1, "operators name their shapes themselves"


def test_a_value_without_weight_is_not_half_of_a_median():
    values, weights = np.array([1.0, 1.1, 1.2]), np.array([1, 0, 1])

    assert _weighted_median(values, weights) == pytest.approx(1.1)
    assert _weighted_median(np.array([1.0, 1.01, 1.2]), weights) == pytest.approx(1.1)

"""Where whole networks differ from the sum of a table: known causes are found, and add up."""

from __future__ import annotations

import json

import numpy as np
import pytest

import devices
from lightnas_edge.measuring import (
    MeasurementProtocol,
    Settings,
    measure,
    sample_architectures,
    write_profile_job,
    write_sample_job,
)
from lightnas_edge.predictor import decompose_residuals, fit_best, load_observations
from lightnas_edge.space import load_space
from tests.predictor.boards import profile, random_architectures, sample, small_space, sum_ms, table_truth_ms

SPACE = small_space()
TABLE_MS = table_truth_ms(SPACE)
SENTINELS = {key: TABLE_MS[key] for key in list(TABLE_MS)[:5]}


def blocks(architecture):
    return sum(not shaped.is_identity for shaped in SPACE.chain(architecture)) - len(SPACE.fixed)


def ledger_of(tmp_path, truth, count=30):
    lut = profile(tmp_path / "t", SPACE)
    networks = sample(tmp_path / "s", SPACE, random_architectures(SPACE, count), truth, SENTINELS, noise=0.0005)
    return decompose_residuals(SPACE, lut, load_observations(SPACE, [networks], lut))


def test_what_is_paid_once_and_what_is_paid_per_block_are_told_apart(tmp_path):
    """Once +0.3 ms, each block -0.02 ms: both signs, and most networks end up dearer."""
    ledger = ledger_of(tmp_path, lambda a: sum_ms(SPACE, TABLE_MS, a) + 0.3 - 0.02 * blocks(a))
    mean = {cause.name: cause.mean for cause in ledger.causes}

    assert mean["offset"] == pytest.approx(0.3, abs=0.03)
    assert mean["overhead"] == pytest.approx(-0.02 * ledger.blocks, abs=0.03)
    assert sum(mean.values()) == pytest.approx(ledger.difference)
    assert (ledger.dearer, ledger.cheaper) == (30, 0)
    assert "once per network +0.3" in str(ledger) and "per block -0.0" in str(ledger)


def test_an_operator_that_is_dearer_in_networks_is_named(tmp_path):
    odd = next(key for key in TABLE_MS if key.startswith("mbconv_k5_e6"))

    def truth(architecture):
        uses = sum(shaped.key == odd for shaped in SPACE.chain(architecture))
        return sum_ms(SPACE, TABLE_MS, architecture) + 0.05 * uses

    ledger = ledger_of(tmp_path, truth)

    assert ledger.operators[0][0] == odd
    assert ledger.operators[0][1] == pytest.approx(0.05, abs=0.02)


def test_networks_that_are_their_sum_leave_nothing_to_explain(tmp_path):
    ledger = ledger_of(tmp_path, lambda a: sum_ms(SPACE, TABLE_MS, a))

    assert abs(ledger.difference) < 0.005 * ledger.measured
    assert ledger.left_over < 0.002 * ledger.measured


def test_it_is_kept_with_the_predictor(tmp_path):
    lut = profile(tmp_path / "t", SPACE)
    networks = sample(
        tmp_path / "s", SPACE, random_architectures(SPACE, 12), lambda a: sum_ms(SPACE, TABLE_MS, a) + 0.1, SENTINELS
    )

    predictor, comparison = fit_best(SPACE, lut, [networks])

    kept = json.loads(json.dumps(predictor.to_json(), allow_nan=False))["fit"]["ledger"]
    assert kept["fingerprint"] == lut.fingerprint and kept["networks"] == 12
    assert kept["causes"][0]["name"] == "offset"
    assert comparison.ledger is not None and kept["measured"] == comparison.ledger.measured


def test_a_virtual_board_pays_for_its_synchronisation_once_per_engine(tmp_path, monkeypatch):
    """40 us with each of three fixed ends and each block, but once with a network: 80 us and 40 us per block too much."""
    monkeypatch.setenv("LIGHTNAS_EDGE_HOME", str(tmp_path / "home"))
    space = load_space("tiny")
    board = devices.connect("virtual:jetson-agx-xavier")
    settings = Settings(backend="simulated", protocol=MeasurementProtocol(rounds=3, extra_rounds=0))
    table = measure(board, write_profile_job(tmp_path / "a", space, settings), tmp_path / "t.lut.jsonl")
    job = write_sample_job(tmp_path / "b", space, settings, sample_architectures(space, 15, 0))
    networks = measure(board, job, tmp_path / "s.lut.jsonl")

    ledger = decompose_residuals(space, table, load_observations(space, [networks], table))

    offset, overhead = ledger.causes[0], ledger.causes[1]
    assert (offset.name, overhead.name) == ("offset", "overhead")
    assert offset.mean == pytest.approx(-0.080, abs=0.008)
    assert overhead.mean / ledger.blocks == pytest.approx(-0.040, abs=0.004)
    assert np.isclose(sum(cause.mean for cause in ledger.causes), ledger.difference)

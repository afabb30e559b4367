"""Residual decomposition: known components are found, and add up."""

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


def decomposed(tmp_path, truth, count=30):
    lut = profile(tmp_path / "t", SPACE)
    networks = sample(tmp_path / "s", SPACE, random_architectures(SPACE, count), truth, SENTINELS, noise=0.0005)
    return decompose_residuals(SPACE, lut, load_observations(SPACE, [networks], lut))


def test_the_fixed_and_the_per_block_overhead_are_separated(tmp_path):
    """Fixed +0.3 ms, each block -0.02 ms: both signs, and all networks are above their sum."""
    residuals = decomposed(tmp_path, lambda a: sum_ms(SPACE, TABLE_MS, a) + 0.3 - 0.02 * blocks(a))
    mean = {part.name: part.mean for part in residuals.components}

    assert mean["fixed_overhead"] == pytest.approx(0.3, abs=0.03)
    assert mean["block_overhead"] == pytest.approx(-0.02 * residuals.blocks, abs=0.03)
    assert sum(mean.values()) == pytest.approx(residuals.difference)
    assert (residuals.networks_above, residuals.networks_below) == (30, 0)
    assert "fixed overhead +0.3" in str(residuals) and "per-block overhead -0.0" in str(residuals)


def test_an_operator_that_costs_more_in_networks_is_named(tmp_path):
    odd = next(key for key in TABLE_MS if key.startswith("mbconv_k5_e6"))

    def truth(architecture):
        uses = sum(shaped.key == odd for shaped in SPACE.chain(architecture))
        return sum_ms(SPACE, TABLE_MS, architecture) + 0.05 * uses

    residuals = decomposed(tmp_path, truth)

    assert residuals.operators[0][0] == odd
    assert residuals.operators[0][1] == pytest.approx(0.05, abs=0.02)


def test_networks_that_cost_their_sum_leave_nothing_to_explain(tmp_path):
    residuals = decomposed(tmp_path, lambda a: sum_ms(SPACE, TABLE_MS, a))

    assert abs(residuals.difference) < 0.005 * residuals.measured
    assert residuals.unexplained_rms < 0.002 * residuals.measured


def test_it_is_kept_with_the_predictor(tmp_path):
    lut = profile(tmp_path / "t", SPACE)
    networks = sample(
        tmp_path / "s", SPACE, random_architectures(SPACE, 12), lambda a: sum_ms(SPACE, TABLE_MS, a) + 0.1, SENTINELS
    )

    predictor, comparison = fit_best(SPACE, lut, [networks])

    kept = json.loads(json.dumps(predictor.to_record().to_json(), allow_nan=False))["fit"]["residuals"]
    assert kept["fingerprint"] == lut.fingerprint and kept["networks"] == 12
    assert kept["components"][0]["name"] == "fixed_overhead"
    assert comparison.residuals is not None and kept["measured"] == comparison.residuals.measured


def test_a_virtual_board_pays_for_its_synchronisation_once_per_engine(tmp_path, monkeypatch):
    """40 us with each of three fixed ends and each block, but once with a network: the sum is 80 us and 40 us per block too high."""
    monkeypatch.setenv("LIGHTNAS_EDGE_HOME", str(tmp_path / "home"))
    space = load_space("tiny")
    board = devices.connect("virtual:jetson-agx-xavier")
    settings = Settings(backend="simulated", protocol=MeasurementProtocol(rounds=3, extra_rounds=0))
    table = measure(board, write_profile_job(tmp_path / "a", space, settings), tmp_path / "t.lut.jsonl")
    job = write_sample_job(tmp_path / "b", space, settings, sample_architectures(space, 15, 0))
    networks = measure(board, job, tmp_path / "s.lut.jsonl")

    residuals = decompose_residuals(space, table, load_observations(space, [networks], table))

    offset, overhead = residuals.components[0], residuals.components[1]
    assert (offset.name, overhead.name) == ("fixed_overhead", "block_overhead")
    assert offset.mean == pytest.approx(-0.080, abs=0.008)
    assert overhead.mean / residuals.blocks == pytest.approx(-0.040, abs=0.004)
    assert np.isclose(sum(part.mean for part in residuals.components), residuals.difference)

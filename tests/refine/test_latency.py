"""Latency of a network with other channels, from its own prediction and a table of the changed operators."""

import dataclasses
import math

import numpy as np
import pytest

import luts
from lightnas_edge.errors import PredictorError
from lightnas_edge.predictor import lut_predictor
from lightnas_edge.refine import Channels, Grid, Latency
from tests.luts.journals import write_measured
from tests.refine.problems import FOUND, SPACE, chain_ms, true_ms

WIDER = Channels((8, 16), (4, 2, 0, 3))


@pytest.fixture
def grid():
    return Grid(SPACE, FOUND)


@pytest.fixture
def table(tmp_path, grid):
    """Of the space and of all choices, and the other operators of the derived space of WIDER."""
    shaped = [*SPACE.shaped_operators(), *grid.shaped_operators(), *grid.network(WIDER)[0].shaped_operators()]
    return luts.read(write_measured(tmp_path / "t", {one.key: true_ms(one) for one in shaped}, rounds=4))


@pytest.fixture
def latency(grid, table):
    return Latency(grid, lut_predictor(SPACE, table), table)


def test_the_unchanged_network_is_predicted_as_by_the_run(latency, grid):
    one_hot = FOUND.one_hot(SPACE)[None]

    predicted_ms, deviation_ms = latency.predict(grid.unchanged)

    assert predicted_ms == pytest.approx(float(latency.source.predict(one_hot)[0]))
    assert deviation_ms == pytest.approx(float(latency.source.deviation(one_hot)[0]))


def test_a_change_costs_the_difference_of_the_tables_entries(latency, grid):
    predicted_ms, _ = latency.predict(WIDER)

    assert predicted_ms == pytest.approx(chain_ms(*grid.network(WIDER)), rel=1e-6)


def test_uncertainty_grows_with_the_change(latency, grid):
    little = dataclasses.replace(grid.unchanged, expansions=(3, 3, 0, 3))

    deviations_ms = [latency.predict(channels)[1] for channels in (grid.unchanged, little, WIDER)]

    assert deviations_ms[0] < deviations_ms[1] < deviations_ms[2]


def test_the_overhead_per_block_cancels(grid, table):
    """On some machines an operator alone takes a third longer than in a network: the run's predictor contains the difference."""
    calibrated = lut_predictor(SPACE, table)
    calibrated.mean[1:] -= 0.004
    calibrated.mean[0] += 0.001
    calibrated = type(calibrated)(SPACE, calibrated.origin, calibrated.mean, calibrated.covariance, calibrated.noise)
    blocks = 4  # none of them an identity

    predicted_ms, _ = Latency(grid, calibrated, table).predict(WIDER)

    assert predicted_ms == pytest.approx(chain_ms(*grid.network(WIDER)) - 0.004 * blocks + 0.001, rel=1e-6)


def test_the_predictor_of_the_derived_space_predicts_the_same(latency, grid, table, tmp_path):
    space, architecture = grid.network(WIDER)
    one_hot = architecture.one_hot(space)[None]

    predictor = latency.predictor(WIDER, table)

    predicted_ms, deviation_ms = latency.predict(WIDER)
    assert predictor.space == space
    assert float(predictor.predict(one_hot)[0]) == pytest.approx(predicted_ms)
    assert float(predictor.deviation(one_hot)[0]) == pytest.approx(deviation_ms)
    assert float(predictor.upper(one_hot, 0.9)[0]) == pytest.approx(latency.bound_ms(WIDER, 0.9))
    assert np.linalg.eigvalsh(predictor.covariance)[0] > -1e-12
    assert predictor.fingerprint == latency.source.fingerprint


def test_a_choice_with_an_operator_that_was_not_measured_has_no_latency(grid, tmp_path):
    shaped = [one for one in grid.shaped_operators() if one.key != "mbconv_k5_e4@4x8-8s2"]
    known = {one.key: true_ms(one) for one in [*SPACE.shaped_operators(), *shaped]}
    table = luts.read(write_measured(tmp_path / "t", known, rounds=4))
    latency = Latency(grid, lut_predictor(SPACE, table), table)

    assert latency.predict(WIDER) == (math.inf, math.inf)
    assert latency.bound_ms(WIDER, 0.9) == math.inf
    assert math.isfinite(latency.bound_ms(dataclasses.replace(WIDER, expansions=(2, 2, 0, 3)), 0.9))


def test_a_predictor_of_something_else_is_refused(grid, table):
    predictor = lut_predictor(SPACE, table)
    predictor.origin = dataclasses.replace(predictor.origin, metric="energy_mj")

    with pytest.raises(PredictorError, match="energy_mj"):
        Latency(grid, predictor, table)

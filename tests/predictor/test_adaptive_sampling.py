"""Adaptive sampling from Python, on a virtual board."""

from dataclasses import replace

import numpy as np
import pytest

import devices
import luts
from lightnas_edge.measuring import MeasurementProtocol, Settings, sample_architectures
from lightnas_edge.predictor import fit_additive, load_observations
from lightnas_edge.predictor.adaptive_sampling import (
    AdaptiveSamplingConfig,
    sample_adaptively,
    sampling_record_path,
)
from lightnas_edge.predictor.base import reachable_range
from lightnas_edge.predictor.frontier import frontier_networks
from lightnas_edge.records.adaptive import AdaptiveSamplingRecord
from lightnas_edge.space import Architecture, load_space

SPACE = load_space("tiny")


@pytest.fixture
def board(tmp_path, monkeypatch):
    monkeypatch.setenv("LIGHTNAS_EDGE_HOME", str(tmp_path / "home"))
    return devices.connect("virtual:jetson-agx-xavier")


def settings(board):
    return Settings(backend=board.backend, protocol=MeasurementProtocol(rounds=3))


def test_it_ends_at_the_largest_number_of_networks_and_says_so(board, tmp_path):
    config = AdaptiveSamplingConfig(until=1e-6, max_networks=12, round_networks=2)
    assessed = []

    sampling = sample_adaptively(
        board, SPACE, settings(board), tmp_path / "nets.lut.jsonl", config, on_assessed=assessed.append
    )

    assert sampling.record.stopped == "count" and sampling.complete
    assert [progress.networks for progress in assessed] == [10, 12]
    assert tuple(assessed) == sampling.record.curve
    assert len(luts.read(tmp_path / "nets.lut.jsonl").networks) == 12


def test_a_round_that_was_interrupted_is_measured_again_before_any_other(board, tmp_path):
    table = tmp_path / "nets.lut.jsonl"

    class StopError(Exception):
        pass

    def stop(status):
        if len(luts.read(table).networks) >= 10:
            raise StopError

    config = AdaptiveSamplingConfig(until=1e-6, max_networks=12, round_networks=2)
    sample_adaptively(board, SPACE, settings(board), table, AdaptiveSamplingConfig(until=1e-6, max_networks=10))
    with pytest.raises(StopError):
        sample_adaptively(board, SPACE, settings(board), table, config, on_progress=stop)
    planned = AdaptiveSamplingRecord.load(sampling_record_path(table)).planned

    sample_adaptively(board, SPACE, settings(board), table, config)

    measured = [entry.subject["operators"] for entry in luts.read(table).networks.values()]
    assert len(planned) == 2 and len(measured) == 12
    assert all(list(names) in measured for names in planned)


def test_for_the_frontier_random_networks_come_first_and_then_those_that_the_predictor_would_choose(board, tmp_path):
    table = tmp_path / "nets.lut.jsonl"
    config = AdaptiveSamplingConfig(until=1e-6, max_networks=20, round_networks=4, frontier=True)

    sampling = sample_adaptively(board, SPACE, settings(board), table, config)

    assert [progress.networks for progress in sampling.record.curve] == [12, 16, 20]
    observations = load_observations(SPACE, [luts.read(table)])
    networks = {Architecture.from_indices(SPACE, row) for row in observations.indices}
    random = set(sample_architectures(SPACE, 12, seed=0))
    assert random < networks
    first = [Architecture.from_names(SPACE, names) for names in sampling.record.tried[12:16]]
    rows = [
        row for row, indices in enumerate(observations.indices) if Architecture.from_indices(SPACE, indices) in random
    ]
    predictor = fit_additive(SPACE, None, observations.take(np.array(rows)))
    assert set(first) == set(frontier_networks(predictor, 4, seed=12, known=random))
    assert sampling.record.goal.frontier


def test_a_larger_count_measures_the_missing_random_networks_before_further_ones_of_the_frontier(board, tmp_path):
    table = tmp_path / "nets.lut.jsonl"
    smaller = AdaptiveSamplingConfig(until=1e-6, max_networks=10, round_networks=4, frontier=True)
    sample_adaptively(board, SPACE, settings(board), table, smaller)

    sampling = sample_adaptively(board, SPACE, settings(board), table, replace(smaller, max_networks=15))

    assert [progress.networks for progress in sampling.record.curve] == [6, 10, 13, 15]
    networks = {
        Architecture.from_names(SPACE, entry.subject["operators"]) for entry in luts.read(table).networks.values()
    }
    assert len(networks) == 15 and networks & set(sample_architectures(SPACE, 15, seed=0)) == set(
        sample_architectures(SPACE, 9, seed=0)
    )


def test_it_ends_where_the_frontier_has_no_further_network_and_can_be_repeated(board, tmp_path):
    table = tmp_path / "nets.lut.jsonl"
    sample_adaptively(board, SPACE, settings(board), table, AdaptiveSamplingConfig(until=1e-6, max_networks=10))
    predictor = fit_additive(SPACE, None, load_observations(SPACE, [luts.read(table)]))
    limit = 1.02 * reachable_range(predictor).lowest
    config = AdaptiveSamplingConfig(until=1e-6, around=limit, max_networks=19, round_networks=8, frontier=True)

    sampling = sample_adaptively(board, SPACE, settings(board), table, config)
    again = sample_adaptively(board, SPACE, settings(board), table, config)

    assert sampling.record.stopped == "count"
    assert 11 < sampling.progress.networks == len(luts.read(table).networks) < 19
    assert again.record == sampling.record


def test_another_goal_does_not_continue_the_curve(board, tmp_path):
    table = tmp_path / "nets.lut.jsonl"
    sample_adaptively(board, SPACE, settings(board), table, AdaptiveSamplingConfig(until=1e-6, max_networks=10))

    config = AdaptiveSamplingConfig(until=1e-6, max_networks=15, round_networks=6, frontier=True)
    sampling = sample_adaptively(board, SPACE, settings(board), table, config)

    assert [progress.networks for progress in sampling.record.curve] == [10, 15]

"""Adaptive sampling from Python, on a virtual board."""

import pytest

import devices
import luts
from lightnas_edge.measuring import MeasurementProtocol, Settings
from lightnas_edge.predictor.adaptive_sampling import (
    AdaptiveSamplingConfig,
    sample_adaptively,
    sampling_record_path,
)
from lightnas_edge.records.adaptive import AdaptiveSamplingRecord
from lightnas_edge.space import load_space

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

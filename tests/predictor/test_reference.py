"""The predictor that comes with the project, against its source and the published latencies."""

import json

import numpy as np
import pytest

from lightnas_edge.predictor import load_predictor, read_published_predictor
from lightnas_edge.space import Architecture, load_space
from tests.cli.commands import run

NAME = "xavier-lightnas-b8"


def test_it_is_found_by_name_and_names_its_source():
    predictor = load_predictor(NAME)

    assert predictor.space == load_space("lightnas")
    assert predictor.batch == 8
    assert predictor.fingerprint["backend"] == "pytorch-eager"
    assert "Apache-2.0" in predictor.fit.publication.source


def test_its_error_to_the_published_predictor_is_the_stated_one(shared_data):
    predictor = load_predictor(NAME)
    published = read_published_predictor(shared_data / "lightnas_xavier" / "lightnas_predictor.npz", predictor.space)
    networks = np.random.default_rng(7).integers(7, size=(5000, 21))

    error_ms = predictor.predict_indices(networks) - published.predict_indices(networks)

    assert np.sqrt(np.mean(error_ms**2)) == pytest.approx(predictor.fit.publication.rmse_to_original, rel=0.2)


def test_the_six_lightnets_come_out_near_their_published_latencies(shared_data):
    predictor = load_predictor(NAME)
    for row in json.loads((shared_data / "lightnas_xavier" / "lightnets.json").read_text()):
        network = Architecture.from_names(predictor.space, row["blocks"])
        assert predictor.predict_one(network) == pytest.approx(row["published_latency_ms"], abs=0.35)


@pytest.mark.parametrize("option", ["--predictor", "--lut"])
def test_the_range_command_reads_it(option):
    found = json.loads(run("range", option, NAME, "--json").out)

    assert found["batch"] == 8
    assert found["lowest"]["latency_ms"] < 10 < 22 < found["median"]["latency_ms"] < 24


def test_a_search_takes_it_for_a_table(tmp_path, monkeypatch):
    """Refused before any data is read: 1 ms is below the fastest network of the published setting."""
    monkeypatch.chdir(tmp_path)

    result = run("search", "--lut", NAME, "--latency-ms", "1", "--data", "digits")

    assert result.code == 3
    assert "1 ms" in result.err

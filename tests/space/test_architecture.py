"""Architectures: names in both spellings, encoding, parameters and MACs as published."""

import json

import numpy as np
import pytest

from lightnas_edge.errors import ArchitectureError
from lightnas_edge.space import Architecture, load_space, macs_m, parameters_m


@pytest.fixture
def published(shared_data):
    return json.loads((shared_data / "lightnas_xavier" / "lightnets.json").read_text())


def test_parameters_and_macs_of_the_six_lightnets_are_the_published_ones(published):
    space = load_space("lightnas")
    networks = [Architecture.from_names(space, row["blocks"]) for row in published]

    assert [round(parameters_m(space, network), 2) for network in networks] == [7.38, 7.50, 7.09, 7.78, 8.16, 8.14]
    assert [round(macs_m(space, network), 1) for network in networks] == [344.9, 339.0, 371.9, 421.1, 448.2, 476.0]


def test_the_encoding_is_the_published_predictors_input(published, shared_data):
    """The authors' own weights, on our encoding, give the latencies that they published with them."""
    weights = np.load(shared_data / "lightnas_xavier" / "lightnas_predictor.npz")
    space = load_space("lightnas")
    for row in published:
        x = Architecture.from_names(space, row["blocks"]).one_hot(space).reshape(-1)
        hidden = np.maximum(weights["w1"] @ x + weights["b1"], 0)
        hidden = np.maximum(weights["w2"] @ hidden + weights["b2"], 0)
        latency_ms = (weights["w3"] @ hidden + weights["b3"]).item()
        assert latency_ms == pytest.approx(row["predictor_latency_ms"], abs=1e-3)


def test_both_spellings_mean_the_same_network():
    space = load_space("tiny")
    ours = Architecture.from_names(space, ["mbconv_k3_e3", "skip", "mbconv_k5_e3", *["skip"] * 5])
    paper = Architecture.from_names(space, ["MBK3E3", "SkipConnect", "MBK5E3", *["SkipConnect"] * 5])

    assert ours == paper
    assert hash(ours) == hash(paper)
    assert paper.paper_names()[:3] == ["MBK3E3", "SkipConnect", "MBK5E3"]


def test_an_architecture_survives_its_file(tmp_path):
    space = load_space("tiny")
    network = Architecture.random(space, np.random.default_rng(3))
    path = tmp_path / "architecture.json"
    path.write_text(json.dumps(network.to_json()))

    assert Architecture.load(path, space) == network


def test_one_hot_puts_a_single_one_in_each_row():
    space = load_space("tiny")
    network = Architecture.from_indices(space, [0, 1, 2, 3, 0, 1, 2, 3])

    encoding = network.one_hot(space)

    assert encoding.shape == (8, 4)
    assert encoding.argmax(axis=1).tolist() == [0, 1, 2, 3, 0, 1, 2, 3]
    assert encoding.sum() == 8


def test_all_faults_are_reported_together():
    space = load_space("tiny")

    with pytest.raises(ArchitectureError) as caught:
        Architecture.from_names(space, ["mbconv_k7_e6", "mbconv_k3_e4"])

    message = str(caught.value)
    assert "2 operators for 8 searchable layers" in message
    assert "layer 0: mbconv_k7_e6 is not offered" in message
    assert "layer 1: mbconv_k3_e4 is not offered" in message


def test_an_architecture_of_another_space_is_refused():
    lightnas, tiny = load_space("lightnas"), load_space("tiny")
    network = Architecture.random(tiny, np.random.default_rng(0))

    with pytest.raises(ArchitectureError, match="of space 'tiny', not 'lightnas'"):
        network.indices(lightnas)


def test_a_damaged_file_is_named(tmp_path):
    path = tmp_path / "architecture.json"
    path.write_text("{")

    with pytest.raises(ArchitectureError, match=r"architecture\.json is not valid JSON"):
        Architecture.load(path, load_space("tiny"))

"""The energy of a network next to its latency: what is known, with an interval, and what is not."""

import numpy as np
import pytest

from lightnas_edge.predictor import AdditivePredictor
from lightnas_edge.predictor.base import Origin
from lightnas_edge.predictor.energy import fit_energy, predict_energy, table_energy
from lightnas_edge.predictor.terms import Terms
from lightnas_edge.space import Architecture
from tests.predictor.boards import profile, small_space
from tests.predictor.energy_tables import with_energy

SPACE = small_space()
NETWORK = Architecture.from_names(SPACE, ["mbconv_k3_e3"] * 4)


def predictor(constant_mj=2.0, noise_mj=1.0):
    """2 mJ and 1 mJ for each operator, with a measurement's standard deviation of 1 mJ."""
    mean = np.array([constant_mj, *np.ones(len(Terms.of(SPACE).keys))])
    origin = Origin({"board": "imagined"}, simulated=True, batch=8, metric="energy_mj")
    return AdditivePredictor(SPACE, origin, mean, np.zeros((len(mean),) * 2), noise_mj)


def test_the_prediction_stands_with_an_interval_that_holds_90_percent_of_measurements():
    found = predict_energy(predictor(), NETWORK)

    assert found.energy_mj == 6.0  # 2 + 4 x 1
    assert found.interval_mj == pytest.approx((6.0 - 1.645, 6.0 + 1.645), abs=1e-3)  # 5 % of a normal are above 1.645
    assert (found.confidence, found.batch, found.simulated) == (0.9, 8, True)


def test_a_number_that_is_not_finite_is_unknown():
    assert predict_energy(predictor(constant_mj=np.inf), NETWORK) is None


def test_a_table_without_energy_has_no_predictor_of_it(tmp_path):
    table = profile(tmp_path / "latency.lut.jsonl", SPACE)

    assert fit_energy(SPACE, table, [table]) is None


def test_a_table_that_lacks_the_energy_of_one_operator_has_no_predictor_of_it(tmp_path):
    """A sum without one of its parts would be too small."""
    whole = with_energy(profile(tmp_path / "a.lut.jsonl", SPACE), tmp_path / "whole.lut.jsonl")
    lacking = with_energy(profile(tmp_path / "a.lut.jsonl", SPACE), tmp_path / "lacking.lut.jsonl", without=1)

    assert fit_energy(SPACE, lacking, [lacking]) is None
    found = predict_energy(fit_energy(SPACE, whole, [whole]), NETWORK)
    keys = [shaped.key for shaped in SPACE.chain(NETWORK) if not shaped.is_identity]
    assert found.energy_mj == pytest.approx(sum(whole.entries[key].energy_mj.gross_mj for key in keys))
    assert found.extrapolated, "no network was measured"


def test_a_table_of_another_state_or_a_damaged_one_says_nothing(tmp_path):
    table = with_energy(profile(tmp_path / "a.lut.jsonl", SPACE), tmp_path / "b.lut.jsonl")
    damaged = tmp_path / "damaged.lut.jsonl"
    damaged.write_text("{}\n")

    assert table_energy(SPACE, table.path, table.fingerprint) is not None
    assert table_energy(SPACE, table.path, {**table.fingerprint, "power_mode": "MAXN"}) is None
    assert table_energy(SPACE, damaged, table.fingerprint) is None

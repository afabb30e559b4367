"""Predictor files: the same numbers come back, and a bad file gets all its faults in one message."""

from __future__ import annotations

import json

import numpy as np
import pytest

from lightnas_edge.errors import PredictorError
from lightnas_edge.predictor import fit_additive, fit_mlp, load_predictor
from lightnas_edge.predictor.base import one_hot_of
from lightnas_edge.space import load_space
from tests.predictor.boards import observed, small_space

SPACE = small_space()
INDICES = np.random.default_rng(0).integers(3, size=(60, 4))
LATENCY_MS = 1.0 + 0.1 * (INDICES == 1).sum(axis=1)
ONE_HOT = one_hot_of(SPACE, INDICES)


@pytest.fixture(scope="module")
def additive():
    return fit_additive(SPACE, None, observed(SPACE, INDICES, LATENCY_MS))


@pytest.fixture(scope="module")
def mlp():
    return fit_mlp(SPACE, observed(SPACE, INDICES, LATENCY_MS), seed=0, epochs=5)


@pytest.mark.parametrize("name", ["additive", "mlp"])
def test_a_saved_predictor_comes_back_whole(tmp_path, name, request):
    predictor = request.getfixturevalue(name)
    predictor.save(tmp_path / "p.json")

    again = load_predictor(tmp_path / "p.json", SPACE)

    assert again.type == name and again.fit == predictor.fit and again.fingerprint == predictor.fingerprint
    assert again.predict(ONE_HOT) == pytest.approx(predictor.predict(ONE_HOT), rel=1e-12)
    assert again.upper(ONE_HOT, 0.95) == pytest.approx(predictor.upper(ONE_HOT, 0.95), rel=1e-9)
    assert [path.name for path in tmp_path.iterdir()] == ["p.json"]


def test_a_predictor_carries_its_space(tmp_path, additive):
    additive.save(tmp_path / "p.json")

    assert load_predictor(tmp_path / "p.json").space == SPACE


def test_a_predictor_of_another_space_is_refused(tmp_path, additive):
    additive.save(tmp_path / "p.json")

    with pytest.raises(PredictorError, match=r"was fitted for space 'small' .* not for 'tiny'"):
        load_predictor(tmp_path / "p.json", load_space("tiny"))


def damage(path, predictor, change):
    record = json.loads(json.dumps(predictor.to_record().to_json()))
    change(record)
    path.write_text(json.dumps(record))
    return path


def test_every_fault_of_an_additive_file_is_listed(tmp_path, additive):
    def change(record):
        record["batch"] = 0
        record["simulated"] = "no"
        record["parameters"]["constant"] = None
        record["parameters"]["cost"]["skip@8x32-16s2"] = "0.1"
        record["parameters"]["nosie"] = 0.1

    with pytest.raises(PredictorError) as caught:
        load_predictor(damage(tmp_path / "p.json", additive, change), SPACE)

    message = str(caught.value)
    assert "holds 5 errors" in message
    for fault in (
        "batch: should be greater than or equal to 1, found 0",
        "simulated: should be a valid boolean, found 'no'",
        "parameters.constant: should be a valid number, found None",
        "parameters.cost.skip@8x32-16s2: should be a valid number, found '0.1'",
        "parameters.nosie: unknown field",
    ):
        assert fault in message


def test_parameters_that_do_not_fit_the_space_are_all_listed(tmp_path, additive):
    def change(record):
        record["unit"] = "mJ"
        del record["parameters"]["cost"]["skip@8x32-16s2"]
        record["parameters"]["cost"]["mbconv_k9_e9@1x1-1s1"] = 1.0
        record["parameters"]["covariance_lower"].pop()

    with pytest.raises(PredictorError) as caught:
        load_predictor(damage(tmp_path / "p.json", additive, change), SPACE)

    message = str(caught.value)
    assert "holds 4 errors" in message
    for fault in (
        "unit: expected 'ms' for latency_ms, found 'mJ'",
        "parameters.cost: 1 of 10 are missing, first skip@8x32-16s2",
        "parameters.cost: 1 are no operators of the space, first 'mbconv_k9_e9@1x1-1s1'",
        "parameters.covariance_lower: expected 66 numbers, found 65",
    ):
        assert fault in message


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda fit: fit.pop("calibration"),
            "fit.calibration: missing; the intervals of a fit to 44 measured networks",
        ),
        (lambda fit: fit.update(calibraton=fit.pop("calibration")), "fit.calibraton: unknown field"),
        (lambda fit: fit["calibration"].pop("degrees_of_freedom"), "fit.calibration.degrees_of_freedom: missing"),
        (
            lambda fit: fit["calibration"].update(degrees_of_freedom=2),
            "fit.calibration.degrees_of_freedom: should be greater than or equal to 3, found 2",
        ),
        (lambda fit: fit.clear(), "fit.networks: missing"),
    ],
)
def test_a_fit_without_what_its_intervals_need_is_refused_by_name(tmp_path, additive, change, message):
    with pytest.raises(PredictorError) as caught:
        load_predictor(damage(tmp_path / "p.json", additive, lambda record: change(record["fit"])), SPACE)

    assert message in str(caught.value)


def test_a_covariance_that_is_none_is_refused(tmp_path, additive):
    def change(record):
        record["parameters"]["covariance_lower"][0] = -1.0

    with pytest.raises(PredictorError, match="not a covariance, an eigenvalue is negative"):
        load_predictor(damage(tmp_path / "p.json", additive, change), SPACE)


def test_weights_of_the_wrong_shape_or_length_are_refused(tmp_path, mlp):
    def shape(record):
        record["parameters"]["layers"].pop(0)

    def length(record):
        record["parameters"]["layers"][1]["weight"]["float32_base64"] = "AAAA"

    with pytest.raises(PredictorError, match=r"layers\[0\]: expected 12 inputs, found weight \(64, 128\)"):
        load_predictor(damage(tmp_path / "p.json", mlp, shape), SPACE)
    with pytest.raises(PredictorError, match=r"layers\[1\]: expected 32768 bytes for shape \[64, 128\], found 3"):
        load_predictor(damage(tmp_path / "p.json", mlp, length), SPACE)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is not valid JSON"),
        ("[]", "is not a record of kind 'predictor': found 'list'"),
        ('{"kind": "lut"}', "is not a record of kind 'predictor': found 'lut'"),
        ('{"kind": "predictor", "schema": 1}', "has schema 1; this program reads 2"),
    ],
)
def test_a_file_that_is_no_predictor_is_refused(tmp_path, content, message):
    (tmp_path / "p.json").write_text(content)

    with pytest.raises(PredictorError, match=message):
        load_predictor(tmp_path / "p.json", SPACE)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(PredictorError, match=r"none.json does not exist"):
        load_predictor(tmp_path / "none.json", SPACE)

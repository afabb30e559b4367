"""The precision table of a model file: converted here, measured in turns, compared with the float32 file."""

import json

import numpy as np
import pytest

import devices
from lightnas_edge.deploy.precision_model import CalibrationInputs, measure_model_precisions
from lightnas_edge.deploy.references import from_this_machine
from lightnas_edge.errors import VerifyError
from lightnas_edge.measuring import MeasurementProtocol, Settings
from lightnas_edge.models import read_model
from lightnas_edge.report.precision_page import build_precision_page
from tests.models import files

PROTOCOL = MeasurementProtocol(rounds=12, min_sample_ms=0.5, warmup_ms=1.0)
LOOSE = {"latency_ms": 1000.0}


@pytest.fixture(autouse=True)
def home(monkeypatch, tmp_path):
    monkeypatch.setenv("LIGHTNAS_EDGE_HOME", str(tmp_path / "home"))


@pytest.fixture
def model(tmp_path):
    return read_model(files.saved(tmp_path, files.convolution((1, 3, 8, 8), (1, 4, 6, 6))))


def calibration(model, runs=4):
    images = np.random.default_rng(1).standard_normal((runs, 1, 3, 8, 8)).astype(np.float32)
    return CalibrationInputs({"images": images}, runs)


@pytest.mark.timeout(240)
def test_a_virtual_board_gets_the_file_in_three_precisions(model, tmp_path):
    """One convolution, which each precision rounds more than the one before."""
    found = measure_model_precisions(
        model, devices.connect("virtual:jetson-agx-xavier"), tmp_path / "out", LOOSE,
        Settings(backend="simulated", protocol=PROTOCOL), from_this_machine(model), calibration=calibration(model), passes=1,
    )  # fmt: skip

    record = found.record
    assert json.loads(found.path.read_text()) == record.to_json()
    assert record.simulated
    assert [(row.precision, row.verification.verdict) for row in record.rows] == [
        ("fp32", "met"), ("fp16", "met"), ("int8", "met"),
    ]  # fmt: skip
    floats, half, eight = (row.verification for row in record.rows)
    assert floats.outputs.max_abs_difference < half.outputs.max_abs_difference < eight.float_outputs.max_abs_difference
    assert (
        eight.outputs.max_abs_difference < eight.float_outputs.max_abs_difference
    )  # the board computes what the file says
    assert record.rows[2].calibrated_on == 4
    assert eight.ran_in == {"int8": 1}
    assert (tmp_path / "out" / "int8" / "net-int8.onnx").exists()
    page = build_precision_page(record, tmp_path / "out").read_text()
    assert page.count("SIMULATED") > 10
    assert f"Deploy {record.choice.precision}." in page


@pytest.mark.timeout(240)
def test_on_this_machine_a_file_is_measured_in_fp32_alone_where_nothing_calibrates_int8(model, tmp_path):
    record = measure_model_precisions(
        model, devices.connect("localhost"), tmp_path / "out", LOOSE, Settings(protocol=PROTOCOL), from_this_machine(model),
        passes=1,
    ).record  # fmt: skip

    floats, half, eight = record.rows
    assert floats.verification.verdict == "met"
    assert floats.verification.outputs.cosine > 0.9999
    assert "a CPU has no fp16 kernels" in half.unavailable
    assert (eight.unavailable, eight.remedy[:16]) == ("int8 needs images to calibrate on", "add --calibrate ")
    assert record.choice.precision == "fp32"


def test_a_file_that_is_rounded_already_has_no_precisions_to_compare(tmp_path):
    model = read_model(files.saved(tmp_path, files.quantised()))

    with pytest.raises(VerifyError, match="no precision could be measured on localhost") as caught:
        measure_model_precisions(
            model, devices.connect("localhost"), tmp_path / "out", LOOSE, Settings(protocol=PROTOCOL),
            from_this_machine(model), passes=1,
        )  # fmt: skip

    assert "computes in int8" in str(caught.value)
    assert "give the float32 file" in caught.value.hint

"""A board is asked what it is before anything is measured on it."""

import pytest

import devices
from devices import AgentFailedError
from lightnas_edge.errors import FingerprintError
from lightnas_edge.measuring.same_board import require_same_board

NANO = "virtual:jetson-nano"


@pytest.fixture
def fingerprint(tmp_path, monkeypatch):
    """As a table of the virtual board has it."""
    monkeypatch.setenv("LIGHTNAS_EDGE_HOME", str(tmp_path / "home"))
    return {
        **devices.probe(devices.connect(NANO)).fingerprint,
        "precision": "fp16",
        "batch": 8,
        "threads": 4,
        "protocol": 3,
    }


def test_what_a_job_decides_is_not_compared(fingerprint):
    require_same_board(devices.connect(NANO), fingerprint, "the predictor")


@pytest.mark.parametrize(
    ("field", "value"),
    [("board", "virtual:jetson-tx2"), ("power_mode", "5W"), ("clocks", "locked"), ("backend_version", "0")],
)
def test_another_board_or_state_is_named_with_its_field(fingerprint, field, value):
    with pytest.raises(
        FingerprintError, match=rf"the predictor and {NANO} are of different boards .*{field} '{value}' and "
    ):
        require_same_board(devices.connect(NANO), {**fingerprint, field: value}, "the predictor")


def test_an_engine_that_does_not_run_there_is_an_error_of_its_own_on_the_right_board_alone(fingerprint):
    with pytest.raises(AgentFailedError, match="does not run on a virtual board"):
        require_same_board(devices.connect(NANO), {**fingerprint, "backend": "onnxruntime"}, "the predictor")
    with pytest.raises(FingerprintError, match="board 'generic-linux'"):
        require_same_board(
            devices.connect(NANO), {**fingerprint, "backend": "onnxruntime", "board": "generic-linux"}, "the predictor"
        )

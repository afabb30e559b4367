"""Nothing measured through a virtual board looks real."""

import json

import pytest

import devices
from devices.virtual import make_board
from lightnas_edge.measuring import MeasurementProtocol, Settings, write_profile_job
from lightnas_edge.space import load_space
from profiler import backends, board
from profiler.backends.simulated import Simulated
from profiler.errors import BackendError
from profiler.system import System

REAL = [name for name in backends.names() if name != "simulated"]


@pytest.fixture
def virtual(tmp_path):
    make_board(tmp_path / "board", "jetson-nano")
    return System(str(tmp_path / "board"))


@pytest.fixture
def connection(tmp_path, monkeypatch):
    monkeypatch.setenv("LIGHTNAS_EDGE_HOME", str(tmp_path / "home"))
    return devices.connect("virtual:jetson-nano")


@pytest.mark.parametrize("backend", REAL)
def test_a_real_engine_is_refused_on_a_virtual_board(virtual, backend, tmp_path):
    with pytest.raises(BackendError, match=f"{backend} does not run on a virtual board") as caught:
        backends.open_backend(backend, "fp32", 1, 1, str(tmp_path), virtual)

    assert "--backend simulated" in caught.value.remedy


def test_the_fingerprint_of_a_virtual_board_is_simulated_before_any_backend_is_open(virtual):
    found = board.fingerprint({"name": "jetson-nano"}, virtual)

    assert (found["board"], found["simulated"]) == ("virtual:jetson-nano", True)
    assert board.fingerprint({"name": "generic-linux"}, System())["simulated"] is False


def test_a_probe_with_a_real_engine_reports_the_refusal_and_stays_simulated(connection):
    found = devices.probe(connection, backend="onnxruntime")

    assert "does not run on a virtual board" in found["error"]["message"]
    assert found["fingerprint"]["simulated"] is True


def test_a_campaign_with_a_real_engine_writes_no_table(connection, tmp_path):
    space = load_space("tiny")
    settings = Settings(backend="onnxruntime", protocol=MeasurementProtocol(rounds=1))
    job = write_profile_job(tmp_path / "job", space, settings, operators=space.shaped_operators()[:1])
    campaign = devices.Campaign(connection, job.folder)
    campaign.start()

    with pytest.raises(devices.AgentError, match="does not run on a virtual board"):
        campaign.follow(tmp_path / "t.lut.jsonl")

    table = tmp_path / "t.lut.jsonl"
    assert not table.exists() or not table.read_bytes()


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"noise": "loud"}, 'noise: expected a number from 0 to 1, found "loud"'),
        ({"rails": [{}]}, "rails[0].label: missing"),
        ({"schema": 2}, "schema: expected a whole number from 1 to 1, found 2"),
    ],
)
def test_a_damaged_virtual_board_is_refused_with_the_path_of_the_fault(virtual, tmp_path, change, fault):
    path = tmp_path / "board" / "virtual.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))

    with pytest.raises(BackendError) as caught:
        Simulated("fp32", 1, 1, virtual)

    assert fault in caught.value.message
    assert "delete that folder" in caught.value.remedy

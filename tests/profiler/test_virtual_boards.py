"""Nothing measured through a virtual board looks real."""

import json
import os
import subprocess
import sys

import pytest

import devices
from devices.virtual import NAMES, make_board
from profiler import backends, board, simulation
from profiler.backends.simulated import Simulated
from profiler.errors import BackendError
from profiler.system import System
from tests.profiler.test_manifest import manifest

REAL = [name for name in backends.names() if name != "simulated"]


@pytest.fixture
def virtual(tmp_path):
    make_board(tmp_path / "board", "jetson-nano")
    return System(str(tmp_path / "board"))


@pytest.fixture
def agent(virtual, tmp_path):
    """Run the agent's archive on the virtual board: (exit code, its answer)."""
    archive = tmp_path / "agent.pyz"
    devices.build_agent_archive(archive)

    def run(*arguments):
        ended = subprocess.run(
            [sys.executable, str(archive), *arguments, "--root", virtual.root],
            env=os.environ | {"LIGHTNAS_EDGE_HOME": str(tmp_path / "home")},
            capture_output=True,
            text=True,
            timeout=120,
        )
        return ended.returncode, json.loads(ended.stdout)

    return run


@pytest.mark.parametrize("backend", REAL)
def test_a_real_engine_is_refused_on_a_virtual_board(virtual, backend, tmp_path):
    with pytest.raises(BackendError, match=f"{backend} does not run on a virtual board") as caught:
        backends.open_backend(backend, "fp32", 1, 1, str(tmp_path), virtual)

    assert "the backend simulated alone" in caught.value.remedy


def test_the_simulated_backend_on_a_real_board_names_every_virtual_board():
    with pytest.raises(BackendError, match="runs on virtual boards only") as caught:
        simulation.VirtualMachine(System())

    assert simulation.NAMES == NAMES
    for name in NAMES:
        assert f"virtual:{name}" in caught.value.remedy
    assert "leave out --backend" in caught.value.remedy


def test_the_fingerprint_of_a_virtual_board_is_simulated_before_any_backend_is_open(virtual):
    found = board.fingerprint({"name": "jetson-nano"}, virtual)

    assert (found["board"], found["simulated"]) == ("virtual:jetson-nano", True)
    assert board.fingerprint({"name": "generic-linux"}, System())["simulated"] is False


def test_a_probe_with_a_real_engine_reports_the_refusal_and_stays_simulated(agent):
    code, found = agent("probe", "--backend", "onnxruntime")

    assert code == 0
    assert "does not run on a virtual board" in found["error"]["message"]
    assert found["fingerprint"]["simulated"] is True


def test_a_job_with_a_real_engine_writes_no_table(agent, tmp_path):
    job = tmp_path / "job"
    job.mkdir()
    (job / "manifest.json").write_text(json.dumps(manifest(backend="onnxruntime")))

    code, answer = agent("run", "--job", str(job))

    assert (code, answer["code"]) == (1, "backend")
    assert "does not run on a virtual board" in answer["message"]
    assert not (job / "journal.jsonl").exists()


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"noise": "loud"}, 'noise: expected a number from 0 to 1, found "loud"'),
        ({"rails": [{}]}, "rails[0].label: missing"),
        ({"schema": 1}, "schema: expected a whole number from 6 to 6, found 1"),
        (
            {"tensorrt": {"version": "new", "opset": 13}},
            'tensorrt.version: expected a version, such as 8.5.2, found "new"',
        ),
    ],
)
def test_a_damaged_virtual_board_is_refused_with_the_path_of_the_fault(virtual, tmp_path, change, fault):
    path = tmp_path / "board" / "virtual.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))

    with pytest.raises(BackendError) as caught:
        Simulated("fp32", 1, 1, virtual)

    assert fault in caught.value.message
    assert "delete that folder" in caught.value.remedy

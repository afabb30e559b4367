"""SIGTERM and SIGHUP end a command as an error does: nothing temporary stays."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from tests.devices.conftest import scale_model

_PROGRAM = "import sys; from lightnas_edge.cli import main; sys.exit(main(sys.argv[1:]))"
_COMMANDS = {
    "profile": ["profile", "--space", "tiny"],
    "profile --model": ["profile", "--model", "net.onnx"],
    "verify --model": ["verify", "--model", "net.onnx", "--latency-ms", "20"],
}


@pytest.mark.parametrize("command", _COMMANDS)
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_no_temporary_folder(tmp_path, signum, command):
    scratch = tmp_path / "tmp"
    scratch.mkdir()
    (tmp_path / "net.onnx").write_bytes(scale_model(2))
    environment = {**os.environ, "LIGHTNAS_EDGE_HOME": str(tmp_path / "home"), "TMPDIR": str(scratch)}
    options = ["--host", "virtual:jetson-nano", "--rounds", "1000", "--out", str(tmp_path / "out")]
    argv = [sys.executable, "-c", _PROGRAM, *_COMMANDS[command], *options]
    home = tmp_path / "home/virtual/jetson-nano/home/.lightnas-edge"
    with subprocess.Popen(argv, env=environment, cwd=tmp_path) as process:
        try:
            deadline_s = time.monotonic() + 240
            while not list(home.glob("jobs/*/status.json")):
                assert time.monotonic() < deadline_s and process.poll() is None
                time.sleep(0.05)
            assert [entry.name for entry in scratch.iterdir()]
            process.send_signal(signum)
            process.wait(120)
        finally:
            process.kill()
            if (home / "agent.lock").exists():
                os.kill(json.loads((home / "agent.lock").read_text())["pid"], signal.SIGINT)  # the agent continued

    assert process.returncode == 128 + signum
    assert list(scratch.iterdir()) == []


def test_a_verdict_into_a_closed_pipe_is_no_success(tmp_path):
    """`verify ... | head -1` with pipefail in a CI system."""
    (tmp_path / "net.onnx").write_bytes(scale_model(2))
    environment = {**os.environ, "LIGHTNAS_EDGE_HOME": str(tmp_path / "home")}
    argv = [
        sys.executable,
        "-c",
        _PROGRAM,
        *_COMMANDS["verify --model"],
        "--host",
        "virtual:jetson-nano",
        "--rounds",
        "3",
    ]
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as closed:
        ended = subprocess.run(argv, env=environment, cwd=tmp_path, stdout=closed, stderr=subprocess.PIPE, timeout=240)

    assert ended.returncode == 141, ended.stderr

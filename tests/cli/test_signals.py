"""SIGTERM and SIGHUP end a command as an error does: nothing temporary stays."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

_PROGRAM = "import sys; from lightnas_edge.cli import main; sys.exit(main(sys.argv[1:]))"


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_no_temporary_folder(tmp_path, signum):
    scratch = tmp_path / "tmp"
    scratch.mkdir()
    environment = {**os.environ, "LIGHTNAS_EDGE_HOME": str(tmp_path / "home"), "TMPDIR": str(scratch)}
    command = ["profile", "--host", "virtual:jetson-nano", "--space", "tiny", "--rounds", "100000"]
    argv = [sys.executable, "-c", _PROGRAM, *command, "--out", str(tmp_path / "t.jsonl")]
    with subprocess.Popen(argv, env=environment) as process:
        try:
            deadline_s = time.monotonic() + 120
            while not (tmp_path / "t.jsonl").exists():
                assert time.monotonic() < deadline_s and process.poll() is None
                time.sleep(0.05)
            assert [entry.name for entry in scratch.iterdir()]
            process.send_signal(signum)
            process.wait(60)
        finally:
            process.kill()
            holder = tmp_path / "home/virtual/jetson-nano/home/.lightnas-edge/agent.lock"
            if holder.exists():
                os.kill(json.loads(holder.read_text())["pid"], signal.SIGINT)  # the agent continued

    assert process.returncode == 128 + signum
    assert list(scratch.iterdir()) == []

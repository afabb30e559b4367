"""`profile-device --host` on the whole published space, over a real OpenSSH server, with the real ONNX Runtime.

Interrupted twice, its table holds what that of an undisturbed run holds: no visit lost, none doubled.
"""

import collections
import json
import os
import signal
import subprocess
import sys
import threading

import pytest

import devices
import luts
from devices.host_keys import HostKey
from lightnas_edge.space import load_space
from tests.devices.sshd import Sshd, end_agents, needs_sshd, set_up_user, write_python_wrapper

pytestmark = needs_sshd

ROUNDS = 2
KEYS = [shaped.key for shaped in load_space("lightnas").shaped_operators()]
PROGRAM = "import sys; from lightnas_edge.cli import profile_device; sys.exit(profile_device(sys.argv[1:]))"


@pytest.fixture
def board(tmp_path, monkeypatch):
    server = Sshd(tmp_path / "board", set_up_user(tmp_path / "user", monkeypatch)).start()
    user, _, port = server.address.replace(":", "@").split("@")
    python = str(write_python_wrapper(tmp_path / "python3"))
    key = str(HostKey.parse((tmp_path / "board" / "host_key.pub").read_text()))
    devices.add_board(
        devices.InventoryEntry(name="bench", host="127.0.0.1", user=user, port=int(port), python=python, host_key=key)
    )
    yield server
    end_agents(server)
    server.stop()


@pytest.fixture
def profile(tmp_path, pytestconfig):
    """Starts `profile-device` as a user does: a process of its own."""

    def start(out, *options):
        argv = [sys.executable, "-c", PROGRAM, "--host", "bench", "--space", "lightnas", "--rounds", str(ROUNDS)]
        environment = dict(os.environ, PYTHONPATH=str(pytestconfig.rootpath))
        return subprocess.Popen(
            [*argv, "--out", str(tmp_path / out), *options],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment,
        )  # fmt: skip

    return start


def test_interrupted_twice_it_covers_the_space_like_an_undisturbed_run(tmp_path, board, profile):
    first = profile("table.lut.jsonl")
    _wait_for_visits(board, len(KEYS) // 2)
    os.kill(_agent(board)["pid"], signal.SIGKILL)
    answer, _ = first.communicate(timeout=120)
    assert first.returncode == 1
    assert "the agent was killed before it finished" in answer

    second = profile("table.lut.jsonl")
    _wait_for_visits(board, len(KEYS) + len(KEYS) // 4)
    second.send_signal(signal.SIGINT)
    answer, _ = second.communicate(timeout=120)
    assert second.returncode == 130
    assert "the same command continues from there" in answer
    assert _agent(board)["state"] == "interrupted"

    third = profile("table.lut.jsonl")
    answer, _ = third.communicate(timeout=300)
    assert third.returncode == 0, answer
    assert "resumed after" in answer
    undisturbed = profile("undisturbed.lut.jsonl", "--fresh")
    answer, _ = undisturbed.communicate(timeout=300)
    assert undisturbed.returncode == 0, answer

    table, whole = (luts.read(tmp_path / f"{name}.lut.jsonl") for name in ("table", "undisturbed"))
    assert table.coverage(KEYS) == whole.coverage(KEYS)
    assert whole.coverage(KEYS).complete
    assert _visits(table) == _visits(whole) == {(key, round_): 1 for key in KEYS for round_ in range(ROUNDS)}
    assert [len({visit.session for visit in lut.visits}) for lut in (table, whole)] == [3, 1]
    assert table.faults == whole.faults == ()


def _visits(table):
    return collections.Counter((visit.key, visit.round) for visit in table.visits if visit.round < ROUNDS)


def _job(board):
    folders = list((board.home / ".lightnas-edge" / "jobs").glob("*"))
    return folders[0] if folders else board.home


def _agent(board):
    return json.loads((_job(board) / "status.json").read_text())


def _wait_for_visits(board, count):
    for _ in range(12_000):
        journal = _job(board) / "journal.jsonl"
        if journal.exists() and journal.read_bytes().count(b"\n") > count:
            return
        threading.Event().wait(0.01)
    raise AssertionError(f"waited in vain for {count} visits")

"""Three boards behind three real OpenSSH servers on loopback: one is killed, one is cut in the middle. Nothing lost, nothing doubled.

The boards are virtual units: the agent is the real one, started over SSH by a Python that names the unit's system files.
"""

import contextlib
import os
import signal
import threading
from collections import namedtuple
from pathlib import Path

import pytest

import devices
import luts
from devices.host_keys import HostKey
from devices.ssh import session
from devices.virtual import make_board
from lightnas_edge.measuring import sentinels
from lightnas_edge.space import load_space
from tests.cli.commands import run
from tests.devices.sshd import Sshd, end_agents, needs_sshd, set_up_user, write_python_wrapper
from tests.fleet.agents import running
from tests.fleet.counting import places, visits_of

pytestmark = needs_sshd

SPACE = load_space("tiny")
KEYS = [shaped.key for shaped in SPACE.shaped_operators()]
SENTINELS = [shaped.key for shaped in sentinels(SPACE)]
ROUNDS = 12
Shelf = namedtuple("Shelf", "boards names")


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    """Three boards in boards.toml, and a group of them."""
    public = set_up_user(tmp_path / "user", monkeypatch)
    monkeypatch.setattr(session, "PATIENCE_S", 2.0)  # how long a lost link is tried again; minutes for a user
    monkeypatch.chdir(tmp_path)
    boards, names = [], []
    for number in (1, 2, 3):
        server = Sshd(tmp_path / f"board{number}", public).start()
        root = tmp_path / f"root{number}"
        make_board(root, "jetson-orin-nano", number)
        plain = write_python_wrapper(tmp_path / f"plain{number}")
        python = tmp_path / f"python{number}"
        python.write_text(
            f'#!/bin/sh\ncase "$2" in run|probe|setup|restore) exec {plain} "$@" --root {root};; *) exec {plain} "$@";; esac\n'
        )
        python.chmod(0o755)
        user, _, port = server.address.replace(":", "@").split("@")
        key = str(HostKey.parse((tmp_path / f"board{number}" / "host_key.pub").read_text()))
        names.append(f"orin{number}")
        devices.add_board(
            devices.InventoryEntry(
                name=names[-1], host="127.0.0.1", user=user, port=int(port), python=str(python), host_key=key
            )
        )
        boards.append(server)
    with devices.inventory_path().open("a") as file:
        file.write('\n[groups]\nshelf = ["orin1", "orin2", "orin3"]\n')
    yield Shelf(boards, names)
    for board in boards:
        end_agents(board)
        board.stop()


def profile(host, *options):
    return run(
        "profile", "--host", host, "--space", "tiny", "--backend", "simulated", "--precision", "fp16", "--rounds", ROUNDS,
        "--out", "pooled.lut.jsonl", *options,
    )  # fmt: skip


def journal(board):
    found = list((board.home / ".lightnas-edge" / "jobs").glob("*/journal.jsonl"))
    return found[0].read_bytes() if found else b""


def kill(board):
    """The board loses its power: its agent and its server end at once."""
    end_agents(board)
    board.stop()


def when(board, lines, act, copy=None):
    """Act once the board has measured that many visits, or its copy on this side holds them, in a thread."""
    here = None if copy is None else Path(copy).absolute()

    def watch():
        for _ in range(12_000):
            there = journal(board) if here is None else here.read_bytes() if here.exists() else b""
            if there.count(b"\n") > lines:
                act(board)
                return
            threading.Event().wait(0.01)

    thread = threading.Thread(target=watch)
    thread.start()
    return thread


def test_one_killed_and_one_cut_in_the_middle_cost_no_visit_and_double_none(shelf):
    watchers = [
        when(shelf.boards[1], 1, kill, copy="pooled.units/orin2.lut.jsonl"),
        when(shelf.boards[2], 10, lambda board: board.cut()),
    ]

    answer = profile("shelf")

    for watcher in watchers:
        watcher.join(60)
    assert answer.code == 0, answer.err
    assert "orin2 lost after" in answer.err and "finished elsewhere" in answer.err
    assert "orin3 lost" not in answer.err
    pooled = luts.read("pooled.lut.jsonl")
    kept = luts.read("pooled.units/orin2.lut.jsonl")
    assert pooled.coverage(KEYS).complete and not pooled.faults
    assert len(kept.visits) >= 1
    assert set(places(pooled).values()) == {1}
    assert {visits_of(pooled)[key] for key in KEYS if key not in SENTINELS} == {ROUNDS}


def test_a_board_that_comes_back_brings_what_it_measured_and_the_work_of_others_is_not_repeated(shelf):
    kill(shelf.boards[2])
    watcher = when(shelf.boards[1], 20, kill)
    first = profile("orin2,orin3")
    watcher.join(60)
    assert first.code == 1 and "every board was lost" in first.err
    there = journal(shelf.boards[1])
    assert there.count(b"\n") > 20

    shelf.boards[1].start()
    answer = profile("orin1,orin2")

    assert answer.code == 0, answer.err
    pooled = luts.read("pooled.lut.jsonl")
    assert set(places(pooled).values()) == {1}
    assert {visits_of(pooled)[key] for key in KEYS if key not in SENTINELS} == {ROUNDS}
    assert luts.read("pooled.units/orin2.lut.jsonl").path.read_bytes().startswith(there[: there.rfind(b"\n") + 1])


def test_ctrl_c_stops_every_agent_and_the_same_command_continues(shelf):
    watcher = when(shelf.boards[0], 15, lambda board: os.kill(os.getpid(), signal.SIGINT))
    with contextlib.suppress(KeyboardInterrupt):
        assert profile("orin1,orin2").code == 130
    watcher.join(60)
    assert not [board for board in shelf.boards if running(board)]
    before = sum(visits_of(luts.read(f"pooled.units/orin{number}.lut.jsonl")).total() for number in (1, 2))

    answer = profile("orin1,orin2")

    assert answer.code == 0, answer.err
    pooled = luts.read("pooled.lut.jsonl")
    assert set(places(pooled).values()) == {1} and visits_of(pooled).total() >= before
    assert {visits_of(pooled)[key] for key in KEYS if key not in SENTINELS} == {ROUNDS}

"""A process is the one of a note where number, boot, start and command line fit; a number alone decides nothing."""

import os
import signal
import subprocess
from types import SimpleNamespace

import pytest

from devices.liveness import identify, is_alive, send_signal
from devices.local import LocalConnection
from profiler import processes

BOARD = LocalConnection()


@pytest.fixture
def stranger():
    process = subprocess.Popen(["sleep", "600"])
    yield process
    process.kill()
    process.wait()


def note_of(pid):
    return processes.identify(pid)


def test_the_agents_note_of_a_process_fits_it_and_what_it_reads(stranger):
    note = note_of(stranger.pid)

    assert note.lives() and is_alive(BOARD, note)
    assert len(note.command) == 16


@pytest.mark.parametrize(
    "change", [{"boot_id": "another boot"}, {"start_ticks": 1}, {"command": "0" * 16}], ids=lambda change: next(iter(change))
)  # fmt: skip
def test_a_process_that_has_the_number_of_another_one_gets_no_signal(stranger, change):
    note = note_of(stranger.pid)._replace(**change)

    assert not note.lives()
    assert not is_alive(BOARD, note)
    assert not send_signal(BOARD, note, signal.SIGKILL)
    assert stranger.poll() is None


def test_a_process_that_was_just_started_is_known_by_its_start(stranger):
    started = identify(BOARD, stranger.pid)
    later = started._replace(start_ticks=started.start_ticks + 1)

    assert is_alive(BOARD, started)
    assert not is_alive(BOARD, later)


def test_a_process_that_had_ended_when_it_was_looked_at_never_lives(stranger):
    stranger.kill()
    stranger.wait()
    ended = identify(BOARD, stranger.pid)

    assert ended.start_ticks == 0
    assert not is_alive(BOARD, ended._replace(pid=os.getpid()))


def test_what_a_note_does_not_state_does_not_count(stranger):
    assert is_alive(BOARD, SimpleNamespace(pid=stranger.pid, boot_id=None, start_ticks=None, command=None))

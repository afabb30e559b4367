"""An agent that ends at its start is reported with its cause; nothing waits for the limit of a slow start."""

import json
import os
import signal
import sys
from pathlib import Path

import pytest

import devices
from devices import AgentFailedError, BoardUnreachableError, Campaign, TableWriteError, remote_agent
from devices.remote_agent import death
from lightnas_edge.measuring import campaign as measuring
from tests.devices.sshd import Sshd, end_agents, needs_sshd, set_up_user, write_python_wrapper

NO_CTYPES = "_ctypes.py", "raise ImportError(\"No module named '_ctypes'\")\n"
FAULTS = {
    "a broken module": ("zipfile.py", "raise ImportError('cannot import name x')\n", "ImportError: cannot import name x", "another Python"),
    "another mistake": ("statistics.py", "raise RuntimeError('not today')\n", "RuntimeError: not today", ""),
}  # fmt: skip


@pytest.fixture
def patient(monkeypatch):
    """Who waited for these limits would fail by the runner's own."""
    monkeypatch.setattr(remote_agent, "START_LIMIT_S", 100_000.0)


def faulty_python(connection, monkeypatch, tmp_path):
    """The board's Python was built without libffi."""
    module, text = NO_CTYPES
    (tmp_path / "broken").mkdir(exist_ok=True)
    (tmp_path / "broken" / module).write_text(text)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}/broken")
    python = str(write_python_wrapper(tmp_path / "broken-python"))
    monkeypatch.delenv("PYTHONPATH")
    monkeypatch.setattr(connection, "python", lambda: python)


def test_an_agent_that_dies_at_its_start_is_reported_with_its_cause(
    connection, write_job, tmp_path, monkeypatch, patient
):
    faulty_python(connection, monkeypatch, tmp_path)
    campaign = Campaign(connection, write_job())
    campaign.start()

    with pytest.raises(AgentFailedError) as caught:
        campaign.follow(tmp_path / "t")

    assert "lacks its module ctypes" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "libffi-dev" in caught.value.hint


def test_a_probe_by_such_a_python_has_the_cause_in_one_line(connection, tmp_path, monkeypatch):
    faulty_python(connection, monkeypatch, tmp_path)

    with pytest.raises(AgentFailedError) as caught:
        devices.probe(connection)

    assert "lacks its module ctypes" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "libffi-dev" in caught.value.hint


@pytest.mark.parametrize("name", FAULTS)
def test_last_words_are_the_message_and_the_cause_has_its_remedy(name):
    _, text, message, remedy = FAULTS[name]
    error, words = text.strip().removeprefix("raise ").split("(", 1)
    log = f'Traceback (most recent call last):\n  File "x.py", line 1\n{error}: {words[1:-2]}\n\n'

    found = death("bench", log, "the end of agent.log")

    assert message in str(found)
    assert "Traceback" not in str(found)
    assert remedy in found.hint


def test_an_agent_that_dies_without_a_word_is_reported():
    assert "without a message" in str(death("bench", "\n", "exit code -9"))


def test_an_agent_that_is_killed_before_its_first_status_is_noticed(connection, write_job, tmp_path, patient):
    campaign = Campaign(connection, write_job())
    start = connection.start

    def start_a_corpse(argv, **files):
        pid = start([sys.executable, "-c", "import time; time.sleep(600)"], **files)
        os.kill(pid, signal.SIGKILL)
        return pid

    connection.start = start_a_corpse
    campaign.start()

    with pytest.raises(AgentFailedError, match="without a message"):
        campaign.follow(tmp_path / "t")


def test_ctrl_c_before_the_first_status_stops_the_agent_at_once(connection, write_job, tmp_path, monkeypatch, patient):
    """Its imports take long from a slow card; no status file exists yet."""
    monkeypatch.setattr(remote_agent, "STOP_LIMIT_S", 100_000.0)
    campaign = Campaign(connection, write_job())
    start, pids = connection.start, []

    def start_slowly(argv, **files):
        pids.append(start([sys.executable, "-c", "import time; time.sleep(600)"], **files))
        return pids[0]

    def interrupt(seconds):
        monkeypatch.undo()
        monkeypatch.setattr(remote_agent, "STOP_LIMIT_S", 100_000.0)
        raise KeyboardInterrupt

    connection.start = start_slowly
    campaign.start()
    monkeypatch.setattr(remote_agent.time, "sleep", interrupt)

    with pytest.raises(KeyboardInterrupt):
        campaign.follow(tmp_path / "t")
    assert not connection.signal(pids[0], 0)


@needs_sshd
def test_over_ssh_the_dead_agent_is_noticed_too(write_job, tmp_path, monkeypatch, patient):
    board = Sshd(tmp_path / "board", set_up_user(tmp_path / "user", monkeypatch)).start()
    (tmp_path / "user" / ".ssh" / "known_hosts").write_text(board.known_hosts_line)
    try:
        with devices.connect(board.address) as connection:
            connection.poll_s = 0.05
            faulty_python(connection, monkeypatch, tmp_path)
            campaign = Campaign(connection, write_job())
            campaign.start()
            with pytest.raises(AgentFailedError, match="lacks its module ctypes"):
                campaign.follow(tmp_path / "t")
    finally:
        end_agents(board)
        board.stop()


# This side's disk


class JobFolder:
    """What `measure` needs of a job."""

    def __init__(self, folder):
        self.folder = folder


def unwritable(tmp_path):
    """Paths of tables that nobody can write, root neither."""
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.lut.jsonl").mkdir()
    return [tmp_path / "file" / "t.lut.jsonl", tmp_path / "folder.lut.jsonl", Path("/proc/t.lut.jsonl")]


@pytest.mark.parametrize("number", range(3))
@pytest.mark.parametrize("fresh", [False, True])
def test_a_table_that_cannot_be_written_is_refused_before_anything_is_sent(
    connection, write_job, tmp_path, number, fresh
):
    table = unwritable(tmp_path)[number]

    with pytest.raises(TableWriteError, match=f"cannot write {table}: ") as caught:
        measuring.measure(connection, JobFolder(write_job()), table, fresh=fresh)

    assert "--out" in caught.value.hint
    assert not Path(connection.home()).exists()


def test_a_table_below_a_file_is_refused_with_the_cause(connection, write_job, tmp_path):
    with pytest.raises(TableWriteError, match=f"{tmp_path}/file is not a folder"):
        measuring.measure(connection, JobFolder(write_job()), unwritable(tmp_path)[0])


def test_a_check_leaves_no_file_behind(connection, write_job, tmp_path):
    table = tmp_path / "new" / "t.lut.jsonl"

    measuring._require_writable(table)

    assert list(table.parent.iterdir()) == []


def test_a_table_that_can_no_longer_be_written_stops_the_agent_and_the_same_command_continues(
    connection, write_job, tmp_path, tools
):
    table = tmp_path / "t.lut.jsonl"
    job = write_job(rounds=5000)
    campaign = Campaign(connection, job)
    campaign.start()
    pids = []

    def fill(status):
        if status.done > 3 and not pids:
            pids.append(status.pid)
            table.unlink(missing_ok=True)
            table.symlink_to("/dev/full")

    with pytest.raises(TableWriteError, match="No space left on device") as caught:
        campaign.follow(table, fill)

    assert "run the same command again" in caught.value.hint
    assert not connection.signal(pids[0], 0)
    status = json.loads((Path(connection.home()) / "jobs" / campaign.job / "status.json").read_text())
    assert status["state"] == "interrupted"

    table.unlink()
    rounds = 2 + max(
        line["round"] for line in tools.lines(Path(connection.home()) / "jobs" / campaign.job / "journal.jsonl")[1:]
    )
    again = Campaign(connection, write_job(rounds=rounds))
    again.start()
    assert again.follow(table).done == 2 * rounds


def test_ctrl_c_while_the_agent_is_started_on_a_board_that_is_lost_says_that_it_may_run(connection, write_job, caplog):
    campaign = Campaign(connection, write_job())
    hurried = []

    def start(argv, **files):
        connection.exists = lost
        raise KeyboardInterrupt

    def lost(remote):
        raise BoardUnreachableError("lost")

    connection.start, connection.hurry = start, lambda: hurried.append(True)

    with pytest.raises(KeyboardInterrupt):
        campaign.start()
    assert hurried and "may still measure" in caplog.text


def test_a_silent_end_is_not_explained_by_the_log_of_an_earlier_run(connection, write_job, tmp_path, patient):
    folder = Path(connection.home()) / "jobs" / "00112233445566ff"
    folder.mkdir(parents=True)
    (folder / "agent.log").write_text("ModuleNotFoundError: No module named '_ctypes'\n")
    campaign = Campaign(connection, write_job())
    start = connection.start
    connection.start = lambda argv, **files: start([sys.executable, "-c", "pass"], **files)
    campaign.start()

    with pytest.raises(AgentFailedError, match="without a message") as caught:
        campaign.follow(tmp_path / "t")
    assert "_ctypes" not in f"{caught.value} {caught.value.hint}"

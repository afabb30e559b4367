"""A board's table is fetched and completed: what `search --host` does before it searches.

The agent and ONNX Runtime are real; the board is a real OpenSSH server on loopback.
"""

import threading

import pytest

import devices
import luts
from devices import BoardUnreachableError, Campaign, ssh
from devices.host_keys import HostKey
from lightnas_edge.errors import RunError
from lightnas_edge.files import set_aside
from lightnas_edge.measuring import MeasurementProtocol, Settings, select_operators, sentinels, write_profile_job
from lightnas_edge.measuring.tables import complete_table
from lightnas_edge.space import load_space
from tests.cli.commands import run
from tests.devices.sshd import Sshd, end_agents, needs_sshd, set_up_user, write_python_wrapper

pytestmark = needs_sshd

SPACE = load_space("tiny")
KEYS = [shaped.key for shaped in SPACE.shaped_operators()]
TABLE = "bench-tiny-fp32-b1-t1.lut.jsonl"


@pytest.fixture
def board(tmp_path, monkeypatch, caplog):
    """`bench` of boards.toml; the current folder is empty."""
    monkeypatch.setattr(ssh.SshConnection, "poll_s", 0.05)
    server = Sshd(tmp_path / "board", set_up_user(tmp_path / "user", monkeypatch)).start()
    user, _, port = server.address.replace(":", "@").split("@")
    devices.add_board(
        devices.InventoryEntry(
            name="bench",
            host="127.0.0.1",
            user=user,
            port=int(port),
            python=str(write_python_wrapper(tmp_path / "python3")),
            host_key=str(HostKey.parse((tmp_path / "board" / "host_key.pub").read_text())),
        )
    )
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with caplog.at_level("INFO"):
        yield server
    end_agents(server)
    server.stop()


@pytest.fixture
def measured_elsewhere(board, tmp_path):
    """The board measures for another host, into another table; returns the campaign's job."""

    def measure(*, only=(), follow=True, rounds=1, name="elsewhere", **settings):
        settings = Settings(protocol=MeasurementProtocol(rounds=rounds, warmup_ms=0.5, min_sample_ms=0.5), **settings)
        job = write_profile_job(tmp_path / name, SPACE, settings, operators=select_operators(SPACE, only))
        with devices.connect("bench") as connection:
            campaign = Campaign(connection, job.folder)
            campaign.start()
            if follow:
                campaign.follow(tmp_path / f"{name}.jsonl")
        return job

    return measure


def sessions(path):
    return {visit.session for visit in luts.read(path).visits}


def test_a_complete_table_on_the_board_is_pulled_and_nothing_is_measured(board, measured_elsewhere, tmp_path, caplog):
    job = measured_elsewhere()
    journal = board.home / ".lightnas-edge" / "jobs" / job.job / "journal.jsonl"
    before = journal.read_bytes()

    path = complete_table("bench", SPACE)

    assert str(path) == TABLE
    assert path.read_bytes() == before == journal.read_bytes()
    assert "pulled" in caplog.text
    caplog.clear()
    complete_table("bench", SPACE)
    assert caplog.text == ""


def test_only_what_is_missing_is_measured(board, measured_elsewhere, caplog):
    measured_elsewhere(only=["*_e6@*"])

    path = complete_table("bench", SPACE)

    lut = luts.read(path)
    assert lut.coverage(KEYS).complete
    first, second = dict.fromkeys(visit.session for visit in lut.visits)
    keys = {session: {visit.key for visit in lut.visits if visit.session == session} for session in (first, second)}
    common = {shaped.key for shaped in sentinels(SPACE)}
    assert {key for key in KEYS if "_e6@" in key} <= keys[first]
    assert keys[first] & keys[second] == common  # so that the two sessions can be compared
    assert f"measuring {len(KEYS) - len(keys[first])} of {len(KEYS)} operators" in caplog.text


def test_a_job_at_work_on_the_table_is_waited_for_started_by_another_host(board, measured_elsewhere, caplog):
    measured_elsewhere(rounds=15, follow=False)
    with devices.connect("bench") as connection:
        # A board lists a job from its first line on.
        _wait_until(lambda: devices.remote_jobs(connection)[0])

    path = complete_table("bench", SPACE)

    lut = luts.read(path)
    assert len(sessions(path)) == 1
    assert {len(lut.entries[key].visits) for key in KEYS} >= {15}
    assert "is measuring this table: waiting for it" in caplog.text


def test_of_several_tables_of_one_space_the_user_names_one(board, measured_elsewhere):
    measured_elsewhere(name="one")
    measured_elsewhere(name="four", batch=4)

    with pytest.raises(
        RunError, match=r"holds 2 tables of tiny: fp32, batch [14], onnxruntime, 1 thread; fp32, batch [14]"
    ):
        complete_table("bench", SPACE)

    assert luts.read(complete_table("bench", SPACE, batch=4)).batch == 4


def test_a_table_of_another_space_with_the_same_name_is_not_taken(board, measured_elsewhere, caplog, monkeypatch):
    measured_elsewhere()
    wider = SPACE.with_classes(SPACE.classes + 1)
    monkeypatch.setattr("lightnas_edge.measuring.tables.measure", _refuse)

    with pytest.raises(_MeasuredError):
        complete_table("bench", wider)


def test_a_complete_table_here_does_without_the_board_and_an_incomplete_one_does_not(
    board, measured_elsewhere, monkeypatch, caplog
):
    measured_elsewhere()
    path = complete_table("bench", SPACE)
    board.stop()

    assert complete_table("bench", SPACE) == path
    assert "refuses connections" in caplog.text
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:3]))
    with pytest.raises(BoardUnreachableError, match="refuses connections"):
        complete_table("bench", SPACE)


def test_search_pulls_the_table_of_the_board(board, measured_elsewhere, tmp_path):
    measured_elsewhere()

    answer = run("search", "--host", "bench", "--space", "tiny", "--latency-ms", 0.000001, "--data", "digits")

    assert answer.code == 3, answer.err
    assert "pulled" in answer.err
    assert luts.read(tmp_path / "here" / TABLE).coverage(KEYS).complete


class _MeasuredError(Exception):
    pass


def _refuse(*arguments, **options):
    raise _MeasuredError


def _wait_until(condition):
    for _ in range(3000):
        if condition():
            return
        threading.Event().wait(0.02)
    raise AssertionError("waited in vain")


def test_an_earlier_table_is_never_overwritten_when_everything_is_measured_again(tmp_path):
    table = tmp_path / "t.lut.jsonl"
    for content in ("complete", "cut off", "cut off again"):
        table.write_text(content)
        assert set_aside(table) is not None
    assert [(tmp_path / f"t.lut.jsonl.old{end}").read_text() for end in ("", "2", "3")] == [
        "complete", "cut off", "cut off again",
    ]  # fmt: skip
    assert not table.exists() and set_aside(table) is None


def test_energy_that_a_board_cannot_measure_is_refused_with_the_boards_reason(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LIGHTNAS_EDGE_HOME", str(tmp_path / "agent-home"))
    assert run("profile", "--host", "localhost", "--space", "tiny", "--rounds", 2).code == 0
    if luts.read(next(tmp_path.glob("*.lut.jsonl"))).header.energy.available:
        pytest.skip("this machine can measure energy")

    with pytest.raises(RunError, match=r"lacks 24 of 24 operators(.|\n)*no power monitor") as caught:
        complete_table("localhost", load_space("tiny"), energy=True)

    assert "tries the failed operators again" not in caught.value.hint

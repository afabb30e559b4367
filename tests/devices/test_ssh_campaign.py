"""Whole jobs on a board over SSH: whatever happens to links, agents and hosts, no record is lost or doubled.

The agent and ONNX Runtime are real; the board is a real OpenSSH server on loopback.
"""

import json
import os
import signal
import sys

import numpy as np
import pytest

import devices
from devices import AgentFailedError, BoardBusyError, Campaign, RemoteJob, ssh
from devices.host_keys import HostKey
from devices.ssh import session
from lightnas_edge.cli import main
from lightnas_edge.measuring import MeasurementProtocol
from tests.devices.sshd import Sshd, end_agents, needs_sshd, set_up_user, write_python_wrapper

pytestmark = needs_sshd


@pytest.fixture
def board(tmp_path, monkeypatch):
    """`bench` of boards.toml: its key pinned, its Python a wrapper around ours."""
    monkeypatch.setattr(ssh.SshConnection, "poll_s", 0.05)
    monkeypatch.setattr(session, "FIRST_PAUSE_S", 0.05)
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
    yield server
    end_agents(server)
    server.stop()


@pytest.fixture
def connection(board):
    with devices.connect("bench") as connection:
        yield connection


# A job of LONG rounds is still at work when another process disturbs it: a visit takes 10 ms and more.
LONG = 120
SLOW = {"rounds": LONG, "min_sample_ms": 5.0}


def pairs(path, tools):
    return sorted((line["key"], line["round"]) for line in tools.lines(path) if line["kind"] == "visit")


def expected(rounds, keys="ab"):
    return sorted((key, round_) for key in keys for round_ in range(rounds))


def on_board(board, name):
    return board.home / ".lightnas-edge" / "jobs" / "00112233445566ff" / name


def agent_pid(board):
    return json.loads(on_board(board, "status.json").read_text())["pid"]


def test_a_job_is_measured_on_the_board_and_its_journal_and_outputs_come_back(
    board, connection, write_job, tmp_path, tools
):
    inputs = np.arange(32, dtype=np.float32).reshape(4, 8)
    campaign = Campaign(connection, write_job(inputs=inputs))
    journal = tmp_path / "here.jsonl"

    campaign.start()
    status = campaign.follow(journal)
    campaign.fetch_outputs(tmp_path / "outputs")

    assert (status.state, status.done) == ("done", 4)
    assert journal.read_bytes() == on_board(board, "journal.jsonl").read_bytes()
    assert pairs(journal, tools) == expected(2)
    assert np.array_equal(np.fromfile(tmp_path / "outputs" / "a.f32", "<f4"), 2 * inputs.ravel())


def test_a_link_cut_again_and_again_loses_and_doubles_nothing(board, connection, write_job, tmp_path, tools):
    campaign = Campaign(connection, write_job(**SLOW))
    journal = tmp_path / "here.jsonl"
    cuts = []

    def cut(status):
        if len(cuts) < 3 and status.done > 20 * len(cuts):
            cuts.append(board.cut())

    campaign.start()
    status = campaign.follow(journal, cut)

    assert len(cuts) == 3
    assert all(cuts)
    assert status.state == "done"
    assert pairs(journal, tools) == expected(LONG)


def test_a_host_that_was_killed_finds_the_job_going_on(board, write_job, tmp_path, tools):
    job = write_job(**SLOW)
    with devices.connect("bench") as first:
        Campaign(first, job).start()
        tools.wait_for(on_board(board, "status.json").exists, "the agent")
        pid = agent_pid(board)

    with devices.connect("bench") as second:
        campaign = Campaign(second, job)
        campaign.start()
        status = campaign.follow(tmp_path / "here.jsonl")

    assert status.state == "done"
    assert pairs(tmp_path / "here.jsonl", tools) == expected(LONG)
    assert len({line["session"] for line in tools.lines(tmp_path / "here.jsonl")[1:]}) == 1
    assert status.pid == pid


def test_a_killed_agent_is_noticed_and_resumed(board, connection, write_job, tmp_path, tools):
    campaign = Campaign(connection, write_job(**SLOW))
    journal = tmp_path / "here.jsonl"

    def kill(status):
        if status.done > 10:
            os.kill(status.pid, signal.SIGKILL)

    campaign.start()
    with pytest.raises(AgentFailedError, match="killed before it finished"):
        campaign.follow(journal, kill)
    kept = len(tools.lines(journal))
    campaign.start(journal=journal)
    status = campaign.follow(journal)

    assert 1 < kept < 1 + 2 * LONG
    assert status.state == "done"
    assert pairs(journal, tools) == expected(LONG)
    assert len({line["session"] for line in tools.lines(journal)[1:]}) == 2


def test_a_disk_that_is_full_on_the_board_is_reported_and_room_lets_the_job_continue(
    board, connection, write_job, tmp_path, tools
):
    journal = tmp_path / "here.jsonl"
    first = Campaign(connection, write_job(rounds=1))
    first.start()
    first.follow(journal)
    board.stop()
    board.largest_file = 30_000  # bytes; the job below writes more
    board.start()
    campaign = Campaign(connection, write_job(rounds=60))
    campaign.start()
    with pytest.raises(AgentFailedError, match="File too large"):
        campaign.follow(journal)
    kept = len(tools.lines(journal))
    board.stop()
    board.largest_file = None
    board.start()

    campaign.start(journal=journal)
    status = campaign.follow(journal)

    assert 10 < kept < 120
    assert status.state == "done"
    assert pairs(journal, tools) == expected(60)


def test_two_hosts_see_the_same_job_and_another_job_is_refused_with_the_holder(
    board, connection, write_job, tmp_path, tools
):
    job = write_job(**SLOW)
    Campaign(connection, job).start()
    tools.wait_for(on_board(board, "status.json").exists, "the agent")

    with devices.connect("bench") as other:
        with pytest.raises(BoardBusyError, match=rf"at work on bench: pid {agent_pid(board)}, job 00112233445566ff"):
            Campaign(other, write_job(name="another", job="ffeeddccbbaa0099")).start()
        with pytest.raises(BoardBusyError, match="at work on bench"):
            devices.clean(other)
        joined = Campaign(other, job)
        joined.start()
        joined.follow(tmp_path / "there.jsonl")
    Campaign(connection, job).follow(tmp_path / "here.jsonl")

    assert (tmp_path / "here.jsonl").read_bytes() == (tmp_path / "there.jsonl").read_bytes()
    assert pairs(tmp_path / "here.jsonl", tools) == expected(LONG)


def test_an_interrupted_host_leaves_a_job_that_continues_from_there(board, connection, write_job, tmp_path, tools):
    campaign = Campaign(connection, write_job(**SLOW))
    journal = tmp_path / "here.jsonl"

    def interrupt(status):
        if status.done > 10:
            raise KeyboardInterrupt

    campaign.start()
    with pytest.raises(KeyboardInterrupt):
        campaign.follow(journal, interrupt)
    stopped = json.loads(on_board(board, "status.json").read_text())
    campaign.start(journal=journal)
    campaign.follow(journal)

    assert stopped["state"] == "interrupted"
    assert pairs(journal, tools) == expected(LONG)


def test_models_that_are_there_are_not_sent_again(board, connection, write_job, tmp_path):
    campaign = Campaign(connection, write_job())
    home = board.home / ".lightnas-edge"
    seen = []
    for _ in range(2):
        campaign.start()
        campaign.follow(tmp_path / "here.jsonl")
        files = [*home.glob("models/*"), *home.glob("agent/*")]
        seen.append({path.name: path.stat().st_ino for path in files})

    assert len(seen[0]) == 3
    assert seen[0] == seen[1]


def test_a_board_that_lost_its_journal_gets_it_back_from_the_host(board, connection, write_job, tmp_path, tools):
    journal = tmp_path / "here.jsonl"
    campaign = Campaign(connection, write_job(rounds=1))
    campaign.start()
    campaign.follow(journal)
    on_board(board, "journal.jsonl").unlink()
    more = Campaign(connection, write_job(rounds=3))

    more.start(journal=journal)
    more.follow(journal)

    assert pairs(journal, tools) == expected(3)


def test_probe_says_what_the_board_is(connection):
    assert devices.probe(connection).runtime["python"].startswith(f"{sys.version_info[0]}.{sys.version_info[1]}")


def test_cleaning_frees_the_cache_and_keeps_what_was_measured(board, connection, write_job, tmp_path, tools):
    campaign = Campaign(connection, write_job())
    campaign.start()
    campaign.follow(tmp_path / "here.jsonl")
    tools.wait_for(lambda: not connection.signal(agent_pid(board), 0), "the agent's end")
    (on_board(board, "journal.jsonl.part-0123")).write_bytes(b"left by a broken link")
    built = board.home / ".lightnas-edge" / "tensorrt" / "8.2.1-sm53"
    built.mkdir(parents=True)
    for name in ("a-fp16.engine", "a-fp16.engine.json", "timing.cache"):
        (built / name).write_bytes(b"TensorRT's")

    cleaned = devices.clean(connection)

    assert cleaned.files == 6  # two models, the agent, the part, an engine and its passport
    assert [path.name for path in built.iterdir()] == ["timing.cache"]
    assert on_board(board, "journal.jsonl").read_bytes() == (tmp_path / "here.jsonl").read_bytes()
    assert not list((board.home / ".lightnas-edge" / "models").iterdir())
    campaign.start()
    assert campaign.follow(tmp_path / "here.jsonl").state == "done"


def test_the_cache_is_bounded_and_the_job_at_hand_keeps_its_models(board, connection, write_job, tmp_path, monkeypatch):
    monkeypatch.setattr(devices.cache, "LIMIT_BYTES", 1000)
    campaign = Campaign(connection, write_job())
    models = board.home / ".lightnas-edge" / "models"
    models.mkdir(parents=True)
    (models / ("0" * 64 + ".onnx")).write_bytes(bytes(5000))

    campaign.start()
    campaign.follow(tmp_path / "here.jsonl")

    assert sorted(path.name for path in models.iterdir()) == sorted(
        path.name for path in (tmp_path / "job/models").iterdir()
    )


# Pulling


def measured(connection, write_job, tmp_path, **changes):
    campaign = Campaign(connection, write_job(**changes))
    campaign.start()
    campaign.follow(tmp_path / "measured.jsonl")


def test_what_a_board_holds_is_listed_and_a_grown_journal_moves_only_its_new_bytes(
    board, connection, write_job, tmp_path
):
    measured(connection, write_job, tmp_path, rounds=1)
    (remote,), faults = devices.remote_jobs(connection)
    first = devices.fetch_journal(connection, remote, tmp_path / "pulled.jsonl")
    measured(connection, write_job, tmp_path, rounds=3)
    (grown,), _ = devices.remote_jobs(connection)
    second = devices.fetch_journal(connection, grown, tmp_path / "pulled.jsonl")

    assert faults == []
    assert isinstance(remote, RemoteJob)
    assert (remote.job, remote.purpose, remote.space, remote.precision) == (
        "00112233445566ff",
        "profile",
        "tiny",
        "fp32",
    )
    assert first == remote.size_bytes
    assert second == grown.size_bytes - remote.size_bytes
    assert (tmp_path / "pulled.jsonl").read_bytes() == on_board(board, "journal.jsonl").read_bytes()
    assert devices.fetch_journal(connection, grown, tmp_path / "pulled.jsonl") == 0


def test_a_file_with_other_measurements_is_left_alone(board, connection, write_job, tmp_path):
    measured(connection, write_job, tmp_path, rounds=1)
    (remote,), _ = devices.remote_jobs(connection)
    (tmp_path / "other.jsonl").write_bytes(b'{"kind":"lut"}\n')

    with pytest.raises(devices.ContradictionError, match="contain different measurements"):
        devices.fetch_journal(connection, remote, tmp_path / "other.jsonl")
    assert (tmp_path / "other.jsonl").read_bytes() == b'{"kind":"lut"}\n'


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"space": "../../etc"}, "space: String should match pattern"),
        ({"precision": "fp32/../../x"}, "precision: String should match pattern"),
        ({"batch": 0}, "batch: should be greater than or equal to 1, found 0"),
        ({"job": "ffffffffffffffff"}, "not the manifest of this job"),
        ({"schema": 2}, "has schema 2; this program reads 1"),
        ({"protocol": {"rounds": float("nan"), "seed": 0}}, "is not valid JSON"),
        ({"board_setup": {"power_mode": ["x" * 1000]}}, "board_setup.lock_clocks: missing"),
    ],
)
def test_names_from_a_board_never_leave_the_folder(board, connection, changes, fault):
    folder = on_board(board, "")
    folder.mkdir(parents=True)
    (folder / "journal.jsonl").write_bytes(b"{}\n")
    record = {"kind": "job", "schema": 1, "job": "00112233445566ff", "purpose": "profile", "space": "tiny"}
    record |= {
        "precision": "fp32",
        "batch": 1,
        "threads": 1,
        "backend": "onnxruntime",
        "space_sha256": "5" * 64,
        "classes": 10,
    }
    record["protocol"] = MeasurementProtocol(rounds=2).to_json()
    record |= {"sentinels": [], "measurements": [], "evaluations": []}
    (folder / "manifest.json").write_text(json.dumps(record))
    assert len(devices.remote_jobs(connection)[0]) == 1
    (folder / "manifest.json").write_text(json.dumps(record | changes))

    jobs, faults = devices.remote_jobs(connection)

    assert jobs == []
    assert fault in faults[0]
    assert len(faults[0]) < 400


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff\xfe", b"[" * 200_000, b'{"kind": "job"}'])
def test_a_manifest_that_is_not_one_is_a_fault_of_its_job(board, connection, content):
    folder = on_board(board, "")
    folder.mkdir(parents=True)
    (folder / "journal.jsonl").write_bytes(b"{}\n")
    (folder / "manifest.json").write_bytes(content)

    jobs, faults = devices.remote_jobs(connection)

    assert jobs == []
    assert "00112233445566ff/manifest.json" in faults[0]


# A board under foreign control


GARBAGE = [b"", b"[]", b"[" * 200_000, b'{"pid": "1; rm -rf /"}', b'{"state": "done", "pid": 1e999}', b"\xff\x00" * 500]


@pytest.mark.parametrize("content", GARBAGE)
def test_a_lock_that_names_no_agent_does_not_block(board, connection, write_job, tmp_path, content):
    (board.home / ".lightnas-edge").mkdir()
    (board.home / ".lightnas-edge" / "agent.lock").write_bytes(content)

    assert devices.cache.lock_holder(connection) is None


@pytest.mark.parametrize("content", GARBAGE)
def test_a_status_that_is_not_one_is_reported(board, connection, write_job, tmp_path, monkeypatch, content):
    monkeypatch.setattr(devices.remote_agent, "START_LIMIT_S", 0.2)
    on_board(board, "").mkdir(parents=True)
    on_board(board, "status.json").write_bytes(content)
    on_board(board, "agent.log").write_bytes(b"the log\n" * 100_000)

    with pytest.raises(AgentFailedError, match=r"did not start|status on bench cannot be used") as caught:
        Campaign(connection, write_job()).follow(tmp_path / "here.jsonl")
    assert len(caught.value.hint) < 1000
    on_board(board, "status.json").unlink()


def test_a_file_without_an_end_is_not_read_to_its_end(board, connection):
    with open(board.home / "endless", "wb") as file:
        file.truncate(1 << 40)

    with pytest.raises(
        devices.BoardUnreachableError, match="endless on bench is longer than the limit of 1000000 bytes"
    ):
        connection.read(f"{board.home}/endless", limit=1_000_000)


@pytest.mark.parametrize("answer", ['{"kind": "probe"}', "[]", '{"kind": "probe", "board": NaN}', "hello", ""])
def test_a_probe_that_no_agent_wrote_is_refused(board, tmp_path, connection, capsys, answer):
    python = tmp_path / "python3"
    first, rest = python.read_text().split("\n", 1)
    python.write_text(f"{first}\ncase \"$2\" in probe) echo '{answer}'; exit;; esac\n{rest}")

    assert main(["probe", "--host", "bench"]) == 1
    assert "AgentFailedError: " in capsys.readouterr().err


def test_a_shell_that_greets_everybody_is_listened_past(board, connection, write_job, tmp_path, tools):
    """bash reads .bashrc for every command that comes over SSH."""
    (board.home / ".bashrc").write_text("echo 'Welcome to the lab!'\n")
    greeted = connection.run(["true"], timeout_s=30).stdout

    campaign = Campaign(connection, write_job())
    campaign.start()
    campaign.follow(tmp_path / "here.jsonl")

    assert greeted in (b"", b"Welcome to the lab!\n")  # other shells read other files
    assert pairs(tmp_path / "here.jsonl", tools) == expected(2)
    assert devices.probe(connection).kind == "probe"

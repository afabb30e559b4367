"""The host's side: what it sends, how it follows, and its error messages."""

import json
import os
import resource
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest

import devices
from devices import AgentFailedError, BoardBusyError, BoardUnreachableError, Campaign, DeviceError, build_agent_archive
from lightnas_edge.errors import RecordError
from tests.luts.journals import seal


def board_job(connection):
    return Path(connection.home()) / "jobs" / "00112233445566ff"


def campaign(connection, job, table, *, fresh=False, on_progress=None):
    running = Campaign(connection, job)
    running.start(fresh=fresh, journal=table if table.exists() else None)
    return running.follow(table, on_progress)


def test_a_campaign_brings_the_table_home(connection, write_job, tmp_path, tools):
    seen = []

    status = campaign(connection, write_job(), tmp_path / "t.lut.jsonl", on_progress=seen.append)

    assert (status.state, status.done, status.total) == ("done", 4, 4)
    assert seen[-1] == status
    assert len(tools.lines(tmp_path / "t.lut.jsonl")) == 5
    assert (tmp_path / "t.lut.jsonl").read_bytes() == (board_job(connection) / "journal.jsonl").read_bytes()


def test_a_table_is_continued_on_a_board_that_has_forgotten_it(connection, write_job, tmp_path, tools):
    table = tmp_path / "t.lut.jsonl"
    campaign(connection, write_job(rounds=1), table)
    before = table.read_bytes()
    table.write_bytes(before + b'{"torn')
    (board_job(connection) / "journal.jsonl").unlink()

    campaign(connection, write_job(rounds=2), table)

    assert table.read_bytes().startswith(before)
    assert len(tools.lines(table)) == 5


def test_a_table_that_contradicts_the_boards_is_refused_and_fresh_starts_over(connection, write_job, tmp_path):
    table = tmp_path / "t.lut.jsonl"
    job = write_job()
    campaign(connection, job, table)
    lines = table.read_bytes().splitlines(keepends=True)
    other = seal(
        {**{name: value for name, value in json.loads(lines[2]).items() if name != "crc32"}, "repeats": 1000001}
    )
    table.write_bytes(b"".join([*lines[:2], other, *lines[3:]]))

    with pytest.raises(DeviceError, match=r"line 3 and the board's journal .* line 3 are intact and differ") as caught:
        campaign(connection, job, table)
    assert "--fresh" in caught.value.hint

    table.unlink()
    assert campaign(connection, job, table, fresh=True).done == 4
    assert table.read_bytes() != b"".join(lines)


def test_models_are_sent_once_and_a_damaged_one_is_healed(connection, write_job, tmp_path, tools):
    job = write_job({"a": write_job.scale_model(2)}, rounds=1)
    campaign(connection, job, tmp_path / "t1")
    stored = next((Path(connection.home()) / "models").iterdir())
    sent = stored.stat().st_mtime_ns
    good = stored.read_bytes()

    campaign(connection, job, tmp_path / "t2", fresh=True)
    assert stored.stat().st_mtime_ns == sent

    stored.write_bytes(good[:-1] + b"?")
    with pytest.raises(AgentFailedError, match="no intact file of a; everything else was measured") as caught:
        campaign(connection, job, tmp_path / "t3", fresh=True)
    assert "run the same command again" in caught.value.hint
    assert tools.lines(tmp_path / "t3")[1]["error"]["code"] == "model"
    campaign(connection, job, tmp_path / "t3")
    assert stored.read_bytes() == good
    assert tools.lines(tmp_path / "t3")[-1]["error"] is None


def test_inputs_that_are_damaged_on_the_board_are_sent_again(connection, write_job, tmp_path):
    job = write_job({"a": write_job.scale_model(2)}, inputs=np.ones((4, 8), dtype=np.float32), rounds=1)
    campaign(connection, job, tmp_path / "t")
    stored = next((Path(connection.home()) / "data").iterdir())
    good = stored.read_bytes()

    stored.write_bytes(good[:-1] + b"!")
    with pytest.raises(AgentFailedError, match="no intact file of a"):
        campaign(connection, job, tmp_path / "t")
    campaign(connection, job, tmp_path / "t")

    assert stored.read_bytes() == good


def test_a_disk_that_is_full_when_files_are_sent_is_named_with_the_command_that_frees_it(connection, write_job):
    campaign = Campaign(connection, write_job({"a": write_job.scale_model(2, (1, 40_000))}))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, before[1]))  # bytes: no file may be longer
    try:
        with pytest.raises(BoardUnreachableError, match="File too large") as caught:
            campaign.start()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)

    assert "`lightnas-edge boards clean localhost`" in caught.value.hint
    assert not [path for path in Path(connection.home()).rglob("*.part-*")]


def test_outputs_of_evaluations_are_fetched(connection, write_job, tmp_path):
    inputs = np.ones((4, 8), dtype=np.float32)
    running = Campaign(connection, write_job(inputs=inputs))
    running.start()
    running.follow(tmp_path / "t")

    running.fetch_outputs(tmp_path / "outputs")

    assert os.listdir(tmp_path / "outputs") == ["a.f32"]
    np.testing.assert_array_equal(np.fromfile(tmp_path / "outputs" / "a.f32", "<f4"), 2 * inputs.ravel())


def test_a_missing_output_is_reported_with_the_agents_log(connection, write_job, tmp_path):
    running = Campaign(connection, write_job(inputs=np.ones((4, 8)), rounds=1))
    running.start()
    running.follow(tmp_path / "t")
    (board_job(connection) / "outputs" / "a.f32").unlink()

    with pytest.raises(AgentFailedError, match="no output for a") as caught:
        running.fetch_outputs(tmp_path / "outputs")
    assert "evaluated a in 4 runs" in caught.value.hint


def test_the_agents_own_message_reaches_the_host(connection, write_job, tmp_path):
    with pytest.raises(AgentFailedError, match="not in fp16") as caught:
        campaign(connection, write_job(precision="fp16"), tmp_path / "t")
    assert "--precision fp32" in caught.value.hint


def test_a_manifest_with_errors_is_refused_before_anything_is_sent(connection, write_job, tmp_path):
    with pytest.raises(RecordError, match=r"protocol\.rounds: should be greater than or equal to 1, found 0"):
        campaign(connection, write_job(rounds=0), tmp_path / "t")
    assert not board_job(connection).exists()


def test_a_killed_agent_is_noticed_and_the_next_campaign_continues(connection, write_job, tmp_path, tools):
    table = tmp_path / "t"
    job = write_job(rounds=5000)  # however late the host looks, the agent is still at work

    def kill(status):
        if status.done > 3:
            os.kill(status.pid, signal.SIGKILL)

    with pytest.raises(AgentFailedError, match="killed before it finished") as caught:
        campaign(connection, job, table, on_progress=kill)
    assert "visits are in the journal already" in caught.value.hint

    rounds = 2 + max(line["round"] for line in tools.lines(table)[1:])
    assert campaign(connection, write_job(rounds=rounds), table).done == 2 * rounds
    pairs = [(line["key"], line["round"]) for line in tools.lines(table)[1:]]
    assert len(pairs) == len(set(pairs)) == 2 * rounds


def test_ctrl_c_stops_the_agent_and_keeps_what_it_measured(connection, write_job, tmp_path, tools):
    def interrupt(status):
        if status.done > 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        campaign(connection, write_job(rounds=5000), tmp_path / "t", on_progress=interrupt)

    status = json.loads((board_job(connection) / "status.json").read_text())
    assert status["state"] == "interrupted"
    assert not connection.signal(status["pid"], 0)
    assert len(tools.lines(tmp_path / "t")) > 3


def test_ctrl_c_while_the_agent_is_being_started_stops_it(connection, write_job, tmp_path, tools, monkeypatch):
    def start(argv, start=connection.start, **files):
        start(argv, **files)
        raise KeyboardInterrupt

    monkeypatch.setattr(connection, "start", start)

    with pytest.raises(KeyboardInterrupt):
        campaign(connection, write_job(rounds=5000), tmp_path / "t")

    status = json.loads((board_job(connection) / "status.json").read_text())
    assert status["state"] == "interrupted"
    assert not connection.signal(status["pid"], 0)


def test_a_busy_board_is_reported_and_the_same_job_is_joined(connection, write_job, tmp_path, tools):
    job = write_job({"a": write_job.scale_model(2), "endless": write_job.endless_model()}, rounds=1, timeout_s=4.0)
    Campaign(connection, job).start()
    tools.wait_for((board_job(connection) / "status.json").exists, "the agent")

    with pytest.raises(BoardBusyError, match="job 00112233445566ff") as caught:
        Campaign(connection, write_job(name="other", job="ffeeddccbbaa0099")).start()
    assert "kill -INT" in caught.value.hint

    joining = Campaign(connection, job)
    joining.start()
    assert joining.follow(tmp_path / "t").failed == 1
    assert len({line["session"] for line in tools.lines(tmp_path / "t")[1:]}) == 1


def test_probe_says_what_the_board_is(connection):
    answer = devices.probe(connection)

    assert answer.board.name == "generic-linux"
    assert answer.fingerprint["backend"] == "onnxruntime"
    assert answer.error is None


def test_a_host_that_does_not_exist_is_reported_with_what_to_look_at(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)

    with pytest.raises(BoardUnreachableError, match=r"there is no host nowhere\.invalid") as caught:
        devices.connect("nowhere.invalid")

    assert "boards.toml" in caught.value.hint


def test_equal_sources_give_equal_archives(tmp_path):
    first = build_agent_archive(tmp_path / "a.pyz").read_bytes()

    assert build_agent_archive(tmp_path / "b.pyz").read_bytes() == first


def test_a_started_command_writes_its_output_and_its_log_apart(connection, tmp_path, tools):
    log, output = tmp_path / "log", tmp_path / "out"

    connection.start(["sh", "-c", "echo said; echo logged >&2"], log=str(log), output=str(output))

    tools.wait_for(lambda: log.exists() and log.read_text() == "logged\n", "the log")
    assert output.read_text() == "said\n"


def test_a_zombie_is_not_alive(connection, tools):
    child = subprocess.Popen(["true"])
    tools.wait_for(lambda: not connection.signal(child.pid, 0), "its end")
    child.wait()


def test_files_on_the_board_are_replaced_whole(connection, tmp_path):
    source, target = tmp_path / "source", str(tmp_path / "target")
    source.write_bytes(b"one two")

    connection.put(source, target)

    assert connection.read(target, 4) == b"two"
    assert connection.size(target) == 7
    assert connection.listdir(str(tmp_path)) == {"source": 7, "target": 7}
    connection.remove(target)
    connection.remove(target)
    assert not connection.exists(target)
    with pytest.raises(BoardUnreachableError, match="cannot read"):
        connection.read(target)


def test_a_command_that_hangs_or_is_missing_is_reported(connection):
    with pytest.raises(BoardUnreachableError, match="did not end within"):
        connection.run(["sleep", "60"], timeout_s=0.1)
    with pytest.raises(BoardUnreachableError, match="cannot run no-such-command"):
        connection.run(["no-such-command"], timeout_s=1)


def test_ctrl_c_in_the_middle_of_a_fetch_doubles_no_line(connection, write_job, tmp_path, monkeypatch):
    job = write_job()
    campaign(connection, job, tmp_path / "first")
    monkeypatch.setattr("devices.journal_copies._PART_BYTES", 600)
    read_part, parts = connection.read_part, []

    def interrupted(remote, offset, length):
        if remote.endswith("journal.jsonl"):
            parts.append(offset)
            if len(parts) == 4:
                raise KeyboardInterrupt
        return read_part(remote, offset, length)

    connection.read_part = interrupted
    with pytest.raises(KeyboardInterrupt):
        campaign(connection, job, tmp_path / "again")

    lines = (tmp_path / "again").read_bytes().splitlines()
    assert len(parts) >= 4 and len(lines) == len(set(lines)) > 1

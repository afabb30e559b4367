"""Joining, continuing and completing: what a campaign takes from a board, and what it does not."""

import json
import os
import signal
from pathlib import Path

import pytest

import devices
from devices import BoardBusyError, Campaign, fetch_journal, remote_jobs

TORN = b'{"kind": "visit", "key": "a", "samples_ms": [0.'


def on_board(connection, name):
    return Path(connection.home()) / "jobs" / "00112233445566ff" / name


def measured(connection, job, table):
    campaign = Campaign(connection, job)
    campaign.start(journal=table if table.exists() else None)
    campaign.follow(table)
    return table.read_bytes()


def test_a_line_that_the_agent_has_written_in_part_is_not_fetched(connection, write_job, tmp_path):
    """A status that is final is there with a journal in which a power cut tore the last line."""
    job = write_job()
    whole = measured(connection, job, tmp_path / "first")
    with on_board(connection, "journal.jsonl").open("ab") as file:
        file.write(TORN)

    Campaign(connection, job).follow(tmp_path / "second")

    assert (tmp_path / "second").read_bytes() == whole


def test_a_line_that_grows_between_two_polls_arrives_once_and_whole(connection, write_job, tmp_path):
    job, table = write_job(), tmp_path / "table"
    whole = measured(connection, job, tmp_path / "first")
    journal = on_board(connection, "journal.jsonl")
    ends = [whole.index(b"\n", position) + 1 for position in (0, len(whole) // 2)]
    status = json.loads(on_board(connection, "status.json").read_text())
    running = status | {"state": "running", "pid": os.getpid(), "boot_id": None, "start_ticks": None, "command": None}
    steps = [whole[: ends[0]], whole[: ends[1] - 7], whole[: ends[1] + 3], whole]
    seen = []

    def grow(_):
        seen.append(table.read_bytes() if table.exists() else b"")
        if not steps:
            on_board(connection, "status.json").write_text(json.dumps(status))
            return
        journal.write_bytes(steps.pop(0))

    on_board(connection, "status.json").write_text(json.dumps(running))
    journal.write_bytes(whole[:10])
    Campaign(connection, job).follow(table, grow)

    assert table.read_bytes() == whole
    assert seen[0] == b""
    assert all(part == b"" or part.endswith(b"\n") for part in seen)


def test_the_torn_tail_of_this_sides_copy_is_cut_before_more_is_appended(connection, write_job, tmp_path):
    """The board is ahead: without the cut, the torn line would stay and the offset would be wrong."""
    job, table = write_job(), tmp_path / "table"
    whole = measured(connection, job, tmp_path / "first")
    half = whole[: whole.index(b"\n", len(whole) // 2) + 1]
    table.write_bytes(half + TORN)

    Campaign(connection, job).follow(table)

    assert table.read_bytes() == whole


def test_the_torn_tail_of_a_pulled_copy_is_cut_too(connection, write_job, tmp_path):
    job, table = write_job(), tmp_path / "table"
    whole = measured(connection, job, tmp_path / "first")
    half = whole[: whole.index(b"\n", len(whole) // 2) + 1]
    table.write_bytes(half + TORN)
    (remote,), _ = remote_jobs(connection)

    assert fetch_journal(connection, remote, table) == len(whole) - len(half)
    assert table.read_bytes() == whole


@pytest.mark.parametrize("change", [{"rounds": 7}, {"timeout_s": 5.0}])
def test_an_agent_that_runs_another_manifest_of_this_job_is_not_joined(connection, write_job, tmp_path, tools, change):
    first = write_job({"endless": write_job.endless_model()}, rounds=1, timeout_s=600.0)
    running = Campaign(connection, first)
    running.start()
    tools.wait_for(on_board(connection, "status.json").exists, "the agent")
    other = write_job(
        {"endless": write_job.endless_model()}, name="other", **({"rounds": 1, "timeout_s": 600.0} | change)
    )

    try:
        with pytest.raises(BoardBusyError, match="job 00112233445566ff"):
            Campaign(connection, other).start()
        Campaign(connection, first).start()  # the very same one is joined
        assert on_board(connection, "manifest.json").read_bytes() == (first / "manifest.json").read_bytes()
    finally:
        pid = json.loads(on_board(connection, "status.json").read_text())["pid"]
        os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("content", [b"", b"half of a model"])
def test_a_model_that_the_board_holds_in_part_is_sent_again(connection, write_job, tmp_path, tools, content):
    job = write_job({"a": write_job.scale_model(2)}, rounds=1)
    (model,) = (job / "models").iterdir()
    there = Path(connection.home()) / "models" / model.name
    there.parent.mkdir(parents=True)
    there.write_bytes(content)

    measured(connection, job, tmp_path / "table")

    assert there.read_bytes() == model.read_bytes()
    assert tools.lines(tmp_path / "table")[1]["error"] is None


def test_an_agent_archive_that_the_board_holds_in_part_is_sent_again(connection):
    remote = Path(devices.remote_agent.send_agent(connection))
    whole = remote.read_bytes()
    remote.write_bytes(whole[:1000])

    assert Path(devices.remote_agent.send_agent(connection)).read_bytes() == whole


def test_a_job_removes_the_agents_of_old_versions_and_not_its_own(connection, write_job, tmp_path):
    agents = Path(connection.home()) / "agent"
    agents.mkdir(parents=True)
    for number in range(10):
        (agents / f"{number:064x}.pyz").write_bytes(b"another version")

    measured(connection, write_job(rounds=1), tmp_path / "table")

    assert len(list(agents.iterdir())) == 4
    assert Path(devices.remote_agent.send_agent(connection)).stat().st_size > 10_000
    assert len(list(agents.iterdir())) == 4

"""A status that cannot be used: an error that names the file, the field and what to do, and nothing measured is lost."""

import json
import os
from pathlib import Path

import pytest

from devices import AgentFailedError, Campaign, remote_agent

FAULTS = {
    "no time left": (
        lambda status: {name: value for name, value in status.items() if name != "eta_s"},
        "eta_s: missing",
    ),
    "a time left of NaN": (lambda status: status | {"eta_s": float("nan")}, "is not valid JSON"),
    "an endless time left": (
        lambda status: status | {"eta_s": 1e300},
        "eta_s: should be less than or equal to 1000000000",
    ),
    "a count below zero": (lambda status: status | {"done": -1}, "done: should be greater than or equal to 0"),
    "a huge count": (lambda status: status | {"total": 10**30}, "total: "),
    "a count of another type": (lambda status: status | {"failed": "0"}, "failed: should be a valid integer"),
    "a long text": (lambda status: status | {"key": "a" * 5000}, "key: "),
    "an unknown phase": (lambda status: status | {"phase": ["x"]}, "phase: "),
}
TEXTS = {
    "depth": ("[" * 100_000, "is not valid JSON"),
    "half of it": ('{"kind": "status", "sche', "is not valid JSON"),
    "no text": ("", "is not valid JSON"),
    "endless": ("9" * (2 << 20), "is longer than 1048576 bytes"),
}


def on_board(connection, name):
    return Path(connection.home()) / "jobs" / "00112233445566ff" / name


@pytest.fixture
def measured(connection, write_job, tmp_path):
    job = write_job()
    campaign = Campaign(connection, job)
    campaign.start()
    campaign.follow(tmp_path / "whole")
    return job, (tmp_path / "whole").read_bytes()


@pytest.mark.parametrize("fault", [*FAULTS, *TEXTS])
def test_the_last_status_of_an_agent_that_has_ended_may_be_damaged(connection, measured, tmp_path, fault):
    job, whole = measured
    path = on_board(connection, "status.json")
    if fault in FAULTS:
        change, message = FAULTS[fault]
        path.write_text(json.dumps(change(json.loads(path.read_text()))))
    else:
        text, message = TEXTS[fault]
        path.write_text(text)

    with pytest.raises(AgentFailedError) as caught:
        Campaign(connection, job).follow(tmp_path / "table")

    assert str(path) in str(caught.value) and message in str(caught.value)
    assert len(str(caught.value)) < 1000
    assert "run the same command again" in caught.value.hint
    assert (tmp_path / "table").read_bytes() == whole
    again = Campaign(connection, job)
    again.start(journal=tmp_path / "table")
    assert again.follow(tmp_path / "table").state == "done"
    assert (tmp_path / "table").read_bytes() == whole


def test_a_status_that_stays_damaged_while_the_agent_runs_is_an_error_too(connection, measured, tmp_path, monkeypatch):
    job, whole = measured
    monkeypatch.setattr(remote_agent, "FAULTY_LIMIT_S", 0.5)
    status = json.loads(on_board(connection, "status.json").read_text())
    on_board(connection, "status.json").write_text(
        json.dumps(status | {"state": "running", "pid": os.getpid(), "eta_s": "soon"})
    )
    on_board(connection, "agent.out").unlink()

    with pytest.raises(AgentFailedError, match="eta_s: should be a valid number, found 'soon'"):
        Campaign(connection, job).follow(tmp_path / "table")
    assert (tmp_path / "table").read_bytes() == whole


def test_a_status_that_is_damaged_once_is_passed_over(connection, measured, tmp_path):
    job, _ = measured
    path = on_board(connection, "status.json")
    whole = path.read_text()
    on_board(connection, "agent.out").unlink()
    path.write_text(whole[:40])
    looks = []
    exists = connection.exists

    def healed(remote):
        if remote == str(path):
            looks.append(remote)
            if len(looks) == 3:
                path.write_text(whole)
        return exists(remote)

    connection.exists = healed
    assert Campaign(connection, job).follow(tmp_path / "table").state == "done"
    assert len(looks) >= 3

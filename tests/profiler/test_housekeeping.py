"""What earlier campaigns left on a board is bounded: the newest stays, and nothing in use goes."""

import hashlib
import os
import subprocess
import sys

import pytest

from profiler import housekeeping
from profiler.housekeeping import ARCHIVES, TENSORRT_FOLDERS, tidy

JOB = "00112233445566ff"
lines = []


@pytest.fixture
def home(tmp_path):
    lines.clear()
    return tmp_path / "home"


def aged(path, age_s, content=b"x"):
    """A file that was last used so long ago; the folders above it look new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    os.utime(path, (2e9 - age_s, 2e9 - age_s))
    os.utime(path.parent, (1e9, 1e9))
    return path


def agents(home, count):
    """Archives of other versions, the latest used first."""
    return [aged(home / "agent" / (hashlib.sha256(b"%d" % age).hexdigest() + ".pyz"), age) for age in range(count)]


def jobs(home, count, size=1):
    return [aged(home / "jobs" / f"{age:016x}" / "journal.jsonl", age, bytes(size)).parent for age in range(count)]


def present(paths):
    return [path.exists() for path in paths]


def test_the_latest_agents_stay(home):
    found = agents(home, ARCHIVES + 3)
    mine = aged(home / "agent" / "notes.txt", 10**6)

    tidy(str(home), JOB, lines.append)

    assert present(found) == [True] * ARCHIVES + [False] * 3
    assert mine.exists()
    assert lines == ["removed 3 agents of other versions, 0.0 MB"]


def test_an_agent_from_which_a_process_runs_stays_however_old_it_is(home):
    found = agents(home, ARCHIVES + 2)
    command = [sys.executable, "-c", "print(flush=True); input()", str(found[-1])]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as guard:
        guard.stdout.readline()  # a process that is starting has no command line yet
        tidy(str(home), JOB, lines.append)
        guard.stdin.write(b"\n")

    assert present(found) == [True] * ARCHIVES + [False, True]


def test_an_agent_that_is_used_again_counts_as_new(home):
    found = agents(home, ARCHIVES + 1)
    housekeeping.mark_used(str(found[-1]))
    os.utime(found[0], (0, 0))

    tidy(str(home), JOB, lines.append)

    assert present(found) == [False] + [True] * ARCHIVES


def test_engines_of_old_versions_of_tensorrt_go(home):
    old, new = ("8.5.2.2-sm87", "8.6.1.6-sm87"), ("10.3.0-sm87", "10.4.0-sm87")
    for age, name in enumerate((*reversed(new), *reversed(old))):
        aged(home / "tensorrt" / name / "a.engine", age)

    tidy(str(home), JOB, lines.append)

    assert sorted(path.name for path in (home / "tensorrt").iterdir()) == sorted(new)
    assert len(new) == TENSORRT_FOLDERS


def test_old_jobs_go_where_there_are_too_many_and_the_present_one_stays(home, monkeypatch):
    monkeypatch.setattr(housekeeping, "JOBS", 3)
    found = jobs(home, 6)

    tidy(str(home), found[4].name, lines.append)

    assert present(found) == [True, True, True, False, True, False]


def test_old_jobs_go_where_they_take_too_much_room(home, monkeypatch):
    monkeypatch.setattr(housekeeping, "JOBS_BYTES", 100_000)
    found = jobs(home, 5, size=30_000)

    tidy(str(home), JOB, lines.append)

    assert present(found)[0]
    assert not all(present(found))
    assert sum(path.stat().st_size for path in home.rglob("*.jsonl")) <= 100_000


def test_what_a_link_points_to_stays(home, tmp_path):
    elsewhere = aged(tmp_path / "elsewhere" / "a.engine", 10)
    for age, name in enumerate(("10.4.0-sm87", "10.3.0-sm87")):
        aged(home / "tensorrt" / name / "a.engine", age)
    (home / "tensorrt" / "8.5.2-sm87").symlink_to(elsewhere.parent)
    os.utime(home / "tensorrt" / "8.5.2-sm87", (0, 0), follow_symlinks=False)

    tidy(str(home), JOB, lines.append)

    assert elsewhere.exists()
    assert not (home / "tensorrt" / "8.5.2-sm87").is_symlink()


def test_an_empty_home_is_no_error(home):
    tidy(str(home), JOB, lines.append)

    assert lines == []


def test_outputs_of_the_present_job_push_out_no_measurements_of_others(home, monkeypatch):
    monkeypatch.setattr(housekeeping, "JOBS_BYTES", 100_000)
    found = jobs(home, 3, size=10_000)
    (found[0] / "outputs.f32").write_bytes(bytes(500_000))

    tidy(str(home), found[0].name, lines.append)

    assert all(present(found))

"""The sampling process: pace, stopping, ending with its parent, and its error when it cannot start."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from profiler.power import PowerSampler, PowerSensor, SamplerError, sample_to
from profiler.power.trace import TraceReader
from tests.profiler.power import boards
from tests.profiler.power.traces import sensor

ROOT = Path(__file__).parents[3]
BOARD = {"power": {"sensors": ["ina3221"]}}


@pytest.fixture
def board(tmp_path):
    boards.hwmon_chip(tmp_path / "sys", boards.ORIN_NX, samples=1, update_interval_ms=7)
    return PowerSampler(str(tmp_path / "power.trace"), sysfs_root=str(tmp_path / "sys"), board=BOARD, period_s=0.02)


class Slow(PowerSensor):
    name, rails, total, min_period_s = "slow", ("VDD_IN",), ("VDD_IN",), 0.43

    def read(self):
        return {"VDD_IN": 1000.0}


def sampled(source, period_s, times):
    """(lines, waits) of `times` samples, under a clock that only waiting moves."""
    now, waits, file = [0.0], [], io.BytesIO()

    def stop(seconds):
        waits.append(round(seconds, 6))
        now[0] += seconds
        return len(waits) == times

    sample_to(file, source, period_s, stop=stop, clock=lambda: now[0])
    return [json.loads(line) for line in file.getvalue().splitlines()], waits


def test_sampling_is_never_faster_than_the_sensor_updates():
    lines, waits = sampled(Slow(), period_s=0.1, times=3)

    assert lines[0]["period_s"] == 0.43
    assert waits == [0.43] * 3


def test_the_first_line_describes_the_sensor_and_the_others_are_samples():
    lines, _ = sampled(Slow(), period_s=1.0, times=2)

    assert lines[0]["sensor"] == "slow" and lines[0]["total"] == ["VDD_IN"]
    assert lines[1:] == [[0.0, {"VDD_IN": 1000.0}], [1.0, {"VDD_IN": 1000.0}]]


def test_a_process_samples_on_the_clock_of_its_parent(board):
    before = time.monotonic()
    with board:
        time.sleep(0.3)
        running = len(board.trace().t_s)
    trace = board.stop()

    assert running >= 5
    assert before < trace.t_s[0] < trace.t_s[-1] < time.monotonic()
    assert trace.total()[0][1] == pytest.approx(5064 * 1080 / 1000)
    assert not board.running()


def test_a_rail_that_vanishes_meanwhile_is_null_in_the_trace(board, tmp_path):
    with board:
        next((tmp_path / "sys").rglob("curr1_input")).unlink()
        time.sleep(0.2)
    trace = board.stop()

    assert trace.readings[-1]["VDD_IN"] is None
    assert trace.total()[-1][1] is None


def test_a_machine_without_sensors_is_an_error_with_the_reason(tmp_path):
    sampler = PowerSampler(str(tmp_path / "trace"), sysfs_root=str(tmp_path), board=BOARD)

    with pytest.raises(SamplerError, match="no power monitor: nothing in"):
        sampler.start()
    assert not sampler.running()


def test_a_process_that_cannot_run_is_an_error_with_its_output(tmp_path):
    sampler = PowerSampler(str(tmp_path / "trace"), command=[sys.executable, "-c", "raise SystemExit('no such thing')"])

    with pytest.raises(SamplerError, match="no such thing"):
        sampler.start()


def test_a_killed_sampler_leaves_its_trace(board):
    board.start()
    os.kill(board._process.pid, signal.SIGKILL)
    board._process.wait()

    assert not board.running()
    assert board.stop().t_s


def test_the_sampler_ends_with_its_parent(tmp_path):
    """Also when the parent is killed and closes nothing itself."""
    boards.hwmon_chip(tmp_path / "sys", boards.ORIN_NX)
    code = (
        "import sys, time; from profiler.power import PowerSampler\n"
        f"s = PowerSampler({str(tmp_path / 'trace')!r}, {str(tmp_path / 'sys')!r}, {BOARD!r}); s.start()\n"
        "print(s._process.pid, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    with parent:
        child = int(parent.stdout.readline())
        parent.kill()
    deadline = time.monotonic() + 10
    while _alive(child) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not _alive(child)


def _alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_torn_line_waits_for_its_rest(tmp_path):
    path = tmp_path / "trace"
    path.write_bytes(json.dumps(sensor(rails=("A",)).to_json()).encode() + b'\n[1.0,{"A":5}]\n[2.0,{"A"')
    reader = TraceReader(str(path))
    assert reader.update().t_s == [1.0]

    with open(path, "ab") as file:
        file.write(b":7}]\n")
    assert reader.update().total() == [(1.0, 5), (2.0, 7)]

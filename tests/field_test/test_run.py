"""Each step is isolated; what was changed is restored, also after Ctrl-C and a failure."""

import signal
import time

import pytest

import devices
from lightnas_edge.errors import LightnasEdgeError
from lightnas_edge.field_test import FieldTestRecord, Plan, run_field_test, unpack
from lightnas_edge.field_test import bench as benches
from lightnas_edge.field_test import run as running
from lightnas_edge.field_test.steps import Step, steps
from tests.cli.commands import program
from tests.devices.conftest import wait_for

BOARD = "virtual:jetson-nano"


@pytest.fixture
def connection(agent_home):
    return devices.connect(BOARD)


def run(connection, tmp_path, monkeypatch, *acts, **options):
    """A field test of the probe, the snapshot and these steps."""
    first = [step for step in steps(Plan("simulated", True)) if step.name in ("probe", "snapshot")]
    mine = [Step(f"step-{number}", "a step", 1.0, act) for number, act in enumerate(acts)]
    monkeypatch.setattr(running, "steps", lambda plan: [*first, *mine])
    return run_field_test(BOARD, lambda: connection, tmp_path / "a.tar.gz", quick=True, **options)


def test_a_failure_is_recorded_with_its_cause_and_the_next_step_runs(connection, tmp_path, monkeypatch):
    def fails(bench, found):
        found.add("first part")
        raise LightnasEdgeError("the rail is missing", hint="look at it")

    def breaks(bench, found):
        raise ZeroDivisionError("by hand")

    def passes(bench, found):
        found.add("done")

    test = run(connection, tmp_path, monkeypatch, fails, breaks, passes)

    one, two, three = (step for step in test.record.steps if step.name.startswith("step-"))
    assert (one.status, one.cause, one.remedy, one.findings) == (
        "failed", "LightnasEdgeError: the rail is missing", "look at it", ("first part",),
    )  # fmt: skip
    assert two.cause == "unexpected ZeroDivisionError: by hand; logs/field-test.log holds the traceback"
    assert three.status == "passed"
    assert "ZeroDivisionError" in (unpack(test.archive, tmp_path / "to") / "logs/field-test.log").read_text()


def test_after_ctrl_c_the_rest_is_skipped_the_board_read_back_and_the_archive_written(
    connection, tmp_path, monkeypatch
):
    def interrupts(bench, found):
        raise KeyboardInterrupt

    def never(bench, found):
        raise AssertionError("this step must not run")

    test = run(connection, tmp_path, monkeypatch, interrupts, never)

    assert test.interrupted
    assert {step.name: step.status for step in test.record.steps} == {
        "probe": "passed", "snapshot": "passed", "step-0": "interrupted", "step-1": "skipped", "restored": "passed",
    }  # fmt: skip
    assert FieldTestRecord.load(unpack(test.archive, tmp_path / "to") / "summary.json") == test.record


def test_ctrl_c_while_the_clocks_are_locked_restores_them(connection, tmp_path):
    """The interrupt comes from the board's first status of the job, when the clocks are locked."""
    limits = connection.root / "sys/devices/system/cpu/cpufreq/policy0/scaling_min_freq"
    before, seen = limits.read_text(), []

    class Interrupter(running._Silent):
        def on_status(self, status):
            seen.append(limits.read_text())
            raise KeyboardInterrupt

    test = run_field_test(
        BOARD, lambda: connection, tmp_path / "a.tar.gz", quick=True, only=["clocks"], listener=Interrupter()
    )

    assert test.interrupted
    assert seen[0] != before  # they were locked
    assert limits.read_text() == before
    assert test.record.steps[-1].status == "passed"


@pytest.mark.parametrize(
    ("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)], ids=lambda value: str(value)
)  # fmt: skip
def test_a_real_signal_restores_the_clocks_and_leaves_the_archive(tmp_path, monkeypatch, signum, code):
    """As a user does it: a process of its own, interrupted while the clocks are locked."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    root = tmp_path / "home/virtual/jetson-nano"
    limits = root / "sys/devices/system/cpu/cpufreq/policy0/scaling_min_freq"
    process = program(
        "field-test", "--host", BOARD, "--only", "clocks", "--out", str(tmp_path / "a.tar.gz"), home=tmp_path
    )
    wait_for(lambda: limits.exists() and limits.read_text() == "1479000\n", "locked clocks", limit_s=240)
    process.send_signal(signum)
    out, err = process.communicate(timeout=240)

    assert process.returncode == code, err
    assert limits.read_text() == "102000\n"
    assert "interrupted clocks: clocks locked and restored" in out
    assert "passed      restored: mode, clocks and files as before" in out
    assert unpack(tmp_path / "a.tar.gz", tmp_path / "to")
    assert list((tmp_path / "tmp").iterdir()) == []


def test_ctrl_c_before_the_first_step_leaves_no_file_on_the_board(connection, tmp_path, monkeypatch):
    def interrupted(connection):
        devices.remote_agent.send_agent(connection)
        raise KeyboardInterrupt

    monkeypatch.setattr(running, "take_snapshot", interrupted)

    test = run_field_test(BOARD, lambda: connection, tmp_path / "a.tar.gz", quick=True)

    assert test.interrupted
    assert {step.status for step in test.record.steps} == {"skipped"}
    assert list((connection.root / "home/.lightnas-edge/agent").iterdir()) == []
    assert test.archive.exists()


def test_a_terminal_that_is_gone_does_not_keep_the_board_from_being_restored(connection, tmp_path):
    class Gone(running._Silent):
        def on_done(self, record):
            raise OSError(5, "Input/output error")

    test = run_field_test(
        BOARD, lambda: connection, tmp_path / "a.tar.gz", quick=True, only=["clocks"], listener=Gone()
    )

    assert {step.status for step in test.record.steps} == {"passed"}


def test_a_step_that_takes_too_long_is_stopped_and_the_next_one_runs(connection, tmp_path, monkeypatch):
    def long(bench, found):
        bench.deadline_s = time.monotonic() - 1
        steps_by_name["simulated-fp32"].act(bench, found)

    steps_by_name = {step.name: step for step in steps(Plan("simulated", True))}
    test = run(connection, tmp_path, monkeypatch, long, lambda bench, found: found.add("next"))

    one, two = (step for step in test.record.steps if step.name.startswith("step-"))
    assert one.status == "failed"
    assert "and was stopped" in one.cause
    assert two.status == "passed"
    assert test.record.steps[-1].status == "passed"


def test_a_setting_that_stays_changed_fails_the_last_step_with_what_to_do(connection, tmp_path, monkeypatch):
    monkeypatch.setattr(benches, "_RESTORED_S", 0.1)
    mode = connection.root / "etc/nvpmodel.json"

    def changes(bench, found):
        mode.write_text(mode.read_text().replace('"mode": "0"', '"mode": "1"'))

    test = run(connection, tmp_path, monkeypatch, changes)

    last = test.record.steps[-1]
    assert last.status == "failed"
    assert "power mode: MAXN before, 5W now" in last.cause
    assert "restore it by hand" in last.remedy


def test_without_sudo_the_steps_that_need_it_are_skipped_with_the_reason(connection, tmp_path):
    (connection.root / "etc/sudo_password").write_text("secret-of-the-board\n")

    test = run_field_test(BOARD, lambda: connection, tmp_path / "a.tar.gz", only=["clocks", "power-mode"])

    found = {step.name: step for step in test.record.steps}
    assert found["clocks"].status == found["power-mode"].status == "skipped"
    assert "--ask-sudo-password" in found["clocks"].cause


def test_with_the_password_they_run_and_it_is_nowhere_in_the_archive(connection, tmp_path):
    (connection.root / "etc/sudo_password").write_text("secret-of-the-board\n")

    test = run_field_test(
        BOARD, lambda: connection, tmp_path / "a.tar.gz", only=["clocks", "power-mode"],
        sudo_password="secret-of-the-board",
    )  # fmt: skip

    found = {step.name: step for step in test.record.steps}
    assert {step.status for step in found.values()} == {"passed"}
    assert "while measuring: clocks floating, power mode 5W" in found["power-mode"].findings
    folder = unpack(test.archive, tmp_path / "to")
    assert not [path for path in folder.rglob("*") if path.is_file() and b"secret-of" in path.read_bytes()]


def test_files_that_were_on_the_board_before_stay(connection, tmp_path):
    home = connection.root / "home/.lightnas-edge"
    mine = home / "jobs/00112233445566ff/journal.jsonl"
    mine.parent.mkdir(parents=True)
    mine.write_text("a table of the user\n")
    devices.probe(connection)
    agents = sorted((home / "agent").iterdir())

    run_field_test(BOARD, lambda: connection, tmp_path / "a.tar.gz", quick=True, only=["simulated-fp32"])

    assert mine.read_text() == "a table of the user\n"
    assert sorted((home / "agent").iterdir()) == agents
    assert sorted(path.name for path in (home / "jobs").iterdir()) == ["00112233445566ff"]


def test_the_estimate_for_the_slowest_board_is_within_the_limit():
    for quick in (False, True):
        plan = Plan("tensorrt", quick)
        assert running.estimated_s(plan) <= plan.limit_s


def test_a_jetson_tries_every_engine_in_every_precision_it_has():
    names = [step.name for step in steps(Plan("tensorrt"))]

    assert {"tensorrt-fp32", "tensorrt-fp16", "tensorrt-int8", "onnxruntime-tensorrt-fp16", "onnxruntime-int8"} <= set(
        names
    )
    assert names[:2] == ["probe", "snapshot"]
    assert "power-mode" not in [step.name for step in steps(Plan("tensorrt", quick=True))]


def test_a_board_that_does_not_come_back_leaves_its_logs_in_the_archive_and_no_files_of_ours(
    connection, tmp_path, monkeypatch
):
    monkeypatch.setattr(benches, "_RESTORED_S", 0.2)
    (limit,) = (path for path in connection.root.rglob("max_freq") if "devfreq" in str(path))
    measured = next(step for step in steps(Plan("simulated", True)) if step.name == "energy")

    def changes(bench, found):
        measured.act(bench, found)
        limit.write_text("306000000\n")

    test = run(connection, tmp_path, monkeypatch, changes)

    restored = next(step for step in test.record.steps if step.name == "restored")
    assert restored.status == "failed" and "max_freq" in restored.cause
    assert list((unpack(test.archive, tmp_path / "to") / "logs").glob("*.agent.log"))
    assert not list((connection.root / "home/.lightnas-edge/jobs").glob("*/*"))

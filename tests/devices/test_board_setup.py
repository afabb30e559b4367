"""Power mode and locked clocks: by sudo, for one campaign, put back whatever happens to the agent."""

import contextlib
import json
import os
import signal
import subprocess
import time

import pytest

import devices
from devices import DeviceError
from lightnas_edge.cli import main
from lightnas_edge.measuring import MeasurementProtocol, Settings, write_profile_job
from lightnas_edge.space import load_space
from profiler import clocks, guard, setup, setup_note
from profiler.errors import SetupError
from profiler.manifest import BoardSetup
from profiler.processes import this_process
from profiler.status import look_at
from profiler.system import System

SPACE = load_space("tiny")
MODE = {"power_mode": "MODE_15W"}


@pytest.fixture
def board(tmp_path, monkeypatch):
    monkeypatch.setenv("LIGHTNAS_EDGE_HOME", str(tmp_path / "home"))
    return devices.connect("virtual:jetson-agx-xavier")


def campaign(board, folder, *, rounds=2, password=None, **setup):
    protocol = MeasurementProtocol(rounds=rounds, samples_per_visit=2, min_sample_ms=1.0, extra_rounds=0)
    settings = Settings(backend="simulated", precision="fp16", protocol=protocol, **setup)
    job = write_profile_job(folder / "job", SPACE, settings, operators=SPACE.shaped_operators()[::8])
    return devices.Campaign(board, job.folder, password)


def header(table):
    return json.loads(table.read_text().splitlines()[0])


def calls(board):
    """(tool, arguments...) in order; looking is left out, and of sudo all that follows `--`."""
    lines = [json.loads(line) for line in (board.root / "tools.log").read_text().splitlines()]
    cut = [call[: call.index("--")] if "--" in call else call for call in lines]
    return [[part.rpartition("/")[2] for part in call] for call in cut if call != ["nvpmodel", "-q"]]


def state(board):
    gpu = clocks.gpu_state(str(board.root / "sys"))
    mode = json.loads((board.root / "etc/nvpmodel.json").read_text())["mode"]
    return mode, gpu["min_mhz"], gpu["max_mhz"]


def wait_until_restored(board, was):
    note = f"{board.home()}/board-setup.json"
    deadline_s = time.monotonic() + 30
    while os.path.exists(note) or state(board) != was:
        assert time.monotonic() < deadline_s, f"the board is still {state(board)}, not {was}"
        time.sleep(0.05)


def test_the_board_is_set_up_for_the_campaign_and_put_back(board, tmp_path):
    was, table = state(board), tmp_path / "table.lut.jsonl"
    run = campaign(board, tmp_path, lock_clocks=True, **MODE)

    run.start()
    run.follow(table)

    fingerprint = header(table)["fingerprint"]
    assert (fingerprint["power_mode"], fingerprint["clocks"]) == ("MODE_15W", "locked")
    assert header(table)["board"]["gpu"]["max_mhz"] <= 670
    assert header(table)["board_setup"] == {"lock_clocks": True, "power_mode": "MODE_15W"}
    wait_until_restored(board, was)
    assert calls(board) == [
        ["sudo", "-n"],
        ["jetson_clocks", "--store", "board-setup.json.clocks"],
        ["nvpmodel", "-m", "2"],
        ["jetson_clocks"],
        ["nvpmodel", "-m", "0"],
        ["jetson_clocks", "--restore", "board-setup.json.clocks"],
    ]


def test_the_board_is_put_back_when_the_agent_is_killed(board, tmp_path):
    was = state(board)
    run = campaign(board, tmp_path, rounds=5000, lock_clocks=True)
    run.start()
    with pytest.raises(devices.AgentFailedError, match="killed"):
        run.follow(tmp_path / "t", lambda status: status.done and os.kill(status.pid, signal.SIGKILL))

    wait_until_restored(board, was)


def guard_of(board):
    """The process that has the guard's lock; None when no guard lives."""
    lock = look_at(f"{board.home()}/guard.lock")
    return lock.holder.process if lock.locked and lock.holder else None


def killing(board, *, agent=False):
    """For `follow`: kills the guard that lives now once the agent measures, and the agent with it."""
    process = guard_of(board)

    def kill(status):
        if status.done and guard_of(board) == process:
            os.kill(process.pid, signal.SIGKILL)
            if agent:
                os.kill(status.pid, signal.SIGKILL)

    return kill


@pytest.fixture
def left_changed(board, tmp_path):
    """As after a power cut in a campaign: the note exists, and no guard runs that would act on it."""
    was = state(board)
    run = campaign(board, tmp_path, rounds=5000, lock_clocks=True, **MODE)
    run.start()
    with pytest.raises(devices.AgentFailedError, match="killed"):
        run.follow(tmp_path / "t", killing(board, agent=True))
    assert state(board) != was
    return was


def faulty(board, **faults):
    (board.root / "etc/faults.json").write_text(json.dumps(faults))


def test_what_a_dead_guard_left_is_put_back_by_the_next_agent(board, tmp_path, left_changed):
    run = campaign(board, tmp_path / "next")
    run.start()
    run.follow(tmp_path / "next.lut.jsonl")

    assert state(board) == left_changed
    assert header(tmp_path / "next.lut.jsonl")["fingerprint"]["power_mode"] == "MAXN"


def test_the_agent_restores_the_board_when_its_guard_was_killed_and_says_so(board, tmp_path):
    was = state(board)
    run = campaign(board, tmp_path, rounds=50, lock_clocks=True, **MODE)
    run.start()

    status = run.follow(tmp_path / "t", killing(board))

    assert status.state == "done" and state(board) == was
    assert "guard of this campaign ended before it restored the board: restored" in status.warning


def test_without_sudo_the_end_of_the_campaign_names_the_commands_that_restore(board, tmp_path):
    run = campaign(board, tmp_path, rounds=50, lock_clocks=True, **MODE)
    run.start()
    (board.root / "etc/sudo_password").write_text("hunter2\n")

    status = run.follow(tmp_path / "t", killing(board))

    assert "sudo refused" in status.warning
    assert f"sudo nvpmodel -m 0; sudo jetson_clocks --restore {board.home()}/board-setup.json.clocks" in status.warning


@pytest.mark.parametrize("command", [["probe", "--host"], ["pull", "--host"], ["boards", "clean"]])
def test_a_command_that_visits_the_board_restores_it_and_says_so(board, left_changed, command, capsys, monkeypatch):
    monkeypatch.chdir(board.root)

    assert main([*command, board.name]) == 0

    assert state(board) == left_changed
    assert "restored the board's settings from before an earlier campaign" in capsys.readouterr().err


def test_what_cannot_be_restored_stays_noted_until_somebody_has(board, left_changed, capsys):
    (board.root / "etc/sudo_password").write_text("hunter2\n")

    assert main(["probe", "--host", board.name]) == 0
    printed = capsys.readouterr()
    assert "the board's own settings: the board still has settings of an earlier campaign" in printed.out
    assert "sudo nvpmodel -m 0; sudo jetson_clocks --restore" in printed.out

    for argv in (["nvpmodel", "-m", "0"], ["jetson_clocks", "--restore", f"{board.home()}/board-setup.json.clocks"]):
        tool = str(board.root / "usr/sbin" / argv[0])
        subprocess.run([tool, *argv[1:]], env={**os.environ, "VIRTUAL_ROOT": "1"}, check=True)
    assert state(board) == left_changed
    assert devices.restore_board(board) is None
    assert not board.exists(f"{board.home()}/board-setup.json")


def test_a_password_restores_the_board_where_sudo_wants_one(board, left_changed):
    (board.root / "etc/sudo_password").write_text("hunter2\n")

    report = devices.restore_board(board, "hunter2")

    assert report.state == "restored" and state(board) == left_changed


def test_a_mode_that_does_not_come_back_is_noticed_by_reading_it_and_stays_noted(board, tmp_path):
    was = state(board)
    run = campaign(board, tmp_path, rounds=10, **MODE)
    run.start()
    faulty(board, fail=["nvpmodel -m 0"])

    status = run.follow(tmp_path / "t")

    assert "the power mode is MODE_15W (2), not 0 (nvpmodel -m: Error: nvpmodel failed)" in status.warning
    assert "sudo nvpmodel -m 0" in status.warning
    faulty(board)
    assert devices.restore_board(board).state == "restored"
    assert state(board) == was


def test_after_a_reboot_the_power_mode_is_put_back_and_the_clocks_are_left_alone(board, left_changed):
    (board.root / "proc/sys/kernel/random/boot_id").write_text("another boot\n")
    gpu = board.root / json.loads((board.root / "etc/nvpmodel.json").read_text())["gpu"]
    (gpu / "min_freq").write_text(f"{left_changed[1] * 1e6:.0f}\n")  # what a boot does

    assert devices.restore_board(board).state == "restored"

    assert state(board) == left_changed
    assert not [call for call in calls(board) if "--restore" in call]


def test_a_lost_file_of_clocks_ends_in_an_error_that_names_the_reboot(board, left_changed):
    os.remove(f"{board.home()}/board-setup.json.clocks")

    report = devices.restore_board(board)

    assert report.state == "changed" and "file not found" in report.message
    assert "sudo nvpmodel -m 0; sudo reboot" in report.remedy


@contextlib.contextmanager
def setting_up(board, tmp_path, **setup):
    """`agent setup` as a process of its own, in a session of its own."""
    run = campaign(board, tmp_path, **setup)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "_set_up", lambda agent: None)
        patch.setattr(board, "start", lambda argv, **files: argvs.append(argv))
        argvs = []
        run.start()
    argv = ["setup" if part == "run" else part for part in argvs[0]]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True) as process:
        yield process


def wait_for(condition, what):
    deadline_s = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline_s, what
        time.sleep(0.01)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGKILL, signal.SIGHUP])
def test_an_interrupt_while_the_mode_changes_leaves_the_board_as_it_was(board, tmp_path, signum):
    """The guard finishes the change, finds that nobody waits for its answer, and restores at once."""
    was = state(board)
    faulty(board, slow_s={"nvpmodel -m": 1.0})
    with setting_up(board, tmp_path, lock_clocks=True, **MODE) as process:
        wait_for(lambda: os.path.exists(f"{board.home()}/board-setup.json"), "the note")
        os.killpg(process.pid, signum)
        process.communicate()

    wait_for(lambda: guard_of(board) is None, "the end of the guard")
    assert state(board) == was
    assert not os.path.exists(f"{board.home()}/board-setup.json")
    assert ["nvpmodel", "-m", "2"] in calls(board)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_guard_that_is_asked_to_end_restores_first(board, tmp_path, signum):
    """A shutdown sends SIGTERM; the power mode would outlive it."""
    was = state(board)
    with setting_up(board, tmp_path, lock_clocks=True, **MODE) as process:
        process.communicate()
    assert process.returncode == 0 and state(board) != was

    os.kill(guard_of(board).pid, signum)

    wait_for(lambda: guard_of(board) is None, "the end of the guard")
    assert state(board) == was


def test_a_second_set_up_takes_over_from_a_guard_that_waits_for_its_agent(board, tmp_path):
    was = state(board)
    with setting_up(board, tmp_path, lock_clocks=True, **MODE) as process:
        process.communicate()
    first = guard_of(board)

    run = campaign(board, tmp_path / "next", power_mode="MODE_10W")
    run.start()
    assert guard_of(board) not in (first, None)
    run.follow(tmp_path / "t")

    assert header(tmp_path / "t")["fingerprint"]["power_mode"] == "MODE_10W"
    assert header(tmp_path / "t")["fingerprint"]["clocks"] == "floating"
    assert state(board) == was


def test_an_agent_that_nobody_guards_measures_nothing(board, tmp_path):
    run = campaign(board, tmp_path, lock_clocks=True)
    run._set_up = lambda agent: None
    run.start()

    with pytest.raises(devices.AgentFailedError, match="not set up for this job"):
        run.follow(tmp_path / "t")


@pytest.mark.parametrize("note", [None, b"", b'{"job": "00'])
def test_what_an_interrupted_set_up_left_hinders_no_later_one(board, tmp_path, note):
    """The clocks are stored, then the note is written, then the first setting changes."""
    os.makedirs(board.home())
    with open(f"{board.home()}/board-setup.json.clocks", "w") as file:
        file.write("stale\n")
    if note is not None:
        with open(f"{board.home()}/board-setup.json", "wb") as file:
            file.write(note)
    was = state(board)
    run = campaign(board, tmp_path, lock_clocks=True)

    run.start()
    run.follow(tmp_path / "t")

    assert header(tmp_path / "t")["fingerprint"]["clocks"] == "locked"
    assert state(board) == was and not os.path.exists(f"{board.home()}/board-setup.json.clocks")


@pytest.mark.parametrize(
    ("faults", "what"),
    [
        ({"hang": ["nvpmodel -m 2"]}, "nvpmodel -m 2 did not end within 0.5 s"),
        ({"hang": ["jetson_clocks --store"]}, "jetson_clocks --store .* did not end within 0.5 s"),
        ({"fail": ["jetson_clocks --store"]}, "jetson_clocks --store .* failed: Error: jetson_clocks failed"),
        ({"fail": ["jetson_clocks"]}, "jetson_clocks .* failed"),
        ({"hang": ["nvpmodel -m"]}, "nvpmodel -m"),
    ],
)
def test_a_tool_that_hangs_or_fails_ends_in_a_restored_board_and_an_error(board, monkeypatch, faults, what):
    monkeypatch.setattr(guard, "TOOL_LIMIT_S", 0.5)
    monkeypatch.setattr(setup_note, "TOOL_LIMIT_S", 0.5)
    monkeypatch.setenv("VIRTUAL_ROOT", "1")
    was, home, system = state(board), board.home(), System(str(board.root))
    os.makedirs(home)
    faulty(board, **faults)
    wanted = BoardSetup(lock_clocks=True, power_mode="MODE_15W")
    request = guard.GuardRequest(home, system.root, "0" * 16, this_process(), wanted)

    with pytest.raises(SetupError, match=what):
        guard._set_up(request, wanted, f"{home}/board-setup.json", system)

    assert state(board) == was
    assert not os.path.exists(f"{home}/board-setup.json")


def test_a_sudo_that_does_not_answer_ends_in_an_error(board, monkeypatch):
    monkeypatch.setattr(setup, "ANSWER_LIMIT_S", 0.5)
    faulty(board, hang=["sudo"])

    with pytest.raises(SetupError, match=r"did not answer within 0\.5 s"):
        setup.set_up(BoardSetup(True, None), "0" * 16, board.home(), System(str(board.root)), None)


def test_a_campaign_right_behind_measures_the_board_as_it_was(board, tmp_path):
    run = campaign(board, tmp_path, lock_clocks=True)
    run.start()
    run.follow(tmp_path / "locked")

    run = campaign(board, tmp_path / "next")
    run.start()
    run.follow(tmp_path / "floating")

    assert header(tmp_path / "locked")["fingerprint"]["clocks"] == "locked"
    assert header(tmp_path / "floating")["fingerprint"]["clocks"] == "floating"


def test_without_a_setup_in_the_job_nothing_is_changed(board, tmp_path):
    run = campaign(board, tmp_path)
    run.start()
    run.follow(tmp_path / "t")

    assert [call for call in calls(board) if call[0] != "nvpmodel"] == []


def test_a_password_reaches_sudo_by_its_standard_input_alone(board, tmp_path):
    (board.root / "etc/sudo_password").write_text("hunter2\n")
    was = state(board)
    run = campaign(board, tmp_path, password="hunter2", lock_clocks=True)
    run.start()
    run.follow(tmp_path / "t")
    wait_until_restored(board, was)

    assert header(tmp_path / "t")["fingerprint"]["clocks"] == "locked"
    assert calls(board)[0] == ["sudo", "-S", "-p", ""]
    kept = [path for path in board.root.rglob("*") if path.is_file() and path.name != "sudo_password"]
    assert not [path for path in kept if b"hunter2" in path.read_bytes()]


@pytest.mark.parametrize("password", [None, "wrong"])
def test_when_sudo_refuses_nothing_is_measured_and_nothing_changed(board, tmp_path, password):
    (board.root / "etc/sudo_password").write_text("hunter2\n")
    was = state(board)

    with pytest.raises(devices.AgentFailedError, match="sudo refused: sudo: a password is required") as refusal:
        campaign(board, tmp_path, password=password, lock_clocks=True).start()

    assert "--ask-sudo-password" in refusal.value.hint
    assert state(board) == was
    assert not board.exists(f"{board.home()}/board-setup.json")


def test_an_unknown_power_mode_is_refused_with_those_there_are(board, tmp_path):
    with pytest.raises(devices.AgentFailedError, match="no power mode 'TURBO'") as refusal:
        campaign(board, tmp_path, power_mode="TURBO").start()

    assert "MAXN (0), MODE_10W (1)" in refusal.value.hint


def test_a_switch_that_asks_for_a_reboot_is_refused_and_undone(board, tmp_path):
    faulty(board, reboot=["2"])
    was = state(board)

    with pytest.raises(devices.AgentFailedError, match="MODE_15W: NVPM WARN: Reboot required") as refusal:
        campaign(board, tmp_path, lock_clocks=True, **MODE).start()

    assert "confirm the reboot" in refusal.value.hint
    assert state(board) == was
    assert not board.exists(f"{board.home()}/board-setup.json")


def test_a_machine_without_the_tools_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("LIGHTNAS_EDGE_HOME", str(tmp_path / "home"))
    board = devices.connect("virtual:jetson-nano")
    (board.root / "usr/sbin/jetson_clocks").unlink()

    with pytest.raises(devices.AgentFailedError, match="this machine has no jetson_clocks"):
        campaign(board, tmp_path, lock_clocks=True).start()


def test_nothing_more_is_measured_once_the_guard_has_put_the_board_back(board, tmp_path):
    was = state(board)
    rounds = 4000  # of several operators; how many of them precede the guard's end depends on the machine
    run = campaign(board, tmp_path, rounds=rounds, lock_clocks=True, **MODE)
    run.start()
    guard = guard_of(board)

    def end(status):
        if status.done and guard_of(board) == guard:
            os.kill(guard.pid, signal.SIGTERM)

    with pytest.raises(DeviceError, match="restored while it was measured"):
        run.follow(tmp_path / "t", end)

    assert state(board) == was
    assert len((tmp_path / "t").read_text().splitlines()) < rounds


def test_a_lock_that_cannot_be_looked_at_counts_as_taken(tmp_path):
    """A guard that took it for free would put the board back under a running campaign."""
    assert not look_at(str(tmp_path / "agent.lock")).locked
    (tmp_path / "agent.lock").mkdir()
    assert look_at(str(tmp_path / "agent.lock")).locked

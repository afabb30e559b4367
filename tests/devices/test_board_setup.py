"""Power mode and locked clocks: by sudo, for one campaign, put back whatever happens to the agent."""

import json
import os
import signal
import time

import pytest

import devices
from lightnas_edge.measuring import MeasurementProtocol, Settings, write_profile_job
from lightnas_edge.space import load_space
from profiler import clocks

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


def test_what_a_dead_guard_left_is_put_back_by_the_next_agent(board, tmp_path):
    """As after a power cut: the note exists, and no guard runs that would act on it."""
    was = state(board)
    run = campaign(board, tmp_path, rounds=5000, **MODE)
    run.start()

    def kill_both(status):
        note = json.loads(board.read(f"{board.home()}/board-setup.json"))
        os.kill(note["pid"], signal.SIGKILL)
        os.kill(status.pid, signal.SIGKILL)

    with pytest.raises(devices.AgentFailedError, match="killed"):
        run.follow(tmp_path / "t", lambda status: status.done and kill_both(status))
    assert state(board) != was

    run = campaign(board, tmp_path / "next")
    run.start()
    run.follow(tmp_path / "next.lut.jsonl")

    assert state(board) == was
    assert header(tmp_path / "next.lut.jsonl")["fingerprint"]["power_mode"] == "MAXN"


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


def test_a_switch_that_wants_a_reboot_is_refused_and_undone(board, tmp_path):
    tool = board.root / "usr/sbin/nvpmodel"
    tool.write_text(tool.read_text().replace("write(MODES, json.dumps(dict(state, mode=ARGUMENTS[1])))", "pass"))
    was = state(board)

    with pytest.raises(devices.AgentFailedError, match="did not change to power mode MODE_15W") as refusal:
        campaign(board, tmp_path, lock_clocks=True, **MODE).start()

    assert "reboot" in refusal.value.hint
    assert state(board)[1] == was[1]
    assert not board.exists(f"{board.home()}/board-setup.json")


def test_a_machine_without_the_tools_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("LIGHTNAS_EDGE_HOME", str(tmp_path / "home"))
    board = devices.connect("virtual:jetson-nano")
    (board.root / "usr/sbin/jetson_clocks").unlink()

    with pytest.raises(devices.AgentFailedError, match="this machine has no jetson_clocks"):
        campaign(board, tmp_path, lock_clocks=True).start()

"""The faults: each is a script of what happens before the user runs the same command again."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from tests.faults.bench import COMMAND_LIMIT_S, Bench, SshBench, VirtualBench, wait_for
from tests.faults.run import Kind, Run

KINDS: list[Kind] = []
_DAMAGES = ("flip", "cut", "garbage", "delete")
_AT_WORK = ("run", "worker")
_MARGIN = 3000  # bytes: about two visits
_LEAST_LIMIT = 8192  # bytes: status.json and agent.out fit, as on a disk that is full but for their blocks

Script = Callable[[Run], None]
Remedy = Callable[[Run], tuple[str, ...]]


def kind(name: str, bench: type[Bench] = Bench, remedy: Remedy | None = None) -> Callable[[Script], Script]:
    """Enter a script into KINDS. `remedy`: what the user does where the same command ends in an error; its options."""

    def enter(script: Script) -> Script:
        KINDS.append(Kind(name, bench, script, remedy))
        return script

    return enter


# Remedies, as the errors name them


def fresh(run: Run) -> tuple[str, ...]:
    return ("--fresh",)


def wait_for_the_agent(run: Run) -> tuple[str, ...]:
    wait_for(lambda: not run.bench.processes("run"), COMMAND_LIMIT_S)
    return ()


def nothing_more(run: Run) -> tuple[str, ...]:
    return ()


def restore_by_hand(run: Run) -> tuple[str, ...]:
    """Power mode and clocks by the board's own tools, and the damaged note deleted."""
    bench = run.bench
    assert isinstance(bench, VirtualBench)
    note, stored = (bench.home / name for name in ("board-setup.json", "board-setup.json.clocks"))
    bench.as_root("nvpmodel", "-m", run.mode_before)
    if stored.exists():
        bench.as_root("jetson_clocks", "--restore", str(stored))
    for path in (note, stored):
        path.unlink(missing_ok=True)
    return ()


def mend_tools(run: Run) -> tuple[str, ...]:
    """They work again, and sudo asks for no password."""
    assert isinstance(run.bench, VirtualBench)
    run.bench.faulty()
    (run.bench.root / "etc/sudo_password").unlink(missing_ok=True)
    return ()


# The host


def _signal_to_host(signum: int) -> Script:
    def script(run: Run) -> None:
        command = run.start()
        run.moment(command)
        run.interrupt(command, signum)
        run.end(command)

    return script


kind("host killed")(_signal_to_host(signal.SIGKILL))
kind("host: Ctrl-C")(_signal_to_host(signal.SIGINT))
kind("host: SIGTERM")(_signal_to_host(signal.SIGTERM))
kind("host: SIGHUP")(_signal_to_host(signal.SIGHUP))


@kind("host asleep")
def host_asleep(run: Run) -> None:
    command = run.start()
    run.moment(command)
    command.process.send_signal(signal.SIGSTOP)
    time.sleep(run.random.uniform(0.5, 3.0))
    command.process.send_signal(signal.SIGCONT)
    run.end(command)


@kind("host: disk full", remedy=nothing_more)
def host_disk_full(run: Run) -> None:
    command = run.start()
    run.visits(command)
    size = run.bench.table.stat().st_size if run.bench.table.exists() else 0
    for process in run.bench.processes("command"):
        run.limit_files(process, max(_LEAST_LIMIT, size + run.random.randrange(_MARGIN)))
    run.end(command)


# The agent


def _signal_to(role: str, signum: int) -> Script:
    def script(run: Run) -> None:
        command = run.start()
        process = run.moment(command, role)
        if process is not None:
            process.send(signum)
        run.end(command)

    return script


for _bench, _where in ((Bench, ""), (SshBench, " over SSH")):
    kind(f"agent killed{_where}", _bench)(_signal_to("run", signal.SIGKILL))
kind("agent: SIGTERM")(_signal_to("run", signal.SIGTERM))
kind("worker killed")(_signal_to("worker", signal.SIGKILL))


@kind("agent asleep")
def agent_asleep(run: Run) -> None:
    command = run.start()
    process = run.moment(command, "run")
    if process is not None:
        process.send(signal.SIGSTOP)
        time.sleep(run.random.uniform(0.5, 3.0))
        process.send(signal.SIGCONT)
    run.end(command)


@kind("board: disk full", remedy=nothing_more)
def board_disk_full(run: Run) -> None:
    command = run.start()
    run.visits(command)
    journal = run.bench.in_job("journal.jsonl")
    size = 0 if journal is None else journal.stat().st_size
    for process in run.bench.processes("run"):
        run.limit_files(process, max(_LEAST_LIMIT, size + run.random.randrange(_MARGIN)))
    run.end(command)


def _power_cut(run: Run) -> None:
    """Host and board at once, in the middle of a campaign."""
    command = run.start()
    run.visits(command)
    run.kill()
    run.end(command)


kind("power cut of both")(_power_cut)


@kind("clock set back")
def clock_set_back(run: Run) -> None:
    command = run.start()
    run.moment(command)
    run.bench.clock.write_text(str(-run.random.choice([3600, 86400, 50 * 365 * 86400])))
    run.end(command)


# Processes that are no longer those of the notes


def _other_process(run: Run, *, other_boot: bool, ticks: bool) -> None:
    """Status and lock name a process of somebody else, as when its number was used again."""
    pid = run.stranger()
    start = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    paths = [run.bench.in_job("status.json"), run.bench.home / "agent.lock"]
    for path in paths:
        if path is None or not path.exists() or not path.read_text():
            continue
        record = json.loads(path.read_text()) | {"pid": pid}
        if other_boot:
            record["boot_id"] = str(uuid.UUID(int=run.random.getrandbits(128)))
        if ticks:
            record["start_ticks"] = start
        path.write_text(json.dumps(record))


@kind("reboot")
def reboot(run: Run) -> None:
    """The last second of the journal was not on the disk, and another process has the agent's number."""
    _power_cut(run)
    journal = run.bench.in_job("journal.jsonl")
    if journal is not None:
        os.truncate(journal, max(0, journal.stat().st_size - run.random.randrange(30_000)))
    _other_process(run, other_boot=True, ticks=False)


@kind("pid used again")
def pid_used_again(run: Run) -> None:
    """After the power cut the agent's number, and at times the tick of its start, belong to another process."""
    _power_cut(run)
    _other_process(run, other_boot=False, ticks=run.random.random() < 0.5)
    command = run.start()
    run.moment(command)
    run.interrupt(command, signal.SIGINT)  # it must reach no other process
    run.end(command)


# Files


def _damaged(find: Callable[[Run], Path | None], *hows: str, at_work: bool = False) -> Script:
    """A file is damaged while nothing runs; `at_work`: while the agent measures."""

    def script(run: Run) -> None:
        how = run.random.choice(hows)
        if not at_work:
            _power_cut(run)
            run.damage(find(run), how)
            return
        command = run.start()
        run.visits(command)
        run.damage(find(run), how)
        run.end(command)

    return script


def _board_journal(run: Run) -> Path | None:
    return run.bench.in_job("journal.jsonl")


def _table(run: Run) -> Path:
    return run.bench.table


def _model(run: Run) -> Path | None:
    models = sorted((run.bench.home / "models").glob("*.onnx"))
    return run.random.choice(models) if models else None


for _how in ("cut", "flip", "delete"):
    kind(f"journal: {_how}", remedy=fresh)(_damaged(_board_journal, _how))
    kind(f"table: {_how}", remedy=fresh)(_damaged(_table, _how))
kind("journal damaged at work", remedy=fresh)(_damaged(_board_journal, *_DAMAGES, at_work=True))
kind("table damaged at work", remedy=fresh)(_damaged(_table, *_DAMAGES, at_work=True))
for _how in ("flip", "cut", "delete"):
    kind(f"model: {_how}")(_damaged(_model, _how))
kind("agent archive damaged")(
    _damaged(lambda run: next((run.bench.home / "agent").glob("*.pyz"), None), "flip", "cut", "garbage", "delete")
)
kind("status damaged")(_damaged(lambda run: run.bench.in_job("status.json"), *_DAMAGES, at_work=True))
kind("status damaged, agent gone")(_damaged(lambda run: run.bench.in_job("status.json"), *_DAMAGES))
kind("manifest damaged")(_damaged(lambda run: run.bench.in_job("manifest.json"), *_DAMAGES))


@kind("lock damaged", remedy=wait_for_the_agent)
def lock_damaged(run: Run) -> None:
    """The host is gone, the agent continues, and its lock names nobody."""
    command = run.start()
    run.visits(command)
    command.process.kill()
    run.end(command)
    run.damage(run.bench.home / "agent.lock", run.random.choice(("flip", "cut", "garbage")))


@kind("home of the agent deleted")
def home_deleted(run: Run) -> None:
    _power_cut(run)
    shutil.rmtree(run.bench.home)


@kind("job folder deleted at work")
def job_deleted(run: Run) -> None:
    command = run.start()
    run.visits(command)
    if run.bench.job is not None:
        shutil.rmtree(run.bench.job, ignore_errors=True)
    run.end(command)


@kind("folder of the table deleted")
def table_folder_deleted(run: Run) -> None:
    command = run.start()
    run.visits(command)
    shutil.rmtree(run.bench.table.parent, ignore_errors=True)
    run.end(command)


# Two hosts


@kind("two hosts, two tables")
def two_hosts(run: Run) -> None:
    first = run.start()
    run.moment(first)
    second = run.start(table=run.bench.folder / "other.lut.jsonl")
    run.end(first)
    run.end(second)


@kind("two hosts, one table", remedy=wait_for_the_agent)
def two_hosts_one_table(run: Run) -> None:
    first = run.start()
    run.moment(first)
    second = run.start()
    run.end(first)
    run.end(second)


@kind("another job at work", remedy=wait_for_the_agent)
def another_job(run: Run) -> None:
    """The board measures something else, and its host is gone."""
    command = run.bench.start("--batch", "2", table=run.bench.folder / "batch.lut.jsonl")
    run.visits(command)
    command.process.kill()
    run.end(command)


# Links


@kind("link cut", SshBench)
def link_cut(run: Run) -> None:
    assert isinstance(run.bench, SshBench)
    command = run.start()
    for _ in range(run.random.randrange(1, 4)):
        run.moment(command, "sshd")
        run.bench.server.cut()
    run.end(command)


@kind("link frozen", SshBench)
def link_frozen(run: Run) -> None:
    """For a while, or for good: then the host opens another one."""
    assert isinstance(run.bench, SshBench)
    command = run.start()
    run.moment(command, "sshd")
    sessions = run.bench.server.sessions()
    run.send(sessions, signal.SIGSTOP)
    if run.random.random() < 0.7:
        time.sleep(run.random.uniform(1.0, 5.0))
        run.send(sessions, signal.SIGCONT)
    run.end(command)
    run.send(sessions, signal.SIGCONT)


@kind("link down for a while", SshBench)
def link_down(run: Run) -> None:
    assert isinstance(run.bench, SshBench)
    command = run.start()
    run.moment(command, "sshd")
    run.bench.server.stop()
    time.sleep(run.random.uniform(0.5, 4.0))
    run.bench.server.start()
    run.end(command)


@kind("link cut and host killed", SshBench)
def link_cut_and_host_killed(run: Run) -> None:
    assert isinstance(run.bench, SshBench)
    command = run.start()
    run.moment(command, "sshd")
    run.bench.server.cut()
    command.process.kill()
    run.end(command)


# Settings of the board


kind("set-up: host killed", VirtualBench)(_signal_to_host(signal.SIGKILL))
kind("set-up: Ctrl-C", VirtualBench)(_signal_to_host(signal.SIGINT))
kind("set-up: guard killed", VirtualBench)(_signal_to("guard", signal.SIGKILL))
kind("set-up: agent killed", VirtualBench)(_signal_to("run", signal.SIGKILL))
kind("set-up: power cut", VirtualBench)(_power_cut)


@kind("set-up: reboot", VirtualBench)
def set_up_reboot(run: Run) -> None:
    """The clocks are as they were, the power mode is not."""
    bench = run.bench
    assert isinstance(bench, VirtualBench)
    before = bench.clock_files()
    _power_cut(run)
    bench.restart(before, str(uuid.UUID(int=run.random.getrandbits(128))))
    _other_process(run, other_boot=True, ticks=False)


def _tool_fault(**faults: object) -> Script:
    """A tool misbehaves from the start, or once the campaign runs: then the board is not restored until it is mended."""

    def script(run: Run) -> None:
        assert isinstance(run.bench, VirtualBench)
        late = run.random.random() < 0.5
        if not late:
            run.bench.faulty(**faults)
        command = run.start()
        if late:
            run.visits(command)
            run.bench.faulty(**faults)
        run.end(command)
        run.notes.append("from a moment in the campaign on" if late else "from the start on")
        if run.random.random() < 0.5:
            run.bench.faulty()

    return script


@kind("set-up: sudo asks", VirtualBench, mend_tools)
def sudo_asks(run: Run) -> None:
    assert isinstance(run.bench, VirtualBench)
    (run.bench.root / "etc/sudo_password").write_text("secret\n")
    run.end(run.start())


@kind("set-up: store file left", VirtualBench)
def store_file_left(run: Run) -> None:
    assert isinstance(run.bench, VirtualBench)
    run.bench.home.mkdir(parents=True, exist_ok=True)
    (run.bench.home / "board-setup.json.clocks").write_text("[]")
    command = run.start()
    run.moment(command)
    run.interrupt(command, signal.SIGINT)
    run.end(command)


kind("set-up: tool fails", VirtualBench, mend_tools)(_tool_fault(fail=["nvpmodel -m"]))
kind("set-up: restoring fails", VirtualBench, mend_tools)(_tool_fault(fail=["jetson_clocks --restore"]))
kind("set-up: tool hangs", VirtualBench, mend_tools)(_tool_fault(hang=["jetson_clocks --store"]))
kind("set-up: tool asks", VirtualBench, mend_tools)(_tool_fault(reboot=["2"]))
kind("set-up: tool is slow", VirtualBench, mend_tools)(_tool_fault(slow_s={"nvpmodel -m": 1.0, "jetson_clocks": 0.7}))


@kind("set-up: note damaged", VirtualBench, restore_by_hand)
def note_damaged(run: Run) -> None:
    assert isinstance(run.bench, VirtualBench)
    _power_cut(run)
    run.damage(run.bench.home / "board-setup.json", run.random.choice(("flip", "cut", "garbage")))

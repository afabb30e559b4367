"""One run: a fault strikes a command at a seeded moment, the user runs the same command again, and the table is compared."""

from __future__ import annotations

import collections
import os
import random
import re
import resource
import signal
import subprocess
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import luts
from luts import LutError
from tests.faults.bench import COMMAND_LIMIT_S, KEYS, POLL_S, REST_LIMIT_S, Bench, Command, Process, wait_for

_CLEAR = re.compile(r"^\w+Error: .*", re.MULTILINE)
_TRACEBACK = re.compile(r"Traceback \(most recent call last\)|^unexpected \w+: ", re.MULTILINE)
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_INTERRUPTED = (*(128 + number for number in _SIGNALS), *(-number for number in _SIGNALS), -signal.SIGKILL)


class Outcome(NamedTuple):
    """What came of a run; all but `end` and `seconds` count what must not be."""

    kind: str
    number: int
    end: str  # recovered, clear error or failed
    lost: int = 0
    doubled: int = 0
    hung: int = 0
    tracebacks: int = 0
    changed: int = 0
    seconds: float = 0.0
    notes: tuple[str, ...] = ()

    @property
    def good(self) -> bool:
        return self.end != "failed" and not any(self[3:8])


class Run:
    """What the script of a fault works with."""

    def __init__(self, bench: Bench, seed: str) -> None:
        self.bench = bench
        self.random = random.Random(seed)
        self.notes: list[str] = []
        self.faults: list[str] = []  # that no column of the table counts
        self.tables = [bench.table]
        self.hung = 0
        self.mode_before = bench.settings().get("power mode", "")
        self._left_by_killed: set[str] = set()
        self._strangers: list[subprocess.Popen[bytes]] = []

    # The script's steps

    def start(self, *options: str, table: Path | None = None) -> Command:
        """The user's command."""
        if table is not None:
            self.tables.append(table)
        return self.bench.start(*options, table=table)

    def moment(self, command: Command, role: str | None = None) -> Process | None:
        """Wait for a seeded moment of a running command: a number of visits, or a time; the process of that role.

        None where no role was named, or its process is gone by then.
        """
        if role is not None:
            self._until(command, lambda: self.bench.processes(role))
        before = self.bench.visited
        if before < self.bench.total - 1 and self.random.random() < 0.7:
            wanted = self.random.randrange(before + 1, self.bench.total)
            self._until(command, lambda: self.bench.visited >= wanted)
            said = f"after {self.bench.visited} visits"
        else:
            seconds = self.random.uniform(0.0, 1.5 if role is not None else 3.0)
            end_s = time.monotonic() + seconds
            self._until(command, lambda: time.monotonic() > end_s)
            said = f"{seconds:.2f} s after the start of {role or 'the command'}"
        self.notes.append(said if command.running else f"{said}, when the command had ended")
        found = self.bench.processes(role) if role is not None else []
        return found[0] if found else None

    def interrupt(self, command: Command, signum: int) -> None:
        """Send a signal to the program."""
        self._until(command, lambda: command.started)
        command.process.send_signal(signum)

    def visits(self, command: Command) -> None:
        """Wait for a seeded number of visits."""
        wanted = self.random.randrange(1, self.bench.total - 1)
        self._until(command, lambda: self.bench.visited >= wanted)
        self.notes.append(f"after {self.bench.visited} visits")

    def end(self, command: Command, limit_s: float = COMMAND_LIMIT_S) -> int | None:
        """Wait for the end of a command; its exit code."""
        code = command.wait(limit_s)
        if code is None:
            self.hung += 1
            self.notes.append(f"a command did not end within {limit_s:g} s")
        elif code not in (0, *_INTERRUPTED) and not is_clear(command.text):
            self.faults.append(f"exit code {code} without a clear error")
        left = {path.name for path in (self.bench.folder / "tmp").iterdir()}
        if code is None or code < 0:  # killed
            self._left_by_killed |= left
        elif left - self._left_by_killed and not self.bench.processes("command"):
            self.faults.append(f"temporary files stay: {', '.join(sorted(left - self._left_by_killed))}")
        return code

    def kill(self) -> None:
        """kill -9 of all processes of the bench, as a power cut does it."""
        for process in self.bench.processes():
            process.send(signal.SIGKILL)
        wait_for(lambda: not self.bench.processes(), 10)

    def limit_files(self, process: Process, size: int) -> None:
        """No file of this process may grow beyond `size` bytes: how a full disk looks to a file."""
        try:
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
        except (ProcessLookupError, PermissionError):
            self.notes.append("the process had ended")

    def send(self, pids: Iterable[int], signum: int) -> None:
        for pid in pids:
            Process(pid, "other").send(signum)

    def stranger(self) -> int:
        """A process of somebody else; it must survive the run."""
        process = subprocess.Popen(["sleep", "600"], env={}, cwd="/", start_new_session=True)
        self._strangers.append(process)
        return process.pid

    def damage(self, path: Path | None, how: str) -> None:
        """flip: change one byte of the file; cut: lose its end; delete; garbage: another content."""
        if path is None or not path.exists():
            self.notes.append("there was no file to damage")
            return
        content = path.read_bytes()
        at = self.random.randrange(max(1, len(content)))
        self.notes.append(f"{how} {path.name} at {at} of {len(content)}")
        if how == "delete":
            path.unlink()
        elif how == "cut":
            os.truncate(path, at)
        elif how == "garbage":
            path.write_bytes(self.random.choice([b"", b"{", b"[" * 100_000, b"\xff\xfe\0", b'{"pid": 1e999}', b"null"]))
        else:
            with path.open("r+b") as file:
                file.seek(at)
                file.write(bytes([content[at] ^ (1 << self.random.randrange(8))]))

    # What the harness asks

    def strangers_killed(self) -> int:
        killed = sum(process.poll() is not None for process in self._strangers)
        for process in self._strangers:
            process.kill()
            process.wait()
        return killed

    def _until(self, command: Command, condition: Callable[[], object]) -> None:
        end_s = time.monotonic() + COMMAND_LIMIT_S
        while command.running and not condition() and time.monotonic() < end_s:
            time.sleep(POLL_S)


class Kind(NamedTuple):
    """One kind of fault. `remedy`: what the user does where the same command ends in an error; its further options."""

    name: str
    bench: type[Bench]
    script: Callable[[Run], None]
    remedy: Callable[[Run], tuple[str, ...]] | None


def carry_out(kind: Kind, seed: int, number: int, folder: Path) -> Outcome:
    """A run of this kind in an empty folder."""
    began_s = time.monotonic()
    bench = kind.bench(folder)
    bench.make()
    run = Run(bench, f"{seed} {kind.name} {number}")
    try:
        before = bench.settings()
        kind.script(run)
        end = _again(run, kind)
        left = wait_for_rest(bench)
        if left:
            run.hung += 1
            run.notes.append(f"still runs: {', '.join(process.role for process in left)}")
        killed = run.strangers_killed()
        if killed:
            run.faults.append("a process of somebody else was ended")
        counts = [_compare(table, bench.rounds, run.notes) for table in run.tables]
        tracebacks = sum(len(_TRACEBACK.findall(path.read_text(errors="replace"))) for path in bench.logs())
        after = bench.settings()
        changed = sorted(name for name in before if before[name] != after.get(name))
        run.notes.extend(f"{name}: {before[name]} before, {after.get(name)} now" for name in changed)
        outcome = Outcome(
            kind.name, number, "failed" if run.faults else end,
            lost=sum(lost for lost, _ in counts), doubled=sum(doubled for _, doubled in counts), hung=run.hung,
            tracebacks=tracebacks, changed=len(changed), seconds=time.monotonic() - began_s,
        )  # fmt: skip
        return outcome._replace(notes=(*run.notes, *run.faults, *(() if outcome.good else _tail(bench))))
    finally:
        run.strangers_killed()
        bench.close()


def wait_for_rest(bench: Bench) -> list[Process]:
    """What still runs of agents and commands once it had time to end."""

    def busy() -> list[Process]:
        return [process for process in bench.processes() if process.role != "other"]

    wait_for(lambda: not busy(), REST_LIMIT_S)
    return busy()


def is_clear(text: str) -> bool:
    """Whether a command that failed gives its own error."""
    return _CLEAR.search(text) is not None and _TRACEBACK.search(text) is None


def _again(run: Run, kind: Kind) -> str:
    """The same command until it is through: how the run ended."""
    command = run.bench.start()
    if run.end(command) == 0:
        return "recovered"
    run.notes.extend(_CLEAR.findall(command.text))
    options = () if kind.remedy is None else kind.remedy(run)
    command = run.bench.start(*options)
    return "clear error" if run.end(command) == 0 else "failed"


def _compare(table: Path, rounds: int, notes: list[str]) -> tuple[int, int]:
    """Visits that a table lacks, and those that it has more than once.

    A session that measures operators for the first time visits the sentinels again, to know the drift between sessions: docs/measuring.md.
    """
    wanted = {(key, round_) for key in KEYS for round_ in range(rounds)}
    try:
        lut = luts.read(table)
    except (OSError, LutError) as err:
        notes.append(str(err))
        return len(wanted), 0
    seen: dict[tuple[str, int], str] = {}
    sessions: dict[str, set[str]] = collections.defaultdict(set)  # in order -> their keys
    visits = [visit for visit in lut.visits if visit.error is None]
    for visit in visits:
        sessions[visit.session].add(visit.key)
    earlier: set[str] = set()
    linking = set()
    for session, keys in sessions.items():
        if earlier and keys - earlier:
            linking.add(session)
        earlier |= keys
    doubled = 0
    for visit in visits:
        pair = visit.key, visit.round
        is_link = visit.session in linking and visit.key in lut.header.sentinels and seen.get(pair) != visit.session
        doubled += pair in seen and not is_link
        seen[pair] = visit.session
    return sum(pair not in seen for pair in wanted), doubled


def _tail(bench: Bench) -> list[str]:
    return [
        f"{path.relative_to(bench.folder)}:\n{path.read_text(errors='replace')[-1500:]}"
        for path in bench.logs()
        if path.stat().st_size
    ]

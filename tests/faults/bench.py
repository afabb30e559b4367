"""A board and its user, below one folder: commands in processes of their own, and every process that they leave."""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from lightnas_edge.space import load_space
from profiler import clocks
from tests.devices.sshd import SSHD, Sshd, make_key, write_python_wrapper

ROOT = Path(__file__).parents[2]
SPACE = "tiny"
KEYS = tuple(shaped.key for shaped in load_space(SPACE).shaped_operators())
POLL_S = 0.01
COMMAND_LIMIT_S = 150.0  # of a command that the fault does not delay: it takes a few seconds on an idle machine
REST_LIMIT_S = 30.0  # until the agent and the guard of a command that has ended are gone
_PROGRAM = "import sys; from lightnas_edge.cli import profile_device; sys.exit(profile_device(sys.argv[1:]))"
# Python's time module shows another time, as soon as the file says so.
_CLOCK = """
import os, time

def _moved():
    try:
        with open(os.environ["FAULTS_CLOCK"]) as file:
            return float(file.read() or 0)
    except (KeyError, OSError):
        return 0.0

_time, _gmtime, _localtime, _strftime = time.time, time.gmtime, time.localtime, time.strftime
time.time = lambda: _time() + _moved()
time.time_ns = lambda: int(1e9 * time.time())
time.gmtime = lambda seconds=None: _gmtime(time.time() if seconds is None else seconds)
time.localtime = lambda seconds=None: _localtime(time.time() if seconds is None else seconds)
time.strftime = lambda form, moment=None: _strftime(form, time.localtime() if moment is None else moment)
"""

_T = TypeVar("_T")


class Command(NamedTuple):
    """A command that was started; its output grows in a file."""

    process: subprocess.Popen[bytes]
    output: Path

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    @property
    def started(self) -> bool:
        """Whether it is the program that gets signals: a Ctrl-C while Python itself starts ends in Python's traceback."""
        try:
            status = Path(f"/proc/{self.process.pid}/status").read_text()
        except OSError:
            return True  # it has ended
        caught = next((line.split()[1] for line in status.splitlines() if line.startswith("SigCgt:")), None)
        return caught is None or bool(int(caught, 16) >> (signal.SIGTERM - 1) & 1)

    @property
    def text(self) -> str:
        return self.output.read_text(encoding="utf-8", errors="replace")

    def wait(self, limit_s: float = COMMAND_LIMIT_S) -> int | None:
        """Its exit code; None where it did not end, and was killed."""
        try:
            return self.process.wait(limit_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            return None


class Process(NamedTuple):
    """A process below the bench, by its command line."""

    pid: int
    role: str  # run, worker, guard, setup, probe: of the agent; command; sshd: serves a link; other

    def send(self, signum: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signum)


class Bench:
    """This machine as a board. Everything that a command writes lies below `folder`, which all its processes name."""

    host = "localhost"
    rounds = 2  # fewer than a spread needs: no extra visits
    options: tuple[str, ...] = ()

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.table = folder / "tables/table.lut.jsonl"
        self.clock = folder / "clock"
        self.outputs: list[Path] = []
        for name in ("user", "tmp", "shim"):
            (folder / name).mkdir(parents=True)
        (folder / "shim" / "sitecustomize.py").write_text(_CLOCK)

    def make(self) -> None:
        """What must exist before the first command."""

    def close(self) -> None:
        """End everything that still runs below the folder."""
        for process in self.processes():
            process.send(signal.SIGCONT)
            process.send(signal.SIGKILL)

    @property
    def home(self) -> Path:
        """The agent's."""
        return self.folder / "board"

    @property
    def total(self) -> int:
        """Visits of the whole table."""
        return self.rounds * len(KEYS)

    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if name not in ("SSH_AUTH_SOCK", "XDG_CONFIG_HOME")}
        return kept | {
            "HOME": str(self.folder / "user"),
            "LIGHTNAS_EDGE_HOME": str(self.folder / "board"),
            "TMPDIR": str(self.folder / "tmp"),
            "PYTHONPATH": os.pathsep.join([str(self.folder / "shim"), str(ROOT)]),
            "FAULTS_CLOCK": str(self.clock),
            "OMP_NUM_THREADS": "1",
        }

    def start(self, *options: str, table: Path | None = None) -> Command:
        """The command of the user."""
        output = self.folder / f"output-{len(self.outputs)}"
        self.outputs.append(output)
        argv = ["--host", self.host, "--space", SPACE, "--rounds", str(self.rounds), *self.options]
        argv += ["--out", str(table or self.table), *options]
        with output.open("wb") as file:
            process = subprocess.Popen(
                [sys.executable, "-c", _PROGRAM, *argv],
                stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, env=self.environment(),
            )  # fmt: skip
        return Command(process, output)

    def processes(self, role: str | None = None) -> list[Process]:
        """What runs below the folder, or those of one role."""
        mark = os.fsencode(self.folder)
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) == os.getpid():
                continue
            try:
                argv = (entry / "cmdline").read_bytes().split(b"\0")
                if argv == [b""] or mark not in b" ".join(argv) + (entry / "environ").read_bytes():
                    continue
            except OSError:  # it has ended, or belongs to another user
                continue
            found.append(Process(int(entry.name), _role(argv)))
        return [process for process in found if role in (None, process.role)]

    @property
    def job(self) -> Path | None:
        """The folder of the only job on the board."""
        folders = sorted((self.home / "jobs").glob("*"))
        return folders[0] if folders else None

    def in_job(self, name: str) -> Path | None:
        """A file of the job; None where it is missing."""
        path = None if self.job is None else self.job / name
        return path if path is not None and path.exists() else None

    @property
    def visited(self) -> int:
        """Lines of the board's journal after the first."""
        journal = self.in_job("journal.jsonl")
        return 0 if journal is None else max(0, journal.read_bytes().count(b"\n") - 1)

    def settings(self) -> dict[str, str]:
        """What a campaign changes and must restore."""
        return {}

    def logs(self) -> Iterator[Path]:
        """All that commands, agents and guards printed."""
        yield from self.outputs
        for name in ("jobs/*/agent.log", "jobs/*/agent.out", "guard.log"):
            yield from self.home.glob(name)


class VirtualBench(Bench):
    """A virtual board with its stand-ins for sudo, nvpmodel and jetson_clocks: the settings of a campaign."""

    board = "jetson-agx-xavier"
    host = f"virtual:{board}"
    rounds = 10
    options = ("--lock-clocks", "--power-mode", "MODE_15W")

    @property
    def root(self) -> Path:
        return self.folder / "board" / "virtual" / self.board

    @property
    def home(self) -> Path:
        return self.root / "home" / ".lightnas-edge"

    def make(self) -> None:
        argv = [sys.executable, "-c", f"import devices; devices.connect({self.host!r})"]
        subprocess.run(argv, check=True, env=self.environment(), timeout=COMMAND_LIMIT_S)

    def faulty(self, **faults: Any) -> None:
        """What the stand-ins do wrong from now on (devices/_virtual_tools.py)."""
        (self.root / "etc/faults.json").write_text(json.dumps(faults))

    def clock_files(self) -> dict[Path, str]:
        """The limits and locks of clocks, which a reboot resets."""
        return {self.root / "sys" / path: text for path, text in clocks.limits(str(self.root / "sys")).items()}

    def restart(self, reset: dict[Path, str], boot_id: str) -> None:
        """What a reboot changes on the board: the clocks are those of the present power mode, and unlocked."""
        (self.root / "proc/sys/kernel/random/boot_id").write_text(boot_id + "\n")
        for path, text in reset.items():
            path.write_text(text + "\n")
        self.as_root("nvpmodel", "-m", self.settings()["power mode"])

    def as_root(self, tool: str, *arguments: str) -> None:
        """Run one of the board's tools."""
        folder = self.root / "usr/sbin"
        argv = [str(folder / "sudo"), "--", str(folder / tool), *arguments]
        subprocess.run(argv, check=False, capture_output=True, env=self.environment(), timeout=COMMAND_LIMIT_S)

    def settings(self) -> dict[str, str]:
        found = clocks.limits(str(self.root / "sys"))
        found["power mode"] = json.loads((self.root / "etc/nvpmodel.json").read_text())["mode"]
        return found


class SshBench(Bench):
    """This machine behind a real OpenSSH server on loopback."""

    host = "bench"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        (folder / "user/.ssh").mkdir()
        self.server = Sshd(folder / "server", make_key(folder / "user/.ssh/id_ed25519")).start()
        python = write_python_wrapper(folder / "python3")
        host_key = " ".join((folder / "server/host_key.pub").read_text().split()[:2])
        inventory = folder / "user/.config/lightnas-edge/boards.toml"
        inventory.parent.mkdir(parents=True)
        inventory.write_text(
            f'kind = "boards"\nschema = 1\n\n[boards.bench]\nhost = "127.0.0.1"\nuser = "{getpass.getuser()}"\n'
            f'port = {self.server.port}\npython = "{python}"\nhost_key = "{host_key}"\n'
        )

    @staticmethod
    def available() -> bool:
        return SSHD is not None

    @property
    def home(self) -> Path:
        return self.server.home / ".lightnas-edge"

    def processes(self, role: str | None = None) -> list[Process]:
        if role != "sshd":
            return super().processes(role)
        return [Process(pid, "sshd") for pid in self.server.sessions()] if self.server.process is not None else []

    def close(self) -> None:
        for pid in self.server.sessions() if self.server.process is not None else []:
            Process(pid, "session").send(signal.SIGCONT)
        self.server.stop()
        super().close()


def wait_for(condition: Callable[[], _T], limit_s: float) -> _T:
    """The first true value of `condition()`, or its last one."""
    end_s = time.monotonic() + limit_s
    while True:
        found = condition()
        if found or time.monotonic() > end_s:
            return found
        time.sleep(POLL_S)


def _role(argv: Sequence[bytes]) -> str:
    words = [word.decode(errors="replace") for word in argv]
    for at, word in enumerate(words[:-1]):
        if re.search(r"/agent/[0-9a-f]{64}\.pyz$", word):
            return words[at + 1]
    return "command" if _PROGRAM in words else "other"

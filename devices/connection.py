"""How the host reaches a board: files and commands, nothing else."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from devices.errors import BoardUnreachableError

LONGEST_READ = 1 << 30  # bytes; a board may send without end

# Starts its arguments (log file, command...) in a session of their own and ends at once, so that the command belongs
# to init: it survives us, and leaves no zombie when it ends.
DETACH = (
    "import subprocess, sys; log = open(sys.argv[1], 'ab'); "
    "child = subprocess.Popen(sys.argv[3:], stdin=subprocess.DEVNULL, stdout=open(sys.argv[2], 'ab'), stderr=log, "
    "start_new_session=True); child.returncode = 0"
)


class Completed(NamedTuple):
    """A command that has ended."""

    returncode: int
    stdout: bytes
    stderr: bytes


class Connection(Protocol):
    """A board within reach. Paths are the board's own, absolute.

    Implementers guarantee: commands are argument lists, never shell text; `put` is seen whole or not at all; every
    method raises BoardUnreachableError, and nothing else, when the board or the file cannot be reached.
    """

    name: str
    poll_s: float  # interval between polls of a job: each poll costs the board some work
    agent_options: tuple[str, ...]  # further options of `run`, `setup` and `probe`

    @property
    def backend(self) -> str:
        """The engine to measure with, unless the user names another."""

    def run(self, argv: Sequence[str], *, timeout_s: float, stdin: bytes = b"") -> Completed:
        """Run a command to its end."""

    def start(self, argv: Sequence[str], *, log: str, output: str) -> None:
        """Start a command that continues without this connection. Its standard error is appended to `log`, its output to `output`."""

    def home(self) -> str:
        """The agent's folder on the board."""

    def python(self) -> str:
        """The Python that runs the agent."""

    def put(self, local: Path, remote: str) -> None:
        """Copy a file to the board, checked by SHA-256, replaced by rename."""

    def put_all(self, files: Sequence[tuple[Path, str]]) -> None:
        """`put` for many files: each is seen whole or not at all, and files that arrived stay when one fails."""

    def read(self, remote: str, offset: int = 0, *, limit: int = LONGEST_READ) -> bytes:
        """The bytes of a file from an offset on; an error where there are more than `limit`."""

    def sha256(self, remote: str, length: int | None = None) -> str:
        """The SHA-256 of a file, or of its first `length` bytes, computed on the board."""

    def exists(self, remote: str) -> bool: ...

    def size(self, remote: str) -> int:
        """Bytes."""

    def listdir(self, remote: str) -> dict[str, int]:
        """The names in a folder, each with its size in bytes."""

    def remove(self, remote: str) -> None:
        """Remove a file; no error where it is missing."""

    def mkdir(self, remote: str) -> None:
        """Make a folder and those above it; no error where it exists."""

    def signal(self, pid: int, signum: int) -> bool:
        """Send a signal (0: only check); False where there is no such process, or only a zombie."""


def connect(host: str) -> Connection:
    """The board behind a name: localhost, virtual:BOARD, an entry of boards.toml or ~/.ssh/config, or an address.

    An address is HOST or USER@HOST:PORT.

    Raises:
        InventoryError: there is no such virtual board, or boards.toml is faulty.
        BoardUnreachableError: it cannot be reached.
    """
    if host == "localhost":
        return LocalConnection()
    if host.startswith("virtual:"):
        from devices.virtual import VirtualConnection

        return VirtualConnection(host)
    from devices.ssh import connect_ssh  # paramiko takes a while to import

    return connect_ssh(host)


def default_backend(connection: Connection) -> str:
    """TensorRT on a Jetson, else ONNX Runtime on the CPU."""
    return "tensorrt" if connection.exists("/etc/nv_tegra_release") else "onnxruntime"


class LocalConnection:
    """This machine as a board. LIGHTNAS_EDGE_HOME names the agent's folder; ~/.lightnas-edge otherwise."""

    name = "localhost"
    poll_s = 0.25
    agent_options: tuple[str, ...] = ()

    @property
    def backend(self) -> str:
        return default_backend(self)

    def run(self, argv: Sequence[str], *, timeout_s: float, stdin: bytes = b"") -> Completed:
        try:
            ended = subprocess.run(list(argv), input=stdin, capture_output=True, timeout=timeout_s, check=False)
        except subprocess.TimeoutExpired as err:
            raise BoardUnreachableError(f"{argv[0]} did not end within {timeout_s:g} s on {self.name}") from err
        except OSError as err:
            raise _unreachable(f"cannot run {argv[0]}", err) from err
        return Completed(ended.returncode, ended.stdout, ended.stderr)

    def start(self, argv: Sequence[str], *, log: str, output: str) -> None:
        ended = self.run([sys.executable, "-c", DETACH, log, output, *argv], timeout_s=60)
        if ended.returncode != 0:
            text = ended.stderr.decode(errors="replace").strip()
            raise BoardUnreachableError(f"cannot start {argv[0]} on {self.name}: {text.splitlines()[-1]}")

    def home(self) -> str:
        return os.path.abspath(os.environ.get("LIGHTNAS_EDGE_HOME") or os.path.expanduser("~/.lightnas-edge"))

    def python(self) -> str:
        return sys.executable

    def put(self, local: Path, remote: str) -> None:
        # Not `write_atomic`: a file of any size is copied without reading it whole, and checked as on other boards.
        part = f"{remote}.part-{os.getpid()}"
        try:
            shutil.copyfile(local, part)
            if _sha256(Path(part)) != _sha256(local):
                raise BoardUnreachableError(f"{local} arrived damaged as {part}")
            os.replace(part, remote)
        except OSError as err:
            raise _unreachable(f"cannot copy {local} to {remote}", err) from err
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.remove(part)

    def put_all(self, files: Sequence[tuple[Path, str]]) -> None:
        for local, remote in files:
            self.put(local, remote)

    def sha256(self, remote: str, length: int | None = None) -> str:
        return hashlib.sha256(self.read(remote)[:length]).hexdigest()

    def read(self, remote: str, offset: int = 0, *, limit: int = LONGEST_READ) -> bytes:
        try:
            with open(remote, "rb") as file:
                file.seek(offset)
                content = file.read(limit + 1)
        except OSError as err:
            raise _unreachable(f"cannot read {remote}", err) from err
        if len(content) > limit:
            raise too_long(remote, self.name, limit)
        return content

    def exists(self, remote: str) -> bool:
        return os.path.exists(remote)

    def size(self, remote: str) -> int:
        try:
            return os.path.getsize(remote)
        except OSError as err:
            raise _unreachable(f"cannot read {remote}", err) from err

    def listdir(self, remote: str) -> dict[str, int]:
        try:
            with os.scandir(remote) as entries:
                return {entry.name: entry.stat().st_size for entry in entries}
        except OSError as err:
            raise _unreachable(f"cannot list {remote}", err) from err

    def remove(self, remote: str) -> None:
        try:
            os.remove(remote)
        except FileNotFoundError:
            pass
        except OSError as err:
            raise _unreachable(f"cannot remove {remote}", err) from err

    def mkdir(self, remote: str) -> None:
        try:
            os.makedirs(remote, exist_ok=True)
        except OSError as err:
            raise _unreachable(f"cannot make the folder {remote}", err) from err

    def signal(self, pid: int, signum: int) -> bool:
        try:
            # A process that has ended may stay as a zombie where no process reaps it, as in many containers.
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
            if state in ("Z", "X"):
                return False
            os.kill(pid, signal.Signals(signum) if signum else 0)
        except (FileNotFoundError, ProcessLookupError):
            return False
        except OSError as err:
            raise _unreachable(f"cannot signal process {pid}", err) from err
        return True


def last_line(output: bytes) -> bytes:
    """The last line of a command's output: a login shell may print a greeting before it."""
    return (output.strip().splitlines() or [b""])[-1]


def too_long(remote: str, name: str, limit: int) -> BoardUnreachableError:
    return BoardUnreachableError(f"{remote} on {name} is longer than the limit of {limit} bytes")


def _unreachable(what: str, err: OSError) -> BoardUnreachableError:
    return BoardUnreachableError(f"{what} on localhost: {err.strerror or err}")


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

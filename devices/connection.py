"""How the host reaches a board: files and commands, nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

LONGEST_READ = 1 << 30  # bytes; a board may send without end


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

    def hurry(self) -> None:
        """From now on, give up within seconds on a board out of reach: somebody waits for the end."""

    @property
    def backend(self) -> str:
        """The engine to measure with, unless the user names another."""

    def run(self, argv: Sequence[str], *, timeout_s: float, stdin: bytes = b"") -> Completed:
        """Run a command to its end."""

    def start(self, argv: Sequence[str], *, log: str, output: str) -> int:
        """Start a command that continues without this connection; its process id.

        Its standard error is appended to `log`, its output to `output`.
        """

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

    def read_part(self, remote: str, offset: int, length: int) -> bytes:
        """At most `length` bytes of a file from an offset on; fewer only at its end."""

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

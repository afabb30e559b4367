"""Whether the process that a file on a board names still runs there.

A number alone does not decide it: the kernel uses numbers again, and starts from the first one after a reboot. The boot,
the time of the start and the command line do. All of it is read as files: the board measures meanwhile.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple, Protocol

from devices.connection import Connection
from devices.errors import BoardUnreachableError

_LONGEST = 1 << 20  # bytes of a file of /proc; profiler/processes.py reads as much of a command line
_START_TICKS = 19  # index of the field in /proc/PID/stat, after the name in brackets
_ENDED = ("Z", "X", "x")


class ProcessRecord(Protocol):
    """What the agent writes about its process: status.json, agent.lock."""

    @property
    def pid(self) -> int: ...
    @property
    def boot_id(self) -> str | None: ...
    @property
    def start_ticks(self) -> int | None: ...
    @property
    def command(self) -> str | None: ...


class StartedProcess(NamedTuple):
    """A process as it was just after its start. A board's `python3` may be a script that runs another program in its place."""

    pid: int
    boot_id: str | None
    start_ticks: int  # 0: it had ended already
    command: None = None


def identify(connection: Connection, pid: int) -> StartedProcess:
    """The process that has this number now."""
    fields = _stat(connection, pid)
    ticks = fields[_START_TICKS] if fields else ""
    return StartedProcess(pid, _boot_id(connection), int(ticks) if ticks.isdecimal() else 0)


def is_alive(connection: Connection, process: ProcessRecord) -> bool:
    """Whether this very process runs on the board. What its record does not state does not count."""
    fields = _stat(connection, process.pid)
    if not fields:
        return False
    if process.start_ticks is not None and fields[_START_TICKS] != str(process.start_ticks):
        return False
    if process.command is not None:
        command = hashlib.sha256(_read(connection, f"/proc/{process.pid}/cmdline")).hexdigest()
        if not command.startswith(process.command):
            return False
    return process.boot_id in (None, _boot_id(connection))


def send_signal(connection: Connection, process: ProcessRecord, signum: int) -> bool:
    """Send a signal to this very process; False where it has ended, whoever has its number now."""
    return is_alive(connection, process) and connection.signal(process.pid, signum)


def _stat(connection: Connection, pid: int) -> list[str]:
    """The kernel's line about a process, after its name; empty where it has ended."""
    fields = _read(connection, f"/proc/{pid}/stat").decode(errors="replace").rpartition(")")[2].split()
    return [] if len(fields) <= _START_TICKS or fields[0] in _ENDED else fields


def _boot_id(connection: Connection) -> str | None:
    return _read(connection, "/proc/sys/kernel/random/boot_id").decode(errors="replace").strip() or None


def _read(connection: Connection, path: str) -> bytes:
    """The content of a system file; empty where it is missing."""
    if not connection.exists(path):
        return b""
    try:
        return connection.read(path, limit=_LONGEST)
    except BoardUnreachableError:
        if connection.exists(path):
            raise
        return b""  # the process ended in between

"""Whether the process that a file on a board names still runs there.

A number alone does not decide it: the kernel uses numbers again, and starts from the first one after a reboot. The boot
and the time of the start do. All of it is read as files: the board measures meanwhile.
"""

from __future__ import annotations

from typing import Protocol

from devices.connection import Connection
from devices.errors import BoardUnreachableError

_LONGEST = 4096  # bytes of a file of /proc
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


def is_alive(connection: Connection, process: ProcessRecord) -> bool:
    """Whether this very process runs on the board."""
    fields = _read(connection, f"/proc/{process.pid}/stat").rpartition(")")[2].split()
    if len(fields) <= _START_TICKS or fields[0] in _ENDED:
        return False
    if process.start_ticks is not None and fields[_START_TICKS] != str(process.start_ticks):
        return False
    return process.boot_id in (None, _read(connection, "/proc/sys/kernel/random/boot_id").strip() or None)


def send_signal(connection: Connection, process: ProcessRecord, signum: int) -> bool:
    """Send a signal to this very process; False where it has ended, whoever has its number now."""
    return is_alive(connection, process) and connection.signal(process.pid, signum)


def _read(connection: Connection, path: str) -> str:
    """The text of a system file; empty where it is missing."""
    if not connection.exists(path):
        return ""
    try:
        return connection.read(path, limit=_LONGEST).decode(errors="replace")
    except BoardUnreachableError:
        if connection.exists(path):
            raise
        return ""  # the process ended in between

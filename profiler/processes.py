"""Identifies a process for as long as it lives: a process number alone is used again, after a reboot above all."""

import hashlib
import os
from typing import NamedTuple, Optional

from profiler.fields import Fields

_MOST_TICKS = 2**63 - 1  # the kernel counts 100 in a second, for years
_LONGEST_COMMAND = 1 << 20  # bytes of a command line that count
_ENDED = ("Z", "X", "x")  # zombies and the dead; a container without an init process keeps them


class ProcessId(NamedTuple):
    """A process: its number, the boot that it belongs to, when it began within that boot, and its command line."""

    pid: int
    boot_id: Optional[str]
    start_ticks: Optional[int]
    command: Optional[str]  # the beginning of the SHA-256 of its command line

    @classmethod
    def read(cls, fields: Fields) -> "ProcessId":
        return cls(
            fields.whole("pid", 1),
            fields.optional_text("boot_id"),
            fields.optional_whole("start_ticks", 0, _MOST_TICKS),
            fields.optional_text("command"),
        )

    def lives(self, proc: str = "/proc") -> bool:
        """Whether this very process runs."""
        return identify(self.pid, proc) == self


def identify(pid: int, proc: str = "/proc") -> Optional[ProcessId]:
    """The process that has this number now; None when none does."""
    try:
        with open(os.path.join(proc, str(pid), "stat"), "rb") as file:
            # The name before the bracket may contain anything.
            fields = file.read(4096).decode("ascii", "replace").rpartition(")")[2].split()
    except OSError:
        return None
    if len(fields) < 20 or fields[0] in _ENDED or not fields[19].isdigit():
        return None
    return ProcessId(pid, boot_id(proc), int(fields[19]), _command(pid, proc))


def this_process() -> ProcessId:
    """The identity of the running process."""
    return identify(os.getpid()) or ProcessId(os.getpid(), boot_id(), None, None)


def _command(pid: int, proc: str) -> Optional[str]:
    try:
        with open(os.path.join(proc, str(pid), "cmdline"), "rb") as file:
            return hashlib.sha256(file.read(_LONGEST_COMMAND)).hexdigest()[:16]
    except OSError:
        return None


def boot_id(proc: str = "/proc") -> Optional[str]:
    """The identity of this boot; None where the kernel does not state it."""
    try:
        with open(os.path.join(proc, "sys/kernel/random/boot_id"), "rb") as file:
            return file.read(100).decode("ascii", "replace").strip() or None
    except OSError:
        return None

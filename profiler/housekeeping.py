"""Bounds what earlier campaigns left in the agent's home. The newest stay; what a process uses stays too.

The agent calls it while it has the board's lock: no other agent is at work then. Models and inputs are bounded by the host
when it sends new ones, the engines of one version of TensorRT by their cache.
"""

import os
import re
import shutil
from typing import Callable, List, NamedTuple, Set

ARCHIVES = 4  # agents: one for each version of the program that measures on this board
TENSORRT_FOLDERS = 2  # engines of an earlier version are of no use after an update of JetPack
JOBS = 500
JOBS_BYTES = 1 << 30  # all job folders together


class _Entry(NamedTuple):
    path: str
    used_s: float  # the latest change of it, or of a file in it
    size: int


def tidy(home: str, job: str, log: Callable[[str], None], proc: str = "/proc") -> None:
    """Remove what is older than the newest few of each kind.

    Args:
        job: its folder is in use.
    """
    in_use = _command_lines(proc)
    archives = _entries(os.path.join(home, "agent"), r"[0-9a-f]{64}\.pyz")
    _remove("agents of other versions", [row for row in archives[ARCHIVES:] if row.path not in in_use], log)
    _remove("folders of other versions of TensorRT", _entries(os.path.join(home, "tensorrt"), r".+-sm\d+")[TENSORRT_FOLDERS:], log)  # fmt: skip
    _remove("old jobs", _too_many(home, job), log)


def mark_used(archive: str) -> None:
    """The latest use of an agent's archive counts, not its arrival."""
    try:
        os.utime(archive)
    except OSError:
        pass  # it is no archive, or belongs to another user


def _too_many(home: str, job: str) -> List[_Entry]:
    kept_bytes, found = 0, []
    for number, entry in enumerate(_entries(os.path.join(home, "jobs"), r"[0-9a-f]{16}")):
        if os.path.basename(entry.path) == job:
            continue  # its own outputs must not push out what other jobs measured
        kept_bytes += entry.size
        if number >= JOBS or kept_bytes > JOBS_BYTES:
            kept_bytes -= entry.size
            found.append(entry)
    return found


def _entries(folder: str, pattern: str) -> List[_Entry]:
    """Files and folders with such a name, the latest used first."""
    try:
        names = [name for name in os.listdir(folder) if re.match("(?:" + pattern + ")$", name)]
    except OSError:
        return []
    found = []
    for name in names:
        path = os.path.join(folder, name)
        try:
            stats = [os.lstat(path)]
            if not os.path.islink(path):
                stats += [os.lstat(os.path.join(at, file)) for at, _, files in os.walk(path) for file in files]
        except OSError:
            continue  # another process removes it
        found.append(_Entry(path, max(stat.st_mtime for stat in stats), sum(stat.st_size for stat in stats)))
    return sorted(found, key=lambda entry: -entry.used_s)


def _command_lines(proc: str) -> Set[str]:
    """All words of the command lines of all processes: a guard runs from its archive for as long as its campaign."""
    words: Set[str] = set()
    for name in os.listdir(proc):
        if name.isdigit():
            try:
                with open(os.path.join(proc, name, "cmdline"), "rb") as file:
                    words.update(os.fsdecode(word) for word in file.read(1 << 20).split(b"\0"))
            except OSError:
                pass  # it has ended
    return words


def _remove(what: str, entries: List[_Entry], log: Callable[[str], None]) -> None:
    for entry in entries:
        if os.path.islink(entry.path) or os.path.isfile(entry.path):
            try:
                os.remove(entry.path)
            except OSError:
                pass  # it belongs to another user
        else:
            shutil.rmtree(entry.path, ignore_errors=True)
    if entries:
        log("removed {} {}, {:.1f} MB".format(len(entries), what, sum(entry.size for entry in entries) / 1e6))

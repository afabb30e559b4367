"""Files of earlier jobs on a board: models, inputs and agents, all of which can be sent again.

Jobs with their journals are measurements, not cache: nothing here touches them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from devices.connection import Connection
from devices.errors import BoardBusyError
from devices.liveness import is_alive
from lightnas_edge.errors import RecordError
from lightnas_edge.records.job import LockHolder

LIMIT_BYTES = 2 << 30  # per folder; the smallest Jetson boots from a card of 16 GB
FOLDERS = ("models", "data", "agent")
LONGEST_NOTE = 1 << 20  # bytes of the small files that an agent writes about itself


@dataclass(frozen=True)
class Cleaned:
    """The files that a clean-up removed."""

    files: int
    size_bytes: int


def make_room(connection: Connection, folder: str, size_bytes: int, *, keep: Iterable[Path]) -> None:
    """Keep a folder of the cache within LIMIT_BYTES after `size_bytes` more; the files of this job stay."""
    present = connection.listdir(folder)
    kept = {path.name for path in keep}
    total = sum(present.values()) + size_bytes
    for name, size in present.items():
        if total <= LIMIT_BYTES:
            return
        if name not in kept:
            connection.remove(f"{folder}/{name}")
            total -= size


def clean(connection: Connection) -> Cleaned:
    """Empty the cache, and remove the remains of broken transfers and the engines that TensorRT built.

    Journals stay, and TensorRT's timing caches, which are small and make building the engines again much faster.

    Raises:
        BoardBusyError: an agent is at work there.
    """
    home = connection.home()
    holder = lock_holder(connection)
    if holder is not None:
        raise BoardBusyError(
            f"an agent is at work on {connection.name}: pid {holder.pid}, job {holder.job}",
            hint="wait for it to end",
        )
    files = size_bytes = 0
    jobs = [f"jobs/{job}" for job in _listdir(connection, f"{home}/jobs")]
    engines = [f"tensorrt/{version}" for version in _listdir(connection, f"{home}/tensorrt")]
    for folder in (*FOLDERS, *engines, *jobs):
        for name, size in _listdir(connection, f"{home}/{folder}").items():
            built = folder in engines and name.endswith((".engine", ".engine.json"))
            if folder in FOLDERS or built or ".part-" in name:
                connection.remove(f"{home}/{folder}/{name}")
                files, size_bytes = files + 1, size_bytes + size
    return Cleaned(files, size_bytes)


def lock_holder(connection: Connection) -> LockHolder | None:
    """The agent that has the board's lock, if its process lives; None where the file names no agent."""
    path = f"{connection.home()}/agent.lock"
    if not connection.exists(path):
        return None
    try:
        holder = LockHolder.parse(connection.read(path, limit=LONGEST_NOTE), path)
    except RecordError:
        return None  # an agent that has the lock nevertheless refuses a second one
    return holder if is_alive(connection, holder) else None


def is_job(name: str) -> bool:
    """Whether a name is that of a job: it becomes part of paths."""
    return re.fullmatch(r"[0-9a-f]{16}", name) is not None


def _listdir(connection: Connection, folder: str) -> dict[str, int]:
    return connection.listdir(folder) if connection.exists(folder) else {}

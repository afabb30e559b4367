"""One writer per run directory."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from lightnas_edge.errors import RunError

LOCK = ".lock"
_held: dict[tuple[int, int], int] = {}  # (device, inode) of the locks of this process -> how many times


@contextmanager
def write_lock(folder: Path, purpose: str) -> Iterator[None]:
    """Be the only writer of a folder, which is made where it is missing.

    The kernel releases the lock when the process ends, however it ends; the file stays and holds the last writer's
    identity. A process may take a lock that it has already.

    Args:
        purpose: what is written, for the message that another process gets: "search".

    Raises:
        RunError: another process writes there, or the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise RunError(
            f"cannot write to {folder}: {error.strerror}", hint="choose a folder that you may write to"
        ) from error
    try:
        status = os.fstat(descriptor)
        key = status.st_dev, status.st_ino
        if key not in _held:
            _acquire(descriptor, folder, purpose)
        _held[key] = _held.get(key, 0) + 1
        try:
            yield
        finally:
            _held[key] -= 1
            if not _held[key]:
                del _held[key]
    finally:
        os.close(descriptor)


def _acquire(descriptor: int, folder: Path, purpose: str) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise RunError(
            f"another process writes to {folder}: {_holder(descriptor)}",
            hint="wait until it ends, or choose another folder with --out",
        ) from error
    except OSError:  # a file system without locks
        return
    writer = {
        "pid": os.getpid(),
        "purpose": purpose,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, (json.dumps(writer) + "\n").encode(), 0)


def _holder(descriptor: int) -> str:
    try:
        writer = json.loads(os.pread(descriptor, 4096, 0))
        return f"{writer['purpose']}, pid {writer['pid']}, since {writer['started']}"
    except (ValueError, KeyError, TypeError, RecursionError):
        return "its identity is unknown"

"""A metrics file that agrees with the checkpoint."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lightnas_edge.errors import RunError


class MetricsLog:
    """JSON lines, appended in small batches; its `position` goes into the checkpoint and cuts it back on resume."""

    def __init__(self, path: Path, position: int = 0) -> None:
        self._path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("ab")
            self.position = min(position, path.stat().st_size)
            self._file.truncate(self.position)
        except OSError as error:
            raise disk_error(path, error) from error

    def write(self, lines: Iterable[dict[str, Any]]) -> None:
        """Raises RunError when the disk is full."""
        text = "".join(json.dumps(line, allow_nan=False) + "\n" for line in lines).encode()
        try:
            self._file.write(text)
            self._file.flush()
        except OSError as error:
            raise disk_error(self._path, error) from error
        self.position += len(text)

    def sync(self) -> None:
        """Force to disk, before a checkpoint names the position."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


def disk_error(path: Path, error: OSError) -> RunError:
    """What a failed write means for the user."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return RunError(
        f"cannot write {path}: {'the disk is full' if full else error}",
        hint="what was saved before is kept; free some space, then run the same command again",
    )

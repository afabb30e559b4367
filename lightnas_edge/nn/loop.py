"""What every long loop needs: checkpoints that survive a power cut, a metrics file that agrees with them, a gentle
Ctrl-C.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import threading
from collections.abc import Iterable
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import torch

from lightnas_edge.errors import RunError


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write beside, force to disk, rename: there is always one whole checkpoint.

    Raises:
        RunError: it cannot be written, for instance because the disk is full; the checkpoint before it is kept.
    """
    part = path.with_name(path.name + ".part")
    try:
        with part.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except (OSError, RuntimeError) as error:  # torch wraps a failed write in a RuntimeError
        part.unlink(missing_ok=True)
        raise _disk_trouble(path, error) from error


def load_checkpoint(path: Path, *, schema: int, oldest: int = 1) -> dict[str, Any]:
    """A checkpoint as it was saved; nothing but tensors and plain values is unpickled.

    Raises:
        RunError: it is damaged, of a newer schema, or of one before `oldest`.
    """
    remedy = "--fresh begins anew"
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises half a dozen kinds for a damaged file
        raise RunError(f"the checkpoint {path} cannot be read: {str(error).splitlines()[0]}", hint=remedy) from error
    if not isinstance(state, dict) or not isinstance(state.get("schema"), int) or state["schema"] > schema:
        found = state.get("schema") if isinstance(state, dict) else None
        raise RunError(f"the checkpoint {path} has schema {found!r}; this program reads up to {schema}", hint=remedy)
    if state["schema"] < oldest:
        raise RunError(
            f"the checkpoint {path} was written by an earlier version (schema {state['schema']}); this one reads {oldest}",
            hint=remedy,
        )
    return state


def require_same(held: dict[str, Any], asked: dict[str, Any], what: str, hint: str = "--fresh begins anew") -> None:
    """A run is gone on with only under the question it began with.

    Raises:
        RunError: names every field that differs.
    """
    differing = [name for name in sorted({*held, *asked}) if held.get(name) != asked.get(name)]
    if differing:
        changes = "\n".join(f"  {name}: was {held.get(name)!r}, now {asked.get(name)!r}" for name in differing)
        raise RunError(f"{what} was begun differently\n{changes}", hint=hint)


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
            raise _disk_trouble(path, error) from error

    def write(self, lines: Iterable[dict[str, Any]]) -> None:
        """Raises RunError when the disk is full."""
        text = "".join(json.dumps(line, allow_nan=False) + "\n" for line in lines).encode()
        try:
            self._file.write(text)
            self._file.flush()
        except OSError as error:
            raise _disk_trouble(self._path, error) from error
        self.position += len(text)

    def sync(self) -> None:
        """Force to disk, before a checkpoint names the position."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


class Interruptible:
    """Ctrl-C asks once: `requested` turns true and the loop stops where it can be gone on with. A second one is
    immediate.
    """

    def __init__(self) -> None:
        self.requested = False
        self._previous: Any = None

    def __enter__(self) -> Interruptible:
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGINT, self._ask)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def _ask(self, signum: int, frame: FrameType | None) -> None:
        self.requested = True
        self._restore()

    def _restore(self) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)
            self._previous = None


def choose_device(name: str) -> torch.device:
    """`auto` is a CUDA device where there is one."""
    return torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)


def random_state(device: torch.device) -> dict[str, torch.Tensor]:
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def restore_random_state(state: dict[str, torch.Tensor], device: torch.device) -> None:
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)


def _disk_trouble(path: Path, error: Exception) -> RunError:
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    what = "the disk is full" if full else str(error)
    return RunError(
        f"cannot write {path}: {what}", hint="what was saved before is kept; make room and run the same command again"
    )

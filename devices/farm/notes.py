"""One small file for each reservation of this machine. Its holder keeps it locked, so an unlocked one is a dead holder's."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

_LARGEST = 65536  # bytes


@dataclass(frozen=True)
class Note:
    """A reservation in a coordinator. `wanted`: the tags of the place, as they were typed."""

    coordinator: str
    token: str
    wanted: str


def notes_folder() -> Path:
    """Below XDG_STATE_HOME, or ~/.local/state."""
    state = os.environ.get("XDG_STATE_HOME")
    folder = Path(state) if state and os.path.isabs(state) else Path.home() / ".local" / "state"
    return folder / "lightnas-edge" / "places"


@contextlib.contextmanager
def kept(note: Note) -> Iterator[None]:
    """The note, locked for as long as the block runs, and removed after it."""
    folder = notes_folder()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{note.token}.json"
    with path.open("w", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        json.dump(asdict(note), file)
        file.flush()
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def read_notes() -> Iterator[tuple[Path, Note, bool]]:
    """File, note, and whether its holder lives. A file that is no note is left out."""
    for path in sorted(notes_folder().glob("*.json")):
        try:
            with path.open("r+", encoding="utf-8") as file:
                note = Note(**{name: str(value) for name, value in json.loads(file.read(_LARGEST)).items()})
                yield path, note, _is_locked(file.fileno())
        except (OSError, ValueError, TypeError, AttributeError):
            continue


def _is_locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    return False

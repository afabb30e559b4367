"""Reads small text files of the kernel, and explains those that cannot be read."""

import errno
import math
import os
from typing import List, Optional, Sequence, Tuple

Refusal = Tuple[str, Exception]  # a path, and the OSError or ValueError of reading it


def read_text(path: str) -> str:
    """The text of a file without blanks at the ends. Raises OSError."""
    with open(path, "rb") as file:
        return file.read(4096).decode("ascii", "replace").strip()


def read_number(path: str) -> Optional[float]:
    """The finite number in a file, or None: the file is absent, unreadable or contains something else."""
    try:
        value = float(read_text(path))
    except (OSError, ValueError):
        return None
    return value if math.isfinite(value) else None


def entries(folder: str) -> List[str]:
    """Paths in a folder, sorted; none for a folder that does not exist."""
    try:
        return [os.path.join(folder, name) for name in sorted(os.listdir(folder))]
    except OSError:
        return []


def refusals(paths: Sequence[str]) -> List[Refusal]:
    """The files that give no number."""
    refused: List[Refusal] = []
    for path in paths:
        try:
            float(read_text(path))
        except (OSError, ValueError) as err:
            refused.append((path, err))
    return refused


def why(refused: Sequence[Refusal]) -> str:
    """One line for the refusals of one rail, with every file named."""
    return ", ".join("{} ({})".format(path, _short(err)) for path, err in refused)


def is_denied(refused: Sequence[Refusal]) -> bool:
    return any(getattr(err, "errno", None) in (errno.EACCES, errno.EPERM) for _, err in refused)


def _short(err: Exception) -> str:
    if isinstance(err, OSError):
        return os.strerror(err.errno) if err.errno else str(err)
    return "not a number"

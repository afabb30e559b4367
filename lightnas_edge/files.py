"""Writing files so that no reader meets half of one."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO


def write_atomic(path: Path, content: str | bytes, *, durable: bool = False) -> None:
    """Replace a file by rename; the folder is made where it is missing.

    Args:
        content: text is written as UTF-8.
        durable: as of `replaced`.

    Raises:
        OSError: the file cannot be written.
    """
    with replaced(path, durable=durable) as file:
        file.write(content.encode("utf-8") if isinstance(content, str) else content)


@contextmanager
def replaced(path: Path, *, durable: bool = False) -> Iterator[BinaryIO]:
    """A file to write the new content of `path` into, which takes its place at the end of the block.

    The new content lies in `NAME.part` until it is whole. After a failure the earlier file is unchanged and the part
    is removed.

    Args:
        durable: force the content to disk before the rename, for what a power cut must not lose.

    Raises:
        OSError: the file cannot be written.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    try:
        with part.open("wb") as file:
            yield file
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def write_json(path: Path, record: Any, *, indent: int | None = 2) -> None:
    """Replace a JSON file by rename.

    Raises:
        ValueError: the record holds NaN or infinity; `finite` turns them into null.
        OSError: the file cannot be written.
    """
    write_atomic(path, json.dumps(record, indent=indent, allow_nan=False) + "\n")


def finite(value: Any) -> Any:
    """The same JSON value with null in place of every number that is not finite, at any depth; tuples become lists."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def set_aside(path: Path) -> Path | None:
    """Move a file or folder to `.old`, or to `.old2`, `.old3`, ... where there is one already: that may be the complete one.

    Returns:
        Where it is now; None where there was nothing to move.

    Raises:
        OSError: it cannot be moved.
    """
    if not path.exists():
        return None
    number = 1
    while (old := path.with_name(f"{path.name}.old{'' if number == 1 else number}")).exists():
        number += 1
    os.replace(path, old)
    return old


def sha256_of(content: bytes) -> str:
    """64 hex digits."""
    return hashlib.sha256(content).hexdigest()


def sha256_of_file(path: Path) -> str:
    """64 hex digits of a file's content, read in pieces.

    Raises:
        OSError: the file cannot be read.
    """
    return sha256_of_start(path, None)


def sha256_of_start(path: Path, length: int | None) -> str:
    """As `sha256_of_file`, of the first `length` bytes; of all where it is None.

    Raises:
        OSError: the file cannot be read.
    """
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        left = math.inf if length is None else length
        while block := file.read(int(min(left, 1 << 20))):
            digest.update(block)
            left -= len(block)
    return digest.hexdigest()

"""Checkpoints: replaced by rename, proven by a checksum, resumed only under the settings that they belong to.

A file is two lines of text, a name and the SHA-256 of all that follows, and then what `torch.save` writes.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch

from lightnas_edge.errors import RunError
from lightnas_edge.files import sha256_of, write_atomic
from lightnas_edge.nn.metrics_log import disk_error
from lightnas_edge.records.differences import changes
from lightnas_edge.records.plain_text import first_line

FRESH = "repeat the command with --fresh to begin again"
_NAME = b"lightnas-edge checkpoint\n"
_HEADER_BYTES = len(_NAME) + 64 + 1


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write to a second file, force it to disk, rename: there is always one whole checkpoint.

    Raises:
        RunError: it cannot be written, for instance because the disk is full; the checkpoint before it is kept.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    payload = buffer.getvalue()
    try:
        write_atomic(path, b"%s%s\n%s" % (_NAME, sha256_of(payload).encode(), payload), durable=True)
    except OSError as error:
        raise disk_error(path, error) from error


def load_checkpoint(path: Path, *, schema: int) -> dict[str, Any]:
    """A checkpoint as it was saved; nothing but tensors and plain values is unpickled.

    Raises:
        RunError: it is damaged, no checkpoint, or of another schema.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise RunError(f"cannot read {path}: {error.strerror}", hint=FRESH) from error
    if not content.startswith(_NAME):
        raise RunError(f"{path} is not a checkpoint, or its beginning is damaged", hint=FRESH)
    payload = content[_HEADER_BYTES:]
    if content[len(_NAME) : _HEADER_BYTES] != sha256_of(payload).encode() + b"\n":
        raise RunError(f"the checkpoint {path} is damaged: its content does not match its checksum", hint=FRESH)
    try:
        state = torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises half a dozen types
        raise RunError(f"the checkpoint {path} cannot be read: {first_line(error)}", hint=FRESH) from error
    found = state.get("schema") if isinstance(state, dict) else None
    if found != schema:
        raise RunError(f"the checkpoint {path} has schema {found}; this version reads schema {schema}", hint=FRESH)
    return dict(state)


def require_same(was: dict[str, Any], now: dict[str, Any], what: str, hint: str = FRESH) -> None:
    """A run is resumed only under the settings that it began with.

    Args:
        what: "the search in runs/tiny".

    Raises:
        RunError: names every setting that differs.
    """
    differing = changes(was, now)
    if differing:
        raise RunError("\n".join([f"{what} began with other settings", *differing]), hint=hint)

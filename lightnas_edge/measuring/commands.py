"""Commands that a message names: with the settings that the numbers in question were measured with."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from lightnas_edge.records.plain_text import clean_text
from lightnas_edge.space import Space

_USUAL = (("precision", "fp32"), ("batch", 1), ("threads", 1))


def sample_command(space: Space, fingerprint: Mapping[str, Any] | None = None, *options: str) -> str:
    """`lightnas-edge sample --host HOST --space tiny --classes 10 ...`, in backquotes.

    Args:
        fingerprint: of the measurements that further networks are to join.
        options: further ones, as words of the command.
    """
    fingerprint = fingerprint or {}
    board = clean_text(str(fingerprint.get("board")), 100)
    words = ["lightnas-edge", "sample", "--host", board if board.startswith("virtual:") else "HOST"]
    words += ["--space", space.name, "--classes", str(space.classes)]
    for name, usual in _USUAL:
        value = fingerprint.get(name)
        if value not in (None, usual):
            words += [f"--{name}", clean_text(str(value), 100)]
    return f"`{shlex.join([*words, *options])}`"

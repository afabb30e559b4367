"""Commands that a message names."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

import luts
from lightnas_edge.space import Space


def sample_command(space: Space, fingerprint: Mapping[str, Any] | None = None, *options: str) -> str:
    """`lightnas-edge sample --host HOST --space tiny --classes 10 ...`, in backquotes.

    Args:
        fingerprint: of the measurements that further networks are to join.
        options: further ones, as words of the command.
    """
    words = shlex.split(luts.measuring_options(None, space.option, space.classes, fingerprint))
    return f"`{shlex.join(['lightnas-edge', 'sample', *words, *options])}`"

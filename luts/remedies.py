"""The options of the commands that measure, for remedies: with the settings of the numbers that they are to join."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from lightnas_edge.records.lut import LutHeader
from lightnas_edge.records.plain_text import clean_text

_DEFAULTS = (("precision", "fp32"), ("batch", 1), ("threads", 1), ("streams", 1))


def measuring_options(
    host: str | None, space: str | None, classes: int | None = None, fingerprint: Mapping[str, Any] | None = None
) -> str:
    """Options of `profile-device` or `lightnas-edge sample`, quoted for a shell.

    Args:
        host: of the board; None where it is unknown, and then `HOST` unless the fingerprint is a virtual board's.
        space: its name; None where it is unknown, and then `NAME`.
        fingerprint: of the table that the measurements are to join.
    """
    words = [*_host(host, fingerprint), "--space", space or "NAME"]
    if classes is not None:
        words += ["--classes", str(classes)]
    return shlex.join(words + _settings(fingerprint))


def table_options(host: str | None, header: LutHeader) -> str:
    """Options of the command that adds to a table: `profile-device --model FILE` for one about a model file."""
    if header.space is not None:
        options = measuring_options(host, header.space, header.classes, header.fingerprint)
    else:
        options = shlex.join([*_host(host, header.fingerprint), "--model", "FILE", *_settings(header.fingerprint)])
    return shlex.join([*shlex.split(options), *_board_setup(header)])


def _board_setup(header: LutHeader) -> list[str]:
    """Measured in another state, the numbers would not join the table."""
    if header.board_setup is None:
        return []
    mode = header.board_setup.power_mode
    return [
        *([] if mode is None else ["--power-mode", mode]),
        *(["--lock-clocks"] if header.board_setup.lock_clocks else []),
    ]


def _host(host: str | None, fingerprint: Mapping[str, Any] | None) -> list[str]:
    board = clean_text(str((fingerprint or {}).get("board")), 100)
    return ["--host", host or (board if board.startswith("virtual:") else None) or "HOST"]


def _settings(fingerprint: Mapping[str, Any] | None) -> list[str]:
    fingerprint = fingerprint or {}
    words = []
    for name, default in _DEFAULTS:
        value = fingerprint.get(name)
        if value not in (None, default):
            words += [f"--{name}", clean_text(str(value), 100)]
    if fingerprint.get("cuda_graph") is True:
        words.append("--cuda-graph")
    return words

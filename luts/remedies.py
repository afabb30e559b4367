"""The options of the commands that fill a table, for remedies."""

from __future__ import annotations

import shlex

from lightnas_edge.records.lut import LutHeader
from lightnas_edge.records.plain_text import clean_text


def measuring_options(header: LutHeader | None, host: str | None) -> str:
    """Options with which `profile-device` or `lightnas-edge sample` adds to a table.

    Args:
        header: None where it cannot be read; the space is then `NAME`.
        host: of the board; None where it is unknown, and then `HOST` unless the header is that of a virtual board.
    """
    board = "" if header is None else clean_text(str(header.fingerprint.get("board")), 100)
    host = host or (board if board.startswith("virtual:") else None)
    options = [f"--host {host_option(host)}", f"--space {'NAME' if header is None else shlex.quote(header.space)}"]
    if header is not None:
        options.append(f"--classes {header.classes}")
        for name, default in (("precision", "fp32"), ("batch", 1), ("threads", 1)):
            value = header.fingerprint.get(name)
            if value not in (None, default):
                options.append(f"--{name} {shlex.quote(clean_text(str(value), 100))}")
    return " ".join(options)


def host_option(host: str | None) -> str:
    """The value of `--host`, quoted for a shell; `HOST` where it is unknown."""
    return "HOST" if host is None else shlex.quote(host)

"""Commands pass through the login shell of the user's account: writing them so that every shell reads them, and its faults."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Sequence

from devices.connection import Completed
from devices.errors import BoardUnreachableError
from lightnas_edge.records.plain_text import clean_lines

_MARK = "lightnas-edge-reaches-its-command"
SHELL_LIMIT_S = 10.0
# csh keeps no newline in quotes and expands ! there, fish reads backslashes there, zsh expands a leading =.
_UNSAFE = re.compile(r"[\n\r!\\]|^=")
_ESCAPED = re.compile(rb"[^A-Za-z0-9_./,:@+= -]")


def command_line(argv: Sequence[str]) -> str:
    """A command for sh, csh, tcsh, zsh and fish alike; every argument arrives as it is."""
    text = shlex.join(argv)
    if not any(_UNSAFE.search(argument) for argument in argv):
        return text
    octal = _ESCAPED.sub(lambda match: b"\\0%03o" % match[0][0], text.encode("utf-8", "surrogateescape")).decode()
    return f"""sh -c 'eval "$(printf "%b" "{octal}")"'"""


def fault(execute: Callable[[str, float], Completed], name: str) -> BoardUnreachableError | None:
    """What is wrong with the login shell; None where it runs a command and prints nothing of its own.

    Args:
        execute: runs a command line within a limit in seconds.

    Raises:
        OSError, EOFError, paramiko.SSHException: the link does not answer at all.
    """
    try:
        # `exec` too: the SFTP server is started through it, and a restricted shell refuses it.
        ended = execute(f"exec echo {_MARK}", SHELL_LIMIT_S)
    except BoardUnreachableError:
        return BoardUnreachableError(
            f"the login shell of {name} runs no command within {SHELL_LIMIT_S:g} s",
            hint="its start files (~/.bashrc, ~/.profile) wait for something or start a program;\n"
            "do that only where a person types: case $- in *i*) ... ;; esac",
        )
    printed, reached, _ = ended.stdout.partition(_MARK.encode())
    if reached and not printed.strip():
        return None
    if reached:
        return BoardUnreachableError(
            f"the login shell of {name} prints text before every command: {_words(printed) or 'control sequences'}",
            hint="print only where a person types; first line of ~/.bashrc: case $- in *i*) ;; *) return ;; esac",
        )
    if ended.returncode != 0:
        words = _words(ended.stderr) or _words(ended.stdout)
        return BoardUnreachableError(
            f"the login shell of {name} ends before it runs a command (exit code {ended.returncode})"
            + (f": {words}" if words else ""),
            hint="look at its start files on the board (~/.bashrc, ~/.profile, ~/.cshrc);\n"
            "a restricted shell, nologin or false cannot run the agent: chsh -s /bin/bash",
        )
    return BoardUnreachableError(
        f"the login shell of {name} does not run the command that it is given",
        hint="its start file starts another shell; do that only where a person types: case $- in *i*) exec zsh ;; esac",
    )


def _words(output: bytes) -> str:
    """The first line with text, cut."""
    first = clean_lines(output.decode(errors="replace"), max_lines=1, max_chars=200)
    return f'"{first}"' if first else ""

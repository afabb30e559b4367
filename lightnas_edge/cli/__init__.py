"""The command line: `lightnas-edge COMMAND` and `profile-device`.

Parsing and printing only; the work is in the library. `main` returns the exit code:
0 done, 1 failed, 2 wrong usage, 3 ran well but the budget is not met, 130 interrupted.
"""

from __future__ import annotations

import argparse
import errno
import os
import sys
from collections.abc import Callable, Sequence

from lightnas_edge._version import __version__

# The commands are imported where they are needed: that takes a second, and Ctrl-C must be answered there too.

__all__ = ["main", "profile_device"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    return _answer_interrupts(lambda: _run(_all_commands(), argv))


def profile_device(argv: Sequence[str] | None = None) -> int:
    """`profile-device` is `lightnas-edge profile`."""
    return _answer_interrupts(lambda: _run(_profile_alone(), argv))


def _all_commands() -> argparse.ArgumentParser:
    from lightnas_edge.cli import (
        boards,
        demo,
        export,
        fit,
        import_,
        lut,
        probe,
        profile,
        pull,
        range,
        refine,
        report,
        sample,
        search,
        space,
        train,
        verify,
    )

    parser = argparse.ArgumentParser(
        prog="lightnas-edge",
        description="Find the most accurate network that keeps a latency budget on your own board, and prove it there.",
        epilog="Start with `lightnas-edge demo`: the whole story on this machine.",
    )
    parser.add_argument("--version", action="version", version=f"lightnas-edge {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    # The order of the story.
    for command in (
        demo, space, boards, probe, profile, pull, lut, sample, fit, import_, range, search, refine, train, export, verify, report,
    ):  # fmt: skip
        command.add_parser(commands)
    return parser


def _profile_alone() -> argparse.ArgumentParser:
    from lightnas_edge.cli import profile

    parser = argparse.ArgumentParser(prog="profile-device", description=profile.DESCRIPTION)
    profile.add_arguments(parser)
    return parser


def _answer_interrupts(work: Callable[[], int]) -> int:
    try:
        return work()
    except KeyboardInterrupt:
        print(
            "\ninterrupted; what was measured or trained is kept, and the same command goes on from there",
            file=sys.stderr,
            flush=True,
        )
        return 130


def _run(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> int:
    from devices import DeviceError
    from lightnas_edge.errors import LightnasEdgeError
    from luts import LutError

    # Threads that wait by spinning make training several times slower as soon as anything else wants a core.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        arguments = parser.parse_args(argv)
    except SystemExit as exit_:  # argparse has printed the help or what is wrong
        return exit_.code if isinstance(exit_.code, int) else 2
    try:
        code: int = arguments.run(arguments)
        return code
    except (LightnasEdgeError, LutError, DeviceError) as error:
        return _tell(error, error.hint, error.exit_code)
    except BrokenPipeError:  # `lightnas-edge lut show ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        hint = "free some space and run the same command again: it goes on from what was written" if full else ""
        return _tell(error, hint, 1)


def _tell(error: Exception, hint: str, exit_code: int) -> int:
    from lightnas_edge.cli._console import note

    message = error.args[0] if len(error.args) == 1 else error  # a KeyError's str() would quote it
    note(f"{type(error).__name__}: {message}")
    for line in hint.splitlines():
        note(f"  {line}")
    return exit_code

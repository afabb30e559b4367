"""The command line: `lightnas-edge COMMAND` and `profile-device`.

Parsing and printing only; the work is in the library. `main` returns the exit code:
0 done, 1 failed, 2 wrong usage, 3 ran well but the budget is not met, 130 interrupted.
"""

from __future__ import annotations

import argparse
import errno
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence

from lightnas_edge._version import __version__

# The commands are imported where they are needed: that takes a second, and Ctrl-C must be answered then too.

__all__ = ["main", "profile_device"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    return _run(all_commands, argv)


def profile_device(argv: Sequence[str] | None = None) -> int:
    """`profile-device` is `lightnas-edge profile`."""
    return _run(profile_device_alone, argv)


def run_command(argv: Sequence[str]) -> int:
    """Run one command within another, which has set up the output already."""
    return _execute(all_commands(), argv)


def all_commands() -> argparse.ArgumentParser:
    """The parser of `lightnas-edge`."""
    from lightnas_edge.cli import (
        boards,
        completion,
        demo,
        export,
        field_test,
        fit,
        import_,
        lut,
        precision,
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
    from lightnas_edge.cli._options import CommandParser, add_output_options

    parser = CommandParser(
        prog="lightnas-edge",
        description="Find the most accurate network that keeps a latency budget on your own board, and verify it there.",
        epilog="Start with `lightnas-edge demo`: all steps on this machine.",
    )
    parser.add_argument("--version", action="version", version=f"lightnas-edge {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    # In the order of the work.
    for command in (
        demo, space, boards, probe, field_test, profile, pull, lut, sample, fit, import_, range, search, refine, train, export, verify, precision, report,
        completion,
    ):  # fmt: skip
        command.add_parser(commands)
    profile.add_arguments(commands.add_parser("profile-device", description=profile.DESCRIPTION))  # not listed twice
    for leaf in leaf_parsers(parser):
        add_output_options(leaf)
    return parser


def profile_device_alone() -> argparse.ArgumentParser:
    """The parser of `profile-device`."""
    from lightnas_edge.cli import profile
    from lightnas_edge.cli._options import CommandParser, add_output_options

    parser = CommandParser(prog="profile-device", description=profile.DESCRIPTION)
    parser.add_argument("--version", action="version", version=f"profile-device {__version__}")
    profile.add_arguments(parser)
    add_output_options(parser)
    return parser


def leaf_parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """The parsers of all commands and actions, `boards add` among them."""
    nested = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not nested:
        yield parser
    for action in nested:
        for each in action.choices.values():
            yield from leaf_parsers(each)


def _run(make_parser: Callable[[], argparse.ArgumentParser], argv: Sequence[str] | None) -> int:
    from lightnas_edge.cli._interrupts import acknowledge_interrupts
    from lightnas_edge.own_packages import ForeignPackageError, require_own_packages

    try:
        require_own_packages()
    except ForeignPackageError as error:
        print("\n  ".join([f"error: {error}", *error.hint.splitlines()]), file=sys.stderr, flush=True)
        return error.exit_code
    # Threads that wait by spinning make training several times slower as soon as anything else wants a core.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        with acknowledge_interrupts():
            return _execute(make_parser(), argv, outermost=True)
    except KeyboardInterrupt:
        print(
            "\ninterrupted; measurements and checkpoints are kept; the same command continues from there",
            file=sys.stderr,
            flush=True,
        )
        return 130
    except BrokenPipeError:  # `lightnas-edge lut show ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141  # as a shell reports SIGPIPE: a verdict that nobody has read is none


def _execute(parser: argparse.ArgumentParser, argv: Sequence[str] | None, *, outermost: bool = False) -> int:
    """Parse and run one command; every error but Ctrl-C and a closed pipe becomes a message and an exit code."""
    import contextlib

    from lightnas_edge.cli import _console
    from lightnas_edge.cli._places import run_on_places

    try:
        arguments = parser.parse_args(argv)
    except SystemExit as exit_:  # argparse has printed the help or what is wrong
        return exit_.code if isinstance(exit_.code, int) else 2
    with contextlib.ExitStack() as stack:
        if outermost:
            try:
                stack.enter_context(
                    _console.output(verbose=arguments.verbose, quiet=arguments.quiet, log_file=arguments.log_file)
                )
            except _console.UsageError as error:
                print(f"{parser.prog}: error: {error}", file=sys.stderr, flush=True)
                return error.exit_code
        _console.debug(f"{parser.prog} {__version__}: {shlex.join(sys.argv[1:] if argv is None else argv)}")
        try:
            code = run_on_places(arguments)
        except (KeyboardInterrupt, BrokenPipeError) as error:
            _console.debug(type(error).__name__)
            raise
        except Exception as error:
            return _report(error, log_file=arguments.log_file)
        _console.debug(f"exit code {code}")
        return code


def _report(error: Exception, *, log_file: object) -> int:
    """Say what went wrong, and what to do next; returns the exit code."""
    from lightnas_edge.cli._console import report_error
    from lightnas_edge.errors import LightnasEdgeError

    if isinstance(error, LightnasEdgeError):
        message = str(error.args[0] if len(error.args) == 1 else error)  # a KeyError's str() would quote it
        title, hint, code = f"{type(error).__name__}: {message}", error.hint, error.exit_code
    elif isinstance(error, OSError):
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        title, code = f"{type(error).__name__}: {error}", 1
        hint = "free some space and run the same command again: it continues from what was written" if full else ""
    elif isinstance(error, MemoryError):
        title, code = f"MemoryError: {error}" if str(error) else "MemoryError: no memory is left", 1
        hint = "close other programs, or choose smaller batches and fewer --workers"
    else:
        title, code = f"unexpected {type(error).__name__}: {error}", 1
        hint = f"{log_file} holds the traceback" if log_file else "--log-file FILE keeps the traceback, -v shows it"
    lines = [title, *(f"  {line}" for line in hint.splitlines())]
    report_error("\n".join(lines), error)
    return code

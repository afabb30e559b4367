"""Running a command in this process."""

import contextlib
import io
from collections import namedtuple

from lightnas_edge.cli import main

CommandResult = namedtuple("CommandResult", "code out err")


def run(*argv):
    """One command: its exit code, standard output and standard error."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([str(argument) for argument in argv])
    return CommandResult(code, out.getvalue(), err.getvalue())

"""Running a command in this process."""

import contextlib
import io
import os
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

from lightnas_edge.cli import main

CommandResult = namedtuple("CommandResult", "code out err")


def run(*argv):
    """One command: its exit code, standard output and standard error."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([str(argument) for argument in argv])
    return CommandResult(code, out.getvalue(), err.getvalue())


def environment(home=None):
    added = {} if home is None else {"LIGHTNAS_EDGE_HOME": str(home / "home")}
    return {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), **added}


def program(*arguments, stdin=None, home=None, **options):
    code = "import sys; from lightnas_edge.cli import main; sys.exit(main(sys.argv[1:]))"
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=environment(home), **options,
    )  # fmt: skip

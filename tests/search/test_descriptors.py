"""Compiled solvers cannot write into the results of a command."""

import subprocess
import sys

import pytest

PROGRAM = """
import ctypes, os
from lightnas_edge.search._descriptors import stdout_to_stderr
libc = ctypes.CDLL(None)
print("before")
with stdout_to_stderr():
    libc.puts(b"from C, buffered")
    os.write(1, b"from C, at once\\n")
print("after")
"""


def test_what_a_library_prints_goes_to_standard_error():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)

    assert done.stdout == "before\nafter\n"
    assert done.stderr == "from C, buffered\nfrom C, at once\n"


@pytest.mark.parametrize("before", ["", "import os; assert os.open(os.devnull, os.O_RDONLY) == 2"])
def test_it_works_without_a_standard_error(before):
    """A library may open a file that takes descriptor 2: SQLite does so with /dev/null, to read."""
    done = subprocess.run(
        ["sh", "-c", 'exec "$0" -c "$1" 2>&-', sys.executable, before + PROGRAM], capture_output=True, text=True
    )

    assert (done.returncode, done.stdout) == (0, "before\nafter\n")

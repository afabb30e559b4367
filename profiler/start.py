"""The first module of the agent's archive: says in one line what this Python lacks, before anything needs it."""

import importlib
import json
import sys

# Modules of the standard library that a Python built without a system library lacks, with that library's package.
_PARTS = (("ctypes", "libffi-dev"), ("zlib", "zlib1g-dev"), ("select", "libc6-dev"), ("fcntl", "libc6-dev"))


def main() -> int:
    """Run the agent; its exit code."""
    for name, package in _PARTS:
        try:
            importlib.import_module(name)
        except ImportError as err:
            return _refuse(name, package, err)
    from profiler.__main__ import main as run_agent

    return run_agent()


def _refuse(name: str, package: str, err: ImportError) -> int:
    record = {
        "kind": "error",
        "schema": 1,
        "code": "python",
        "message": "the Python {} lacks its module {}: {}".format(sys.executable, name, err),
        "remedy": "sudo apt-get install {} and build this Python again, or name another one with `python =` in "
        "boards.toml".format(package),
        "exit_code": 1,
    }
    print(json.dumps(record))
    return 1

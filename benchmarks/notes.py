"""Notes on standard error; the results of a benchmark are on standard output."""

from __future__ import annotations

import sys


def note(line: str) -> None:
    print(line, file=sys.stderr, flush=True)

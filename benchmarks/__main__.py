"""`make bench`: ratios and counts of this machine, each with its target. Never part of the tests.

    python -m benchmarks              all but the slow ones (SLOW in the module), which run only when named
    python -m benchmarks measuring    one

A benchmark is a module `bench_NAME.py` with `rows() -> list[(what, value, target)]`.
"""

from __future__ import annotations

import importlib
import sys
import time
from pathlib import Path
from types import ModuleType

from benchmarks.notes import note
from lightnas_edge.cli._console import duration, print_table


def main(argv: list[str]) -> int:
    found = sorted(path.stem.removeprefix("bench_") for path in Path(__file__).parent.glob("bench_*.py"))
    unknown = sorted(set(argv) - set(found))
    if unknown:
        note(f"no such benchmark: {', '.join(unknown)}; choose from: {', '.join(found)}")
        return 2
    for name in argv or [each for each in found if not getattr(_module(each), "SLOW", False)]:
        note(f"{name} ...")
        started_s = time.monotonic()
        rows = _module(name).rows()
        print_table(
            [f"{name} ({duration(time.monotonic() - started_s)})", "measured", "target"], [list(row) for row in rows]
        )
        print(flush=True)
    return 0


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"benchmarks.bench_{name}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

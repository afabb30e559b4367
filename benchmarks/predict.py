"""`make bench-predict`: predictors against measurements that other people published, and against this machine.

    python -m benchmarks.predict                        every data set in ../shared/data (or DATA=FOLDER)
    python -m benchmarks.predict blocks cells           some of them
    python -m benchmarks.predict --figures docs/img     the pictures of docs/prediction.md as well
    python -m benchmarks.predict local --measure        this machine, measured now: some ten minutes

Every number is of held-out rows: models, prior scales and intervals are fitted to the other rows. Seeds are part of the
table.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from benchmarks import predict_board, predict_local, predict_optimum, predict_tables
from benchmarks.figures import Drawing
from benchmarks.notes import note
from benchmarks.verdicts import Section
from lightnas_edge.cli._console import duration, print_table
from lightnas_edge.errors import LightnasEdgeError

SETS: dict[str, Callable[[Drawing], Section]] = {
    "board": predict_board.section,
    "cells": predict_tables.cells,
    "convnets": predict_tables.convnets,
    "blocks": predict_tables.blocks,
    "optimum": predict_optimum.board,
    "optimum-macro": predict_optimum.macro,
    "speed": predict_local.speed,
    "local": predict_local.measured,
    "statistics": predict_local.statistics,
    "optimum-local": predict_optimum.local,
}
MEASURING = ("local", "statistics", "optimum-local")  # of this machine, which takes minutes


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.predict", description=__doc__.splitlines()[0])
    parser.add_argument(
        "sets", nargs="*", metavar="SET", help=f"of {', '.join(SETS)} (default: those that measure nothing)"
    )
    parser.add_argument("--figures", type=Path, metavar="DIR", help="draw the pictures there")
    parser.add_argument("--measure", action="store_true", help="this machine too: some ten minutes")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the table as JSON")
    arguments = parser.parse_args(argv)
    unknown = sorted(set(arguments.sets) - set(SETS))
    if unknown:
        note(f"no such set: {', '.join(unknown)}; choose from: {', '.join(SETS)}")
        return 2
    chosen = arguments.sets or [name for name in SETS if name not in MEASURING or arguments.measure]
    drawing = Drawing(arguments.figures)
    started_s = time.monotonic()
    found: dict[str, Section] = {}
    failed: list[str] = []
    for name in chosen:
        note(f"{name} ...")
        at_s = time.monotonic()
        try:
            found[name] = SETS[name](drawing)
        except LightnasEdgeError as error:  # a folder may lack a part of a set, or hold another file of this name
            found[name] = Section(name, skipped=f"not evaluated: {error}")
        except Exception as error:  # a fault of one set must not lose the others
            traceback.print_exc()
            failed.append(name)
            found[name] = Section(name, skipped=f"failed: {type(error).__name__}: {error}")
        _print_section(name, found[name], time.monotonic() - at_s)
    rows = [row for section in found.values() for row in section.rows]
    targets = [row for row in rows if row.met is not None]
    missed = [row for row in targets if not row.met]
    print(f"{len(targets) - len(missed)} of {len(targets)} targets met, in {duration(time.monotonic() - started_s)}")
    for row in missed:
        print(f"  missed: {row.what}: {row.shown}, target {row.target}")
    for name in failed:
        print(f"  failed: {name}")
    if arguments.json:
        record = {
            name: {"skipped": section.skipped, "rows": [row.to_json() for row in section.rows]}
            for name, section in found.items()
        }
        arguments.json.write_text(json.dumps(record, indent=1), encoding="utf-8")
    return 1 if failed else 0


def _print_section(name: str, section: Section, seconds: float) -> None:
    if section.skipped:
        print(f"{name}: {section.skipped}\n")
        return
    columns = [f"{section.title} ({duration(seconds)})", "found", "target", "met"]
    print_table(columns, [[row.what, row.shown, row.target, row.verdict] for row in section.rows])
    print(flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

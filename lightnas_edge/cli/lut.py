"""`lightnas-edge lut`: look at a table, check it, take it elsewhere."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from pathlib import Path

import luts
from lightnas_edge.cli._console import known, ms, note, percent, print_json, print_table, say, warn
from lightnas_edge.space import load_space


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("lut", help="show, check or export a look-up table")
    actions = parser.add_subparsers(metavar="ACTION", required=True)

    show = actions.add_parser("show", help="a readable table", epilog="example: lightnas-edge lut show board.lut.jsonl")
    show.add_argument("lut", type=Path, metavar="LUT")
    show.add_argument("--json", action="store_true", help="for machines")
    show.set_defaults(run=_show)

    check = actions.add_parser(
        "check", help="is it whole, and does it cover a space?",
        epilog="exit code 0: whole; 1: damaged lines, or operators missing",
    )  # fmt: skip
    check.add_argument("lut", type=Path, metavar="LUT")
    check.add_argument("--space", metavar="NAME|FILE", help="default: the space the table was measured for")
    check.set_defaults(run=_check)

    export = actions.add_parser("export", help="CSV on stdout or into a file")
    export.add_argument("lut", type=Path, metavar="LUT")
    export.add_argument("--out", type=Path, metavar="FILE", help="default: standard output")
    export.set_defaults(run=_export)


def _show(arguments: argparse.Namespace) -> int:
    lut = luts.read(arguments.lut)
    entries = sorted(lut.entries.values(), key=_place) + list(lut.networks.values())
    if arguments.json:
        print_json({
            "kind": "lut-summary", "fingerprint": lut.fingerprint,
            "entries": [
                {"key": entry.key, "latency_ms": entry.latency_ms, "standard_error_ms": known(entry.standard_error_ms),
                 "spread": known(entry.spread), "samples": len(entry.samples_ms), "unstable": entry.unstable,
                 "energy_mj": None if entry.energy_mj is None else asdict(entry.energy_mj)}
                for entry in entries
            ],
        })  # fmt: skip
        return 0
    described = ", ".join(f"{name} {value}" for name, value in lut.fingerprint.items() if value not in (None, False))
    say(f"{arguments.lut}: {described}{'  SIMULATED' if lut.simulated else ''}")
    rows = [
        [
            entry.key, ms(entry.latency_ms), f"± {ms(entry.standard_error_ms)}", percent(entry.spread),
            str(len(entry.samples_ms)), str(entry.energy_mj or ""), "unstable" if entry.unstable else "",
        ]
        for entry in entries
    ]  # fmt: skip
    columns = ["operator", "latency ms", "error ms", "spread", "samples", "energy", ""]
    if not any(entry.energy_mj for entry in entries):
        columns.remove("energy")
        rows = [[*row[:5], row[6]] for row in rows]
    print_table(columns, rows)
    _tell_faults(lut)
    return 0


def _place(entry: luts.Entry) -> tuple[int, int, int, str]:
    """Roughly from input to output, as far as shapes tell."""
    record = entry.record
    return -record.get("input_size", 0), record.get("in_channels", 0), record.get("out_channels", 0), entry.key


def _check(arguments: argparse.Namespace) -> int:
    lut = luts.read(arguments.lut)
    space = load_space(arguments.space or str(lut.header["space"]))
    coverage = lut.coverage([shaped.key for shaped in space.shaped_operators()])
    say(str(coverage))
    lacking = [*coverage.missing, *coverage.failed]
    for key in coverage.failed:
        warn(f"{key} failed: {lut.failed[key].get('message', 'no reason given')}")
    if lacking:
        only = " ".join(f"--only '{key}'" for key in lacking[:3]) if len(lacking) <= 3 else ""
        note(f"  to fill it: lightnas-edge profile --space {space.name} --out {arguments.lut} {only}".rstrip())
    _tell_faults(lut)
    return 1 if lacking or lut.faults else 0


def _export(arguments: argparse.Namespace) -> int:
    lut = luts.read(arguments.lut)
    lut.to_frame().to_csv(arguments.out or sys.stdout, index=False)
    _tell_faults(lut)
    return 0


def _tell_faults(lut: luts.Lut) -> None:
    for fault in lut.faults:
        warn(f"{lut.path}:{fault.line}: {fault.what}")

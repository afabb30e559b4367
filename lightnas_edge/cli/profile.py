"""`lightnas-edge profile`, also `profile-device`: measure every operator of a space on a board."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import devices
import luts
from lightnas_edge.cli._console import percent, print_json, print_result
from lightnas_edge.cli._measuring import announce_estimate, measure_with_progress, report_table
from lightnas_edge.cli._options import (
    add_classes,
    add_host,
    add_json,
    add_measuring,
    add_space,
    announce_default_host,
    chosen_space,
    settings,
    sudo_password,
)
from lightnas_edge.measuring import select_operators, write_profile_job
from lightnas_edge.measuring.tables import table_path

DESCRIPTION = "Measure every operator of a search space on a board, one by one, into a look-up table (LUT)."


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("profile", help="measure every operator of a space: a LUT", description=DESCRIPTION)
    add_arguments(parser)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = f"example: {parser.prog} --host localhost --space tiny"
    add_host(parser)
    add_space(parser)
    add_classes(parser)
    add_measuring(parser, rounds=25)
    parser.add_argument(
        "--only", action="append", default=[], metavar="OPERATOR",
        help="a key, NAME@LAYER (layers count from 0) or a glob such as '*_e6@*'; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="the table (default: named after host, space, settings)"
    )
    add_json(parser)
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    space = chosen_space(arguments)
    operators = select_operators(space, arguments.only)
    announce_default_host(arguments)
    password = sudo_password(arguments)
    connection = devices.connect(arguments.host)
    chosen = settings(arguments, connection)
    table = arguments.out or table_path(arguments.host, space.name, chosen)
    began_s = time.monotonic()
    job, lut = measure_with_progress(
        connection,
        lambda folder, tell: write_profile_job(folder, space, chosen, operators=operators, on_progress=tell),
        table, title=f"measuring {space.name} on {arguments.host}", fresh=arguments.fresh, sudo_password=password,
        announce=lambda job: announce_estimate(len(job.keys), chosen),
    )  # fmt: skip
    seconds = time.monotonic() - began_s
    coverage = lut.coverage([shaped.key for shaped in space.shaped_operators()])
    repeatability = luts.repeatability(lut)
    if arguments.json:
        print_json({
            "kind": "profile", "lut": str(table), "found": len(coverage.found), "missing": list(coverage.missing),
            "failed": list(coverage.failed), "repeatability": repeatability.operators,
            "fingerprint": lut.fingerprint, "simulated": lut.simulated,
        })  # fmt: skip
    else:
        report_table(job, lut, energy=arguments.energy, seconds=seconds)
        print_result(f"{space.name}: {coverage}; repeatability: {percent(repeatability.operators, 2)}")
    return 0 if all(key in lut.entries for key in job.keys) else 1

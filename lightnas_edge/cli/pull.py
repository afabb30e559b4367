"""`lightnas-edge pull`: bring the tables that a board holds."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import devices
import luts
from devices import RemoteJob
from lightnas_edge.cli._console import note, print_json, say, warn
from lightnas_edge.cli._options import add_host
from lightnas_edge.cli._tables import fetch_table


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "pull", help="bring the tables that a board holds",
        description="Bring what was measured on a board, by whomever, into tables here. A table that is here already "
        "gets what it lacks; one that holds other measurements is left alone and the board's goes beside it.",
        epilog="example: lightnas-edge pull --host jetson.local",
    )  # fmt: skip
    add_host(parser)
    parser.add_argument("--space", metavar="NAME", help="only tables of this space")
    parser.add_argument("--out", type=Path, default=Path(), metavar="DIR", help="default: the current folder")
    parser.add_argument("--json", action="store_true", help="for machines")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    connection = devices.connect(arguments.host)
    jobs, faults = devices.remote_jobs(connection)
    for fault in faults:
        warn(f"{arguments.host}: {fault}")
    chosen = [job for job in jobs if arguments.space in (None, job.space)]
    arguments.out.mkdir(parents=True, exist_ok=True)
    pulled = [_pull(connection, arguments.host, job, arguments.out) for job in chosen]
    if arguments.json:
        print_json({"kind": "pull", "schema": 1, "host": arguments.host, "tables": pulled})
    else:
        for table in pulled:
            say(_line(table))
    if not pulled:
        of_space = f" of space {arguments.space}" if arguments.space else ""
        remedy = f"`lightnas-edge profile --host {arguments.host}` makes some"
        note(f"{arguments.host} holds no measurements{of_space}; {remedy}")
    return 1 if faults else 0


def _pull(connection: devices.Connection, host: str, job: RemoteJob, folder: Path) -> dict[str, Any]:
    """One table: its file, what was new, what it holds."""
    path, fetched = fetch_table(connection, host, job, folder)
    lut = luts.read(path)
    for fault in lut.faults:
        warn(f"{path}:{fault.line}: {fault.what}")
    return {
        "lut": str(path), "job": job.job, "purpose": job.purpose, "space": job.space, "operators": len(lut.entries),
        "networks": len(lut.networks), "bytes": fetched, "faults": len(lut.faults), "simulated": lut.simulated,
    }  # fmt: skip


def _line(table: dict[str, Any]) -> str:
    simulated = "  SIMULATED" if table["simulated"] else ""
    held = f"{table['operators']} operators, {table['networks']} networks"
    return f"{table['lut']}: {held}, {table['bytes']} bytes new{simulated}"

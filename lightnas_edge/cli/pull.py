"""`lightnas-edge pull`: fetch the tables that a board holds."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import devices
import luts
from devices import RemoteJob
from lightnas_edge.cli._console import info, print_json, print_result, progress, warn
from lightnas_edge.cli._fleet import for_each_host
from lightnas_edge.cli._leftover import restore_leftover
from lightnas_edge.cli._options import add_host, add_json
from lightnas_edge.fleet import chosen_hosts
from lightnas_edge.measuring.tables import fetch_table


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "pull", help="fetch the tables that a board holds",
        description="Fetch the measurements that a board holds, from any host, into tables on this side. An existing table gets the "
        "lines that it lacks; one with other measurements stays unchanged, and the board's goes to a file of another name.",
        epilog="example: lightnas-edge pull --host jetson.local",
    )  # fmt: skip
    add_host(parser, several=True)
    parser.add_argument("--space", metavar="NAME", help="only tables of this space")
    parser.add_argument("--out", type=Path, default=Path(), metavar="DIR", help="default: the current folder")
    add_json(parser)
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    found, code = for_each_host(arguments, lambda host: _pull_from(arguments, host))
    if arguments.json:
        documents = [document for document, _ in found]
        print_json(documents if len(chosen_hosts(arguments.host)) > 1 else documents[0])
    return max([code, *(fault for _, fault in found)])


def _pull_from(arguments: argparse.Namespace, host: str) -> tuple[dict[str, Any], int]:
    """Every table of one board, and the exit code."""
    connection = devices.connect(host)
    restore_leftover(connection)
    jobs, faults = devices.remote_jobs(connection)
    for fault in faults:
        warn(f"{host}: {fault}")
    chosen = [job for job in jobs if arguments.space in (None, job.space)]
    arguments.out.mkdir(parents=True, exist_ok=True)
    pulled = []
    with progress(f"fetching tables from {host}") as bar:
        megabytes, total = 0.0, sum(job.size_bytes for job in chosen) / 1e6
        for job in chosen:
            bar(round(megabytes, 1), round(total, 1), f"MB  {job.space} {job.purpose}")
            pulled.append(_pull(connection, host, job, arguments.out))
            megabytes += job.size_bytes / 1e6
    if not arguments.json:
        for table in pulled:
            print_result(_line(table))
    if not pulled:
        of_space = f" of space {arguments.space}" if arguments.space else ""
        remedy = f"`lightnas-edge profile --host {host} --space {arguments.space or 'NAME'}` makes some"
        info(f"{host} holds no measurements{of_space}; {remedy}")
    return {"kind": "pull", "schema": 1, "host": host, "tables": pulled}, 1 if faults else 0


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
    content = f"{table['operators']} operators, {table['networks']} networks"
    return f"{table['lut']}: {content}, {table['bytes']} bytes new{simulated}"

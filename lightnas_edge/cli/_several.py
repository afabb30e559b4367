"""Commands for one network of a search, or for all of them."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import TypeVar

from lightnas_edge.cli._console import info, print_json, report_error
from lightnas_edge.errors import LightnasEdgeError
from lightnas_edge.records.base import Record
from lightnas_edge.runs import Run

Result = TypeVar("Result")


def add_all(parser: argparse.ArgumentParser, verb: str) -> None:
    parser.add_argument("--all", action="store_true", help=f"{verb} every network of a search that found several")


def chosen_runs(arguments: argparse.Namespace) -> list[Run]:
    """The named run, or with --all every network of its search.

    Raises:
        RunError: the folder is no run, or holds no network.
    """
    run = Run.open(arguments.run_folder)
    return run.with_network if arguments.all else [run]


def for_each(runs: list[Run], act: Callable[[Run], Result]) -> tuple[list[Result], int]:
    """The results of every run, and 0, or the highest exit code of those that failed.

    One network alone raises its own error. Of several, one that fails is named and the others follow.
    """
    if len(runs) == 1:
        return [act(runs[0])], 0
    results, worst = [], 0
    for number, run in enumerate(runs, start=1):
        info(f"[{number}/{len(runs)}] {run.folder}")
        try:
            results.append(act(run))
        except LightnasEdgeError as error:
            report_error(
                "\n".join([f"{run.folder}: {error}", *(f"  {line}" for line in error.hint.splitlines())]), error
            )
            worst = max(worst, error.exit_code)
    return results, worst


def print_records(arguments: argparse.Namespace, records: Sequence[Record]) -> None:
    """With --json: the record of the network, or with --all a list of those of all that did not fail."""
    if arguments.json:
        documents = [record.to_json() for record in records]
        print_json(documents if arguments.all else documents[0])

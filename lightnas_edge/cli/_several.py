"""Commands for one network of a search, or for all of them."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import TypeVar

from lightnas_edge.cli._console import info, print_json, report_error
from lightnas_edge.errors import LightnasEdgeError
from lightnas_edge.fleet.campaign import first_line
from lightnas_edge.records.base import Record
from lightnas_edge.runs import Run

Result = TypeVar("Result")
Item = TypeVar("Item")


def add_all(parser: argparse.ArgumentParser, verb: str) -> None:
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--all", action="store_true", help=f"{verb} every network of a search that found several")
    group.add_argument(
        "--best",
        action="store_true",
        help=f"{verb} the best network of every budget: a search may find one in each precision",
    )


def chosen_runs(arguments: argparse.Namespace) -> list[Run]:
    """The named run; with --all every network of its search, with --best the best one of every budget.

    Raises:
        RunError: the folder is no run, or holds no network.
    """
    run = Run.open(arguments.run_folder)
    return best_runs(run) if arguments.best else run.with_network if arguments.all else [run]


def best_runs(run: Run) -> list[Run]:
    """The networks that a search hands over.

    Raises:
        RunError: it holds none.
    """
    if run.front is None:
        _ = run.found  # says why there is none
        return [run]
    return [Run.open(run.folder / best.folder) for best in run.front.best]


def for_each(
    runs: list[Run], act: Callable[[Run], Result], failed: dict[str, str] | None = None
) -> tuple[list[Result], int]:
    """The results of every run, and 0, or the highest exit code of those that failed.

    One network alone raises its own error. Of several, one that fails is named and the others follow.

    Args:
        failed: gets the error of each folder that failed.
    """
    return for_each_of(runs, lambda run: str(run.folder), act, failed)


def for_each_of(
    items: Sequence[Item],
    name: Callable[[Item], str],
    act: Callable[[Item], Result],
    failed: dict[str, str] | None = None,
) -> tuple[list[Result], int]:
    """As `for_each`, of anything that has a name."""
    if len(items) == 1:
        return [act(items[0])], 0
    results, worst = [], 0
    for number, item in enumerate(items, start=1):
        info(f"[{number}/{len(items)}] {name(item)}")
        try:
            results.append(act(item))
        except LightnasEdgeError as error:
            report_error(
                "\n".join([f"{name(item)}: {error}", *(f"  {line}" for line in error.hint.splitlines())]), error
            )
            worst = max(worst, error.exit_code)
            if failed is not None:
                failed[name(item)] = first_line(error)
    return results, worst


def print_records(arguments: argparse.Namespace, records: Sequence[Record]) -> None:
    """With --json: the record of the network, or with --all or --best a list of those that did not fail."""
    if arguments.json:
        documents = [record.to_json() for record in records]
        print_json(documents if arguments.all or arguments.best else documents[0])

"""`search --confirm N`: its options, its progress, and what it found."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import devices
from lightnas_edge.cli._console import UsageError, info, ms, print_result, print_table, warn, with_error
from lightnas_edge.cli._options import count

if TYPE_CHECKING:
    from lightnas_edge.records.run import ConfirmationRecord
    from lightnas_edge.search import Budget, SearchResult
    from lightnas_edge.search.confirm import Confirming


def add_confirm(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("confirming")
    group.add_argument(
        "--confirm", type=count, metavar="N",
        help="after the search, measure up to N networks of every budget on --host, learn from them and choose again, until the "
        "network that is handed over was measured; with --predictor, --lut or --from, --host is the board that they are of",
    )  # fmt: skip


def check_confirm(arguments: argparse.Namespace) -> None:
    """Raises UsageError for what does not go together."""
    if arguments.confirm is None:
        return
    if arguments.host is None:
        raise UsageError("--confirm measures networks on a board", hint="name it: --host HOST")
    if arguments.boards is not None:
        raise UsageError(
            "--confirm measures on one board",
            hint="search for all of them, then add --from RUN --host HOST --confirm N",
        )
    from lightnas_edge.nn import Ranks

    if Ranks().world > 1:
        raise UsageError(
            "--confirm runs in one process", hint="search without it, then `lightnas-edge search --from RUN` with it"
        )


def host_is_a_source(arguments: argparse.Namespace) -> bool:
    """Not where predictors are given and the host is the board to confirm them on."""
    given = arguments.predictor or arguments.lut is not None or arguments.earlier is not None
    return arguments.confirm is None or not given


def confirming_board(arguments: argparse.Namespace, budgets: Sequence[Budget]) -> devices.Connection | None:
    """The board to measure on, checked before anything is trained; None without --confirm.

    Raises:
        PredictorError, FingerprintError, DeviceError: the budgets cannot be confirmed there.
    """
    if arguments.confirm is None:
        return None
    from lightnas_edge.search.confirm import require_confirmable

    connection = devices.connect(arguments.host)
    require_confirmable(budgets, connection)
    return connection


def confirming(
    arguments: argparse.Namespace, board: devices.Connection | None, draw: Callable[[dict[str, Any]], None]
) -> Confirming | None:
    """How much is measured, with the events of its progress; None without --confirm."""
    if board is None:
        return None
    from lightnas_edge.search.confirm import Confirming

    def show(done: int, total: int, text: str) -> None:
        draw({"kind": "confirming", "done": done, "total": max(total, 1), "text": text})

    return Confirming(
        board,
        arguments.confirm,
        on_preparing=lambda done, total: show(done, total, "preparing models"),
        on_progress=lambda status: show(status.done, status.total, f"measuring finalists: {status.key}"),
    )


def print_confirmations(results: Sequence[SearchResult]) -> None:
    """A row for every metric of every network that was measured, and what became of each choice."""
    rows = []
    for result in results:
        networks = result.confirmation.networks if result.confirmation else ()
        for number, network in enumerate(networks, start=1):
            remarks = ["keeps the budget" if network.keeps else "over the budget"]
            remarks += ["handed over"] * (network.operators == result.architecture.names)
            rows += [
                [
                    f"{result.budget.name}, {number}", metric, f"{values.target:g}", ms(values.before),
                    with_error(values.measured, values.standard_error), with_error(values.estimate, values.estimate_std),
                    ", ".join(remarks),
                ]
                for metric, values in network.metrics.items()
            ]  # fmt: skip
    if rows:
        invented = any(result.simulated for result in results)
        measured, estimate = ("SIMULATED", "SIMULATED estimate") if invented else ("measured", "estimate")
        print_table(["finalist of", "metric", "budget", "predicted before", measured, estimate, ""], rows)
    for result in results:
        if result.confirmation is not None:
            print_result(f"{result.budget.name}: {outcome(result.confirmation)}")
    for note in dict.fromkeys(note for result in results if result.confirmation for note in result.confirmation.notes):
        info(note)


def warn_unconfirmed(results: Sequence[SearchResult]) -> None:
    for result in results:
        found = result.confirmation
        if found is not None and not found.measured:
            of_them = ", and none of them keeps the budget" if found.networks else ""
            failed = f"; {len(found.failed)} could not be measured" if found.failed else ""
            warn(
                f"{result.budget.name}: the network handed over was not measured; {len(found.networks)} of {found.allowed} "
                f"were{of_them}{failed}\n  allow more: a larger --confirm measures only further networks"
            )


def outcome(found: ConfirmationRecord) -> str:
    """`2 networks measured on nano; another one than before is handed over; it was measured`"""
    number = len(found.networks)
    text = f"{number} network{'s'[: number != 1]} measured on {found.host}; "
    text += "another network than the first choice is handed over" if found.changed else "the first choice is kept"
    text += ", and it was measured" if found.measured else ", which was not measured"
    factors = [f"{metric} x{factor:.2f}" for metric, factor in found.interval_factor.items()]
    return f"{text}; width of the intervals: {', '.join(factors)}" if factors else text

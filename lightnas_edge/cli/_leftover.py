"""What an earlier campaign left changed on a board: `probe`, `pull` and `boards clean` restore it and say so."""

from __future__ import annotations

from devices import Connection, restore_board
from lightnas_edge.cli._console import info, warn
from lightnas_edge.records.board import RestoreReport


def restore_leftover(connection: Connection) -> RestoreReport | None:
    """Restore the board where an earlier campaign left it changed. Warns where that is not possible."""
    report = restore_board(connection)
    if report is None:
        return None
    if report.state == "restored":
        info(f"{connection.name}: {report.message}")
    elif report.state == "changed":
        warn(f"{connection.name}: {report.message}\n  {report.remedy}")
    return report

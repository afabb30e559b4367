"""Restoring a board that an earlier campaign left in another power mode, or with locked clocks.

The guard on the board restores both when the campaign's agent ends. Where the guard was killed, or the power failed, its
note stays on the board until somebody restores it.
"""

from __future__ import annotations

from devices.connection import Connection
from devices.errors import AgentFailedError
from devices.remote_agent import SETUP_LIMIT_S, agent_answer, send_agent
from lightnas_edge.records.board import RestoreReport

NOTE = "board-setup.json"  # in the agent's home, while the board differs from its state before a campaign


def restore_board(connection: Connection, sudo_password: str | None = None) -> RestoreReport | None:
    """Restore what an earlier campaign left; None where nothing was left.

    Raises:
        AgentFailedError: the agent does not run on the board.
        BoardUnreachableError: the board is out of reach.
    """
    home = connection.home()
    if not any(connection.exists(f"{home}/{name}") for name in (NOTE, f"{NOTE}.clocks")):
        return None
    argv = [connection.python(), send_agent(connection), "restore", "--home", home, *connection.agent_options]
    secret = b""
    if sudo_password is not None:
        argv.append("--password")
        secret = sudo_password.encode() + b"\n"
    ended = connection.run(argv, timeout_s=SETUP_LIMIT_S, stdin=secret)
    report = RestoreReport.parse(
        agent_answer(ended, connection.name),
        f"the answer of {connection.name} to the restoring",
        error=AgentFailedError,
    )
    return None if report.state == "clean" else report

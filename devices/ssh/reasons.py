"""The limits of waiting, and the texts of errors that paramiko and sockets leave empty."""

from __future__ import annotations

CONNECT_LIMIT_S = 15.0
ANSWER_LIMIT_S = 30.0  # for any answer of the board; also until unacknowledged data ends a connection


def reason(err: BaseException) -> str:
    """An exception's text; several of paramiko's and the socket's have none."""
    if isinstance(err, OSError) and err.strerror:
        return err.strerror
    return str(err) or {"EOFError": "the connection was closed", "TimeoutError": "no answer in time"}.get(
        type(err).__name__, type(err).__name__
    )

"""Errors between the host and a board.

    DeviceError
    ├── BoardUnreachableError   no connection, or the connection broke
    │   ├── HostKeyError        the board's host key is unknown, has changed or is revoked
    │   └── AuthenticationError the board refuses the login
    ├── InventoryError          boards.toml is faulty, or has no such board         (ValueError)
    ├── PlaceError              a place of a board farm cannot be reserved
    ├── BoardBusyError          another agent is at work on the board; the text names it
    ├── ContradictionError      a local table and the board's journal of the same job differ
    ├── TableWriteError         this side's copy of a table cannot be written
    └── AgentFailedError        the agent could not do the job; the text is the agent's own where there is one

`hint`, when present, states the next step.
"""

from __future__ import annotations

from lightnas_edge.errors import LightnasEdgeError


class DeviceError(LightnasEdgeError):
    """Base of the errors between the host and a board."""


class BoardUnreachableError(DeviceError):
    """The board does not answer, or files on it cannot be read or written."""


class HostKeyError(BoardUnreachableError):
    """The host key is not the known key of this board, so the board may be another machine."""


class AuthenticationError(BoardUnreachableError):
    """The board accepted none of the keys and passwords."""


class InventoryError(DeviceError, ValueError):
    """The user's list of boards is faulty, or lacks a board."""

    exit_code = 2


class PlaceError(DeviceError):
    """A place of a board farm cannot be reserved, or its reservation was lost."""


class BoardBusyError(DeviceError):
    """One agent works on a board at a time."""


class ContradictionError(DeviceError):
    """A local file and a journal on a board differ in the part that both contain."""


class TableWriteError(DeviceError):
    """A file of this side that holds measurements cannot be written."""


class AgentFailedError(DeviceError):
    """The agent ended without finishing the job."""

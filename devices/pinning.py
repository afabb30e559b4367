"""Adding a board: its host key is fetched, shown to the user, and pinned to the board's name."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from devices.endpoint import Endpoint, resolve, split_address
from devices.errors import HostKeyError, InventoryError
from devices.host_keys import HostKey, check
from devices.inventory import InventoryEntry, add_board, inventory_entry, inventory_path, read_inventory
from devices.ssh import fetch_host_key


@dataclass(frozen=True)
class OfferedKey:
    """The host key that a board presents, compared with the known keys."""

    key: HostKey
    endpoint: Endpoint

    @property
    def verdict(self) -> str:
        """known, unknown, changed or revoked."""
        return self.endpoint.known_keys().verdict(self.key)

    def refuse_change(self) -> None:
        """
        Raises:
            HostKeyError: another key is known for this board or address, or the key is revoked.
        """
        if self.verdict in ("changed", "revoked"):
            board = self.endpoint.board
            try:
                check(
                    self.key,
                    self.endpoint.known_keys(),
                    label=self.endpoint.label,
                    address=self.endpoint.alias,
                    board=None if board is None else board.name,
                )
            except HostKeyError as err:
                err.hint += "\nwhere several boards share an address: --fingerprint SHA256:... names the right key"
                raise


def planned_board(
    name: str, address: str | None, *, key: str | None = None, board: str | None = None, python: str | None = None
) -> InventoryEntry:
    """The board that is to be added; without an address, the one of boards.toml that has no pinned key yet.

    Raises:
        InventoryError: the name is taken, or no entry lacks a key.
    """
    known = read_inventory().get(name)
    if key is not None and not key.startswith("~"):
        key = os.path.abspath(key)  # the entry is read in other folders too
    if address is None:
        if known is None:
            raise InventoryError(f"boards.toml has no {name}", hint=f"`lightnas-edge boards add {name} USER@HOST`")
        return known.model_copy(
            update={"key": key or known.key, "board": board or known.board, "python": python or known.python}
        )
    if known is not None:
        raise InventoryError(
            f"{inventory_path()} has a board {name} already",
            hint=f"`lightnas-edge boards remove {name}`, or choose another name",
        )
    user, host, port = split_address(address)
    return inventory_entry(name, host=host, user=user, port=port, key=key, board=board, python=python)


def offered_host_key(board: InventoryEntry) -> OfferedKey:
    """Connect without logging in, to see the host key.

    Raises:
        BoardUnreachableError: nothing answers.
    """
    endpoint = resolve(board.name, board)
    return OfferedKey(fetch_host_key(endpoint), endpoint)


def pin_board(board: InventoryEntry, key: HostKey) -> Path:
    """Write a board with its host key into boards.toml, in place of an entry of its name; the file."""
    return add_board(board.model_copy(update={"host_key": str(key)}), replace=True)

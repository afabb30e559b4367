"""From a host name to a connection."""

from __future__ import annotations

from devices.connection import Connection
from devices.errors import InventoryError
from devices.inventory import read_groups
from devices.local import LocalConnection


def connect(host: str) -> Connection:
    """The board behind a name: localhost, virtual:BOARD, an entry of boards.toml or ~/.ssh/config, or an address.

    An address is HOST or USER@HOST:PORT.

    Raises:
        InventoryError: there is no such virtual board, it is a group of boards, or boards.toml is faulty.
        BoardUnreachableError: it cannot be reached.
    """
    if host == "localhost":
        return LocalConnection()
    if host.startswith("virtual:"):
        from devices.virtual import VirtualConnection

        return VirtualConnection(host)
    boards = read_groups().get(host)
    if boards is not None:
        raise InventoryError(
            f"{host} is a group of {len(boards)} boards, and one board is needed here",
            hint=f"its boards: {', '.join(boards)}",
        )
    from devices.ssh import connect_ssh  # paramiko takes a while to import

    return connect_ssh(host)

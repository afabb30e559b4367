"""From a host name to an address: boards.toml first, then ~/.ssh/config (ssh_config.py)."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

from devices.errors import BoardUnreachableError
from devices.host_keys import PIN, HostKey, KnownKeys, host_name_in_known_hosts, read_known_hosts
from devices.inventory import InventoryEntry, read_inventory
from devices.openssh import at_home
from devices.ssh_config import look_up

_ADDRESS = re.compile(
    r"(?:(?P<user>[^@:\s]+)@)?(?:\[(?P<bracketed>[^\]\s]+)\]|(?P<host>[^\s:\[\]@]+)|(?P<bare>[0-9a-fA-F:.%\w]*:[^\s@]*:[^\s@]*))"
    r"(?::(?P<port>\d{1,5}))?"
)
_LONGEST_CHAIN = 8  # jump hosts


@dataclass(frozen=True)
class Endpoint:
    """A host to connect to, everything looked up.

    Named keys (`keys_named`) are tried first, the usual files last; with `only_keys` the agent signs with these keys
    alone. `agent` is its socket. `jumps`: the jump hosts, in order; or `proxy_command` leads to the host.
    `alias` is the name of the host key in known_hosts. `board` is the entry of boards.toml, if any.
    """

    label: str
    host: str
    port: int
    user: str
    alias: str
    known_hosts: tuple[Path, ...]
    key_files: tuple[Path, ...] = ()
    keys_named: bool = False
    only_keys: bool = False
    agent: str | None = None
    jumps: tuple[Endpoint, ...] = ()
    proxy_command: str = ""
    board: InventoryEntry | None = None

    def known_keys(self) -> KnownKeys:
        """The host keys that may be accepted: only the pinned key of a board, else all known keys of the address."""
        if self.board is not None and self.board.host_key is not None:
            pinned = HostKey.parse(self.board.host_key)
            return KnownKeys(((pinned, f"{PIN}{self.board.name}"),)) + KnownKeys(
                revoked=read_known_hosts(self.known_hosts, self.alias).revoked
            )
        known = read_known_hosts(self.known_hosts, self.alias)
        if self.board is None:
            pins = tuple(
                (HostKey.parse(board.host_key), f"{PIN}{board.name}")
                for board in read_inventory().values()
                if board.host_key is not None and (board.host, board.port or 22) == (self.host, self.port)
            )
            known += KnownKeys(pins)
        return known


def resolve(text: str, board: InventoryEntry | None = None) -> Endpoint:
    """The endpoint of a host name.

    Args:
        text: NAME of boards.toml or ~/.ssh/config, HOST, or USER@HOST:PORT; an IPv6 address in brackets.
        board: used in place of the entry of boards.toml, for a board that is about to be added.

    Raises:
        BoardUnreachableError: it is not a host name, or ~/.ssh/config cannot be read.
        InventoryError: boards.toml is faulty.
    """
    return _resolve(text, board, [])


def split_address(text: str) -> tuple[str | None, str, int | None]:
    """(user, host, port) of `user@host:port`; the first and the last may be missing.

    Raises:
        BoardUnreachableError: it is not an address.
    """
    match = _ADDRESS.fullmatch(text)
    host = match and (match["bracketed"] or match["host"] or match["bare"])
    port = int(match["port"]) if match and match["port"] else None
    if not match or not host or host.startswith("-") or (port is not None and not 0 < port < 65536):
        shown = text.rpartition("@")[2]  # the part before it may contain a password
        raise BoardUnreachableError(f"{shown!r} is not a host", hint="a host is NAME, USER@HOST or USER@HOST:PORT")
    return match["user"], host, port


def _resolve(text: str, board: InventoryEntry | None, seen: list[str]) -> Endpoint:
    if text in seen or len(seen) >= _LONGEST_CHAIN:
        raise BoardUnreachableError(f"ProxyJump in ~/.ssh/config forms a cycle: {' -> '.join([*seen, text])}")
    user, name, port = split_address(text)
    if board is None:
        board = read_inventory().get(name)
    if board is not None:
        user, port, name = user or board.user, port or board.port, board.host
    found = look_up(name, user, port)
    jumps: tuple[Endpoint, ...] = ()
    for index, hop in enumerate(found.jump.split(",") if found.jump else ()):
        endpoint = _resolve(hop.strip().removeprefix("ssh://").rstrip("/"), None, [*seen, text])
        if index == 0:
            jumps = (*endpoint.jumps, replace(endpoint, jumps=()))
        else:  # as in ssh: only the first host of a chain is reached by its own ProxyJump or ProxyCommand
            jumps += (replace(endpoint, jumps=(), proxy_command=""),)
    own_key = (at_home(board.key),) if board is not None and board.key else ()
    return Endpoint(
        label=text,
        host=found.host,
        port=found.port,
        user=found.user,
        alias=found.host_key_alias or host_name_in_known_hosts(found.host, found.port),
        known_hosts=found.known_hosts,
        key_files=own_key or found.key_files,
        keys_named=bool(own_key) or found.keys_named,
        only_keys=bool(own_key) or found.only_keys,
        agent=found.agent,
        jumps=jumps,
        proxy_command=found.proxy_command,
        board=board,
    )

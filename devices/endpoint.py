"""From a host name to an address: boards.toml first, then ~/.ssh/config, then the defaults."""

from __future__ import annotations

import getpass
import glob
import re
from dataclasses import dataclass, replace
from pathlib import Path

import paramiko

from devices.errors import BoardUnreachableError
from devices.host_keys import HostKey, KnownKeys, host_name_in_known_hosts, read_known_hosts
from devices.inventory import InventoryEntry, read_inventory

_ADDRESS = re.compile(
    r"(?:(?P<user>[^@:\s]+)@)?(?:\[(?P<bracketed>[^\]\s]+)\]|(?P<host>[^\s:\[\]@]+)|(?P<bare>[0-9a-fA-F:.%\w]*:[^\s@]*:[^\s@]*))"
    r"(?::(?P<port>\d{1,5}))?"
)
_LONGEST_CHAIN = 8  # jump hosts, and files that include files


@dataclass(frozen=True)
class Endpoint:
    """A host to connect to, everything looked up.

    `key_files` are tried first, and with `only_keys` they are the only ones. `jumps`: the jump hosts, in order.
    `alias` is the name of the host key in known_hosts. `board` is the entry of boards.toml, if any.
    """

    label: str
    host: str
    port: int
    user: str
    alias: str
    known_hosts: tuple[Path, ...]
    key_files: tuple[Path, ...] = ()
    only_keys: bool = False
    jumps: tuple[Endpoint, ...] = ()
    board: InventoryEntry | None = None

    def known_keys(self) -> KnownKeys:
        """The host keys that may be accepted: only the pinned key of a board, else all known keys of the address."""
        if self.board is not None and self.board.host_key is not None:
            pinned = HostKey.parse(self.board.host_key)
            return KnownKeys(((pinned, f"boards.toml, {self.board.name}"),)) + KnownKeys(
                revoked=read_known_hosts(self.known_hosts, self.alias).revoked
            )
        known = read_known_hosts(self.known_hosts, self.alias)
        if self.board is None:
            pins = tuple(
                (HostKey.parse(board.host_key), f"boards.toml, {board.name}")
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
    config = _ssh_config(Path.home() / ".ssh" / "config")
    return _resolve(text, config, board, [])


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


def _resolve(text: str, config: paramiko.SSHConfig, board: InventoryEntry | None, seen: list[str]) -> Endpoint:
    if text in seen or len(seen) >= _LONGEST_CHAIN:
        raise BoardUnreachableError(f"ProxyJump in ~/.ssh/config forms a cycle: {' -> '.join([*seen, text])}")
    user, host, port = split_address(text)
    if board is None:
        board = read_inventory().get(host)
    if board is not None:
        user, port = user or board.user, port or board.port
    name = board.host if board is not None else host
    try:
        found = config.lookup(name)
        address, port = found["hostname"], port or int(found.get("port", 22))
    except (paramiko.SSHException, ImportError, OSError, ValueError) as err:
        raise BoardUnreachableError(
            f"cannot look up {name} in ~/.ssh/config: {err}", hint=f"`ssh -G {name}` shows how ssh resolves it"
        ) from err
    if found.get("proxycommand") and "proxyjump" not in found:
        raise BoardUnreachableError(
            f"~/.ssh/config reaches {name} through a ProxyCommand, which is not supported",
            hint="use ProxyJump, or name the host by its own address",
        )
    jump = found.get("proxyjump", "none")
    jumps: tuple[Endpoint, ...] = ()
    for index, hop in enumerate(() if jump.lower() == "none" else jump.split(",")):
        endpoint = _resolve(hop.strip().removeprefix("ssh://"), config, None, [*seen, text])
        # As in ssh: only the first host of a chain is reached by its own ProxyJump.
        jumps += (*endpoint.jumps, replace(endpoint, jumps=())) if index == 0 else (replace(endpoint, jumps=()),)
    files = found.get("userknownhostsfile", "~/.ssh/known_hosts ~/.ssh/known_hosts2").split()
    keys = [board.key] if board is not None and board.key else list(found.get("identityfile", []))
    return Endpoint(
        label=text,
        host=address,
        port=port,
        user=user or found.get("user") or getpass.getuser(),
        alias=found.get("hostkeyalias") or host_name_in_known_hosts(address, port),
        known_hosts=tuple(Path(file).expanduser() for file in files if file != "none"),
        key_files=tuple(Path(key).expanduser() for key in keys),
        only_keys=bool(board is not None and board.key) or found.get("identitiesonly", "no").lower() == "yes",
        jumps=jumps,
        board=board,
    )


def _ssh_config(path: Path) -> paramiko.SSHConfig:
    """The user's ssh configuration; empty where the file is missing."""
    try:
        return paramiko.SSHConfig.from_text("\n".join(_with_includes(path, 0)))
    except (OSError, UnicodeDecodeError, paramiko.SSHException) as err:
        raise BoardUnreachableError(f"cannot read {path}: {err}") from err


def _with_includes(path: Path, depth: int) -> list[str]:
    """The lines of a file, each included file in place of its `Include`; paramiko ignores `Include`."""
    if depth > _LONGEST_CHAIN:
        raise BoardUnreachableError(f"{path} includes itself")
    if not path.exists():
        return []
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        words = line.replace("=", " ", 1).split()
        if not words or words[0].lower() != "include":
            lines.append(line)
            continue
        for pattern in words[1:]:
            whole = Path(pattern.strip('"')).expanduser()
            for found in sorted(glob.glob(str(whole if whole.is_absolute() else Path.home() / ".ssh" / whole))):
                lines += _with_includes(Path(found), depth + 1)
    return lines

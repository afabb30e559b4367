"""The user's own boards: ~/.config/lightnas-edge/boards.toml.

    kind = "boards"
    schema = 1

    [boards.bench-nano]
    host = "192.168.55.1"
    user = "nvidia"
    port = 22
    key = "~/.ssh/id_ed25519"       # private key file
    board = "jetson-nano"           # name in the catalogue
    python = "/usr/bin/python3"     # where the agent shall run in another Python than the one that is found
    host_key = "ssh-ed25519 AAAA..." # written by `lightnas-edge boards add`

Only `host` has to be there. No password has a place in it.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import tempfile
import tomllib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from devices.errors import InventoryError
from devices.host_keys import HostKey

SCHEMA = 1
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_RESERVED = ("localhost",)


@dataclass(frozen=True)
class InventoryEntry:
    """One of the user's boards. What is None is left to ~/.ssh/config and the defaults."""

    name: str
    host: str
    user: str | None = None
    port: int | None = None
    key: str | None = None
    board: str | None = None
    python: str | None = None
    host_key: str | None = None

    @property
    def fingerprint(self) -> str:
        """Of its pinned host key; "" without one."""
        return HostKey.parse(self.host_key).fingerprint if self.host_key else ""


_FIELDS = {field.name: int if field.name == "port" else str for field in fields(InventoryEntry) if field.name != "name"}


def inventory_path() -> Path:
    """boards.toml, in the folder that XDG_CONFIG_HOME names, or in ~/.config."""
    config = os.environ.get("XDG_CONFIG_HOME")
    folder = Path(config) if config and os.path.isabs(config) else Path.home() / ".config"
    return folder / "lightnas-edge" / "boards.toml"


def read_inventory(path: Path | None = None) -> dict[str, InventoryEntry]:
    """The user's boards by name; none when there is no file.

    Raises:
        InventoryError: the file is faulty; all its faults in one message.
    """
    path = path or inventory_path()
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as err:
        raise InventoryError(f"cannot read {path}: {err}") from err
    return _parse(text, path)


def add_board(board: InventoryEntry, path: Path | None = None, *, replace: bool = False) -> Path:
    """Write a board into the file, which keeps its comments; the file's path.

    Args:
        replace: in place of the board of the same name.

    Raises:
        InventoryError: there is a board of this name, or the board or the file is faulty.
    """
    path = path or inventory_path()
    boards = read_inventory(path)
    before = path.read_text(encoding="utf-8") if path.exists() else f'kind = "boards"\nschema = {SCHEMA}\n'
    if board.name in boards:
        if not replace:
            raise InventoryError(
                f"{path} has a board {board.name} already",
                hint=f"lightnas-edge boards remove {board.name}, or another name",
            )
        before = _without(before, board.name, boards, path)
    lines = [f"[boards.{json.dumps(board.name)}]" if "." in board.name else f"[boards.{board.name}]"]
    for name in _FIELDS:
        value = getattr(board, name)
        if value is not None:
            lines.append(f"{name} = {json.dumps(value, ensure_ascii=False)}")
    after = before.rstrip("\n") + "\n\n" + "\n".join(lines) + "\n"
    _parse(after, path)
    _replace(path, after)
    return path


def remove_board(name: str, path: Path | None = None) -> InventoryEntry:
    """Take a board out of the file, which keeps everything else; the board that was removed.

    Raises:
        InventoryError: there is no such board, or it is written in a form that only its author can edit.
    """
    path = path or inventory_path()
    boards = read_inventory(path)
    if name not in boards:
        raise InventoryError(f"{path} has no board {name}", hint=_those(boards))
    _replace(path, _without(path.read_text(encoding="utf-8"), name, boards, path))
    return boards[name]


def _without(text: str, name: str, boards: dict[str, InventoryEntry], path: Path) -> str:
    """The file's text without one board's table; checked to hold all the others unchanged."""
    lines = text.splitlines(keepends=True)
    header = re.compile(rf"""\s*\[\s*boards\s*\.\s*["']?{re.escape(name)}["']?\s*\]""")
    start = next((number for number, line in enumerate(lines) if header.match(line)), len(lines))
    end = next(
        (number for number in range(start + 1, len(lines)) if lines[number].lstrip().startswith("[")), len(lines)
    )
    while end > start + 1 and end < len(lines) and lines[end - 1].lstrip()[:1] in ("#", ""):
        end -= 1  # comments right before the next table belong to it
    after = "".join(lines[:start]).rstrip("\n") + "\n" + "".join(lines[end:])
    try:
        unharmed = _parse(after, path) == {other: board for other, board in boards.items() if other != name}
    except InventoryError:
        unharmed = False
    if not unharmed:
        raise InventoryError(
            f"cannot take {name} out of {path} without harm to the rest", hint="edit the file yourself"
        )
    return after


def _parse(text: str, path: Path) -> dict[str, InventoryEntry]:
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as err:
        raise InventoryError(f"{path} is not TOML: {err}") from err
    schema = content.get("schema", SCHEMA)
    if not isinstance(schema, int) or isinstance(schema, bool) or schema < 1:
        raise InventoryError(f"{path}: schema is {schema!r}, not a whole number")
    if schema > SCHEMA:
        raise InventoryError(f"{path} has schema {schema}; this program reads up to {SCHEMA}")
    faults = [] if content.get("kind", "boards") == "boards" else [f'kind is {content["kind"]!r}, not "boards"']
    faults += [f"{name} is not a field" for name in content if name not in ("kind", "schema", "boards")]
    tables = content.get("boards", {})
    if not isinstance(tables, dict):
        faults.append(f"boards is {tables!r}, not a table of boards")
        tables = {}
    for name, table in tables.items():
        faults += [f"boards.{name}: {fault}" for fault in _faults(name, table)]
    if faults:
        raise InventoryError(f"{path} is faulty\n" + "\n".join(f"  {fault}" for fault in faults))
    return {name: InventoryEntry(name, **table) for name, table in tables.items()}


def _faults(name: str, table: Any) -> list[str]:
    found = []
    if not _NAME.fullmatch(name) or name in _RESERVED:
        found.append("a name is letters, digits, '.', '_' and '-', and not localhost")
    if not isinstance(table, dict):
        return [*found, f"{table!r} is not a table"]
    if "host" not in table:
        found.append("host is missing")
    for field, value in table.items():
        wanted = _FIELDS.get(field)
        if field == "password":
            found.append("password: passwords are never kept in a file; use a key, or type it when asked")
        elif wanted is None:
            found.append(f"{field} is not a field; there are {', '.join(_FIELDS)}")
        elif type(value) is not wanted:
            found.append(f"{field} is {value!r}, not {'a whole number' if wanted is int else 'a text'}")
        elif isinstance(value, int):
            if not 0 < value < 65536:
                found.append(f"{field} is {value}, not between 1 and 65535")
        elif not value.strip() or any(ord(letter) < 32 or ord(letter) == 127 for letter in value):
            found.append(f"{field} is {value!r}, empty or with control characters")
        elif field in ("host", "user") and any(letter.isspace() or letter == "@" for letter in value):
            found.append(f"{field} is {value!r}; it holds no spaces and no '@'")
        elif field == "host_key":
            try:
                HostKey.parse(value)
            except ValueError as err:
                found.append(f"host_key: {err}")
    return found


def _those(boards: dict[str, InventoryEntry]) -> str:
    return "there are: " + ", ".join(boards) if boards else "it has none; `lightnas-edge boards add NAME HOST` adds one"


def _replace(path: Path, text: str) -> None:
    """Readable by its owner alone, and never half there."""
    path = path.resolve()  # a link, as people keep their settings in a repository, stays a link
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle, part = tempfile.mkstemp(prefix=path.name, suffix=".part", dir=path.parent)
        try:
            with open(handle, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, path)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.remove(part)
    except OSError as err:
        raise InventoryError(f"cannot write {path}: {err.strerror or err}") from err

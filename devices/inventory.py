"""The user's own boards: ~/.config/lightnas-edge/boards.toml.

    kind = "boards"
    schema = 1

    [boards.bench-nano]
    host = "192.168.55.1"
    user = "nvidia"
    port = 22
    key = "~/.ssh/id_ed25519"       # private key file
    board = "jetson-nano"           # name in the catalogue
    python = "/usr/bin/python3"     # runs the agent in place of the Python that is found
    host_key = "ssh-ed25519 AAAA..." # written by `lightnas-edge boards add`

    [groups]
    shelf = ["bench-nano", "bench-nano-2"]  # `--host shelf`: boards of one model that measure together

Only `host` is required. The file never holds a password.
"""

from __future__ import annotations

import json
import os
import re
import tomllib
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from devices.errors import InventoryError
from devices.host_keys import HostKey
from lightnas_edge.files import write_atomic
from lightnas_edge.records.base import describe
from lightnas_edge.records.board import InventoryRecord
from lightnas_edge.records.plain_text import clean_text

SCHEMA = 1


class InventoryEntry(InventoryRecord):
    """One of the user's boards, with the fingerprint of its pinned host key."""

    @property
    def fingerprint(self) -> str:
        """Of its pinned host key; "" without one."""
        return HostKey.parse(self.host_key).fingerprint if self.host_key else ""


_FIELDS = tuple(name for name in InventoryRecord.model_fields if name != "name")


def inventory_entry(name: str, **fields: str | int | None) -> InventoryEntry:
    """One board, checked.

    Raises:
        InventoryError: all faults in one message.
    """
    entry, faults = _entry(name, {field: value for field, value in fields.items() if value is not None})
    if entry is None:
        raise InventoryError(f"the board cannot be added\n{_listed(faults)}")
    return entry


def inventory_path() -> Path:
    """boards.toml, in the folder that XDG_CONFIG_HOME names, or in ~/.config."""
    config = os.environ.get("XDG_CONFIG_HOME")
    folder = Path(config) if config and os.path.isabs(config) else Path.home() / ".config"
    return folder / "lightnas-edge" / "boards.toml"


def read_inventory(path: Path | None = None) -> dict[str, InventoryEntry]:
    """The user's boards by name; empty where the file is missing.

    Raises:
        InventoryError: the file is faulty; all its faults in one message.
    """
    path = path or inventory_path()
    text = _text(path)
    return {} if text is None else _parse(text, path)


def read_groups(path: Path | None = None) -> dict[str, tuple[str, ...]]:
    """The hosts of every group of boards.toml; empty where the file is missing.

    Raises:
        InventoryError: the file is faulty; all its faults in one message.
    """
    path = path or inventory_path()
    text = _text(path)
    if text is None:
        return {}
    _parse(text, path)
    return {name: tuple(hosts) for name, hosts in tomllib.loads(text).get("groups", {}).items()}


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except OSError as err:
        raise InventoryError(f"cannot read {path}: {err.strerror or err}") from err
    except UnicodeDecodeError as err:
        raise InventoryError(
            f"{path} is not UTF-8: {err.reason} at byte {err.start}", hint="save it as UTF-8 in your editor"
        ) from err


def add_board(board: InventoryEntry, path: Path | None = None, *, replace: bool = False) -> Path:
    """Write a board into the file, which keeps its comments; the file's path.

    Args:
        replace: in place of the board of the same name.

    Raises:
        InventoryError: the name is taken, or the board or the file is faulty.
    """
    path = path or inventory_path()
    boards = read_inventory(path)
    before = path.read_text(encoding="utf-8") if path.exists() else f'kind = "boards"\nschema = {SCHEMA}\n'
    if board.name in boards:
        if not replace:
            raise InventoryError(
                f"{path} has a board {board.name} already",
                hint=f"`lightnas-edge boards remove {board.name}`, or choose another name",
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
    """Remove a board from the file, which keeps everything else; the board that was removed.

    Raises:
        InventoryError: no board has this name, or its entry has a form that this program cannot edit.
    """
    path = path or inventory_path()
    boards = read_inventory(path)
    if name not in boards:
        raise InventoryError(f"{path} has no board {name}", hint=_those(boards))
    _replace(path, _without(path.read_text(encoding="utf-8"), name, boards, path))
    return boards[name]


def _without(text: str, name: str, boards: dict[str, InventoryEntry], path: Path) -> str:
    """The file's text without one board's table; checked to contain all the others unchanged."""
    lines = text.splitlines(keepends=True)
    header = re.compile(rf"""\s*\[\s*boards\s*\.\s*["']?{re.escape(name)}["']?\s*\]""")
    start = next((number for number, line in enumerate(lines) if header.match(line)), len(lines))
    end = next(
        (number for number in range(start + 1, len(lines)) if lines[number].lstrip().startswith("[")), len(lines)
    )
    while end > start + 1 and lines[end - 1].lstrip()[:1] in ("#", ""):
        end -= 1  # comments right before the next table, or at the end, do not belong to it
    after = "".join(lines[:start]).rstrip("\n") + "\n" + "".join(lines[end:])
    try:
        unchanged = _parse(after, path) == {other: board for other, board in boards.items() if other != name}
    except InventoryError:
        unchanged = False
    if not unchanged:
        raise InventoryError(
            f"cannot remove {name} from {path} without changing other entries", hint="edit the file yourself"
        )
    return after


def _parse(text: str, path: Path) -> dict[str, InventoryEntry]:
    try:
        content = tomllib.loads(text)
    except (ValueError, RecursionError) as err:
        raise InventoryError(f"{path} is not TOML: {clean_text(str(err), 200)}") from err
    schema = content.get("schema", SCHEMA)
    if type(schema) is int and schema > SCHEMA:
        raise InventoryError(f"{path} has schema {str(schema)[:20]}; this program reads {SCHEMA}")
    faults = (
        [] if content.get("kind", "boards") == "boards" else [f"kind: expected 'boards', found {content['kind']!r}"]
    )
    if schema != SCHEMA or type(schema) is not int:
        faults.append(f"schema: expected {SCHEMA}, found {schema!r}")
    faults += [f"{name}: unknown field" for name in content if name not in ("kind", "schema", "boards", "groups")]
    tables = content.get("boards", {})
    if not isinstance(tables, dict):
        faults.append(f"boards: expected a table of boards, found {tables!r}")
        tables = {}
    boards: dict[str, InventoryEntry] = {}
    for name, table in tables.items():
        entry, wrong = _entry(name, table)
        faults += [f"boards.{name}.{fault}" for fault in wrong]
        if entry is not None:
            boards[name] = entry
    faults += _faults_of_groups(content.get("groups", {}), tables)
    if faults:
        raise InventoryError(f"{path} holds {len(faults)} error{'s' * (len(faults) != 1)}:\n{_listed(faults)}")
    return boards


def _faults_of_groups(groups: Any, boards: dict[str, Any]) -> list[str]:
    if not isinstance(groups, dict):
        return [f"groups: expected a table of lists, found {groups!r}"]
    faults = [f"groups.{name}: a board has this name" for name in groups if name in boards]
    faults += [f"groups.{name}: this name means this machine" for name in groups if name == "localhost"]
    for name, hosts in groups.items():
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name):
            faults.append(f"groups.{name!r}: a name has letters, digits, '-', '_' and '.'")
        if not (isinstance(hosts, list) and hosts and all(isinstance(host, str) and host.strip() for host in hosts)):
            faults.append(f"groups.{name}: expected a list of hosts, found {hosts!r}")
        elif any("," in host or host in groups for host in hosts):
            faults.append(f"groups.{name}: expected hosts, found a comma or a group in {hosts!r}")
    return faults


def _entry(name: str, table: Any) -> tuple[InventoryEntry | None, list[str]]:
    """A checked entry, or every fault of it with its field."""
    if not isinstance(table, dict):
        return None, [f"table: expected fields, found {table!r}"]
    faults = ["password: never kept in a file; use a key, or type it at the prompt"] * ("password" in table)
    fields = {field: value for field, value in table.items() if field in _FIELDS}
    faults += [
        f"{field}: unknown field; known are {', '.join(_FIELDS)}"
        for field in table
        if field not in (*_FIELDS, "password")
    ]
    entry = None
    try:
        entry = InventoryEntry.model_validate({"name": name, **fields})
    except ValidationError as found:
        faults += [line.strip() for line in describe(found).splitlines()[1:]]
    if isinstance(fields.get("host_key"), str):
        try:
            HostKey.parse(fields["host_key"])
        except ValueError as err:
            faults.append(f"host_key: {err}")
    return (None, faults) if faults else (entry, [])


def _listed(faults: list[str]) -> str:
    return "\n".join(f"  {clean_text(fault, 300)}" for fault in faults)


def _those(boards: dict[str, InventoryEntry]) -> str:
    return "boards: " + ", ".join(boards) if boards else "it has none; `lightnas-edge boards add NAME HOST` adds one"


def _replace(path: Path, text: str) -> None:
    """Replace the file; readable by its owner alone."""
    path = path.resolve()  # a link, as people keep their settings in a repository, stays a link
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not path.exists():
            path.touch(mode=0o600)
        write_atomic(path, text, durable=True)
        path.chmod(0o600)
    except OSError as err:
        raise InventoryError(f"cannot write {path}: {err.strerror or err}") from err

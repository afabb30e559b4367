"""Run directories: one search and everything that follows from it, as files. Form: docs/formats.md."""

from __future__ import annotations

import json
import os
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lightnas_edge._version import __version__
from lightnas_edge.errors import RunError
from lightnas_edge.space import Architecture, Space

SCHEMA = 1
NETWORKS = "networks"  # folder of the runs below a search that found several networks


def write_json(path: Path, record: dict[str, Any]) -> None:
    """Replace a record by rename, so that no reader meets half of it. NaN and infinity are refused."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(record, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    os.replace(part, path)


def read_json(path: Path, *, kind: str, remedy: str = "") -> dict[str, Any]:
    """A record of the given kind.

    Raises:
        RunError: the file is missing, damaged, of another kind or of a newer schema.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RunError(f"{path} does not exist", hint=remedy) from error
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise RunError(f"cannot read {path}: {error}", hint=remedy) from error
    if not isinstance(record, dict) or record.get("kind") != kind:
        raise RunError(f"{path} is not a record of kind {kind!r}")
    if not isinstance(record.get("schema"), int) or record["schema"] > SCHEMA:
        raise RunError(f"{path} has schema {record.get('schema')!r}; this program reads up to {SCHEMA}")
    return record


def create_run(folder: Path, asked: dict[str, Any], *, fresh: bool = False) -> bool:
    """Begin a run directory, or go on with the one that is there.

    Args:
        asked: what was asked for: space, targets, data, config, seed, provenance. It decides whether an existing
            directory holds the same search.
        fresh: move an existing directory to `.old` and begin anew.

    Returns:
        True when an earlier run with the same question is gone on with.

    Raises:
        RunError: the directory holds another search; the fields that differ are named.
    """
    record_path = folder / "run.json"
    if fresh and record_path.exists():
        old = folder.with_name(folder.name + ".old")
        shutil.rmtree(old, ignore_errors=True)
        os.replace(folder, old)
    if record_path.exists():
        held = read_json(record_path, kind="run")
        differing = [name for name in asked if json.loads(json.dumps(asked[name])) != held.get(name)]
        if differing:
            changes = "\n".join(line for name in differing for line in _changes(name, held.get(name), asked[name]))
            raise RunError(
                f"{folder} holds another search\n{changes}",
                hint="choose another --out, or --fresh to begin anew (the old one is kept beside as .old)",
            )
        return True
    if folder.exists() and any(folder.iterdir()):
        raise RunError(f"{folder} is not empty and holds no run", hint="choose another --out")
    created = datetime.now(UTC).isoformat(timespec="seconds")
    write_json(record_path, {"kind": "run", "schema": SCHEMA, "created": created, "version": __version__, **asked})
    return False


def read_run(folder: Path) -> tuple[dict[str, Any], Space]:
    """(run.json, its space)."""
    record = read_json(folder / "run.json", kind="run", remedy="`lightnas-edge search` begins a run")
    return record, Space.from_json(record["space"], source=str(folder / "run.json"))


def read_architecture(folder: Path, space: Space) -> Architecture:
    path = folder / "architecture.json"
    below = sorted(str(each.parent) for each in (folder / NETWORKS).glob("*/architecture.json"))
    if not path.exists() and below:
        raise RunError(f"{folder} holds {len(below)} networks: name one of them", hint="\n".join(below))
    if not path.exists():
        raise RunError(
            f"{folder} holds no network yet", hint="the search has not ended: run the same `lightnas-edge search` again"
        )
    return Architecture.load(path, space)


def _changes(name: str, held: Any, asked: Any) -> list[str]:
    """A line for everything that differs; of two tables of fields, for every field."""
    if isinstance(held, dict) and isinstance(asked, dict):
        asked = json.loads(json.dumps(asked))
        fields = [field for field in {**held, **asked} if held.get(field) != asked.get(field)]
        return [line for field in fields for line in _changes(f"{name}.{field}", held.get(field), asked.get(field))]
    return [f"  {name}: was {_brief(held)}, now {_brief(asked)}"]


def _brief(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 120 else text[:117] + "..."

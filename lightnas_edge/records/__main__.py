"""Write the JSON Schemas of all files: `python -m lightnas_edge.records docs/schemas`."""

from __future__ import annotations

import importlib
import json
import pkgutil
import sys
from pathlib import Path

from lightnas_edge import records
from lightnas_edge.files import write_atomic
from lightnas_edge.records.base import Record


def file_records() -> dict[str, type[Record]]:
    """Kind -> record, of every record that is a file or a line of one."""
    for module in pkgutil.iter_modules(records.__path__):
        if module.name != "__main__":
            importlib.import_module(f"{records.__name__}.{module.name}")
    found: dict[str, type[Record]] = {}
    for record in _subclasses(Record):
        kind = record.model_fields.get("kind")
        if kind is not None and isinstance(kind.default, str) and record.__module__.startswith(records.__name__):
            found[_name(record, kind.default)] = record
    return dict(sorted(found.items()))


def schema(record: type[Record]) -> str:
    """JSON text, sorted, so that equal records give equal files."""
    return json.dumps(record.model_json_schema(by_alias=True), indent=2, sort_keys=True) + "\n"


def _subclasses(record: type[Record]) -> list[type[Record]]:
    return [each for direct in record.__subclasses__() for each in (direct, *_subclasses(direct))]


def _name(record: type[Record], kind: str) -> str:
    """The kind; a record that extends another one of the same kind adds its own name."""
    extends = any(kind == getattr(base.model_fields.get("kind"), "default", None) for base in _bases(record))
    return f"{kind}-{record.__name__}" if extends else kind


def _bases(record: type[Record]) -> list[type[Record]]:
    return [base for base in record.__mro__[1:] if issubclass(base, Record) and base is not Record]


if __name__ == "__main__":
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "docs/schemas")
    for name, record in file_records().items():
        write_atomic(folder / f"{name}.schema.json", schema(record))

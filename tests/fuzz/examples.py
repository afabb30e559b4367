"""A sound example of every record, made from its JSON Schema."""

from __future__ import annotations

import json
import re
from typing import Any

from devices.catalogue import load_catalogue
from lightnas_edge.records.__main__ import file_records
from lightnas_edge.records.base import Record

_TEXTS = ("a", "0" * 64, "0" * 16, "00", "latency_ms", "model.onnx", "2026-11-23T19:00:00Z", "2026-11-23")

_UNAVAILABLE = {"unavailable": "no engine", "verification": None, "accuracy_difference": None, "speedup": None}


def example_records() -> dict[str, tuple[type[Record], Any]]:
    """Kind -> record and an example of it, of every record that is a file."""
    found = {}
    for kind, record in file_records().items():
        if "schema_" not in record.model_fields:  # a line of a file
            continue
        made = example_of(record)
        if kind == "board":  # each of its facts names a source
            made = load_catalogue()["jetson-nano"].to_json()
        elif kind == "job":
            made["measurements"][0] |= {"architecture": None, "model_file": None}
        elif kind == "precision":
            made["rows"][0] |= _UNAVAILABLE
        elif kind == "report":
            made["precision"]["rows"][0] |= _UNAVAILABLE
        record.parse(json.dumps(made), f"the example of {kind}")
        found[kind] = record, made
    return found


def example_of(record: type[Record]) -> Any:
    """By its schema alone."""
    schema = record.model_json_schema(by_alias=True)
    return _example(schema, schema.get("$defs", {}))


def _example(schema: Any, definitions: dict[str, Any]) -> Any:
    if "$ref" in schema:
        return _example(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return schema["enum"][0]
    if "anyOf" in schema:
        return _example(next(each for each in schema["anyOf"] if each.get("type") != "null"), definitions)
    return _BY_TYPE[schema.get("type", "integer")](schema, definitions)


def _object(schema: Any, definitions: dict[str, Any]) -> Any:
    if "properties" in schema:
        return {name: _example(each, definitions) for name, each in schema["properties"].items()}
    name = schema.get("propertyNames", {}).get("enum", ["latency_ms"])[0]
    of_all = next(iter(schema.get("patternProperties", {}).values()), schema.get("additionalProperties"))
    return {name: _example(of_all if isinstance(of_all, dict) else {}, definitions)}


def _array(schema: Any, definitions: dict[str, Any]) -> Any:
    if "prefixItems" in schema:
        return [_example(each, definitions) for each in schema["prefixItems"]]
    return [_example(schema.get("items", {}), definitions) for _ in range(schema.get("minItems", 1) or 1)]


def _number(schema: Any, _: dict[str, Any]) -> Any:
    most = schema.get("maximum", schema.get("exclusiveMaximum", 2) / 2)
    return most if most < 1 else max(1, schema.get("minimum", 1))


def _text(schema: Any, _: dict[str, Any]) -> str:
    return next(each for each in _TEXTS if re.search(schema.get("pattern", ""), each))


_BY_TYPE = {
    "object": _object,
    "array": _array,
    "integer": _number,
    "number": _number,
    "string": _text,
    "boolean": lambda schema, _: False,
    "null": lambda schema, _: None,
}

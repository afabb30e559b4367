"""Pages of the reference: commands from the parsers, Python from the docstrings, fields from the schemas."""

from __future__ import annotations

import argparse
import html
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import lightnas_edge
from lightnas_edge.cli import all_commands, leaf_parsers

_EXAMPLES = re.compile(r"\bexamples?: ")
_EVERYWHERE = {"--help", "--verbose", "--quiet", "--log-file"}


# -- commands ------------------------------------------------------------------------------------------------


def commands_page() -> str:
    """Every command with its options, defaults and examples."""
    parts = [
        "# Commands",
        "Made from the program's own parsers. `lightnas-edge COMMAND --help` prints the same. Every command also takes `--help`, "
        "`--verbose` (debug messages and tracebacks), `--quiet` (the result, warnings and errors only) and `--log-file FILE` (append "
        "everything to a file, with times and tracebacks).",
    ]
    seen = set()
    for parser in leaf_parsers(all_commands()):
        if parser.prog not in seen:
            seen.add(parser.prog)
            parts += _command(parser)
    return "\n\n".join(parts) + "\n"


def _command(parser: argparse.ArgumentParser) -> Iterator[str]:
    yield f"## {parser.prog}"
    yield _text(parser.description or "")
    usage = " ".join(parser.format_usage().removeprefix("usage: ").split())
    yield f"```text\n{usage}\n```"
    for group in parser._action_groups:
        actions = [action for action in group._group_actions if not _EVERYWHERE & set(action.option_strings)]
        if not actions:
            continue
        yield f"**{_text(group.title or '')}**{': ' + _text(group.description) if group.description else ''}"
        yield _table(
            ("argument", "meaning"), [(_code(_spelled(action)), _text(_help(action, parser))) for action in actions]
        )
    if parser.epilog:
        text, *examples = _EXAMPLES.split(parser.epilog)
        yield _text(text.strip())
        commands = [command.strip() for each in examples for command in each.split("; ")]
        yield "```sh\n" + "\n".join(commands) + "\n```" if commands else ""


def _spelled(action: argparse.Action) -> str:
    metavar = action.metavar if isinstance(action.metavar, str) else " ".join(action.metavar or ())
    value = metavar or ("{" + ",".join(map(str, action.choices)) + "}" if action.choices else "")
    if not action.option_strings:
        return value or action.dest
    takes = "" if action.nargs == 0 else f" {value or action.dest.upper()}"
    return ", ".join(action.option_strings) + takes


def _help(action: argparse.Action, parser: argparse.ArgumentParser) -> str:
    return parser._get_formatter()._expand_help(action) if action.help else ""


# -- Python --------------------------------------------------------------------------------------------------

_TITLES = {
    "lightnas_edge.steps": "Steps",
    "lightnas_edge.report.notebook_plots": "Plots",
    "lightnas_edge.space": "Spaces",
    "luts": "Tables",
    "lightnas_edge.measuring": "Measuring",
    "lightnas_edge.predictor": "Prediction",
    "lightnas_edge.data": "Images",
    "lightnas_edge.search": "Search",
    "lightnas_edge.train": "Training",
    "lightnas_edge.runs": "Runs",
    "lightnas_edge.deploy": "Verification",
    "lightnas_edge.report": "Reports",
    "lightnas_edge.errors": "Errors",
}


def python_page() -> str:
    """The names of `import lightnas_edge as le`, each from its docstring."""
    parts = [
        "# Python",
        "`import lightnas_edge as le` has all names of this page. [From Python](../python.md) shows them at work, and the functions below "
        "them.",
    ]
    by_module: dict[str, list[str]] = {}
    for module, name in lightnas_edge._PLACES.values():
        by_module.setdefault(module, []).append(name)
    for module, title in _TITLES.items():
        parts.append(f"## {title}")
        for name in by_module.pop(module):
            parts.append(f"::: {module}.{name}\n    options:\n      heading_level: 3")
    assert not by_module, f"give these modules a title: {', '.join(by_module)}"
    return "\n\n".join(parts) + "\n"


# -- files ---------------------------------------------------------------------------------------------------


def fields_page(schemas: Path) -> str:
    """Every record with its fields, from the JSON Schemas."""
    parts = [
        "# Fields of files",
        "Made from the JSON Schemas in `docs/schemas`. [Files](../formats.md) says what each file is for. A field with *or null* is null "
        "where it is not known.",
    ]
    for path in sorted(schemas.glob("*.schema.json")):
        schema = json.loads(path.read_text(encoding="utf-8"))
        parts += [f"## {path.name.removesuffix('.schema.json')}", *_record(schema)]
        for name, part in sorted(schema.get("$defs", {}).items()):
            if "properties" in part:
                parts += [f"**{name}**", *_record(part)]
    return "\n\n".join(filter(None, parts)) + "\n"


def _record(schema: Mapping[str, Any]) -> list[str]:
    required = set(schema.get("required", ()))
    rows = [
        (_code(name), _text(_type(field)), "required" if name in required else _default(field))
        for name, field in schema.get("properties", {}).items()
    ]
    return [_text(schema.get("description", "")), _table(("field", "type", ""), rows) if rows else ""]


def _type(field: Mapping[str, Any]) -> str:
    """`number`, `list of text`, `Origin or null`."""
    if "$ref" in field:
        return str(field["$ref"]).rpartition("/")[2]
    if "const" in field:
        return json.dumps(field["const"])
    if "enum" in field:
        return ", ".join(map(json.dumps, field["enum"]))
    for union in ("anyOf", "oneOf", "allOf"):
        if union in field:
            return " or ".join(dict.fromkeys(_type(each) for each in field[union]))
    kind = field.get("type")
    if kind == "array":
        items = field.get("items") or next(iter(field.get("prefixItems", [])), {})
        return f"list of {_type(items)}" if items else "list"
    if kind == "object":
        values = field.get("additionalProperties")
        return f"map of {_type(values)}" if isinstance(values, dict) else "map"
    return {"string": "text", "integer": "whole number", "boolean": "true or false", "null": "null"}.get(
        str(kind), str(kind or "any")
    )


def _default(field: Mapping[str, Any]) -> str:
    return "" if "default" not in field else f"default {_code(json.dumps(field['default']))}"


# -- Markdown ------------------------------------------------------------------------------------------------


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _text(text: str) -> str:
    """Plain text for Markdown: nothing in it is taken for formatting. Code in backticks stays code."""
    parts = " ".join(text.split()).split("`")
    plain = [re.sub(r"([\\*_\[\]|])", r"\\\1", html.escape(part, quote=False)) for part in parts[::2]]
    code = [_code(part) for part in parts[1::2]]
    return "".join(word for pair in zip(plain, [*code, ""], strict=False) for word in pair)


def _code(text: str) -> str:
    """In a cell of a table, where a bar would end the cell."""
    return f"<code>{html.escape(text, quote=False).replace('|', '&#124;').replace('*', '&#42;').replace('_', '&#95;')}</code>"

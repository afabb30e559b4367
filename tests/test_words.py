"""Texts that people read are in the field's terms: help, progress, results, errors, warnings, the report's templates.

The phrases and their replacements stand in words.txt.
"""

import ast
import re
from pathlib import Path

import pytest

from lightnas_edge.cli import all_commands, leaf_parsers, profile_device_alone

ROOT = Path(__file__).parents[1]
PACKAGES = ("lightnas_edge", "luts", "devices", "profiler")
# Functions that print or log their text, and classes of what is printed later.
PRINTING = {
    "print_result", "print_table", "info", "warn", "warning", "debug", "error", "progress", "report_error", "print", "_report",
    "append", "Lack", "Fault", "Judgement", "Unavailable", "add_argument", "add_parser", "add_argument_group", "ArgumentTypeError",
}  # fmt: skip
PRINTED_FIELDS = {"hint", "remedy", "reason", "message", "what", "help", "description", "epilog", "title"}


def phrases():
    for line in (ROOT / "tests" / "words.txt").read_text(encoding="utf-8").splitlines():
        if line.strip() and not line.startswith("#"):
            phrase, separator, replacement = line.partition(" -> ")
            assert separator and replacement, line
            yield phrase, replacement


def pattern(phrase):
    before, after = (r"(?<!\w)" if phrase[0].isalnum() else "", r"(?!\w)" if phrase[-1].isalnum() else "")
    return re.compile(before + re.escape(phrase).replace(r"\ ", r"\s+") + after, re.IGNORECASE)


PATTERNS = [(phrase, replacement, pattern(phrase)) for phrase, replacement in phrases()]


def findings(place, text):
    return [
        f"{place}: {phrase!r} -> {replacement}    {text[max(0, found.start() - 30) : found.end() + 30]!r}"
        for phrase, replacement, looked_for in PATTERNS
        for found in looked_for.finditer(text)
    ]


def printed(path):
    """(line, text) of the strings that are raised, printed, logged or passed as a text for people."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    roots = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise) and node.exc is not None:
            roots.append(node.exc)
        elif isinstance(node, ast.Call):
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            roots += [node] if name in PRINTING or name.endswith(("Error", "error")) else []
            roots += [keyword.value for keyword in node.keywords if keyword.arg in PRINTED_FIELDS]
    seen = set()
    for root in roots:
        for node in ast.walk(root):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in seen:
                seen.add(id(node))
                if " " in node.value.strip():  # a text, not a name
                    yield node.lineno, node.value


@pytest.mark.parametrize("package", PACKAGES)
def test_messages_are_in_the_terms_of_the_field(package):
    found = [
        line
        for path in sorted((ROOT / package).rglob("*.py"))
        for number, text in printed(path)
        for line in findings(f"{path.relative_to(ROOT)}:{number}", text)
    ]
    assert not found, "\n".join(found)


def test_help_is_in_the_terms_of_the_field():
    found = [
        line
        for parser in [all_commands(), *leaf_parsers(all_commands()), profile_device_alone()]
        for line in findings(parser.prog, parser.format_help())
    ]
    assert not found, "\n".join(found)


def test_the_report_is_in_the_terms_of_the_field():
    found = []
    for path in sorted((ROOT / "lightnas_edge" / "report" / "templates").iterdir()):
        text = re.sub(r"\{[{%#].*?[}%#]\}|<[^>]*>", "\0", path.read_text(encoding="utf-8"), flags=re.DOTALL)
        found += findings(path.relative_to(ROOT), text)
    assert not found, "\n".join(found)


def test_the_gate_sees_a_phrase_in_a_message(tmp_path):
    """A gate that sees nothing would let everything pass."""
    (tmp_path / "x.py").write_text('def f(n):\n    raise ValueError(f"the dearest network takes {n} ms")\n')

    ((line, text), *_) = printed(tmp_path / "x.py")

    assert (line, len(findings("x.py", text))) == (2, 1)

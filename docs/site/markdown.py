"""Markdown as GitHub reads it, made fit for Python-Markdown."""

from __future__ import annotations

import re

_ITEM = re.compile(r"\s{0,3}(?:[-*]|\d+\.)\s")
_FENCE = re.compile(r"\s*(?:```|~~~)")


def for_mkdocs(markdown: str) -> str:
    """With an empty line before lists and tables that follow a paragraph, which Python-Markdown needs to see them."""
    lines: list[str] = []
    fenced = False
    for line in markdown.splitlines():
        before = lines[-1] if lines else ""
        if _FENCE.match(line):
            fenced = not fenced
        elif not fenced and before.strip() and not before.startswith((" ", "#")):
            begins_list = _ITEM.match(line) and not _ITEM.match(before)
            begins_table = line.startswith("|") and not before.startswith("|")
            if begins_list or begins_table:
                lines.append("")
        lines.append(line)
    return "\n".join(lines) + "\n"

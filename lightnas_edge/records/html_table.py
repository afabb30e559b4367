"""Tables that a notebook shows for an object, as HTML. Everything is escaped: names come from boards and files."""

from __future__ import annotations

import html
from collections.abc import Sequence

from lightnas_edge.records.plain_text import clean_text

MOST_ROWS = 30


def html_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]], *, note: str = "") -> str:
    """A title, a table and a line below it.

    Args:
        columns: none for a table without a head.
        rows: of as many cells as there are columns; those after MOST_ROWS are counted only.
        note: the line below.
    """
    head = f"<thead><tr>{_cells('th', columns)}</tr></thead>" if columns else ""
    body = "".join(f"<tr>{_cells('td', row)}</tr>" for row in rows[:MOST_ROWS])
    more = f"{len(rows) - MOST_ROWS} more rows" if len(rows) > MOST_ROWS else ""
    below = "; ".join(filter(None, (more, note)))
    table = f"<table>{head}<tbody>{body}</tbody></table>" if rows else ""
    return f"<div><p><strong>{_text(title)}</strong></p>{table}{f'<p>{_text(below)}</p>' if below else ''}</div>"


def _cells(tag: str, values: Sequence[object]) -> str:
    return "".join(f'<{tag} style="text-align:left">{_text(str(value))}</{tag}>' for value in values)


def _text(text: str) -> str:
    return html.escape(clean_text(text))

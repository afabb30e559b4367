"""The templates' environment. Text of a run's files is of unknown origin: no markup and no control character of it is
written, in HTML or in Markdown.
"""

from __future__ import annotations

import functools
import html
import re
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from lightnas_edge.deploy.judge import decimals
from lightnas_edge.records.base import Record
from lightnas_edge.records.plain_text import clean_text
from lightnas_edge.records.report import BudgetRow, StatisticRow
from lightnas_edge.report import wording

_TEMPLATES = Path(__file__).parent / "templates"
_COMMAND = re.compile(r"`((?:lightnas-edge|profile-device) [^`<>&|]*)`")


@functools.cache
def environment(*, html_page: bool) -> jinja2.Environment:
    found = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=html_page,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_printable,
    )
    found.filters.update(
        number=wording.number,
        percent=wording.percent,
        signed_percent=wording.signed_percent,
        quantity=wording.quantity,
        span=wording.span,
        energy=wording.energy,
        predicted_energy=wording.predicted_energy,
        fine=_fine,
        label=wording.label,
        units=wording.unit,
        plain=_plain,
        short=_short,
        md=markdown_text,
        message=_html_message if html_page else markdown_message,
        sentence=_sentence,
        when=_when,
        target=_target,
        value=_value,
        interval=_interval,
        predicted=_predicted,
        beyond=_beyond,
        milliseconds=_milliseconds,
        statistic_interval=_statistic_interval,
        statistic_budget=_statistic_budget,
    )
    return found


# -- budgets and statistics ------------------------------------------------------------------------------------------


def _target(row: BudgetRow) -> str:
    """`at most 20.0 ms`"""
    return f"{row.bound} {wording.quantity(row.target, row.unit, _digits(row))}"


def _value(row: BudgetRow) -> str:
    return "" if row.value is None else wording.quantity(row.value, row.unit, _digits(row))


def _interval(row: BudgetRow) -> str:
    return "" if row.interval is None else wording.span(row.interval, row.unit, _digits(row))


def _predicted(row: BudgetRow) -> str:
    if row.predicted is None:
        return "no prediction"
    text = wording.quantity(row.predicted, row.unit)
    return text if row.predicted_interval is None else f"{text} ({wording.span(row.predicted_interval, row.unit)})"


def _beyond(row: BudgetRow) -> str:
    """How far a missed budget is missed; otherwise nothing."""
    if row.verdict != "missed" or row.value is None or not row.target or (row.bound == "at least" and row.value <= 0):
        return ""
    by = (row.target / row.value if row.bound == "at least" else row.value / row.target) - 1
    return f" by {wording.percent(by)}" if by > 0 else ""


def _digits(row: BudgetRow) -> int:
    values = tuple(each for each in (row.value, *(row.interval or ())) if each is not None)
    return wording.digits_apart(row.target, values, row.unit)


def _milliseconds(row: StatisticRow) -> str:
    return wording.quantity(row.value_ms, "ms", _statistic_digits(row))


def _statistic_interval(row: StatisticRow) -> str:
    return "" if row.interval_ms is None else wording.span(row.interval_ms, "ms", _statistic_digits(row))


def _statistic_budget(row: StatisticRow) -> str:
    """`at most 20.0 ms: met`"""
    if row.budget is None:
        return "no budget"
    return f"{_target(row.budget)}: {row.budget.verdict}"


def _statistic_digits(row: StatisticRow) -> int | None:
    return None if row.budget is None else _digits(row.budget)


def _fine(value_ms: float) -> str:
    """One digit more: a reader can compute the difference of two such numbers in per cent."""
    return wording.quantity(value_ms, "ms", decimals(value_ms) + 1)


# -- text ------------------------------------------------------------------------------------------------------------


def _printable(value: Any) -> Any:
    return clean_text(value) if type(value) is str and not value.isprintable() else value


def _short(value: float | None, unknown: str = "unknown") -> str:
    """Three digits, since a decomposition knows no more."""
    return unknown if value is None else f"{value:.3g}"


def _plain(value: Any, unknown: str = "unknown") -> str:
    """A value from a record as people write it."""
    if value is None or value == "":
        return unknown
    if isinstance(value, Record):
        return _plain(value.to_json(), unknown)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(_plain(item, unknown) for item in value) or "none"
    if isinstance(value, dict):
        return "; ".join(f"{name} {_plain(item, unknown)}" for name, item in value.items()) or "none"
    return clean_text(str(value)) or unknown


def _sentence(text: str) -> str:
    """With a capital letter at its begin, unless it begins with a path, and one full stop at its end."""
    text = clean_text(text).rstrip(".")
    return f"{text}." if "/" in text.split(" ", 1)[0] else f"{text[:1].upper()}{text[1:]}."


def _when(text: str) -> str:
    """`2026-11-23 19:20 UTC` of an ISO date; unchanged when it is none."""
    try:
        return datetime.fromisoformat(text).astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")
    except (ValueError, OverflowError):
        return _plain(text)


def _html_message(text: str) -> Markup:
    """A message with its `commands` set as code; everything is escaped first."""
    escaped = str(Markup.escape(clean_text(text)))
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", escaped))


def markdown_text(value: Any) -> str:
    """Text for a Markdown table or paragraph, shown as it is: no HTML, no emphasis, no link, no column break, no mention."""
    text = html.escape(_plain(value), quote=False)
    text = re.sub(r"([\\`*\[\]|~!#$@])|(?<![0-9A-Za-z])_|_(?![0-9A-Za-z])", lambda match: "\\" + match[0], text)
    return text.replace("://", "\\://")


def markdown_message(text: str) -> str:
    """The same with our own commands as code."""
    pieces: Iterable[str] = _COMMAND.split(clean_text(text))
    return "".join(f"`{piece}`" if index % 2 else _markdown_piece(piece) for index, piece in enumerate(pieces))


def _markdown_piece(piece: str) -> str:
    """Escaped, with the blanks at its ends, which separate it from a command."""
    body = piece.strip()
    if not body:
        return piece
    before, _, after = piece.partition(body)
    return before + markdown_text(body) + after

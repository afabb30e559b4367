"""The comparison of two verifications as compare.html, compare.md and compare.json."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import jinja2

from lightnas_edge.files import write_atomic, write_json
from lightnas_edge.records.comparison import ComparisonReport
from lightnas_edge.records.plain_text import clean_text
from lightnas_edge.report.rendering import markdown_message

_TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class ComparisonFiles:
    html: Path
    markdown: Path
    json: Path


def write_comparison(report: ComparisonReport, folder: Path) -> ComparisonFiles:
    """Raises OSError where the folder cannot be written to."""
    folder.mkdir(parents=True, exist_ok=True)
    files = ComparisonFiles(folder / "compare.html", folder / "compare.md", folder / "compare.json")
    write_atomic(files.html, _rendered(report, "compare.html"))
    write_atomic(files.markdown, _rendered(report, "compare.md"))
    write_json(files.json, report.to_json())
    return files


def _rendered(report: ComparisonReport, name: str) -> str:
    """Text of a board is cleaned, and none of it is markup."""
    page = name.endswith(".html")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=page,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["text"] = clean_text if page else markdown_message
    return environment.get_template(name).render(report=report)

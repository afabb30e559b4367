"""The precisions of a model file as precision.html and precision.md; those of a run are a section of its report."""

from __future__ import annotations

from pathlib import Path

from lightnas_edge.files import write_atomic
from lightnas_edge.records.precision import PrecisionRecord
from lightnas_edge.report.rendering import environment


def build_precision_page(record: PrecisionRecord, folder: Path) -> Path:
    """Write both into `folder`; the path of the page. Raises OSError."""
    page = folder / "precision.html"
    write_atomic(page, environment(html_page=True).get_template("precision.html").render(table=record))
    text = environment(html_page=False).get_template("precision.md").render(table=record)
    write_atomic(folder / "precision.md", text)
    return page

"""How a profiled model is shown: what `profile --model` and `import` of trtexec's files share."""

from __future__ import annotations

import re
from pathlib import Path

from lightnas_edge.cli._console import info, print_json, print_result, warn
from lightnas_edge.records.model import ModelRecord
from lightnas_edge.records.model_profile import ModelProfileRecord
from lightnas_edge.records.plain_text import clean_text


def show_profile(record: ModelProfileRecord, folder: Path | None, *, as_json: bool) -> None:
    """Write the report and print the result. Raises OSError where the folder cannot be written to."""
    from lightnas_edge.report.model_page import headline, write_model_report

    report = write_model_report(record, folder or default_folder(record.name))
    if as_json:
        print_json(record.to_json())
    else:
        print_result(f"{clean_text(record.name)}: {headline(record)}; {len(record.layers)} layers")
        for finding in record.findings:
            mark = "SIMULATED: " if record.simulated else ""
            print_result(f"- {finding.title}. {mark}{finding.text}\n  {finding.remedy}")
        show_changes(record.model)
        for warning in record.warnings:
            warn(warning)
    info(f"report: {report.html}")


def show_changes(model: ModelRecord | None) -> None:
    """What differs between the file and what is sent: the result is about the latter."""
    for change in model.changes if model else ():
        info(f"note: before it is sent, {clean_text(change)}")


def default_folder(name: str) -> Path:
    """`profile-NAME`"""
    return Path("profile-" + (re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")[:80] or "model"))

"""What people read of a field test: the lines of a step, the README of the archive, the row of docs/boards.md."""

from __future__ import annotations

from collections.abc import Iterator

from lightnas_edge.field_test.records import FieldTestRecord, StepRecord
from lightnas_edge.field_test.scrub import MARKS
from lightnas_edge.records.plain_text import clean_text

COLUMNS = ("board", "JetPack (L4T)", "engines", "steps passed", "not passed", "kind", "date")


def step_lines(step: StepRecord) -> Iterator[str]:
    yield f"{step.status:<11} {step.name}: {step.title} ({step.seconds:.0f} s)"
    if step.cause is not None:
        yield from (f"    {line}" for line in step.cause.splitlines())
    if step.remedy:
        yield from (f"    {line}" for line in step.remedy.splitlines())
    yield from (f"    {line}" for finding in step.findings for line in finding.splitlines())


def verdict_line(record: FieldTestRecord) -> str:
    counts = ", ".join(f"{record.count(status)} {status}" for status in ("passed", "failed", "skipped", "interrupted"))
    mark = "SIMULATED " if record.simulated else ""
    return f"{mark}field test of {record.board or 'a board that was not reached'}: {counts}"


def board_row(record: FieldTestRecord) -> str:
    """A row of the table of docs/boards.md."""
    others = [f"{step.name} {step.status}" for step in record.steps if step.status != "passed"]
    cells = (
        record.module or record.board or "unknown",
        f"{record.jetpack or '-'} ({record.l4t or '-'})",
        ", ".join(f"{name} {version}" for name, version in sorted(record.engines.items())) or "none",
        f"{record.count('passed')} of {len(record.steps)}{' (quick)' if record.quick else ''}",
        ", ".join(others) or "-",
        "simulated" if record.simulated else "real",
        record.created,
    )
    return "| " + " | ".join(clean_text(cell, 300).replace("|", "/") for cell in cells) + " |"


def removed_lines(record: FieldTestRecord) -> Iterator[str]:
    """What was removed, each kind with its mark and the number of places."""
    for kind, mark in MARKS.items():
        yield f"{kind}: {mark}, {record.removed.get(kind, 0)} places"


def readme(record: FieldTestRecord) -> str:
    """README.md of the archive."""
    lines = [
        "# A field test of lightnas-edge",
        "",
        verdict_line(record) + ".",
        "",
        *(["**Simulated: nothing in this archive was measured on a board.**", ""] if record.simulated else []),
        f"Version {record.version}, {record.created}, {record.seconds / 60:.0f} minutes.",
        "",
        "Nothing of this was sent anywhere. You may share this archive: names and addresses were removed from every file.",
        "Look through it before you share it: it is plain text.",
        "",
        "## What was removed",
        "",
        *(f"- {line}" for line in removed_lines(record)),
        "",
        "A user or host name that is an everyday word of boards (nvidia, ubuntu, jetson) or of these files (energy) names no one;",
        "it was removed only before and after an @ and in home folders. Removed names are listed nowhere.",
        "",
        "## Files",
        "",
        "- `summary.json`: all steps, with what each found or why it did not",
        "- `probe.json`, `probe-ENGINE.json`: the board and its engines, as the agent describes them",
        "- `snapshot.json`: copies of the system files that the agent reads, and the output of nvpmodel, dpkg-query and tegrastats",
        "- `journals/`: every measurement",
        "- `layers/`, `verify/`, `records/`: the layers of a network, a verdict, a predictor",
        "- `logs/`: of this program and of the agents on the board",
        "",
        "`lightnas-edge field-test --replay ARCHIVE` reads all of it again.",
        "",
        "## Steps",
        "",
        *(f"    {line}" for step in record.steps for line in step_lines(step)),
        "",
    ]
    return "\n".join(lines)

"""`lightnas-edge field-test`: the first hour on a board, and reading its archive again."""

from __future__ import annotations

import argparse
import contextlib
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import devices
from devices import Status
from lightnas_edge.cli._console import Bar, UsageError, duration, info, print_json, print_result, progress, warn
from lightnas_edge.cli._options import add_json, sudo_password, unknown_choice

if TYPE_CHECKING:
    from lightnas_edge.field_test import StepRecord
    from lightnas_edge.field_test.steps import Step

_HOST_ONLY, _REPLAY_ONLY = ("quick", "only", "out", "ask_sudo_password"), ("tests", "append")


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "field-test", help="the first hour on a board: try every path, leave one archive to share",
        description="Run every path that needs a real board, each step isolated from the others: engines, precisions, layers, "
        "energy, clocks, power modes, a killed process, a table, ten networks, a fit, a verdict. It takes at most an hour, restores "
        "what it changes, sends nothing anywhere, and leaves one archive without names and addresses.",
        epilog="exit code 0: no step failed; 1: a step failed, or an archive and its readers disagree. examples: "
        "lightnas-edge field-test --host jetson.local; lightnas-edge field-test --replay field-test.tar.gz",
    )  # fmt: skip
    either = parser.add_mutually_exclusive_group(required=True)
    either.add_argument("--host", metavar="HOST", help="the board to try")
    either.add_argument(
        "--replay", type=Path, metavar="ARCHIVE", help="read an archive again, with the present readers"
    )
    parser.add_argument("--quick", action="store_true", help="some minutes: the default engine only, few rounds")
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="STEP",
        help="this step, with probe and snapshot; may be repeated: fit needs table and networks",
    )
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="the archive (default: field-test-DATE-TIME.tar.gz in this folder)"
    )
    parser.add_argument(
        "--ask-sudo-password", action="store_true", help="ask for it here, for the steps that change clocks and modes"
    )
    parser.add_argument(
        "--tests", type=Path, metavar="DIR", help="with --replay: write the board's files there, for tests"
    )
    parser.add_argument(
        "--append", type=Path, metavar="FILE", help="with --replay: append the board's row to this page"
    )
    add_json(parser)
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    wrong, mode = (_REPLAY_ONLY, "--replay") if arguments.replay is None else (_HOST_ONLY, "--host")
    for name in wrong:
        if getattr(arguments, name):
            raise UsageError(f"--{name.replace('_', '-')} needs {mode}")
    return _field_test(arguments) if arguments.replay is None else _replay(arguments)


def _field_test(arguments: argparse.Namespace) -> int:
    from lightnas_edge.field_test import Plan, estimated_s, run_field_test
    from lightnas_edge.field_test.pages import removed_lines, verdict_line
    from lightnas_edge.field_test.steps import steps

    archive = arguments.out or Path(f"field-test-{datetime.now(UTC):%Y%m%d-%H%M%S}.tar.gz")
    _require_writable(archive)
    password = sudo_password(arguments)
    connection = devices.connect(arguments.host)
    plan = Plan(connection.backend, arguments.quick, frozenset(arguments.only))
    names = [step.name for step in steps(Plan(connection.backend, arguments.quick))]
    for name in arguments.only:
        if name not in names:
            raise UsageError(f"--only: invalid choice: {unknown_choice(name, names)}")
    info(
        f"estimate: about {duration(estimated_s(plan))}, at most {duration(plan.limit_s)}; Ctrl-C stops, restores and packs"
    )
    info("everything that changes on the board is restored; nothing is sent anywhere")
    with _Progress(quiet=arguments.json) as listener:
        test = run_field_test(
            arguments.host, lambda: connection, archive,
            quick=arguments.quick, only=arguments.only, sudo_password=password, listener=listener,
        )  # fmt: skip
    record = test.record
    if arguments.json:
        print_json({**record.to_json(), "archive": str(archive)})
    else:
        print_result("")
        print_result("removed from the archive:")
        for line in removed_lines(record):
            print_result(f"    {line}")
        print_result(verdict_line(record))
        print_result(f"archive: {archive} ({archive.stat().st_size / 1e3:.0f} kB); look through it before you share it")
    if test.interrupted:
        return 130 if test.signum is None else 128 + test.signum
    return 1 if record.count("failed") else 0


class _Progress(contextlib.AbstractContextManager["_Progress"]):
    """Prints every finished step; one bar for the whole test."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._stack = contextlib.ExitStack()
        self._bar: Bar | None = None
        self._number, self._total, self._title = 0, 0, ""

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def on_step(self, number: int, total: int, step: Step) -> None:
        if self._bar is None:
            self._bar = self._stack.enter_context(progress("field test"))
        self._number, self._total, self._title = number, total, step.title
        self._bar(number - 1, total, step.title)

    def on_status(self, status: Status) -> None:
        if self._bar is not None:
            self._bar(self._number - 1, self._total, f"{self._title}: {status.phase} {status.done} of {status.total}")

    def on_done(self, record: StepRecord) -> None:
        from lightnas_edge.field_test.pages import step_lines

        if not self._quiet:
            for line in step_lines(record):
                print_result(line)


def _require_writable(archive: Path) -> None:
    """Raises UsageError: known before the board works for an hour."""
    if archive.exists():
        raise UsageError(f"{archive} exists", hint="name another file with --out, or remove it")
    try:
        archive.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=archive.parent):
            pass
    except OSError as error:
        raise UsageError(f"cannot write {archive}: {error.strerror}", hint="name another file with --out") from error


def _replay(arguments: argparse.Namespace) -> int:
    from lightnas_edge.field_test import FieldTestRecord, unpack
    from lightnas_edge.field_test.archive import SUMMARY
    from lightnas_edge.field_test.pages import board_row, step_lines, verdict_line
    from lightnas_edge.field_test.replay import replay, write_test

    checks: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="lightnas-edge-replay-") as scratch:
        folder = unpack(arguments.replay, Path(scratch) / "archive")
        record = FieldTestRecord.load(folder / SUMMARY)
        if not arguments.json:
            print_result(verdict_line(record))
            for step in record.steps:
                for line in step_lines(step):
                    print_result(line)
            print_result("\nread again:")
        for check in replay(folder, Path(scratch) / "board"):
            checks.append({"name": check.name, **{name: getattr(check, name) for name in _LISTS}})
            if not arguments.json:
                for line in _check_lines(checks[-1]):
                    print_result(line)
        written = write_test(folder, arguments.tests) if arguments.tests is not None else None
    row = board_row(record)
    disagreements = sum(len(check["disagreements"]) for check in checks)
    if arguments.append is not None:
        _append(arguments.append, row)
    if arguments.json:
        print_json({
            "kind": "field-test-replay", "schema": 1, "field_test": record.to_json(), "checks": checks, "row": row,
            "test": None if written is None else str(written),
        })  # fmt: skip
    else:
        if written is not None:
            print_result(f"input for tests: {written}")
        print_result(f"{disagreements} disagreements between the archive and the present readers")
        print_result(row)
    if disagreements:
        warn("the readers disagree with what the board said; see the lines marked DISAGREES")
    return 1 if disagreements else 0


_LISTS = ("findings", "notes", "disagreements")


def _check_lines(check: dict[str, Any]) -> Iterator[str]:
    yield check["name"]
    yield from (f"    {line}" for line in check["findings"])
    yield from (f"    new: {line}" for line in check["notes"])
    yield from (f"    DISAGREES: {line}" for line in check["disagreements"])


def _append(page: Path, row: str) -> None:
    """At the end of a page that ends in the table of field tests."""
    try:
        text = page.read_text(encoding="utf-8") if page.exists() else ""
        with page.open("a", encoding="utf-8") as file:
            file.write(("" if not text or text.endswith("\n") else "\n") + row + "\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot append to {page}: {error}") from error

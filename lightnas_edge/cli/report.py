"""`lightnas-edge report`: one HTML file that tells the whole story of a run."""

from __future__ import annotations

import argparse
from pathlib import Path

from lightnas_edge.cli._console import say


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "report", help="the story of a run as one HTML file, Markdown and JSON",
        epilog="example: lightnas-edge report runs/tiny-0.9ms",
    )  # fmt: skip
    parser.add_argument("run_folder", type=Path, metavar="RUN")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    from lightnas_edge.report import build_report

    report = build_report(arguments.run_folder)
    say(f"report: {report.html}")
    return 0

"""`lightnas-edge report`: a run as one HTML file, Markdown and JSON."""

from __future__ import annotations

import argparse
from pathlib import Path

from lightnas_edge.cli._console import print_json, print_result
from lightnas_edge.cli._options import add_json


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "report", help="a run as one HTML file, Markdown and JSON",
        description="Write report.html, report.md and report.json into a run directory: data, search, network, verdict.",
        epilog="example: lightnas-edge report runs/tiny-0.9ms",
    )  # fmt: skip
    parser.add_argument("run_folder", type=Path, metavar="RUN")
    add_json(parser)
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    from lightnas_edge.report import build_report

    report = build_report(arguments.run_folder)
    if arguments.json:
        files = {"html": str(report.html), "markdown": str(report.markdown), "json": str(report.json)}
        print_json({"kind": "report-files", "line": report.line, **files, "missing": report.missing})
    else:
        print_result(f"report: {report.html}")
    return 0

"""`lightnas-edge report`: a run as one HTML file, Markdown and JSON; or what changed between two verifications."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightnas_edge.cli._console import UsageError, print_json, print_result
from lightnas_edge.cli._options import add_json
from lightnas_edge.cli._several import best_runs
from lightnas_edge.errors import LightnasEdgeError
from lightnas_edge.runs import Run

if TYPE_CHECKING:
    from lightnas_edge.report import AllReports, Report


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "report", help="a run as one HTML file, Markdown and JSON; or two verifications compared",
        description="Write report.html, report.md and report.json into a run directory: data, search, network, verdict. "
        "With --compare, show what changed between two verifications.",
        epilog="examples: lightnas-edge report runs/tiny-0.9ms; "
        "lightnas-edge report --compare old/verification.json new/verification.json --out changes",
    )  # fmt: skip
    parser.add_argument("run_folder", type=Path, nargs="?", metavar="RUN")
    group = parser.add_mutually_exclusive_group()
    group.add_argument(
        "--all", action="store_true", help="of a search that found several: a report for each network, and one over all"
    )
    group.add_argument(
        "--best",
        action="store_true",
        help="of a search that found several: a report for the best network of every budget",
    )
    parser.add_argument(
        "--compare", type=Path, nargs=2, metavar=("OLD", "NEW"), help="two verifications: files, or folders that hold one"
    )  # fmt: skip
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="with --compare: write compare.html, .md and .json here"
    )
    add_json(parser)
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    if (arguments.run_folder is None) == (arguments.compare is None):
        raise UsageError("report takes a run directory, or two verifications with --compare")
    if arguments.compare is not None:
        if arguments.all or arguments.best:
            raise UsageError("--all and --best: of a run; --compare takes two verifications")
        return _compare(arguments)
    if arguments.out is not None:
        raise UsageError("--out: only with --compare; the report of a run is written into its directory")
    from lightnas_edge.report import build_all_reports, build_report

    if arguments.all:
        return _all(build_all_reports(arguments.run_folder), json=arguments.json)
    folders = (
        [run.folder for run in best_runs(Run.open(arguments.run_folder))] if arguments.best else [arguments.run_folder]
    )
    reports = [build_report(folder) for folder in folders]
    if arguments.json:
        print_json([_files(report) for report in reports] if arguments.best else _files(reports[0]))
    else:
        for report in reports:
            print_result(f"report: {report.html}")
    return 0


def _all(reports: AllReports, *, json: bool) -> int:
    if json:
        print_json({**_files(reports.overview), "networks": [_files(report) for report in reports.networks.values()]})
        return 0
    for report in reports.networks.values():
        print_result(f"report: {report.html}: {report.line}")
    print_result(f"report of all: {reports.overview.html}")
    return 0


def _files(report: Report) -> dict[str, Any]:
    files = {"html": str(report.html), "markdown": str(report.markdown), "json": str(report.json)}
    return {"kind": "report-files", "line": report.line, **files, "missing": report.missing}


def _compare(arguments: argparse.Namespace) -> int:
    from lightnas_edge.deploy.compare_verifications import compare_verifications, read_verification
    from lightnas_edge.report.compare_page import write_comparison

    old, new = map(read_verification, arguments.compare)
    report = compare_verifications(old, new)
    page = None
    if arguments.out is not None:
        try:
            page = write_comparison(report, arguments.out).html
        except OSError as error:
            raise LightnasEdgeError(
                f"cannot write into {arguments.out}: {error.strerror or error}",
                hint="name a folder that can be written to",
            ) from error
    if arguments.json:
        print_json(report.to_json())
        return 0
    for line in (*report.findings, *(f"different: {text}" for text in report.differences)):
        print_result(line)
    print_result(f"next: {report.remedy}")
    if page is not None:
        print_result(f"report: {page}")
    return 0

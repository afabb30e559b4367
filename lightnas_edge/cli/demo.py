"""`lightnas-edge demo`: all steps in one run, on this machine, on real handwritten digits."""

from __future__ import annotations

import argparse
import contextlib
import shlex
import sys
import time
from pathlib import Path

from lightnas_edge.cli._console import duration, print_json, print_result
from lightnas_edge.cli._options import add_json
from lightnas_edge.errors import RunError

SPACE = "tiny"
_STEPS = 10
_PRECISION_ROUNDS = 13  # of each precision, for the median; `verify` has judged the tail already
_TAIL = 1.3  # budget of the 95th percentile, over that of the median


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "demo", help="all steps in one run, on this machine",
        description="Measure the operators of a small space on this machine, search under a budget on scikit-learn's handwritten "
        "digits, train, export, verify, compare the precisions, report. Each step is a command that is printed before it runs.",
        epilog="exit code 0 when all steps ran, whatever the verdict. example: lightnas-edge demo --out demo",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, default=Path("demo"), metavar="DIR", help="default: demo")
    add_json(parser)
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    began_s = time.monotonic()
    run = out / "run"
    with contextlib.redirect_stdout(sys.stderr) if arguments.json else contextlib.nullcontext():
        met = _Demo().all_steps(out, run)
    seconds = time.monotonic() - began_s
    if arguments.json:
        print_json({
            "kind": "demo", "run": str(run), "report": str(run / "report.html"), "met": met, "elapsed_s": round(seconds, 1),
        })  # fmt: skip
        return 0
    print_result("")
    print_result(f"Demo finished in {duration(seconds)}. Report: {run / 'report.html'}")
    if not met:
        print_result("The measurement does not show that the budget is met; the report gives the reason.")
    return 0


class _Demo:
    """Runs the commands and counts them."""

    def __init__(self) -> None:
        self._step = 0

    def all_steps(self, out: Path, run: Path) -> bool:
        """Whether the budget was met."""
        operators, networks, predictor = (
            out / "operators.lut.jsonl", out / "networks.lut.jsonl", out / f"{SPACE}.predictor.json",
        )  # fmt: skip
        board = ("--host", "localhost", "--space", SPACE, "--rounds", "18")
        self._run("profile", *board, "--out", operators, "--fresh")
        self._run("sample", *board, "--count", "20", "--out", networks, "--fresh")
        self._run("fit", "--space", SPACE, "--lut", operators, "--samples", networks, "--out", predictor)
        self._run("range", "--predictor", predictor)
        budget_ms = _budget_ms(predictor)
        self._run(
            "search", "--predictor", predictor, "--latency-ms", f"{budget_ms:g}", "--data", "digits", "--out", run,
            "--fresh", "--epochs", "9", "--batch-size", "64", "--confidence", "0.95",
        )  # fmt: skip
        self._run("train", run, "--epochs", "10", "--batch-size", "64")
        self._run("export", run)
        tail_ms = f"{_TAIL * budget_ms:.3g}"
        verdict = self._run("verify", run, "--host", "localhost", "--p95-ms", tail_ms, may_miss=True)
        self._run("precision", run, "--host", "localhost", "--rounds", str(_PRECISION_ROUNDS), may_miss=True)
        self._run("report", run)
        return verdict == 0

    def _run(self, command: str, *arguments: str | Path, may_miss: bool = False) -> int:
        from lightnas_edge.cli import run_command

        self._step += 1
        argv = [command, *map(str, arguments)]
        print_result(f"\n[{self._step}/{_STEPS}] $ lightnas-edge {shlex.join(argv)}")
        code = run_command(argv)
        if code != 0 and not (may_miss and code == 3):
            raise RunError(
                f"the demo stopped: `lightnas-edge {command}` ended with exit code {code}",
                hint="see the messages above",
            )
        return code


def _budget_ms(predictor: Path) -> float:
    """Between the fastest network and a typical one, so that the search has to choose."""
    from lightnas_edge.predictor import load_predictor, reachable_range

    reach = reachable_range(load_predictor(predictor))
    return float(f"{reach.lowest + 0.8 * (reach.median - reach.lowest):.2g}")

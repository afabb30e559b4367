"""`lightnas-edge demo`: the whole story in one run, on this machine, on real handwritten digits."""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from pathlib import Path

from lightnas_edge.cli._console import duration, say
from lightnas_edge.errors import RunError

SPACE = "tiny"


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "demo", help="the whole story in one run, on this machine",
        description="Measure the operators of a small space on this machine, search under a budget on scikit-learn's handwritten "
        "digits, train, export, verify, report. Each step is a command that is printed before it runs.",
        epilog="exit code 0 when the story was told, whatever the verdict",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, default=Path("demo"), metavar="DIR", help="default: demo")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    started_s = time.monotonic()
    operators, networks = out / "operators.lut.jsonl", out / "networks.lut.jsonl"
    predictor, run = out / f"{SPACE}.predictor.json", out / "run"

    _step("profile", "--host", "localhost", "--space", SPACE, "--rounds", "25", "--out", operators, "--fresh")
    _step(
        "sample",
        "--host",
        "localhost",
        "--space",
        SPACE,
        "--count",
        "20",
        "--rounds",
        "25",
        "--out",
        networks,
        "--fresh",
    )
    _step("fit", "--space", SPACE, "--lut", operators, "--samples", networks, "--out", predictor)
    _step("range", "--predictor", predictor)
    target_ms = _budget(predictor)
    _step(
        "search", "--predictor", predictor, "--latency-ms", f"{target_ms:g}", "--data", "digits", "--out", run, "--fresh",
        "--epochs", "18", "--batch-size", "64", "--confidence", "0.95",
    )  # fmt: skip
    _step("train", run, "--epochs", "20", "--batch-size", "64")
    _step("export", run)
    verdict = _step("verify", run, "--host", "localhost", may_miss=True)
    _step("report", run)
    say("")
    say(f"told in {duration(time.monotonic() - started_s)}; the report: {run / 'report.html'}")
    if verdict != 0:
        say("the budget was not shown to be met today; the report says why")
    return 0


def _budget(predictor: Path) -> float:
    """A budget between the cheapest network and a typical one, so that the search has to choose."""
    from lightnas_edge.predictor import load_predictor, reachable_range

    reach = reachable_range(load_predictor(predictor))
    return float(f"{reach.lowest + 0.8 * (reach.median - reach.lowest):.2g}")


def _step(command: str, *arguments: str | Path, may_miss: bool = False) -> int:
    from lightnas_edge.cli import main

    argv = [command, *map(str, arguments)]
    colour = sys.stdout.isatty()
    say(("\033[1m" if colour else "") + f"\n$ lightnas-edge {shlex.join(argv)}" + ("\033[0m" if colour else ""))
    code = main(argv)
    if code == 130:
        raise KeyboardInterrupt
    if code != 0 and not (may_miss and code == 3):
        raise RunError(
            f"the demo stopped: `lightnas-edge {command}` ended with exit code {code}", hint="see the messages above"
        )
    return code

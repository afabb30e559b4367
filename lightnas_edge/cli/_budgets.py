"""The arguments that name boards and budgets."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from lightnas_edge.cli._options import milliseconds, positive
from lightnas_edge.errors import BudgetError

# Option, metric, unit, help; in this order the first one given orders networks by cost.
LIMITS = (
    ("--latency-ms", "latency_ms", "MS", "maximum median (p50) latency of one inference, of one batch"),
    ("--mean-ms", "mean_ms", "MS", "maximum mean latency of single inferences"),
    ("--p95-ms", "p95_ms", "MS", "maximum 95th percentile (p95) of the latencies of single inferences"),
    ("--p99-ms", "p99_ms", "MS", "maximum 99th percentile (p99) of the latencies of single inferences"),
    ("--energy-mj", "energy_mj", "MJ", "maximum energy of one batch, gross"),
    ("--net-energy-mj", "net_energy_mj", "MJ", "maximum energy of one batch above idle"),
    ("--peak-memory-mb", "peak_memory_mb", "MB", "maximum memory of the engine"),
    ("--params-m", "params_m", "M", "maximum parameters, in millions; counted, needs no predictor"),
    ("--macs-m", "macs_m", "M", "maximum multiply-accumulates of an image, in millions; counted"),
)
_MAX_TARGETS = 1000


def add_sources(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("latency source", "a fitted predictor is best; a table alone sums its operators")
    group.add_argument(
        "--predictor", type=Path, action="append", default=[], metavar="FILE",
        help="from `lightnas-edge fit`, or xavier-lightnas-b8; may be repeated, one for each metric",
    )  # fmt: skip
    group.add_argument("--lut", type=Path, metavar="FILE", help="a table; or xavier-lightnas-b8")
    group.add_argument("--host", metavar="HOST", help="a board: its table is fetched, missing operators are measured")
    group.add_argument(
        "--boards", metavar="A,B", help="several boards: predictor files, tables or hosts; each gets its own network"
    )


def named_sources(arguments: argparse.Namespace, *, host: bool = True) -> list[str | Path]:
    """Files as paths, hosts as text. `host`: --host is a source."""
    sources: list[str | Path] = [*arguments.predictor]
    sources += [each for each in (arguments.lut, arguments.host if host else None) if each is not None]
    return sources + [part for part in (arguments.boards or "").split(",") if part]


def add_limits(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("budget", "one limit or several; the network keeps all of them")
    for option, _, unit, text in LIMITS:
        group.add_argument(option, type=milliseconds if unit == "MS" else positive, metavar=unit, help=text)
    group.add_argument(
        "--targets", type=targets, metavar="LIST",
        help="several budgets of the median (p50) latency in ms, a network for each: 20,24.5 or 20:30:2 (from, to, step)",
    )  # fmt: skip


def targets(text: str) -> list[float]:
    """argparse type: `20,22,24` or `20:30:2`, both ends included."""
    try:
        if ":" not in text:
            return [milliseconds(part) for part in text.split(",")]
        first, last, step = (milliseconds(part) for part in text.split(":"))
    except (ValueError, argparse.ArgumentTypeError) as error:
        raise argparse.ArgumentTypeError(f"expected 20,22,24 or 20:30:2, not {text!r}") from error
    count = math.floor((last - first) / step + 1e-9) + 1
    if not 1 <= count <= _MAX_TARGETS:
        raise argparse.ArgumentTypeError(f"{text!r} makes {max(count, 0)} targets; expected 1 to {_MAX_TARGETS}")
    return [round(first + index * step, 9) for index in range(count)]


def named_limits(arguments: argparse.Namespace) -> list[dict[str, float]]:
    """Metric -> target of every network, for each board.

    Raises:
        BudgetError: there is no budget, or the latency has two.
    """
    fixed = {
        metric: value
        for option, metric, _, _ in LIMITS
        if (value := getattr(arguments, option[2:].replace("-", "_"))) is not None
    }
    if arguments.targets is None:
        if not fixed:
            raise BudgetError("a search needs a budget", hint="for example --latency-ms 20, or --targets 20:30:2")
        return [fixed]
    if "latency_ms" in fixed:
        raise BudgetError("--targets and --latency-ms both limit the latency", hint="give one of them")
    return [{"latency_ms": target, **fixed} for target in arguments.targets]

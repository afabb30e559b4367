"""What a search is asked to keep, and under whose predictors: the arguments that say so, and what they mean."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from lightnas_edge.cli._options import milliseconds, positive
from lightnas_edge.cli._tables import complete_table
from lightnas_edge.errors import BudgetError, PredictorError, RunError, SpaceError
from lightnas_edge.runs import NETWORKS, read_run
from lightnas_edge.space import Space, load_space

if TYPE_CHECKING:
    from lightnas_edge.predictor import Predictor
    from lightnas_edge.search import Budget

# Option, metric, unit, what it limits; in this order the first one given orders networks by cost.
LIMITS = (
    ("--latency-ms", "latency_ms", "MS", "milliseconds of one batch"),
    ("--p95-ms", "p95_ms", "MS", "95th percentile of the latency"),
    ("--energy-mj", "energy_mj", "MJ", "millijoules of one batch, gross"),
    ("--net-energy-mj", "net_energy_mj", "MJ", "millijoules of one batch above idle"),
    ("--peak-memory-mb", "peak_memory_mb", "MB", "memory of the engine"),
    ("--params-m", "params_m", "M", "millions of parameters; counted, needs no predictor"),
    ("--macs-m", "macs_m", "M", "millions of multiply-accumulates of an image; counted"),
)
_SUFFIXES = (".predictor.json", ".lut.jsonl", ".json", ".jsonl")


@dataclass
class BoardPredictors:
    """A board as the search knows it: predictors by metric, and the table behind them where it is known.

    `name` tells its networks from another board's; empty where a finished search had one board alone.
    """

    name: str
    predictors: dict[str, Predictor] = field(default_factory=dict)
    table: Path | None = None
    folder: str = ""  # of its file

    @property
    def fingerprint(self) -> str:
        return json.dumps(next(iter(self.predictors.values())).fingerprint, sort_keys=True)


def add_sources(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("whose latency", "a predictor is best; a table alone sums its operators")
    group.add_argument(
        "--predictor", type=Path, action="append", default=[], metavar="FILE",
        help="from `lightnas-edge fit`, or xavier-lightnas-b8; once for each metric",
    )  # fmt: skip
    group.add_argument("--lut", type=Path, metavar="FILE", help="a table: operators are summed; or xavier-lightnas-b8")
    group.add_argument(
        "--host", metavar="HOST", help="a board: what it has measured is pulled, what is missing is measured"
    )
    group.add_argument(
        "--boards", metavar="A,B", help="several boards: predictor files, tables or hosts; each gets its own network"
    )


def add_limits(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what a network must keep", "any of them together, at least one")
    for option, _, unit, meaning in LIMITS:
        kind = milliseconds if unit == "MS" else positive
        group.add_argument(
            option, type=kind, metavar=unit, help=f"at most so many {meaning}".replace("many memory", "much memory")
        )
    group.add_argument(
        "--targets", type=targets, metavar="LIST",
        help="several latency budgets in ms, a network for each: 20,24.5 or 20:30:2 (from, to, step)",
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
    if not 1 <= count <= 1000:
        raise argparse.ArgumentTypeError(f"{text!r} makes {max(count, 0)} targets; expected 1 to 1000")
    return [round(first + index * step, 9) for index in range(count)]


def asked_limits(arguments: argparse.Namespace) -> list[dict[str, float]]:
    """Metric -> target of every network asked of each board.

    Raises:
        BudgetError: nothing was asked, or the latency twice.
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
        raise BudgetError("--targets and --latency-ms both name latencies", hint="give one of them")
    return [{"latency_ms": target, **fixed} for target in arguments.targets]


def read_boards(
    arguments: argparse.Namespace, metrics: Sequence[str], space: Space | None = None
) -> list[BoardPredictors]:
    """The boards that were named. Files of equal fingerprint are one board's, with a metric each.

    Args:
        space: the one they must be of; None: the one that was named, or that of the first predictor.

    Raises:
        SpaceError: a table or a host without --space.
        PredictorError: two files for the same metric of one board.
        BudgetError: boards that cannot be told apart by their names.
    """
    if space is None and arguments.space is not None:
        space = load_space(arguments.space)
    sources: list[str | Path] = [*arguments.predictor]
    sources += [] if arguments.lut is None else [arguments.lut]
    sources += [] if arguments.host is None else [arguments.host]
    sources += [part for part in (arguments.boards or "").split(",") if part]
    boards: dict[str, BoardPredictors] = {}
    for source in sources:
        found = _read(source, space, metrics)
        space = space or next(iter(found.predictors.values())).space
        known = boards.setdefault(found.fingerprint, found)
        if known is not found:
            twice = sorted(known.predictors.keys() & found.predictors.keys())
            if twice and _is_predictor(source):
                raise PredictorError(
                    f"{source}: a second predictor of {', '.join(twice)} for the same board in the same state",
                    hint="name one file for each metric",
                )
            known.predictors = found.predictors | known.predictors  # what was fitted goes before a table's sum
            known.table = known.table or found.table
    _tell_apart(list(boards.values()))
    return list(boards.values())


def _tell_apart(boards: Sequence[BoardPredictors]) -> None:
    """Files of the same name (every run holds a predictor.json) are told apart by their folders."""
    names = [board.name for board in boards]
    for board in boards:
        if names.count(board.name) > 1 and board.folder:
            board.name = f"{board.folder}-{board.name}"
    names = [board.name for board in boards]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise BudgetError(f"two boards are called {', '.join(twice)}", hint="rename their files: networks are named so")


def budgets_of(boards: Sequence[BoardPredictors], limits: Sequence[dict[str, float]], *, named: bool) -> list[Budget]:
    """One for every board and set of limits; `named`: after the board too."""
    from lightnas_edge.predictor import CountedPredictor
    from lightnas_edge.search import Budget, Constraint

    budgets = []
    for board in boards:
        space = next(iter(board.predictors.values())).space
        for limit in limits:
            constraints = tuple(
                Constraint(board.predictors.get(metric) or CountedPredictor(space, metric), target)
                for metric, target in limit.items()
            )
            first = constraints[0]
            name = f"{first.target:g}{first.unit}"
            if named and board.name:
                budgets.append(Budget(f"{board.name}-{name}", constraints, board.name))
            else:
                budgets.append(Budget(name, constraints))
    return budgets


def boards_of_run(run: Path) -> list[BoardPredictors]:
    """Those that a finished search knew, by the predictors it keeps.

    Raises:
        RunError: it keeps none.
    """
    from lightnas_edge.predictor import load_predictor

    boards: dict[str, BoardPredictors] = {}
    for folder in [run, *sorted(path.parent for path in (run / NETWORKS).glob("*/run.json"))]:
        record, space = read_run(folder)
        for path in sorted(folder.glob("predictor*.json")):
            predictor = load_predictor(path, space)
            name = str(record.get("board") or "")
            board = boards.setdefault(json.dumps(predictor.fingerprint, sort_keys=True), BoardPredictors(name))
            board.predictors.setdefault(predictor.metric, predictor)
            if board.table is None and (folder / "lut.jsonl").exists():
                board.table = folder / "lut.jsonl"
    if not boards:
        raise RunError(f"{run} holds no predictor", hint="name one with --predictor")
    return list(boards.values())


def _read(source: str | Path, space: Space | None, metrics: Sequence[str]) -> BoardPredictors:
    import luts
    from lightnas_edge.predictor import load_predictor, lut_predictor

    path, name = Path(source), Path(source).name
    for suffix in _SUFFIXES:
        name = name.removesuffix(suffix)
    name, folder = _plain(name), _plain(path.parent.name)
    if _is_predictor(source):
        predictor = load_predictor(path, space)
        held = predictor.fit.get("lut")
        beside = path.parent / str(held)
        return BoardPredictors(
            name, {predictor.metric: predictor}, beside if held and beside.is_file() else None, folder
        )
    if space is None:
        raise SpaceError("a table does not say what space to search", hint="add --space NAME or --space FILE")
    table = path
    if not isinstance(source, Path) and not path.is_file():
        table = complete_table(str(source), space, energy=any("energy" in metric for metric in metrics))
    lut = luts.read(table)
    wanted = {"latency_ms", *(metric for metric in metrics if metric in luts.METRICS)}
    return BoardPredictors(
        name, {metric: lut_predictor(space, lut, metric=metric) for metric in sorted(wanted)}, table, folder
    )


def _is_predictor(source: str | Path) -> bool:
    """Tables that come with the project are predictors already."""
    from lightnas_edge.predictor import reference_predictor

    return bool(reference_predictor(Path(source))) or Path(source).suffix == ".json"


def _plain(name: str) -> str:
    """For the name of a folder."""
    return "".join(character if character.isalnum() or character in "-._" else "-" for character in name)


def require_metrics(board: BoardPredictors, metrics: Sequence[str]) -> None:
    """Raises PredictorError when the board has no predictor of a measured metric."""
    from luts import METRICS

    lacking = [metric for metric in metrics if metric in METRICS and metric not in board.predictors]
    if lacking:
        raise PredictorError(
            f"no predictor of {', '.join(lacking)} for {board.name or 'the board of the run'}; "
            f"there is one of {', '.join(board.predictors)}",
            hint="\n".join(
                f"lightnas-edge fit --metric {metric} ... makes one; give it beside with --predictor"
                for metric in lacking
            ),
        )

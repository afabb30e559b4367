"""What a search knows about boards: predictors and tables from files, from boards, and from finished searches."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import luts
from lightnas_edge.errors import BudgetError, PredictorError, RunError, SpaceError
from lightnas_edge.measuring.commands import sample_command
from lightnas_edge.predictor import (
    CountedPredictor,
    Predictor,
    fit_additive,
    load_predictor,
    reachable_range,
    reference_predictor,
)
from lightnas_edge.runs import Run
from lightnas_edge.search.constraints import Budget, Constraint
from lightnas_edge.space import Space

Limits = Mapping[str, float]  # metric -> target; the first one orders networks by cost
# Makes the table of a host complete for a space: `lightnas_edge.measuring.tables.complete_table` or the like.
CompleteTable = Callable[[str, Space], Path]

_SUFFIXES = (".predictor.json", ".lut.jsonl", ".json", ".jsonl")


@dataclass
class BoardPredictors:
    """A board as the search knows it: predictors by metric, and the table behind them where it is known.

    `name` distinguishes its networks from those of another board; empty where a finished search had one board alone.
    """

    name: str
    predictors: dict[str, Predictor] = field(default_factory=dict)
    table: Path | None = None
    folder: str = ""  # of its file

    @property
    def space(self) -> Space:
        return next(iter(self.predictors.values())).space

    @property
    def fingerprint(self) -> str:
        """Equal for predictors of one board in one state."""
        return _identity(next(iter(self.predictors.values())))

    @property
    def simulated(self) -> bool:
        return any(predictor.simulated for predictor in self.predictors.values())

    def require_metrics(self, metrics: Sequence[str]) -> None:
        """Raises PredictorError when the board has no predictor of a measured metric."""
        lacking = [metric for metric in metrics if metric in luts.METRICS and metric not in self.predictors]
        if lacking:
            raise PredictorError(
                f"no predictor of {', '.join(lacking)} for {self.name or 'the board of the run'}; "
                f"predictors: {', '.join(self.predictors)}",
                hint="\n".join(
                    f"`lightnas-edge fit --space {self.space.name} --lut FILE "
                    f"{'--samples FILE ' if metric in luts.NETWORK_METRICS else ''}--metric {metric}` makes one; "
                    "add it with --predictor"
                    for metric in lacking
                )
                + self._sampling(lacking),
            )

    def _sampling(self, lacking: Sequence[str]) -> str:
        """How to get the networks that a statistic is learned from."""
        if not set(lacking) & set(luts.NETWORK_METRICS):
            return ""
        fingerprint = next(iter(self.predictors.values())).fingerprint
        return f"\n{sample_command(self.space, fingerprint)} measures the networks for --samples"


def read_boards(
    sources: Sequence[str | Path],
    metrics: Sequence[str],
    space: Space | None = None,
    *,
    complete_table: CompleteTable | None = None,
) -> list[BoardPredictors]:
    """The boards behind predictor files, tables and hosts. Files of equal fingerprint belong to one board.

    Args:
        sources: a Path is a file; a str is a file, or else a host.
        metrics: what is limited; tables yield a predictor of each, of mean_ms, p95_ms and p99_ms where they hold networks.
        space: of all of them; None: that of the first predictor.
        complete_table: called for a host; without it a host is an error. Networks of the host that were sampled into the
            file next to its table are fitted too.

    Raises:
        SpaceError: a table or a host without a space.
        PredictorError: two files for the same metric of one board.
        BudgetError: boards of equal names.
    """
    boards: dict[str, BoardPredictors] = {}
    for source in sources:
        found = _read(source, space, metrics, complete_table)
        space = space or found.space
        known = boards.setdefault(found.fingerprint, found)
        if known is not found:
            twice = sorted(known.predictors.keys() & found.predictors.keys())
            if twice and _is_predictor(source):
                raise PredictorError(
                    f"{source}: a second predictor of {', '.join(twice)} for the same board in the same state",
                    hint="name one file for each metric",
                )
            known.predictors = found.predictors | known.predictors  # a fitted predictor goes before a table's sum
            known.table = known.table or found.table
    _make_names_unique(list(boards.values()))
    return list(boards.values())


def boards_of_run(folder: Path) -> list[BoardPredictors]:
    """The boards of a finished search, with the predictors it keeps.

    Raises:
        RunError: it keeps none.
    """
    boards: dict[str, BoardPredictors] = {}
    opened = Run.open(folder)
    for run in [opened, *opened.networks]:
        for path in run.predictors.values():
            predictor = load_predictor(path, run.space)
            board = boards.setdefault(_identity(predictor), BoardPredictors(run.record.board or ""))
            board.predictors.setdefault(predictor.metric, predictor)
            board.table = board.table or run.table
    if not boards:
        raise RunError(f"{folder} holds no predictor", hint="name one with --predictor FILE")
    return list(boards.values())


def merge_with_run(boards: Sequence[BoardPredictors], known: Sequence[BoardPredictors]) -> list[BoardPredictors]:
    """Boards for further budgets of a finished search: those given, or all of the run when none is given.

    A board that the run knows keeps its name there, and gets the run's predictors of other metrics.
    """
    for board in boards:
        for same in known:
            if same.fingerprint == board.fingerprint:
                board.name, board.table = same.name, board.table or same.table
                board.predictors = same.predictors | board.predictors
    return list(boards or known)


def make_budgets(boards: Sequence[BoardPredictors], limits: Sequence[Limits], *, name_boards: bool) -> list[Budget]:
    """One budget for every board and set of limits.

    Args:
        name_boards: begin the names of the networks with that of the board.

    Raises:
        PredictorError: a board has no predictor of a metric.
    """
    budgets = []
    for board in boards:
        for limit in limits:
            board.require_metrics(list(limit))
            constraints = tuple(
                Constraint(board.predictors.get(metric) or CountedPredictor(board.space, metric), target)
                for metric, target in limit.items()
            )
            name = f"{constraints[0].target:g}{constraints[0].unit}"
            if name_boards and board.name:
                budgets.append(Budget(f"{board.name}-{name}", constraints, board.name))
            else:
                budgets.append(Budget(name, constraints))
    return budgets


@dataclass(frozen=True)
class SlackConstraint:
    """A constraint that every network of the space keeps. `highest`: the largest value of the space."""

    budget: str
    constraint: Constraint
    highest: float

    def __str__(self) -> str:
        worst = {"latency_ms": "slowest network of this space takes"}.get(
            self.constraint.metric, f"highest {self.constraint.metric} of this space is"
        )
        return f"{self.budget}: the budget is not binding; the {worst} {self.highest:.4g} {self.constraint.unit}"


def slack_constraints(budgets: Sequence[Budget]) -> list[SlackConstraint]:
    """The constraints that exclude no network."""
    highest: dict[int, float] = {}
    found = []
    for budget in budgets:
        for constraint in budget.constraints:
            predictor = constraint.predictor
            if id(predictor) not in highest:
                highest[id(predictor)] = reachable_range(predictor).highest
            if constraint.target >= highest[id(predictor)]:
                found.append(SlackConstraint(budget.name, constraint, highest[id(predictor)]))
    return found


def require_binding(budgets: Sequence[Budget]) -> list[SlackConstraint]:
    """Refuse budgets that exclude no network at all: their search would choose by accuracy alone.

    Returns:
        The constraints without effect in budgets that other constraints bind.

    Raises:
        BudgetError: no constraint of a budget binds; all such budgets in one message.
    """
    slack = slack_constraints(budgets)
    idle = [
        budget for budget in budgets if sum(each.budget == budget.name for each in slack) == len(budget.constraints)
    ]
    if idle:
        names = {budget.name for budget in idle}
        raise BudgetError(
            "\n".join(str(each) for each in slack if each.budget in names),
            hint="choose a lower budget, or search without one by --force",
        )
    return slack


def _make_names_unique(boards: Sequence[BoardPredictors]) -> None:
    """Files of the same name (every run holds a predictor.json) are named after their folders too."""
    names = [board.name for board in boards]
    for board in boards:
        if names.count(board.name) > 1 and board.folder:
            board.name = f"{board.folder}-{board.name}"
    names = [board.name for board in boards]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise BudgetError(
            f"two boards are called {', '.join(twice)}", hint="rename their files: networks are named after them"
        )


def _read(
    source: str | Path, space: Space | None, metrics: Sequence[str], complete_table: CompleteTable | None
) -> BoardPredictors:
    path, name = Path(source), Path(source).name
    for suffix in _SUFFIXES:
        name = name.removesuffix(suffix)
    name, folder = _plain(name), _plain(path.parent.name)
    if _is_predictor(source):
        predictor = load_predictor(path, space)
        return BoardPredictors(name, {predictor.metric: predictor}, _table_of(predictor, path), folder)
    if space is None:
        raise SpaceError("a table does not name the space to search", hint="add --space NAME or --space FILE")
    table = path
    if not isinstance(source, Path) and not path.is_file():
        if complete_table is None:
            raise PredictorError(f"{source} is neither a predictor nor a table", hint="name a file")
        table = complete_table(source, space)
    lut = luts.read(table)
    samples = [lut, *(_sampled(lut) if table != path else [])]
    wanted = {"latency_ms", *(metric for metric in metrics if metric in luts.METRICS)}
    predictors: dict[str, Predictor] = {}
    for metric in sorted(wanted):
        known = [
            each for each in samples if any(network.quantity(metric) is not None for network in each.networks.values())
        ]
        if known or metric not in luts.NETWORK_METRICS:
            predictors[metric] = fit_additive(space, lut, known, metric=metric)
    return BoardPredictors(name, predictors, table, folder)


def _sampled(lut: luts.Lut) -> list[luts.Lut]:
    """Networks that `lightnas-edge sample` measured with the settings of a host's table: in the file named after it."""
    path = lut.path.with_name(lut.path.name.removesuffix(".lut.jsonl") + "-networks.lut.jsonl")
    networks = [luts.read(path)] if path.is_file() else []
    return [each for each in networks if each.fingerprint == lut.fingerprint]


def _table_of(predictor: Predictor, path: Path) -> Path | None:
    """The table that a predictor was fitted to, where the file still exists."""
    if predictor.fit.lut is None:
        return None
    table = path.parent / predictor.fit.lut
    return table if table.is_file() else None


def _is_predictor(source: str | Path) -> bool:
    """Tables that come with the project are predictors already."""
    return bool(reference_predictor(Path(source))) or Path(source).suffix == ".json"


def _identity(predictor: Predictor) -> str:
    return json.dumps(predictor.fingerprint, sort_keys=True)


def _plain(name: str) -> str:
    """For the name of a folder."""
    return "".join(character if character.isalnum() or character in "-._" else "-" for character in name)

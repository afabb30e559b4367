"""What a search knows about boards: predictors and tables from files, from boards, and from finished searches."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

import luts
from lightnas_edge.errors import BudgetError, InfeasibleBudgetError, PredictorError, RunError, SpaceError
from lightnas_edge.graph import Precision
from lightnas_edge.measuring.commands import sample_command
from lightnas_edge.predictor import (
    CountedPredictor,
    Predictor,
    fit_additive,
    load_predictor,
    reachable_range,
    reference_predictor,
)
from lightnas_edge.predictor.energy import ENERGY, fit_energy, table_energy, table_of
from lightnas_edge.records.differences import UNIT, fingerprint_differences
from lightnas_edge.runs import Run
from lightnas_edge.search.constraints import Budget, Constraint, board_of, precision_of
from lightnas_edge.search.results import Sources
from lightnas_edge.search.selection import check_budget
from lightnas_edge.space import Space

Limits = Mapping[str, float]  # metric -> target; the first one orders networks by cost
# Makes the table of a host complete for a space, in a precision (None: that of the board's table):
# `lightnas_edge.measuring.tables.complete_table` or the like.
CompleteTable = Callable[[str, Space, Precision | None], Path]

_SUFFIXES = (".predictor.json", ".lut.jsonl", ".json", ".jsonl")


@dataclass
class BoardPredictors:
    """A board in one precision as the search knows it: predictors by metric, and the table behind them where it is known.

    `name` distinguishes its networks from those of another board; empty where a finished search had one board alone.
    `precision` distinguishes them from those of the same board in another precision; None where there is no other.
    """

    name: str
    predictors: dict[str, Predictor] = field(default_factory=dict)
    table: Path | None = None
    folder: str = ""  # of its file
    precision: Precision | None = None
    table_energy: Predictor | None = None  # for where no predictor of energy is given

    @property
    def space(self) -> Space:
        return next(iter(self.predictors.values())).space

    @property
    def fingerprint(self) -> str:
        """Equal for predictors of one board in one state and one precision."""
        return _identity(next(iter(self.predictors.values())))

    @property
    def board(self) -> str:
        """Equal for one board in one state, in any precision."""
        return board_of(next(iter(self.predictors.values())).fingerprint)

    @property
    def measured_in(self) -> Precision | None:
        """The precision of its fingerprint."""
        return precision_of(next(iter(self.predictors.values())).fingerprint)

    def is_board_of(self, budget: Budget) -> bool:
        """Whether a budget holds on this board, in this precision."""
        mine = [id(predictor) for predictor in self.predictors.values()]
        return any(id(constraint.predictor) in mine for constraint in budget.constraints)

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
                    f"`lightnas-edge fit --space {self.space.option} --lut FILE "
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
    precisions: Sequence[Precision] = (),
) -> list[BoardPredictors]:
    """The boards behind predictor files, tables and hosts, each in every precision that is given.

    Files of equal fingerprint belong to one board in one precision; those that differ in the precision alone are of one
    board.

    Args:
        sources: a Path is a file; a str is a file, or else a host.
        metrics: what is limited; tables yield a predictor of each, of mean_ms, p95_ms and p99_ms where they hold networks.
        space: of all of them; None: that of the first predictor.
        complete_table: called for a host; without it a host is an error. Networks of the host that were sampled into the
            file next to its table are fitted too.
        precisions: the tables of a host that are wanted; empty: the one that it has.

    Raises:
        SpaceError: a table or a host without a space.
        PredictorError: two files for the same metric of one board in one precision.
        BudgetError: boards of equal names.
    """
    boards: dict[str, BoardPredictors] = {}
    tables_read: set[Path | None] = set()
    wanted: Sequence[Precision | None] = precisions or (None,)
    tables = [(each, precision) for each in sources for precision in (wanted if _is_host(each) else (None,))]
    for source, precision in tables:
        found = _read(source, space, metrics, complete_table, precision)
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
            known.table_energy = known.table_energy or found.table_energy
        if not _is_predictor(source):
            tables_read.add(found.table)
    distinct = list(boards.values())
    for board in distinct:
        _add_energy(board, read=board.table in tables_read)
    _name_precisions(distinct)
    _make_names_unique(distinct)
    return distinct


def select_precisions(boards: Sequence[BoardPredictors], precisions: Sequence[Precision]) -> list[BoardPredictors]:
    """Of every board the named precisions, in their order; all where none is named.

    Raises:
        PredictorError: a board has no predictor in a precision.
    """
    if not precisions:
        return list(boards)
    by_board: dict[str, list[BoardPredictors]] = {}
    for board in boards:
        by_board.setdefault(board.board, []).append(board)
    chosen = []
    for several in by_board.values():
        for precision in precisions:
            found = [each for each in several if each.measured_in == precision]
            if not found:
                known = ", ".join(each.measured_in or "a precision that its file does not name" for each in several)
                raise PredictorError(
                    f"{several[0].name or 'the board of the run'} has no predictor of {precision}; predictors: {known}",
                    hint=f"`lightnas-edge profile-device --host HOST --space {several[0].space.option} --precision {precision}` "
                    "measures a table, `lightnas-edge fit` makes a predictor of it; add it with --predictor FILE",
                )
            chosen += found
    return chosen


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
    found = list(boards.values())
    for board in found:
        _add_energy(board)
    _name_precisions(found)
    return found


def board_from(predictors: Sequence[Predictor], table: Path | None = None) -> BoardPredictors:
    """One board from predictors that are at hand; `table`: behind them, so that `verify` can compare with it.

    Raises:
        PredictorError: none, several of one metric, or of different boards.
    """
    if not predictors:
        raise PredictorError("a search needs a predictor", hint="fit one to measurements of your board")
    board = BoardPredictors("", {predictor.metric: predictor for predictor in predictors}, table)
    if len(board.predictors) < len(predictors):
        raise PredictorError("two predictors of one metric", hint="give one predictor of each metric")
    for predictor in predictors[1:]:
        predictors[0].require_same_board(predictor.fingerprint, "another of this search")
    _add_energy(board)
    return board


def sources_of(boards: Sequence[BoardPredictors], budgets: Sequence[Budget]) -> Sources:
    """Of every budget, the predictors and the table of its board: what `verify` compares with."""
    found = {}
    for budget in budgets:
        mine = [each for each in boards if each.is_board_of(budget)]
        mine += [each for each in boards if (each.name or None) == budget.board]  # every limit is counted
        board = (mine or boards)[0]
        found[budget.name] = (list(board.predictors.values()), board.table)
    return found


def merge_with_run(boards: Sequence[BoardPredictors], known: Sequence[BoardPredictors]) -> list[BoardPredictors]:
    """Boards for further budgets of a finished search: those given, or all of the run when none is given.

    A board that the run knows keeps its name there, and gets the run's predictors of other metrics. It may be given in
    another precision than the run has: then its networks are named after their precisions.
    """
    for board in boards:
        for same in known:
            if same.fingerprint == board.fingerprint:
                board.table = board.table or same.table
                board.predictors = same.predictors | board.predictors
            if same.board == board.board:
                board.name = same.name
    _name_precisions([*boards, *known])
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
            if board.precision and not set(limit) & set(luts.METRICS):
                raise BudgetError(
                    f"no limit depends on the precision: {', '.join(limit)}",
                    hint="add a limit that is measured, for example --latency-ms, or give the predictors of one precision",
                )
            constraints = tuple(
                Constraint(board.predictors.get(metric) or CountedPredictor(board.space, metric), target)
                for metric, target in limit.items()
            )
            named = board.name if name_boards else ""
            parts = [named, board.precision or "", f"{constraints[0].target:g}{constraints[0].unit}"]
            budgets.append(
                Budget("-".join(filter(None, parts)), constraints, named or None, board.predictors.get(ENERGY))
            )
    return budgets


def keepable(
    space: Space, budgets: Sequence[Budget], confidence: float | None
) -> tuple[list[Budget], list[InfeasibleBudgetError]]:
    """The budgets that some network keeps, and why the others have none.

    A budget may be impossible in one precision and possible in another of the same board.

    Raises:
        InfeasibleBudgetError: a budget that no network keeps in any of its precisions.
    """
    kept, errors = [], {}
    for budget in budgets:
        try:
            check_budget(space, budget.constraints, confidence)
            kept.append(budget)
        except InfeasibleBudgetError as error:
            errors[budget.name] = error
    possible = {budget.question for budget in kept}
    for budget in budgets:
        if budget.question not in possible:
            raise errors[budget.name]
    return kept, [InfeasibleBudgetError(f"{name}: {error}") for name, error in errors.items()]


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


def slack_constraints(budgets: Sequence[Budget], confidence: float | None = None) -> list[SlackConstraint]:
    """The constraints that exclude no network: none is predicted above the target, nor is its upper bound with a confidence."""
    highest: dict[int, float] = {}
    found = []
    for budget in budgets:
        for constraint in budget.constraints:
            predictor = constraint.predictor
            if id(predictor) not in highest:
                highest[id(predictor)] = _highest(predictor, confidence)
            if constraint.target >= highest[id(predictor)]:
                found.append(SlackConstraint(budget.name, constraint, highest[id(predictor)]))
    return found


def _highest(predictor: Predictor, confidence: float | None) -> float:
    reach = reachable_range(predictor)
    if confidence is None:
        return reach.highest
    return max(
        reach.highest, float(predictor.upper(reach.highest_architecture.one_hot(predictor.space)[None], confidence)[0])
    )


def require_binding(budgets: Sequence[Budget], confidence: float | None = None) -> list[SlackConstraint]:
    """Refuse budgets that exclude no network at all: their search would choose by accuracy alone.

    One that binds in another precision of the same board is not refused.

    Returns:
        The constraints without effect in budgets that other constraints bind.

    Raises:
        BudgetError: no constraint of a budget binds; all such budgets in one message.
    """
    slack = slack_constraints(budgets, confidence)
    idle = [
        budget for budget in budgets if sum(each.budget == budget.name for each in slack) == len(budget.constraints)
    ]
    binding = {budget.question for budget in budgets if budget not in idle}
    idle = [budget for budget in idle if budget.question not in binding]
    if idle:
        names = {budget.name for budget in idle}
        raise BudgetError(
            "\n".join(str(each) for each in slack if each.budget in names),
            hint="choose a lower budget, or search without one by --force",
        )
    return slack


def _add_energy(board: BoardPredictors, *, read: bool = False) -> None:
    """A predictor of energy from the board's table, where none is given: the energy of its networks is stated, limited or not.

    Args:
        read: the table was read before, and `board.table_energy` is what it gave.
    """
    if ENERGY in board.predictors:
        return
    if board.table is not None and not read:
        fingerprint = next(iter(board.predictors.values())).fingerprint
        board.table_energy = table_energy(board.space, board.table, fingerprint)
    if board.table_energy is not None:
        board.predictors[ENERGY] = board.table_energy


def _name_precisions(boards: Sequence[BoardPredictors]) -> None:
    """Mark what differs in the precision alone, and give it one name.

    Raises:
        PredictorError: two states of one board in one precision that only int8 tells apart.
    """
    by_board: dict[str, dict[str, BoardPredictors]] = {}
    for board in boards:
        if board.measured_in is not None:
            by_board.setdefault(board.board, {}).setdefault(board.fingerprint, board)
    for several in by_board.values():
        precisions = [each.measured_in for each in several.values()]
        if len(set(precisions)) < len(precisions):
            twice = next(precision for precision in precisions if precisions.count(precision) > 1)
            raise PredictorError(
                f"two predictors of {twice} of one board differ in its int8 instructions or in the dialect of the graphs",
                hint="measure both tables on the board as it is now",
            )
        if len(precisions) > 1:
            first = next(iter(several.values()))
            name = _without_precision(first.name)
            for board in boards:
                if board.fingerprint in several:
                    board.name, board.precision = name, board.measured_in


def _without_precision(name: str) -> str:
    """`orin` of `orin-int8`; the name itself where nothing would be left."""
    kept = [part for part in name.split("-") if part not in get_args(Precision)]
    return "-".join(kept) or name


def _make_names_unique(boards: Sequence[BoardPredictors]) -> None:
    """Files of the same name (every run holds a predictor.json) are named after their folders too."""
    first = {board.board if board.precision else board.fingerprint: board for board in reversed(boards)}
    names = [board.name for board in first.values()]
    for board in boards:
        if names.count(board.name) > 1 and board.folder:
            board.name = f"{board.folder}-{board.name}"
    _name_precisions(boards)
    names = [board.name for board in first.values()]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise BudgetError(
            f"two boards are called {', '.join(twice)}", hint="rename their files: networks are named after them"
        )


def _read(
    source: str | Path,
    space: Space | None,
    metrics: Sequence[str],
    complete_table: CompleteTable | None,
    precision: Precision | None,
) -> BoardPredictors:
    path, name = Path(source), Path(source).name
    for suffix in _SUFFIXES:
        name = name.removesuffix(suffix)
    name, folder = _plain(name), _plain(path.parent.name)
    if _is_predictor(source):
        predictor = load_predictor(path, space)
        return BoardPredictors(name, {predictor.metric: predictor}, table_of(predictor, path), folder)
    if space is None:
        raise SpaceError("a table does not name the space to search", hint="add --space NAME or --space FILE")
    table = path
    if _is_host(source):
        if complete_table is None:
            raise PredictorError(f"{source} is neither a predictor nor a table", hint="name a file")
        table = complete_table(str(source), space, precision)
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
    energy = None if ENERGY in predictors else fit_energy(space, lut, samples)
    return BoardPredictors(name, predictors, table, folder, table_energy=energy)


def _sampled(lut: luts.Lut) -> list[luts.Lut]:
    """Networks that `lightnas-edge sample` measured with the settings of a host's table: in the file named after it."""
    path = lut.path.with_name(lut.path.name.removesuffix(".lut.jsonl") + "-networks.lut.jsonl")
    networks = [luts.read(path)] if path.is_file() else []
    return [
        each
        for each in networks
        if each.header.space_sha256 == lut.header.space_sha256
        and not fingerprint_differences(each.fingerprint, lut.fingerprint)
    ]


def _is_host(source: str | Path) -> bool:
    """A str is a file where there is one, and a host elsewhere."""
    return not isinstance(source, Path) and not Path(source).is_file() and not _is_predictor(source)


def _is_predictor(source: str | Path) -> bool:
    """Tables that come with the project are predictors already."""
    return bool(reference_predictor(Path(source))) or Path(source).suffix == ".json"


def _identity(predictor: Predictor) -> str:
    return json.dumps({name: value for name, value in predictor.fingerprint.items() if name != UNIT}, sort_keys=True)


def _plain(name: str) -> str:
    """For the name of a folder."""
    return "".join(character if character.isalnum() or character in "-._" else "-" for character in name)

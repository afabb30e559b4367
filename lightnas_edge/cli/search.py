"""`lightnas-edge search`: one search for one budget or many, of one board or several."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightnas_edge.cli._budgets import (
    BoardPredictors,
    add_limits,
    add_sources,
    asked_limits,
    boards_of_run,
    budgets_of,
    read_boards,
    require_metrics,
)
from lightnas_edge.cli._console import ms, note, percent, print_json, print_table, say, warn
from lightnas_edge.cli._learning import learning_progress, tensorboard
from lightnas_edge.cli._options import add_space, count, share
from lightnas_edge.errors import BudgetError, RunError
from lightnas_edge.runs import NETWORKS, read_run

if TYPE_CHECKING:
    from lightnas_edge.data import DataSet
    from lightnas_edge.search import Budget, SearchResult
    from lightnas_edge.space import Space

# What a finished search has settled, by the name of its argument: no part of --from.
_OF_THE_SEARCH = (
    "method", "epochs", "warmup_epochs", "batch_size", "accumulate", "architecture_batch_size", "weight_lr", "seed",
    "train_precision", "tensorboard", "fresh",
)  # fmt: skip


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "search", help="search within a latency budget, or many at once",
        description="Search a space for the network that is most accurate on your data and keeps every budget under its predictor. "
        "Several targets or boards share one search. Interrupt it whenever you like: the same command goes on from there.",
        epilog="examples: lightnas-edge search --predictor tiny.predictor.json --latency-ms 0.9 --data digits; "
        "lightnas-edge search --lut xavier-lightnas-b8 --targets 20:30:2 --data DIR; "
        "lightnas-edge search --from runs/lightnas-search --latency-ms 25",
    )  # fmt: skip
    add_space(parser, required=False)
    add_sources(parser)
    parser.add_argument(
        "--from", dest="earlier", type=Path, metavar="RUN",
        help="add networks to a finished search, for further targets or boards; nothing is trained",
    )  # fmt: skip
    add_limits(parser)
    parser.add_argument("--data", metavar="DIR", help="folder of images (train/CLASS/*.jpg), or digits")
    parser.add_argument("--out", type=Path, metavar="RUN", help="run directory (default: runs/SPACE-BUDGET)")
    parser.add_argument("--json", action="store_true", help="the networks found, for machines")
    parser.add_argument("--fresh", action="store_true", help="begin anew; what is there is kept beside as .old")
    parser.add_argument(
        "--resume", action="store_true", help="go on where an earlier run stopped (this is the default)"
    )
    group = parser.add_argument_group(
        "the search", "published values unless said otherwise; docs/search.md explains them"
    )
    group.add_argument(
        "--method", default="shared", choices=("shared", "lightnas"),
        help="lightnas: the published loop, one budget (default: shared, one supernet for any number)",
    )  # fmt: skip
    group.add_argument("--epochs", type=count, default=90, metavar="N", help="default: 90")
    group.add_argument("--warmup-epochs", type=count, metavar="N", help="weights only (default: a ninth of the epochs)")
    group.add_argument(
        "--batch-size", type=count, default=128, metavar="N", help="images of a weight step (default: 128)"
    )
    group.add_argument(
        "--accumulate", type=count, default=1, metavar="N",
        help="run a batch in N pieces whose gradients add up, for less memory (default: 1)",
    )  # fmt: skip
    group.add_argument(
        "--architecture-batch-size", type=count, metavar="N", help="images of an architecture step (default: the same)"
    )
    group.add_argument("--weight-lr", type=float, default=0.1, metavar="R", help="default: 0.1")
    group.add_argument(
        "--confidence",
        type=share,
        metavar="P",
        help="keep the budgets with this probability (default: on average; with --from as the search)",
    )
    group.add_argument(
        "--two-sided", action=argparse.BooleanOptionalAction,
        help="use the first budget as well as keep it, as published (default: only with --method lightnas)",
    )  # fmt: skip
    group.add_argument(
        "--candidates", type=count, metavar="N",
        help="networks compared on held-out images before one is chosen, at most (default: 16)",
    )  # fmt: skip
    group.add_argument("--seed", type=int, default=0, metavar="N", help="default: 0")
    group.add_argument("--workers", type=int, metavar="N", help="processes that decode images (default: one per core)")
    group.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    group.add_argument(
        "--train-precision", default="fp32", choices=("fp32", "bf16", "auto"),
        help="of the search's arithmetic; auto tries which is quickest (default: fp32)",
    )  # fmt: skip
    group.add_argument(
        "--tensorboard", action="store_true", help="write RUN/search/tensorboard beside the metrics; needs tensorboardX"
    )
    held = {name: parser.get_default(name) for name in _OF_THE_SEARCH}
    parser.set_defaults(run=_run, of_the_search=held)


def _run(arguments: argparse.Namespace) -> int:
    from lightnas_edge.nn import joined_ranks

    with joined_ranks(arguments.device) as ranks:
        if arguments.earlier is not None:
            folder, results = _add(arguments)
        else:
            folder, results = _search(arguments)
        if ranks.first:
            _tell(folder, results, arguments)
        return 0


def _search(arguments: argparse.Namespace) -> tuple[Path, list[SearchResult]]:
    from lightnas_edge.data import load_data
    from lightnas_edge.nn import Ranks
    from lightnas_edge.search import SearchConfig, begin_run, check_budgets, keep_predictor, run_search

    config = SearchConfig(
        method=arguments.method, epochs=arguments.epochs, warmup_epochs=arguments.warmup_epochs,
        batch=arguments.batch_size, architecture_batch=arguments.architecture_batch_size,
        weight_lr=arguments.weight_lr, seed=arguments.seed, confidence=arguments.confidence, device=arguments.device,
        two_sided=arguments.two_sided, candidates=arguments.candidates or SearchConfig.candidates,
        parts=arguments.accumulate,
        precision=arguments.train_precision,
    )  # fmt: skip
    boards, budgets = _asked(arguments)
    space = next(iter(boards[0].predictors.values())).space
    check_budgets(space, budgets, config)  # before anything else is read or written
    _tell_idle(budgets)
    if arguments.data is None:
        raise BudgetError("a search learns from images", hint="add --data DIR, or --data digits to try")
    data = load_data(arguments.data, space=space, seed=arguments.seed, workers=arguments.workers)
    _warn(boards, space, data)
    default = budgets[0].name if len(budgets) == 1 else "search"
    run = arguments.out or Path("runs") / f"{space.name}-{default}"
    ranks = Ranks()
    if ranks.first:
        table = boards[0].table if len(boards) == 1 else None
        if begin_run(run, space, data, budgets, config, table=table, fresh=arguments.fresh):
            note(f"going on with {run}")
        if len(budgets) == 1:  # the latency's too where it is not limited: verify compares with it
            for predictor in boards[0].predictors.values():
                keep_predictor(run, predictor)
    ranks.wait()
    board = run / "search" / "tensorboard" if arguments.tensorboard and ranks.first else None
    with _progress(budgets) as draw, tensorboard(board) as write:

        def tell(event: dict[str, Any]) -> None:
            draw(event)
            write(event)

        results = run_search(run, space.with_classes(len(data.classes)), data, budgets, config, on_event=tell)
    if ranks.first and len(budgets) > 1:
        _keep_tables(run, boards, budgets)
    return run, results


def _add(arguments: argparse.Namespace) -> tuple[Path, list[SearchResult]]:
    """Further networks from a finished search: its data and configuration hold."""
    from lightnas_edge.data import load_data
    from lightnas_edge.nn import Ranks
    from lightnas_edge.search import SearchConfig, add_budgets
    from lightnas_edge.search.results import open_network_run

    run = arguments.earlier
    for name in ("out", "space"):
        if getattr(arguments, name) is not None:
            raise RunError(f"--{name} does not go with --from", hint=f"the networks go below {run}")
    held = [name for name, default in arguments.of_the_search.items() if getattr(arguments, name) != default]
    if held:
        named = ", ".join(f"--{name.replace('_', '-')}" for name in held)
        raise RunError(
            f"{named}: does not go with --from", hint="nothing is trained, so these stay as the search had them"
        )
    record, space = read_run(run)
    known = {each.name for each in fields(SearchConfig)}
    asked = {name: getattr(arguments, name) for name in ("confidence", "candidates", "two_sided")}
    config = replace(
        SearchConfig(**{name: value for name, value in record["config"].items() if name in known}),
        device=arguments.device, **{name: value for name, value in asked.items() if value is not None},
    )  # fmt: skip
    boards, budgets = _asked(arguments, space, run)
    for budget in budgets:
        open_network_run(run, budget.name)
    ranks = Ranks()
    ranks.wait()  # before the first one writes them
    source = arguments.data or record["data"]["source"]
    data = load_data(source, space=space, seed=int(record["data"]["seed"]), workers=arguments.workers)
    _warn(boards, space, data)
    with _progress(budgets) as draw:
        results = add_budgets(run, space, data, budgets, config, on_event=draw)
    if ranks.first:
        _keep_tables(run, boards, budgets)
    return run, results


def _keep_tables(run: Path, boards: Sequence[BoardPredictors], budgets: Sequence[Budget]) -> None:
    """Beside every network, the latency's predictor and the table of its board: what `verify` compares with."""
    from lightnas_edge.search import keep_predictor, keep_table

    for budget in budgets:
        board = boards[0] if len(boards) == 1 else next(each for each in boards if (each.name or None) == budget.board)
        for predictor in board.predictors.values():
            keep_predictor(run / NETWORKS / budget.name, predictor)
        if board.table is not None:
            keep_table(run / NETWORKS / budget.name, board.table)


def _asked(
    arguments: argparse.Namespace, space: Space | None = None, run: Path | None = None
) -> tuple[list[BoardPredictors], list[Budget]]:
    """Boards and budgets; those of a finished run where the arguments name no board.

    A board that the run knew keeps the name it had there (that of a search of one board has none) and what the run
    holds of it.
    """
    limits = asked_limits(arguments)
    boards = read_boards(arguments, list(limits[0]), space)
    if run is not None:
        known = boards_of_run(run)
        for board in boards:
            for held in known:
                if held.fingerprint == board.fingerprint:
                    board.name, board.table = held.name, board.table or held.table
                    board.predictors = held.predictors | board.predictors
        boards = boards or known
    if not boards:
        raise BudgetError(
            "whose latency? no predictor, table or board was named",
            hint="add --predictor FILE, --lut FILE, --host HOST or --boards A,B",
        )
    for board in boards:
        require_metrics(board, list(limits[0]))
    return boards, budgets_of(boards, limits, named=run is not None or len(boards) > 1)


def _warn(boards: Sequence[BoardPredictors], space: Space, data: DataSet) -> None:
    if space.classes != len(data.classes):
        warn(
            f"the table's head has {space.classes} classes, the data has {len(data.classes)}: predictions include the "
            f"table's head; `profile --classes {len(data.classes)}` measures the right one"
        )
    if any(predictor.simulated for board in boards for predictor in board.predictors.values()):
        warn("a predictor comes from a SIMULATED board: nothing that follows is a measurement")


def _tell_idle(budgets: Sequence[Budget]) -> None:
    """A limit that the dearest network keeps decides nothing; better known before a night of search."""
    from lightnas_edge.predictor import reachable_range

    highest: dict[int, float] = {}
    for budget in budgets:
        for constraint in budget.constraints:
            predictor = constraint.predictor
            most = highest.get(id(predictor)) or reachable_range(predictor).highest
            highest[id(predictor)] = most
            if constraint.target >= most:
                note(
                    f"{budget.name}: every network keeps {constraint}, the dearest takes {most:.4g} {constraint.unit}: "
                    "this limit decides nothing"
                )


def _progress(budgets: Sequence[Budget]) -> AbstractContextManager[Callable[[dict[str, Any]], None]]:
    first = budgets[0].constraints[0]
    return learning_progress("searching", budget=(first.target, first.unit))


def _tell(folder: Path, results: Sequence[SearchResult], arguments: argparse.Namespace) -> None:
    from lightnas_edge.report import draw_front
    from lightnas_edge.search import read_front

    networks = read_front(folder)
    if len(networks) > 1:
        draw_front(folder / "front.svg", networks)
    if arguments.json:
        print_json({"kind": "front", "run": str(folder), "networks": networks})
    elif len(results) == 1:
        _tell_one(folder, results[0], arguments.earlier is not None)
    else:
        _tell_many(folder, results)
    for result in results:
        _doubts(result)
        if not result.chosen.selection.exact:
            note(f"{result.budget.name}: its predictor is not linear; the network is the best that was found")


def _doubts(result: SearchResult) -> None:
    """A prediction that is a guess is called one."""
    for constraint in result.budget.constraints:
        predictor = constraint.predictor
        if (
            predictor.applicability is not None
            and predictor.outside(result.architecture.one_hot(predictor.space)[None])[0]
        ):
            warn(
                f"{result.budget.name}: the network lies outside what was measured for {constraint.metric}, so its "
                "prediction is a guess; `lightnas-edge sample --adaptive` measures such networks"
            )


def _place(folder: Path, result: SearchResult, below: bool) -> Path:
    return folder / NETWORKS / result.budget.name if below else folder


def _tell_one(folder: Path, result: SearchResult, below: bool) -> None:
    say(f"found {result.architecture}")
    parts = []
    for constraint in result.budget.constraints:
        metric, unit = constraint.metric, constraint.unit
        upper = (
            ""
            if result.upper is None
            else f", at most {ms(result.upper[metric])} {unit} with confidence {result.confidence:g}"
        )
        named = "" if metric == "latency_ms" else f"{metric} "
        kind = "SIMULATED, predicted" if constraint.predictor.simulated else "predicted"
        parts.append(f"{named}{kind} {ms(result.predicted[metric])} {unit}{upper}, target {constraint.target:g} {unit}")
    say(f"{'; '.join(parts)}: {_place(folder, result, below) / 'architecture.json'}")
    if len(parts) > 1:
        say(f"{result.binding} leaves the least room: {percent(result.used[result.binding])} of it is used")


def _tell_many(folder: Path, results: Sequence[SearchResult]) -> None:
    metrics = list(results[0].budget.targets)
    columns = ["network"]
    for constraint in results[0].budget.constraints:
        columns += [f"{constraint.metric}", "target"]
    columns += ["least room", "used", "supernet, held out", "folder"]
    rows = []
    for result in results:
        row = [result.budget.name]
        for metric in metrics:
            row += [ms((result.upper or result.predicted)[metric]), f"{result.budget.targets[metric]:g}"]
        row += [
            result.binding, percent(result.used[result.binding]), percent(result.chosen.accuracy),
            str(Path(NETWORKS) / result.budget.name),
        ]  # fmt: skip
        rows.append(row)
    print_table(columns, rows)
    bound = "" if results[0].confidence is None else f" (upper bounds with confidence {results[0].confidence:g})"
    if any(result.simulated for result in results):
        say("SIMULATED: a board of these does not exist; nothing here is a measurement")
    say(f"{len(results)} networks from one search{bound}: {folder / 'front.json'}, {folder / 'front.svg'}")

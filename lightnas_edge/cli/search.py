"""`lightnas-edge search`: one search for one budget or many, of one board or several."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import luts
from lightnas_edge.cli._budgets import add_limits, add_sources, named_limits, named_sources
from lightnas_edge.cli._confirm import (
    add_confirm,
    check_confirm,
    confirming,
    confirming_board,
    host_is_a_source,
    print_confirmations,
    warn_unconfirmed,
)
from lightnas_edge.cli._console import (
    UsageError,
    info,
    ms,
    percent,
    print_json,
    print_result,
    print_table,
    silent,
    warn,
)
from lightnas_edge.cli._learning import learning_progress, read_data, tensorboard
from lightnas_edge.cli._measuring import campaign_progress
from lightnas_edge.cli._options import (
    add_accumulate,
    add_classes,
    add_device,
    add_fresh,
    add_json,
    add_space,
    add_train_precision,
    add_workers,
    count,
    positive,
    share,
    whole,
)
from lightnas_edge.errors import BudgetError
from lightnas_edge.graph import Precision
from lightnas_edge.measuring.commands import sample_command
from lightnas_edge.measuring.tables import complete_table
from lightnas_edge.runs import NETWORKS, Run
from lightnas_edge.space import Space, load_space

if TYPE_CHECKING:
    from lightnas_edge.data import DataSet
    from lightnas_edge.records.run import FrontRecord, PredictedEnergy
    from lightnas_edge.search import Budget, SearchResult
    from lightnas_edge.search.sources import BoardPredictors

# Arguments that --from takes from the finished search.
_OF_THE_SEARCH = (
    "method", "evidence", "teacher", "epochs", "warmup_epochs", "batch_size", "accumulate", "architecture_batch_size", "weight_lr", "seed",
    "train_precision", "tensorboard", "fresh", "force", "classes",
)  # fmt: skip


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "search", help="search for networks within one budget or several",
        description="Search a space for the network that is most accurate on your data and keeps every budget under its predictor. "
        "Several targets, boards or precisions share one search. After Ctrl-C the same command continues.",
        epilog="examples: lightnas-edge search --predictor tiny.predictor.json --latency-ms 0.9 --data digits; "
        "lightnas-edge search --lut xavier-lightnas-b8 --targets 20:30:2 --data DIR; "
        "lightnas-edge search --predictor orin-fp16.predictor.json --predictor orin-int8.predictor.json --latency-ms 10 --data DIR; "
        "lightnas-edge search --from runs/lightnas-search --latency-ms 25; "
        "lightnas-edge search --predictor tiny.predictor.json --host localhost --confirm 4 --latency-ms 0.9 --data digits",
    )  # fmt: skip
    add_space(parser, required=False)
    add_sources(parser)
    add_classes(parser, "of the table of --lut or --host; sets the head (default: the space's own)")
    parser.add_argument(
        "--precision", type=_precisions, default=(), metavar="LIST",
        help=f"one of {', '.join(get_args(Precision))}, or several to be compared, such as fp32,int8: of the tables that --host fetches or "
        "measures (default: the board's, or fp32), and of the predictors that are used (default: all that are given)",
    )  # fmt: skip
    parser.add_argument(
        "--from", dest="earlier", type=Path, metavar="RUN",
        help="add networks to a finished search, for further targets or boards; nothing is trained",
    )  # fmt: skip
    add_limits(parser)
    add_confirm(parser)
    parser.add_argument("--data", metavar="DIR", help="folder of images (train/CLASS/*.jpg), or digits")
    parser.add_argument("--out", type=Path, metavar="RUN", help="run directory (default: runs/SPACE-BUDGET)")
    add_json(parser)
    add_fresh(parser, "search from the beginning; the earlier run is kept as .old")
    parser.add_argument(
        "--force", action="store_true", help="search under a budget that is not binding: every network keeps it"
    )
    group = parser.add_argument_group(
        "search", "the defaults are the published values where docs/search.md does not say otherwise"
    )
    group.add_argument(
        "--method", default="entangled", choices=("entangled", "shared", "blockwise", "lightnas"),
        help="entangled: one supernet for any number of budgets, operators are cuts of the largest, which teaches the others; shared: the "
        "same with weights of its own for every operator; blockwise: every operator "
        "learns to do what the largest one of its layer does; lightnas: the published loop, one "
        "budget (default: entangled)",
    )  # fmt: skip
    group.add_argument(
        "--evidence", default="losses", choices=("losses", "gradients"),
        help="what operator scores are fitted to: losses of whole paths, or gradients of the difference between two operators of every "
        "layer (default: losses)",
    )  # fmt: skip
    group.add_argument(
        "--teacher", type=Path, metavar="RUN|FILE",
        help="with --method blockwise: a network of the space that is trained on the same classes, such as a run after `train`, or its "
        "weights.safetensors; without one, half of the epochs train the largest network",
    )  # fmt: skip
    group.add_argument("--epochs", type=count, default=90, metavar="N", help="default: 90")
    group.add_argument(
        "--warmup-epochs",
        type=count,
        metavar="N",
        help="weights only (default: a ninth of the epochs; half with blockwise, none with --teacher)",
    )
    group.add_argument(
        "--batch-size", type=count, default=128, metavar="N", help="batch size of weight updates (default: 128)"
    )
    add_accumulate(group)
    group.add_argument(
        "--architecture-batch-size",
        type=count,
        metavar="N",
        help="batch size of architecture updates (default: that of weight updates)",
    )
    group.add_argument(
        "--weight-lr", type=positive, metavar="R",
        help="step size of the weights at the beginning (default: 0.1 for batches of 128 and more, in proportion to smaller ones)",
    )  # fmt: skip
    group.add_argument(
        "--confidence", type=share, metavar="P",
        help="keep the budgets with this probability (default: the prediction keeps them; with --from, as the search)",
    )  # fmt: skip
    group.add_argument(
        "--two-sided", action=argparse.BooleanOptionalAction,
        help="pull towards the first budget from below too, as published (default: only with --method lightnas)",
    )  # fmt: skip
    group.add_argument(
        "--candidates", type=count, metavar="N",
        help="compare this many networks of each budget on held-out images (default: 1, the operator scores decide)",
    )  # fmt: skip
    group.add_argument("--seed", type=whole, default=0, metavar="N", help="default: 0")
    add_workers(group)
    add_device(group)
    add_train_precision(group)
    group.add_argument(
        "--tensorboard",
        action="store_true",
        help="also write the metrics to RUN/search/tensorboard; needs tensorboardX",
    )
    defaults = {name: parser.get_default(name) for name in _OF_THE_SEARCH}
    parser.set_defaults(run=_run, of_the_search=defaults)


def _run(arguments: argparse.Namespace) -> int:
    from lightnas_edge.nn import joined_ranks

    with joined_ranks(arguments.device) as ranks, silent(not ranks.first):
        check_confirm(arguments)
        if arguments.earlier is not None:
            folder, results = _add(arguments)
        else:
            folder, results = _search(arguments)
        if ranks.first:
            _print(folder, results, arguments)
        return 0


def _search(arguments: argparse.Namespace) -> tuple[Path, list[SearchResult]]:
    from lightnas_edge.nn import Ranks
    from lightnas_edge.nn.device import choose_device
    from lightnas_edge.predictor import CountedPredictor
    from lightnas_edge.search import SearchConfig, begin_run, check_budgets, load_teacher, run_search
    from lightnas_edge.search.constraints import count_for
    from lightnas_edge.search.sources import sources_of

    if arguments.classes and not (arguments.lut or arguments.host or arguments.boards):
        raise UsageError(
            "--classes describes a table's head, and a predictor has its own: add --lut, --host or --boards"
        )
    if arguments.classes and arguments.space is None:
        raise UsageError("--classes needs --space: without it, the first predictor names the space and its classes")
    if arguments.teacher is not None and arguments.method != "blockwise":
        raise UsageError(f"--method {arguments.method} has no teacher", hint="add --method blockwise")
    choose_device(arguments.device)  # refused before a run is begun
    config = SearchConfig(
        method=arguments.method, evidence=arguments.evidence, epochs=arguments.epochs, warmup_epochs=arguments.warmup_epochs,
        batch=arguments.batch_size, architecture_batch=arguments.architecture_batch_size,
        weight_lr=arguments.weight_lr, seed=arguments.seed, confidence=arguments.confidence, device=arguments.device,
        two_sided=arguments.two_sided, candidates=arguments.candidates or SearchConfig.candidates,
        micro_batches=arguments.accumulate,
        precision=arguments.train_precision,
    )  # fmt: skip
    boards, budgets = _boards_and_budgets(arguments)
    space, data = boards[0].space, None
    if arguments.data is not None and any(
        isinstance(each.predictor, CountedPredictor) for budget in budgets for each in budget.constraints
    ):
        # Before the checks: its classes say what to count.
        data = read_data(arguments.data, space=space, seed=arguments.seed, workers=arguments.workers)
        budgets = count_for(budgets, len(data.classes))
    budgets = _keepable(space, budgets, config.confidence)  # before anything else is read or written
    check_budgets(space, budgets, config)
    _check_binding(budgets, config.confidence, force=arguments.force)
    confirm_on = confirming_board(arguments, budgets)
    if arguments.data is None:
        raise BudgetError("a search needs images", hint="add --data DIR, or --data digits for a first try")
    data = data or read_data(arguments.data, space=space, seed=arguments.seed, workers=arguments.workers)
    _warn(boards, space, data)
    teacher = None
    if arguments.teacher is not None:
        teacher = load_teacher(arguments.teacher, space, data.classes)
        config = replace(config, teacher=teacher.sha256)
    default = budgets[0].name if len(budgets) == 1 else "search"
    run = arguments.out or Path("runs") / f"{space.name}-{default}"
    ranks = Ranks()
    if ranks.first:
        table = boards[0].table if len(boards) == 1 else None
        _, resumed = begin_run(
            run, space, data, budgets, config, table=table, host=arguments.host, fresh=arguments.fresh
        )
        if resumed:
            info(f"resuming {run}")
    ranks.wait()
    board = run / "search" / "tensorboard" if arguments.tensorboard and ranks.first else None
    with _progress(budgets) as draw, tensorboard(board) as write:

        def record(event: dict[str, Any]) -> None:
            draw(event)
            write(event)

        results = run_search(
            run, space.with_classes(len(data.classes)), data, budgets, config,
            sources=sources_of(boards, budgets), on_event=record,
            confirm=confirming(arguments, confirm_on, draw), teacher=teacher,
        )  # fmt: skip
    return run, results


def _add(arguments: argparse.Namespace) -> tuple[Path, list[SearchResult]]:
    """Further networks from a finished search: its data and configuration hold."""
    from lightnas_edge.nn import Ranks
    from lightnas_edge.search import SearchConfig, add_budgets, found_before
    from lightnas_edge.search.constraints import count_for
    from lightnas_edge.search.sources import sources_of

    run = arguments.earlier
    for name in ("out", "space"):
        if getattr(arguments, name) is not None:
            raise UsageError(f"--{name} cannot be combined with --from", hint=f"the networks go below {run}")
    given = [name for name, default in arguments.of_the_search.items() if getattr(arguments, name) != default]
    if given:
        named = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise UsageError(
            f"{named} cannot be combined with --from", hint="nothing is trained; the search's own values apply"
        )
    opened = Run.open(run)
    record, space = opened.record, opened.space
    known = {each.name for each in fields(SearchConfig)} - {"candidates"}
    settled: dict[str, Any] = {name: value for name, value in record.config.items() if name in known}
    given_now = {name: getattr(arguments, name) for name in ("confidence", "candidates", "two_sided")}
    config = replace(
        SearchConfig(**settled),
        device=arguments.device, **{name: value for name, value in given_now.items() if value is not None},
    )  # fmt: skip
    boards, budgets = _boards_and_budgets(arguments, space, run)
    budgets = _keepable(space, count_for(budgets, len(record.data.classes)), config.confidence)
    _check_binding(budgets, config.confidence, force=True)
    earlier = {
        budget.name: found_before(opened, budget, config.confidence, confirmed=arguments.confirm or 0)
        for budget in budgets
    }
    budgets = [budget for budget in budgets if earlier[budget.name] is None]
    for name, folder in earlier.items():
        if folder is not None:
            info(f"{name} was found before and is kept: {folder}")
    if not budgets:
        return run, []
    confirm_on = confirming_board(arguments, budgets)
    ranks = Ranks()
    ranks.wait()  # before the first one writes them
    source = arguments.data or record.data.source
    data = read_data(source, space=space, seed=record.data.seed, workers=arguments.workers)
    _warn(boards, space, data)
    with _progress(budgets) as draw:
        results = add_budgets(
            run, space, data, budgets, config,
            sources=sources_of(boards, budgets), on_event=draw,
            confirm=confirming(arguments, confirm_on, draw),
        )  # fmt: skip
    return run, results


def _keepable(space: Space, budgets: Sequence[Budget], confidence: float | None) -> list[Budget]:
    """Without those that no network keeps in their precision, where another precision keeps them."""
    from lightnas_edge.search.sources import keepable

    kept, impossible = keepable(space, budgets, confidence)
    for error in impossible:
        warn(f"{error}\n  left out; another precision keeps this budget")
    return kept


def _boards_and_budgets(
    arguments: argparse.Namespace, space: Space | None = None, run: Path | None = None
) -> tuple[list[BoardPredictors], list[Budget]]:
    """Those that the arguments name; the boards of a finished run where they name none."""
    from lightnas_edge.search.sources import (
        boards_of_run,
        make_budgets,
        merge_with_run,
        read_boards,
        select_precisions,
    )

    limits = named_limits(arguments)
    metrics = list(limits[0])
    if space is None and arguments.space is not None:
        space = load_space(arguments.space)
        space = space if arguments.classes is None else space.with_classes(arguments.classes)
    with campaign_progress("measuring the table") as draw:

        def complete(host: str, of: Space, precision: Precision | None) -> Path:
            return complete_table(
                host, of, precision=precision, energy=any("energy" in metric for metric in metrics),
                on_preparing=draw.preparing, on_progress=draw.measuring,
            )  # fmt: skip

        boards = read_boards(
            named_sources(arguments, host=host_is_a_source(arguments)), metrics, space,
            complete_table=complete, precisions=arguments.precision,
        )  # fmt: skip
    if run is not None:
        boards = merge_with_run(boards, boards_of_run(run))
    if not boards:
        raise BudgetError(
            "no latency source given", hint="add --predictor FILE, --lut FILE, --host HOST or --boards A,B"
        )
    boards = select_precisions(boards, arguments.precision)
    several = len({board.name for board in boards}) > 1
    return boards, make_budgets(boards, limits, name_boards=run is not None or several)


def _precisions(text: str) -> tuple[Precision, ...]:
    """argparse type: `int8` or `fp16,int8`."""
    found = tuple(precision for part in text.split(",") for precision in get_args(Precision) if precision == part)
    if len(found) != len(text.split(",")):
        raise argparse.ArgumentTypeError(
            f"expected one of {', '.join(get_args(Precision))}, or several: fp16,int8; not {text!r}"
        )
    return tuple(dict.fromkeys(found))


def _check_binding(budgets: Sequence[Budget], confidence: float | None, *, force: bool) -> None:
    """Warn of constraints without effect. Raises BudgetError where no constraint of a budget has one."""
    from lightnas_edge.search.sources import require_binding, slack_constraints

    for slack in slack_constraints(budgets, confidence) if force else require_binding(budgets, confidence):
        warn(str(slack))


def _warn(boards: Sequence[BoardPredictors], space: Space, data: DataSet) -> None:
    if space.classes != len(data.classes):
        fingerprint = next(iter(boards[0].predictors.values())).fingerprint if boards else None
        options = luts.measuring_options(None, space.option, len(data.classes), fingerprint)
        warn(
            f"the table's head has {space.classes} classes, the data has {len(data.classes)}: predictions include the "
            f"table's head; `lightnas-edge profile {options}` measures the right one"
        )
    if any(board.simulated for board in boards):
        warn("a predictor comes from a SIMULATED board: the results are not measurements")


def _progress(budgets: Sequence[Budget]) -> AbstractContextManager[Callable[[dict[str, Any]], None]]:
    first = budgets[0].constraints[0]
    return learning_progress("searching", budget=(first.target, first.unit))


def _print(folder: Path, results: Sequence[SearchResult], arguments: argparse.Namespace) -> None:
    from lightnas_edge.report import draw_front
    from lightnas_edge.search import read_front

    front = read_front(Run.open(folder))
    if len(front.networks) > 1:
        draw_front(folder / "front.svg", front.networks)
    if arguments.json:
        print_json({**front.to_json(), "run": str(folder)})
    elif len(results) == 1:
        _print_one(folder, results[0], arguments.earlier is not None)
        _print_best(front, results)
    elif results:
        _print_many(folder, results)
        _print_best(front, results)
    else:
        print_result(f"nothing to add; {len(front.networks)} networks from this search: {folder / 'front.json'}")
    if not arguments.json:
        print_confirmations(results)
    warn_unconfirmed(results)
    paths = results[0].sampled_paths if results else None
    if paths is not None and paths.warning is not None:
        warn(paths.warning)
    for result in results:
        if result.fault is not None:
            warn(f"{result.budget.name}: {result.fault}")
        _warn_extrapolated(result)
        was_measured = result.confirmation is not None and result.confirmation.measured
        if not result.chosen.selection.exact and not was_measured:
            info(f"{result.budget.name}: the predictor is not linear, so the selection is a local search and not exact")


def _warn_extrapolated(result: SearchResult) -> None:
    """Predictions that no measured network supports."""
    for constraint in result.budget.constraints:
        predictor = constraint.predictor
        if predictor.extrapolated(result.architecture.one_hot(predictor.space)[None])[0]:
            warn(
                f"{result.budget.name}: the prediction of {constraint.metric} is extrapolated\n"
                f"  {sample_command(predictor.space, predictor.fingerprint, '--adaptive')} measures more networks; "
                "`lightnas-edge fit` then takes them in"
            )


def _place(folder: Path, result: SearchResult, below: bool) -> Path:
    return folder / NETWORKS / result.budget.name if below else folder


def _print_one(folder: Path, result: SearchResult, below: bool) -> None:
    print_result(f"found {result.architecture}")
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
    print_result(f"{'; '.join(parts)}: {_place(folder, result, below) / 'architecture.json'}")
    if result.confirmation is not None and result.confirmation.measured and result.upper is not None:
        print_result(
            "it was measured, which decides: its estimate keeps every limit at that confidence, see the table below"
        )
    print_result(f"energy of one batch: {_energy(result)}")
    if len(parts) > 1:
        print_result(f"the tightest limit is {result.binding}: {percent(result.used[result.binding])} used")


def _print_many(folder: Path, results: Sequence[SearchResult]) -> None:
    metrics = list(results[0].budget.targets)
    columns = ["network"]
    for constraint in results[0].budget.constraints:
        columns += [f"{constraint.metric}", "target"]
    columns += ["energy mJ (90 %)", "tightest limit", "used", "supernet accuracy", "folder"]
    rows = []
    for result in results:
        row = [result.budget.name]
        for metric in metrics:
            row += [ms((result.upper or result.predicted)[metric]), f"{result.budget.targets[metric]:g}"]
        row += [
            _energy_interval(result.energy), result.binding, percent(result.used[result.binding]), percent(_accuracy(result)),
            str(Path(NETWORKS) / result.budget.name),
        ]  # fmt: skip
        rows.append(row)
    print_table(columns, rows)
    bound = "" if results[0].confidence is None else f" (upper bounds with confidence {results[0].confidence:g})"
    if any(result.simulated for result in results):
        print_result("SIMULATED: at least one board is virtual; the predictions do not come from measurements")
    print_result(f"{len(results)} networks from one search{bound}: {folder / 'front.json'}, {folder / 'front.svg'}")


def _energy(result: SearchResult) -> str:
    """`predicted 12.3 mJ (11.8 to 12.8 mJ with probability 90 %), extrapolated`"""
    energy = result.energy
    if energy is None:
        return "not available; `lightnas-edge profile --energy` measures it into the table"
    kind = "SIMULATED, predicted" if energy.simulated else "predicted"
    low, high = map(ms, energy.interval_mj)
    text = f"{kind} {ms(energy.energy_mj)} mJ ({low} to {high} mJ with probability {percent(energy.confidence, 0)})"
    return f"{text}, extrapolated" if energy.extrapolated else text


def _energy_interval(energy: PredictedEnergy | None) -> str:
    """`12.3 (11.8 to 12.8)`"""
    if energy is None:
        return "not available"
    low, high = map(ms, energy.interval_mj)
    return f"{ms(energy.energy_mj)} ({low} to {high})"


def _accuracy(result: SearchResult) -> float | None:
    """In the precision of the network."""
    chosen = result.chosen
    return chosen.accuracy if chosen.penalty is None else chosen.penalty.accuracy


def _print_best(front: FrontRecord, results: Sequence[SearchResult]) -> None:
    """Of every budget with several networks, in several precisions: which one to train, and why."""
    found = {result.budget.name for result in results}
    for best in front.best:
        names = {each.name for each in front.networks if (each.board, each.targets) == (best.board, best.targets)}
        if best.compared > 1 and found & names:
            limits = ", ".join(f"{metric} {target:g}" for metric, target in best.targets.items())
            print_result(f"best within {limits}: {best.network}: {best.reason}")

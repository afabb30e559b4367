"""`lightnas-edge search`: one search under a latency budget."""

from __future__ import annotations

import argparse
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from lightnas_edge.cli.console import ms, note, say, warn
from lightnas_edge.cli.learning import learning_progress
from lightnas_edge.cli.options import add_space, count, milliseconds, share
from lightnas_edge.cli.tables import complete_table
from lightnas_edge.errors import SpaceError
from lightnas_edge.runs import create_run
from lightnas_edge.space import load_space

if TYPE_CHECKING:
    from lightnas_edge.predictor import Predictor


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "search", help="search under a latency budget",
        description="Search a space for the network that is most accurate on your data and keeps the budget under the predictor. "
        "Interrupt it whenever you like: the same command goes on from there.",
        epilog="example: lightnas-edge search --predictor tiny.predictor.json --latency-ms 0.9 --data digits",
    )  # fmt: skip
    add_space(parser, required=False)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--predictor", type=Path, metavar="FILE", help="from `lightnas-edge fit`, or xavier-lightnas-b8"
    )
    source.add_argument("--lut", type=Path, metavar="FILE", help="a table: operators are summed; or xavier-lightnas-b8")
    source.add_argument(
        "--host", metavar="HOST", help="a board: what it has measured is pulled, what is missing is measured"
    )
    parser.add_argument("--latency-ms", type=milliseconds, required=True, metavar="MS", help="the budget of one batch")
    parser.add_argument("--data", required=True, metavar="DIR", help="folder of images (train/CLASS/*.jpg), or digits")
    parser.add_argument("--out", type=Path, metavar="RUN", help="run directory (default: runs/SPACE-MSms)")
    parser.add_argument("--fresh", action="store_true", help="begin anew; what is there is kept beside as .old")
    parser.add_argument(
        "--resume", action="store_true", help="go on where an earlier run stopped (this is the default)"
    )
    group = parser.add_argument_group(
        "the search", "published values unless said otherwise; docs/search.md explains them"
    )
    group.add_argument("--epochs", type=count, default=90, metavar="N", help="default: 90")
    group.add_argument("--warmup-epochs", type=count, metavar="N", help="weights only (default: a ninth of the epochs)")
    group.add_argument(
        "--batch-size", type=count, default=128, metavar="N", help="images of a weight step (default: 128)"
    )
    group.add_argument(
        "--architecture-batch-size", type=count, metavar="N", help="images of an architecture step (default: the same)"
    )
    group.add_argument("--weight-lr", type=float, default=0.1, metavar="R", help="default: 0.1")
    group.add_argument(
        "--confidence", type=share, metavar="P", help="keep the budget with this probability (default: on average)"
    )
    group.add_argument("--seed", type=int, default=0, metavar="N", help="default: 0")
    group.add_argument("--workers", type=int, metavar="N", help="processes that decode images (default: one per core)")
    group.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    from lightnas_edge.data import load_data
    from lightnas_edge.search import SearchConfig, check_budget, run_search

    config = SearchConfig(
        epochs=arguments.epochs, warmup_epochs=arguments.warmup_epochs, batch=arguments.batch_size,
        architecture_batch=arguments.architecture_batch_size, weight_lr=arguments.weight_lr, seed=arguments.seed,
        confidence=arguments.confidence, device=arguments.device,
    )  # fmt: skip
    predictor, table = _predictor(arguments)
    check_budget(predictor, arguments.latency_ms, config.confidence)  # before anything else is read or written
    data = load_data(arguments.data, space=predictor.space, seed=arguments.seed, workers=arguments.workers)
    space = predictor.space.with_classes(len(data.classes))
    if space.classes != predictor.space.classes:
        warn(
            f"the table's head has {predictor.space.classes} classes, the data has {space.classes}: predictions include the "
            f"table's head; `profile --classes {space.classes}` measures the right one"
        )
    if predictor.simulated:
        warn("the predictor comes from a SIMULATED board: nothing that follows is a measurement")
    run = arguments.out or Path("runs") / f"{space.name}-{arguments.latency_ms:g}ms"
    resumed = create_run(
        run,
        {
            "space": predictor.space.to_json(),
            "targets": {"latency_ms": arguments.latency_ms},
            "data": data.to_json(),
            "config": asdict(config),
            "seed": arguments.seed,
            "fingerprint": predictor.fingerprint,
        },
        fresh=arguments.fresh,
    )
    _keep(predictor, table, run)
    if resumed:
        note(f"going on with {run}")
    with learning_progress("searching", budget_ms=arguments.latency_ms) as draw:
        result = run_search(run, space, data, predictor, config, target_ms=arguments.latency_ms, on_event=draw)
    say(f"found {result.architecture}")
    upper = (
        "" if result.upper_ms is None else f", at most {ms(result.upper_ms)} ms with confidence {config.confidence:g}"
    )
    say(
        f"predicted {ms(result.predicted_ms)} ms{upper}, target {arguments.latency_ms:g} ms: {run / 'architecture.json'}"
    )
    return 0


def _predictor(arguments: argparse.Namespace) -> tuple[Predictor, Path | None]:
    """The predictor that was asked for, and the table behind it if it is known."""
    import luts
    from lightnas_edge.predictor import load_predictor, lut_predictor, reference_predictor

    if arguments.lut and reference_predictor(arguments.lut):
        arguments.predictor = arguments.lut  # tables that come with the project are predictors already
    if arguments.predictor:
        predictor = load_predictor(
            arguments.predictor, None if arguments.space is None else load_space(arguments.space)
        )
        named = predictor.fit.get("lut")
        beside = arguments.predictor.parent / str(named)
        return predictor, beside if named and beside.is_file() else None
    if arguments.space is None:
        raise SpaceError("a table does not say what space to search", hint="add --space NAME or --space FILE")
    space = load_space(arguments.space)
    table = arguments.lut
    if table is None:
        table = complete_table(arguments.host, space)
    return lut_predictor(space, luts.read(table)), table


def _keep(predictor: Predictor, table: Path | None, run: Path) -> None:
    """A run carries what it was predicted with."""
    predictor.save(run / "predictor.json")
    if table is not None and not (run / "lut.jsonl").exists():
        part = run / "lut.jsonl.part"
        shutil.copyfile(table, part)
        part.replace(run / "lut.jsonl")

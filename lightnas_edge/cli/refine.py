"""`lightnas-edge refine`: other channels for the network that was found, under the same budget."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import devices
import luts
from devices import Connection
from lightnas_edge.cli._console import Bar, info, ms, print_json, print_result, progress, silent, warn
from lightnas_edge.cli._fleet import Fleet, add_pooling, boards_sharing, measure_somewhere, open_fleet
from lightnas_edge.cli._learning import read_data
from lightnas_edge.cli._measuring import announce_estimate, report_table
from lightnas_edge.cli._options import (
    add_board,
    add_device,
    add_fresh,
    add_host,
    add_image_copies,
    add_json,
    add_workers,
    board_settings,
    count,
    round_count,
    sudo_password,
    whole,
)
from lightnas_edge.errors import RunError
from lightnas_edge.measuring import MeasurementProtocol, Settings, write_profile_job
from lightnas_edge.runs import Run
from lightnas_edge.space import ShapedOperator, Space

if TYPE_CHECKING:
    from lightnas_edge.predictor import Predictor


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "refine", help="evolve the channels of the network that was found",
        description="Stage two of the search: vary stage widths and expansions of the network that was found, measure the "
        "operators at the shapes that this needs, and evolve under the same budget by the sum of early training losses. "
        "The best choice becomes a run directory of its own. After Ctrl-C the same command continues.",
        epilog="example: lightnas-edge refine runs/tiny-0.9ms --host localhost",
    )  # fmt: skip
    parser.add_argument("run_folder", type=Path, metavar="RUN")
    add_host(parser, default=None, shown="the board of the run's table", several=True)
    add_pooling(parser)
    parser.add_argument("--out", type=Path, metavar="RUN", help="the new run directory (default: RUN-refined)")
    parser.add_argument(
        "--vary", choices=("widths", "expansions", "both"), default="both",
        help="channels of stages, of blocks, or both (default: both)",
    )  # fmt: skip
    parser.add_argument(
        "--factors",
        type=_factors,
        default=(0.75, 1.25),
        metavar="F,F",
        help="of the channel counts (default: 0.75,1.25)",
    )
    parser.add_argument("--candidates", type=count, default=40, metavar="N", help="choices to score (default: 40)")
    parser.add_argument("--steps", type=count, default=200, metavar="N", help="of training per score (default: 200)")
    parser.add_argument("--batch-size", type=count, default=64, metavar="N", help="of these trainings (default: 64)")
    parser.add_argument(
        "--seeds", type=count, default=5, metavar="N",
        help="of the comparison of the best three with the unrefined network (default: 5)",
    )  # fmt: skip
    parser.add_argument(
        "--rounds", type=round_count, default=25, metavar="N", help="visits of every operator (default: 25)"
    )
    parser.add_argument("--data", metavar="DIR", help="default: the data of the search")
    add_workers(parser)
    add_image_copies(parser)
    add_device(parser)
    parser.add_argument(
        "--seed", type=whole, default=0, metavar="N", help="of the evolution and the scores (default: 0)"
    )
    add_board(parser)
    add_fresh(parser, "refine from the beginning; the earlier run is kept as .old")
    add_json(parser)
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    from lightnas_edge.nn import joined_ranks

    with joined_ranks(arguments.device) as ranks, silent(not ranks.first):
        return _refine(arguments, first=ranks.first)


def _refine(arguments: argparse.Namespace, *, first: bool) -> int:
    from lightnas_edge.deploy import default_host
    from lightnas_edge.refine import RefineConfig, refine_network

    config = RefineConfig(
        candidates=arguments.candidates, seeds=arguments.seeds, steps=arguments.steps, batch=arguments.batch_size,
        factors=arguments.factors, vary=arguments.vary, rounds=arguments.rounds, seed=arguments.seed,
        device=arguments.device,
    )  # fmt: skip
    run_folder: Path = arguments.run_folder
    named = run_folder if run_folder.name else run_folder.resolve()  # "." has no name
    out = arguments.out or named.with_name(named.name + "-refined")
    run = Run.open(run_folder)
    _ = run.architecture  # refused here where the search has not ended
    arguments.host = arguments.host or default_host(run, "refine")
    password = sudo_password(arguments) if first else None
    if _predictor(run).simulated:
        warn("the run's predictor comes from a SIMULATED board: the results are not measurements")
    data = read_data(
        arguments.data or run.data.source,
        space=run.space,
        seed=run.record.seed,
        workers=arguments.workers,
        copies=arguments.image_copies,
    )
    boards = cache(
        lambda: _boards(arguments, _predictor(run).fingerprint)
    )  # asked only where something is to be measured
    with _scoring() as draw:
        found = refine_network(
            run_folder,
            out,
            data,
            config,
            lambda *what: _measure(arguments, boards(), password, *what),
            fresh=arguments.fresh,
            on_event=draw,
        )
    if not first:
        return 0
    if arguments.json:
        print_json(Run.open(out).refined.to_json())
        return 0
    comparison = found.comparison
    upper = "" if found.upper_ms is None else f", at most {ms(found.upper_ms)} ms"
    print_result(f"best of {found.scored} of {found.of} choices: {found.channels}")
    print_result(
        f"predicted {ms(found.predicted_ms)} ms{upper}, unrefined {ms(found.unrefined_ms)} ms, "
        f"target {found.target_ms:g} ms: {out / 'architecture.json'}"
    )
    print_result(
        f"training loss sum over {config.steps} steps, {config.seeds} seeds: {comparison.difference:+.2f} ± "
        f"{comparison.standard_error:.2f} against the unrefined network (lower is better): {comparison.verdict}"
    )
    if not comparison.better:
        beyond = "it learns more slowly" if comparison.worse else "the difference is within the noise between seeds"
        info(f"no significant improvement over {run_folder}: {beyond}")
    info("the sum of early losses is a proxy: train both networks and compare their accuracy")
    return 0


def _boards(arguments: argparse.Namespace, measured_so: Mapping[str, Any]) -> Fleet | Connection:
    """Those that --host names."""
    sets_state = arguments.lock_clocks or arguments.power_mode is not None
    fleet = open_fleet(arguments, backend=measured_so.get("backend"), sets_state=sets_state)
    return devices.connect(arguments.host) if fleet is None else fleet


def _measure(
    arguments: argparse.Namespace,
    boards: Fleet | Connection,
    password: str | None,
    space: Space,
    operators: Sequence[ShapedOperator],
    table: Path,
) -> luts.Lut:
    settings = Settings.like(
        _predictor(Run.open(arguments.run_folder)).fingerprint,
        MeasurementProtocol(rounds=arguments.rounds, seed=arguments.seed),
    )
    settings = replace(settings, **board_settings(arguments))
    began_s = time.monotonic()
    if isinstance(boards, Fleet) and len(operators) == 1:
        boards = boards.connection
    job, lut = measure_somewhere(
        arguments, boards,
        lambda folder, tell: write_profile_job(folder, space, settings, operators=operators, on_progress=tell),
        table, title=f"measuring on {arguments.host}", fresh=arguments.fresh and not table.exists(), sudo_password=password,
        announce=lambda job: announce_estimate(len(job.keys), settings, boards=boards_sharing(boards)),
    )  # fmt: skip
    if len(operators) > 1:  # a single operator only checks that this is the board of the run
        show = info if arguments.json else print_result
        report_table(job, lut, energy=arguments.energy, seconds=time.monotonic() - began_s, show=show)
    return lut


def _predictor(run: Run) -> Predictor:
    """Of the latency. Raises RunError: the run keeps none."""
    from lightnas_edge.predictor import load_predictor

    path = run.predictors.get("latency_ms")
    if path is None:
        raise RunError(f"{run.folder} keeps no predictor of the latency", hint="`lightnas-edge search` writes one")
    return load_predictor(path, run.space)


def _factors(text: str) -> tuple[float, ...]:
    """argparse type: positive numbers between commas."""
    try:
        found = tuple(float(part) for part in text.split(","))
    except ValueError:
        found = ()
    if not found or not all(0 < factor < 100 for factor in found):
        raise argparse.ArgumentTypeError(f"expected positive numbers such as 0.75,1.25, not {text!r}")
    return found


@contextmanager
def _scoring() -> Iterator[Callable[[dict[str, Any]], None]]:
    """A bar while networks are scored; measuring, before and after, has bars of its own."""
    with ExitStack() as stack:
        bar: Bar | None = None

        def draw(event: dict[str, Any]) -> None:
            nonlocal bar
            if event["kind"] == "end":
                stack.close()
                return
            if bar is None:
                bar = stack.enter_context(progress("scoring channels"))
                if event["known"]:
                    info(f"resumed after {event['known']} scores")
                return
            bar(event["done"], event["total"], f"{event['channels']}  {event['score']:.2f}")

        yield draw

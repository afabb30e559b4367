"""`lightnas-edge refine`: other channels for the network that was found, under the same budget."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import devices
import luts
from lightnas_edge.cli._console import Bar, ms, note, print_json, progress, say, warn
from lightnas_edge.cli._measuring import job_folder, measure_with_progress, tell_table
from lightnas_edge.cli._options import add_board, add_host, board_settings, count, sudo_password
from lightnas_edge.measuring import MeasurementProtocol, Settings, write_profile_job
from lightnas_edge.runs import read_architecture, read_json, read_run
from lightnas_edge.space import ShapedOperator, Space


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "refine", help="evolve the channels of the network that was found",
        description="Stage two of the search: vary stage widths and expansions of the network that was found, measure the "
        "operators at the shapes that this needs, and evolve under the same budget by the sum of early training losses. "
        "The best choice becomes a run directory of its own. Interrupt it whenever you like: the same command goes on.",
        epilog="example: lightnas-edge refine runs/tiny-0.9ms --host localhost",
    )  # fmt: skip
    parser.add_argument("run_folder", type=Path, metavar="RUN")
    add_host(parser)
    parser.add_argument("--out", type=Path, metavar="RUN", help="the new run directory (default: RUN-refined)")
    parser.add_argument(
        "--vary", choices=("widths", "expansions", "both"), default="both",
        help="of stages, of blocks (default: both); fewer are measured sooner",
    )  # fmt: skip
    parser.add_argument(
        "--factors", type=_factors, default=(0.75, 1.25), metavar="F,F", help="of the channels (default: 0.75,1.25)"
    )
    parser.add_argument("--candidates", type=count, default=40, metavar="N", help="choices to score (default: 40)")
    parser.add_argument("--steps", type=count, default=200, metavar="N", help="of training per score (default: 200)")
    parser.add_argument("--batch-size", type=count, default=64, metavar="N", help="of these trainings (default: 64)")
    parser.add_argument(
        "--seeds", type=count, default=5, metavar="N",
        help="on which the best three are compared with the network as it was (default: 5)",
    )  # fmt: skip
    parser.add_argument("--rounds", type=count, default=25, metavar="N", help="of measuring (default: 25)")
    parser.add_argument("--data", metavar="DIR", help="default: the data of the search")
    parser.add_argument("--workers", type=int, metavar="N", help="processes that decode images (default: one per core)")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the evolution and the scores (default: 0)")
    add_board(parser)
    parser.add_argument("--fresh", action="store_true", help="begin anew; what is there is kept beside as .old")
    parser.add_argument("--json", action="store_true", help="the outcome, for machines")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    from lightnas_edge.data import load_data
    from lightnas_edge.refine import RefineConfig, refine_network

    config = RefineConfig(
        candidates=arguments.candidates, seeds=arguments.seeds, steps=arguments.steps, batch=arguments.batch_size,
        factors=arguments.factors, vary=arguments.vary, rounds=arguments.rounds, seed=arguments.seed,
        device=arguments.device,
    )  # fmt: skip
    run_folder: Path = arguments.run_folder
    named = run_folder if run_folder.name else run_folder.resolve()  # "." has no name
    out = arguments.out or named.with_name(named.name + "-refined")
    run, space = read_run(run_folder)
    read_architecture(run_folder, space)
    if _predictor(run_folder)["simulated"]:
        warn("the run's predictor comes from a SIMULATED board: nothing that follows is a measurement")
    data = load_data(arguments.data or run["data"]["source"], space=space, seed=run["seed"], workers=arguments.workers)
    with _scoring() as draw:
        found = refine_network(
            run_folder,
            out,
            data,
            config,
            lambda *what: _measure(arguments, *what),
            fresh=arguments.fresh,
            on_event=draw,
        )
    if arguments.json:
        print_json(read_json(out / "refine" / "result.json", kind="refined"))
        return 0
    comparison = found.comparison
    upper = "" if found.upper_ms is None else f", at most {ms(found.upper_ms)} ms"
    say(f"best of {found.scored} of {found.of} choices: {found.channels}")
    say(
        f"predicted {ms(found.predicted_ms)} ms{upper}, unrefined {ms(found.unrefined_ms)} ms, "
        f"target {found.target_ms:g} ms: {out / 'architecture.json'}"
    )
    say(
        f"training loss sum over {config.steps} steps, {config.seeds} seeds: {comparison.difference:+.2f} ± "
        f"{comparison.standard_error:.2f} against the unrefined network (less is better): {comparison.verdict}"
    )
    if not comparison.better:
        beyond = "it learns more slowly" if comparison.worse else "the difference is within the noise between seeds"
        note(f"nothing here speaks for {out} over {run_folder}: {beyond}")
    note("the sum of early losses is a guess: train both, and compare their accuracy")
    return 0


def _measure(arguments: argparse.Namespace, space: Space, operators: Sequence[ShapedOperator], table: Path) -> luts.Lut:
    settings = Settings.like(
        _predictor(arguments.run_folder)["fingerprint"],
        MeasurementProtocol(rounds=arguments.rounds, seed=arguments.seed),
    )
    settings = replace(settings, **board_settings(arguments))
    started_s = time.monotonic()
    with job_folder() as folder:
        job, lut = measure_with_progress(
            devices.connect(arguments.host),
            lambda tell: write_profile_job(folder, space, settings, operators=operators, on_progress=tell),
            table, title=f"measuring on {arguments.host}",
            fresh=arguments.fresh and not table.exists(),
            sudo_password=sudo_password(arguments),
        )  # fmt: skip
    if len(operators) > 1 and not arguments.json:  # one operator was to see whether this is the run's board
        tell_table(job, lut, energy=arguments.energy, started_s=started_s, ended_s=time.monotonic())
    return lut


def _predictor(run_folder: Path) -> dict[str, Any]:
    return read_json(run_folder / "predictor.json", kind="predictor", remedy="`lightnas-edge search` writes it")


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
    """A bar that is there only while networks are scored: measuring, before and after, draws its own."""
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
                    note(f"went on after {event['known']} scores")
                return
            bar(event["done"], event["total"], f"{event['channels']}  {event['score']:.2f}")

        yield draw

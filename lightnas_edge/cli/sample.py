"""`lightnas-edge sample`: measure whole networks, to fit and to check a predictor."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING

import devices
import luts
from lightnas_edge.cli._console import UsageError, info, percent, print_json, print_result, print_table, warn
from lightnas_edge.cli._fleet import add_pooling, boards_sharing, measure_somewhere, open_fleet, require_one_host
from lightnas_edge.cli._measuring import (
    announce_estimate,
    campaign_progress,
    is_complete,
    report_table,
)
from lightnas_edge.cli._options import (
    add_classes,
    add_host,
    add_json,
    add_measuring,
    add_space,
    announce_default_host,
    chosen_space,
    count,
    milliseconds,
    percentage,
    positive,
    read_prior,
    settings,
    sudo_password,
)
from lightnas_edge.measuring import Settings, sample_architectures, sentinels, write_sample_job
from lightnas_edge.measuring.same_board import require_same_board
from lightnas_edge.measuring.tables import table_path
from lightnas_edge.space import Architecture, Space

if TYPE_CHECKING:
    from lightnas_edge.predictor import Predictor
    from lightnas_edge.predictor.adaptive_sampling import AdaptiveSampling, AdaptiveSamplingConfig
    from lightnas_edge.records.adaptive import FitProgress

_COUNT, _MAX_COUNT = 10, 60
_ADAPTIVE_ONLY = ("until", "round_networks")
_NEAR_ONLY = ("metric", "prior", "lut", "predictor")  # or with --adaptive
_STOPPED = {
    "reached": "the target of ±{until} is reached",
    "noise": "the rest is measurement noise; more --rounds or a quieter board help, more networks do not",
    "discrepancy": "the rest is model discrepancy; more networks do not help",
    "count": "--count {most} is reached; the target of ±{until} needs more networks",
}
_NONE_LEFT = "no further network of this kind is found in the space"


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "sample", help="measure whole networks",
        description="Measure whole networks of a space, with random weights, together with a few operators that tie "
        "them to the operators' table. The first ten are the same on every board, the others are random: the same seed with a "
        "larger count adds networks to those already measured. With --frontier they are networks such as a search chooses, with "
        "--around-ms random networks that are predicted near a latency. With --adaptive, each round measures the most informative ones; "
        "with both --adaptive and --frontier, 60 % are random and the others are chosen in rounds, by the predictor of all before.",
        epilog="examples: lightnas-edge sample --host localhost --space tiny --adaptive --until 1; "
        "lightnas-edge sample --host localhost --space tiny --frontier --predictor tiny.predictor.json --count 40",
    )  # fmt: skip
    add_host(parser, several=True)
    add_pooling(parser)
    add_space(parser)
    add_classes(parser)
    parser.add_argument(
        "--count", type=count, metavar="N", help=f"networks (default: {_COUNT}; at most {_MAX_COUNT} with --adaptive)"
    )
    near = parser.add_argument_group(
        "networks where a search chooses", "a predictor needs networks there most, besides random ones"
    )
    near.add_argument(
        "--frontier", action="store_true",
        help="networks with the most multiplications within limits over the whole range, or within --around-ms, as predicted",
    )  # fmt: skip
    near.add_argument(
        "--around-ms", type=milliseconds, metavar="MS",
        help="networks that are predicted within 2 %% of this latency (with --adaptive: what is to be predicted well)",
    )  # fmt: skip
    near.add_argument(
        "--around-mj", type=positive, metavar="MJ", help="the same for an energy, with --metric energy_mj"
    )
    near.add_argument(
        "--metric", choices=list(luts.METRICS), metavar="NAME",
        help=f"what is predicted: {', '.join(luts.METRICS)} (default: latency_ms)",
    )  # fmt: skip
    known = near.add_mutually_exclusive_group()
    known.add_argument(
        "--predictor", type=Path, metavar="FILE", help="predict with this one, of this board; not with --adaptive"
    )
    known.add_argument(
        "--prior", type=Path, metavar="FILE", help="start from the predictor of another board, power mode or batch size"
    )
    known.add_argument(
        "--lut", type=Path, metavar="FILE",
        help="the operators' table to start from (default: the one named after host, space and settings, if it exists)",
    )  # fmt: skip
    group = parser.add_argument_group("adaptive sampling")
    group.add_argument(
        "--adaptive", action="store_true", help="pick the most informative networks; stop at the target uncertainty"
    )
    group.add_argument(
        "--until", type=percentage, metavar="PERCENT",
        help="target uncertainty: half the width of a network's 90 %% interval (default: 1)",
    )  # fmt: skip
    group.add_argument("--round-networks", type=count, metavar="N", help="networks per adaptive round (default: 5)")
    add_measuring(parser, rounds=15)
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="the table (default: named after host, space, settings)"
    )
    add_json(parser)
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    _check(arguments)
    if arguments.adaptive:
        require_one_host(arguments, "--adaptive", hint="each of its rounds follows from the one before")
    space = chosen_space(arguments)
    announce_default_host(arguments)
    password = sudo_password(arguments)
    fleet = open_fleet(
        arguments, backend=arguments.backend, sets_state=arguments.lock_clocks or arguments.power_mode is not None
    )
    connection = devices.connect(arguments.host) if fleet is None else fleet.connection
    chosen = settings(arguments, connection)
    table = arguments.out or table_path(arguments.host, space.name, chosen, "-networks")
    if arguments.adaptive:
        return _sample_adaptively(arguments, space, connection, chosen, table, password)
    architectures = _networks(arguments, space, connection, chosen, table)
    began_s = time.monotonic()
    job, lut = measure_somewhere(
        arguments, connection if fleet is None else fleet,
        lambda folder, tell: write_sample_job(folder, space, chosen, architectures, on_progress=tell),
        table, title=f"measuring networks of {space.name} on {arguments.host}", fresh=arguments.fresh,
        sudo_password=password, announce=lambda job: announce_estimate(
            len(job.keys) - len(architectures), chosen, networks=len(architectures), boards=boards_sharing(fleet)
        ),
    )  # fmt: skip
    complete = is_complete(job, lut)
    if arguments.json:
        print_json({
            "kind": "sample", "lut": str(table), "networks": len(lut.networks), "complete": complete,
            "failed": list(lut.failed), "fingerprint": lut.fingerprint, "simulated": lut.simulated,
        })  # fmt: skip
    else:
        report_table(job, lut, energy=arguments.energy, seconds=time.monotonic() - began_s)
    return 0 if complete else 1


def _check(arguments: argparse.Namespace) -> None:
    """Raises UsageError for options that do not go together."""
    around = arguments.around_ms or arguments.around_mj
    if not arguments.adaptive:
        for name in _ADAPTIVE_ONLY:
            if getattr(arguments, name):
                raise UsageError(f"--{name.replace('_', '-')} needs --adaptive")
        for name in _NEAR_ONLY:
            if getattr(arguments, name) and not (around or arguments.frontier):
                raise UsageError(f"--{name} needs --frontier, --around-ms, --around-mj or --adaptive")
    elif arguments.predictor:
        raise UsageError("--predictor: not with --adaptive, which fits its own", hint="start from --lut or --prior")
    metric = arguments.metric or "latency_ms"
    unit = luts.METRICS[metric]
    if metric.endswith("energy_mj") and not arguments.energy:
        raise UsageError(f"--metric {metric} needs --energy")
    if (arguments.around_ms and unit != "ms") or (arguments.around_mj and unit != "mJ"):
        raise UsageError(f"{metric} is not in the unit of --around-{'ms' if arguments.around_ms else 'mj'}")


def _networks(
    arguments: argparse.Namespace, space: Space, connection: devices.Connection, chosen: Settings, table: Path
) -> list[Architecture]:
    """Those that are measured without --adaptive."""
    wanted, around = arguments.count or _COUNT, arguments.around_ms or arguments.around_mj
    if not (around or arguments.frontier):
        return sample_architectures(space, wanted, arguments.seed)
    from lightnas_edge.predictor.frontier import frontier_networks
    from lightnas_edge.predictor.near import NEAR, networks_near

    predictor, source = _predictor(arguments, space, connection, chosen, table)
    if arguments.frontier:
        found = frontier_networks(predictor, wanted, arguments.seed, limit=around)
        limits = f"{around:g} {predictor.unit}" if around else f"limits on {predictor.metric}"
        what = f"networks with the most multiplications within {limits}"
    else:
        found = networks_near(predictor, around, wanted, arguments.seed)
        what = f"networks within {percent(NEAR, 0)} of {around:g} {predictor.unit}"
    if len(found) < wanted:
        warn(f"only {len(found)} {what} are found in {space.name}")
    info(f"{what} as {source} predicts")
    return found


def _predictor(
    arguments: argparse.Namespace, space: Space, connection: devices.Connection, chosen: Settings, table: Path
) -> tuple[Predictor, Path]:
    """What tells which networks are near, and its file.

    Raises:
        UsageError: there is none.
        PredictorError: it is of another metric, or the board's speed relative to the prior's is not known.
        FingerprintError: it is of another board.
    """
    from lightnas_edge.predictor import load_predictor, lut_predictor
    from lightnas_edge.predictor.near import transferred_by_reference

    metric = arguments.metric or "latency_ms"
    if arguments.predictor:
        predictor = load_predictor(arguments.predictor, space)
        if predictor.metric != metric:
            raise UsageError(f"{arguments.predictor} predicts {predictor.metric}, not {metric}")
        require_same_board(connection, predictor.fingerprint, str(arguments.predictor))
        return predictor, arguments.predictor
    prior = read_prior(arguments.prior, space)
    if prior is not None:
        measured = luts.read(table) if table.exists() and not arguments.fresh else None
        return transferred_by_reference(space, prior, measured, metric=metric), arguments.prior
    operators = arguments.lut or table_path(arguments.host, space.name, chosen)
    if not operators.exists():
        raise UsageError(
            f"no predictor: {operators} does not exist",
            hint="name one with --predictor, a table with --lut, or measure the table with `lightnas-edge profile`",
        )
    return lut_predictor(space, luts.read(operators), metric=metric), operators


def _sample_adaptively(
    arguments: argparse.Namespace,
    space: Space,
    connection: devices.Connection,
    chosen: Settings,
    table: Path,
    password: str | None,
) -> int:
    from lightnas_edge.predictor.adaptive_sampling import AdaptiveSamplingConfig, sample_adaptively

    default = AdaptiveSamplingConfig()
    config = AdaptiveSamplingConfig(
        metric=arguments.metric or default.metric,
        around=arguments.around_ms or arguments.around_mj,
        until=arguments.until or default.until,
        max_networks=arguments.count or _MAX_COUNT,
        round_networks=arguments.round_networks or default.round_networks,
        frontier=arguments.frontier,
    )
    prior = read_prior(arguments.prior, space)
    operators = arguments.lut or table_path(arguments.host, space.name, chosen)
    lut = luts.read(operators) if arguments.lut or (prior is None and operators.exists()) else None
    if lut is None and prior is None:
        info("no table of operators: the predictor starts without a prior (`lightnas-edge profile` measures one)")
    announce_estimate(len(sentinels(space)), chosen, networks=config.max_networks, most=True)
    with campaign_progress(f"measuring networks on {arguments.host}", chosen.protocol.rounds) as draw:

        def assessed(progress: FitProgress) -> None:
            draw.close()
            info(f"{progress.networks} networks: {_interval(progress)}")

        sampling = sample_adaptively(
            connection, space, chosen, table, config, lut=lut, prior=prior, fresh=arguments.fresh,
            sudo_password=password, on_preparing=draw.preparing, on_progress=draw.measuring, on_assessed=assessed,
        )  # fmt: skip
    if arguments.json:
        print_json(sampling.record.to_json())
    else:
        _print_sampling(sampling, config, table, simulated=luts.read(table).simulated)
    return 0 if sampling.complete else 1


def _print_sampling(
    sampling: AdaptiveSampling, config: AdaptiveSamplingConfig, table: Path, *, simulated: bool
) -> None:
    curve, last = sampling.record.curve, sampling.progress
    columns = ["networks", "90 % PI", "at best", "leave-one-out error", ""]
    widest = max(point.half_width for point in curve)
    print_table(columns, [
        [
            str(point.networks), f"± {percent(point.half_width, 2)}", f"± {percent(point.floor, 2)}",
            percent(point.leave_one_out, 2), ("█" * max(1, round(24 * point.half_width / widest))).ljust(24),
        ]
        for point in curve
    ])  # fmt: skip
    none_left = sampling.record.stopped == "count" and last.networks < config.max_networks
    reason = _NONE_LEFT if none_left else _STOPPED[str(sampling.record.stopped)]
    reason = reason.format(until=percent(config.until, 1), most=config.max_networks)
    around = f" near {config.around:g} {luts.METRICS[config.metric]}" if config.around else ""
    where = " where a search chooses" * config.frontier
    print_result(f"{'SIMULATED: ' * simulated}{last.networks} networks, {_interval(last)}{where}{around}: {reason}")
    print_result(f"repeatability: {percent(last.repeatability, 2)}; table: {table}")


def _interval(progress: FitProgress) -> str:
    return f"± {percent(progress.half_width, 2)} (at best ± {percent(progress.floor, 2)})"

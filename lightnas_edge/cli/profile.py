"""`lightnas-edge profile`, also `profile-device`: measure every operator of a space, or one model and its layers."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import devices
import luts
from lightnas_edge.cli._console import UsageError, percent, print_json, print_result
from lightnas_edge.cli._fleet import (
    FleetReport,
    add_fleet,
    boards_sharing,
    measure_on_fleet,
    open_fleet,
    require_one_host,
)
from lightnas_edge.cli._measuring import announce_estimate, campaign_progress, measure_with_progress, report_table
from lightnas_edge.cli._model_options import add_model, chosen_model, model_settings
from lightnas_edge.cli._next import what_next
from lightnas_edge.cli._options import (
    add_classes,
    add_host,
    add_json,
    add_measuring,
    add_space,
    announce_default_host,
    chosen_space,
    settings,
    sudo_password,
)
from lightnas_edge.measuring import Job, Settings, select_operators, write_profile_job
from lightnas_edge.measuring.engines import why_board_lacks
from lightnas_edge.measuring.tables import table_path

DESCRIPTION = (
    "Measure every operator of a search space on a board, one by one, into a look-up table (LUT). With --model: measure any ONNX "
    "file, the time of each of its layers too, and report where the time goes."
)
_MODEL_ROUNDS = 40  # enough for intervals of all percentiles but the 99th: docs/verdicts.md
SPACE_ROUNDS = 25


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("profile", help="measure every operator of a space: a LUT", description=DESCRIPTION)
    add_arguments(parser)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = f"examples: {parser.prog} --host localhost --space tiny; {parser.prog} --host jetson.local --model net.onnx --precision fp16"
    add_host(parser, several=True)
    add_fleet(parser)
    add_space(parser, required=False)
    add_classes(parser)
    add_measuring(parser, rounds=SPACE_ROUNDS)
    add_model(parser)
    # Defaults that depend on what is measured.
    parser.set_defaults(precision=None, rounds=None)
    parser.add_argument(
        "--only", action="append", default=[], metavar="OPERATOR",
        help="a key, NAME@LAYER (layers count from 0) or a glob such as '*_e6@*'; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--out",
        type=Path,
        metavar="PATH",
        help="the table (default: named after host, space, settings); with --model the folder of the report (default: profile-NAME)",
    )
    add_json(parser)
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    if (arguments.space is None) == (arguments.model is None):
        raise UsageError("profile takes a search space with --space, or an ONNX file with --model")
    if arguments.model is not None:
        return _profile_model(arguments)
    if arguments.shape:
        raise UsageError("--shape: only with --model; a space has its own shapes")
    arguments.precision = arguments.precision or "fp32"
    arguments.rounds = arguments.rounds or SPACE_ROUNDS
    space = chosen_space(arguments)
    operators = select_operators(space, arguments.only)
    announce_default_host(arguments)
    password = sudo_password(arguments)
    fleet = open_fleet(
        arguments, backend=arguments.backend, sets_state=arguments.lock_clocks or arguments.power_mode is not None
    )
    connection = devices.connect(arguments.host) if fleet is None else fleet.connection
    chosen = settings(arguments, connection)
    _refuse_lacking(connection, chosen)
    table = arguments.out or table_path(arguments.host, space.name, chosen)
    boards = boards_sharing(fleet, each=arguments.per_unit)
    began_s = time.monotonic()

    def write(folder: Path, tell: Callable[[int, int], None]) -> Job:
        return write_profile_job(folder, space, chosen, operators=operators, on_progress=tell)

    def announce(job: Job) -> None:
        announce_estimate(len(job.keys), chosen, boards=boards)

    title = f"measuring {space.name} on {arguments.host}"
    if fleet is not None:
        job, report = measure_on_fleet(
            arguments,
            fleet,
            write,
            table,
            title=title,
            fresh=arguments.fresh,
            each=arguments.per_unit,
            sudo_password=password,
            announce=announce,
        )
        if report.pooled is None:
            return _show_units(arguments, job, report)
        lut, units = report.pooled, {"units": report.to_json()}
    else:
        job, lut = measure_with_progress(
            connection, write, table, title=title, fresh=arguments.fresh, sudo_password=password, announce=announce
        )
        units = {}
    seconds = time.monotonic() - began_s
    coverage = lut.coverage([shaped.key for shaped in space.shaped_operators()])
    repeatability = luts.repeatability(lut)
    next_step = what_next(arguments, space, chosen, lut, coverage, boards=boards)
    if arguments.json:
        print_json({
            "kind": "profile", "lut": str(table), "found": len(coverage.found), "missing": list(coverage.missing),
            "failed": list(coverage.failed), "fell_back": {key: lut.fallbacks[key] for key in job.keys if key in lut.fallbacks},
            "repeatability": repeatability.operators,
            "fingerprint": lut.fingerprint, "simulated": lut.simulated, "next": next_step.to_json(), **units,
        })  # fmt: skip
    else:
        report_table(job, lut, energy=arguments.energy, seconds=seconds)
        print_result(f"{space.name}: {coverage}; repeatability: {percent(repeatability.operators, 2)}")
        for line in next_step.lines():
            print_result(line)
    return 0 if all(key in lut.entries for key in job.keys) else 1


def _show_units(arguments: argparse.Namespace, job: Job, report: FleetReport) -> int:
    """Several boards without a common table: one for each unit."""
    incomplete = []
    for host, lut in report.result.tables.items():
        coverage = lut.coverage(job.keys)
        incomplete += [] if coverage.complete else [host]
        if not arguments.json:
            print_result(f"{lut.path}: {'SIMULATED: ' * lut.simulated}{coverage}")
    if arguments.json:
        print_json({"kind": "profile", "lut": None, "complete": not incomplete, "units": report.to_json()})
    return 0 if arguments.per_unit and not incomplete and not report.result.lost else 1


def _refuse_lacking(connection: devices.Connection, chosen: Settings) -> None:
    """Before models are written and sent. Raises UsageError: the board does not compute in this precision."""
    why = why_board_lacks(connection, chosen.backend, chosen.precision)
    if why is not None:
        raise UsageError(why, hint="use --precision fp16, or a board that has it")


def _profile_model(arguments: argparse.Namespace) -> int:
    from lightnas_edge.cli._model_profile import default_folder, show_profile
    from lightnas_edge.deploy.profile_model import profile_model

    given = [f"--{name}" for name in ("only", "classes") if getattr(arguments, name, None)]
    if given:
        raise UsageError(f"{' and '.join(given)}: only with --space")
    if arguments.batch != 1:
        raise UsageError(
            "--batch: only with --space; a model has its own shapes", hint="give its batch size with --shape"
        )
    announce_default_host(arguments)
    require_one_host(arguments, "--model", hint="`lightnas-edge verify --model FILE.onnx` takes several hosts")
    open_fleet(arguments)
    model = chosen_model(arguments)
    password = sudo_password(arguments)
    connection = devices.connect(arguments.host)
    chosen = model_settings(arguments, connection, model, arguments.rounds or _MODEL_ROUNDS, streams=arguments.streams)
    _refuse_lacking(connection, chosen)
    folder = arguments.out or default_folder(model.facts.name)
    announce_estimate(0, chosen, networks=1)
    with campaign_progress(f"measuring {model.facts.name} on {arguments.host}", chosen.protocol.rounds) as bars:
        record = profile_model(
            model, connection, chosen, folder,
            fresh=arguments.fresh, on_progress=bars.measuring, sudo_password=password,
        )  # fmt: skip
    show_profile(record, folder, as_json=arguments.json)
    return 0

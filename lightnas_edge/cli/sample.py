"""`lightnas-edge sample`: measure whole networks, to fit and to check a predictor."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import devices
from lightnas_edge.cli.measuring import job_folder, measure_with_progress, tell_table
from lightnas_edge.cli.options import (
    add_classes,
    add_host,
    add_measuring,
    add_space,
    chosen_space,
    count,
    settings,
    sudo_password,
    table_path,
)
from lightnas_edge.profiling import sample_architectures, write_sample_job


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "sample", help="measure whole random networks",
        description="Measure random whole networks of a space, with random weights, and a few operators beside them that tie "
        "them to the operators' table. The same seed and a larger count add networks to those already measured.",
        epilog="example: lightnas-edge sample --host localhost --space tiny --count 10",
    )  # fmt: skip
    add_host(parser)
    add_space(parser)
    add_classes(parser)
    parser.add_argument("--count", type=count, default=10, metavar="N", help="networks (default: 10)")
    add_measuring(parser, rounds=15)
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="the table (default: named after host, space, settings)"
    )
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    space = chosen_space(arguments)
    connection = devices.connect(arguments.host)
    chosen = settings(arguments, connection)
    architectures = sample_architectures(space, arguments.count, arguments.seed)
    table = arguments.out or table_path(arguments.host, space.name, chosen, "-networks")
    started_s = time.monotonic()
    with job_folder() as folder:
        job, lut = measure_with_progress(
            connection,
            lambda tell: write_sample_job(folder, space, chosen, architectures, on_progress=tell),
            table, title=f"measuring networks of {space.name} on {arguments.host}", fresh=arguments.fresh,
            sudo_password=sudo_password(arguments),
        )  # fmt: skip
    tell_table(job, lut, energy=arguments.energy, started_s=started_s, ended_s=time.monotonic())
    return 0 if all(key in lut.entries or key in lut.networks for key in job.keys) else 1

"""`lightnas-edge verify`: the exported network, measured on the board. The only command that may say "met"."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import devices
from devices import Status
from lightnas_edge.cli._console import info, percent, print_json, print_result, progress, warn
from lightnas_edge.cli._measuring import announce_estimate
from lightnas_edge.cli._options import add_board, add_host, add_json, board_settings, count, milliseconds, sudo_password
from lightnas_edge.measuring import Settings, sentinels
from lightnas_edge.runs import Run

_EXIT = {"met": 0, "missed": 3, "inconclusive": 3}


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "verify", help="measure the exported network on the board: met, missed or inconclusive",
        description="Measure the exported network on a board together with the table's sentinel operators, compare its outputs "
        "with PyTorch, score it on the validation images, and judge it.",
        epilog="exit code 0: met; 3: missed or inconclusive. example: lightnas-edge verify runs/tiny-0.9ms --host localhost",
    )  # fmt: skip
    parser.add_argument("run_folder", type=Path, metavar="RUN")
    add_host(parser, default=None, shown="the board of the run's table")
    parser.add_argument("--latency-ms", type=milliseconds, metavar="MS", help="default: the budget of the search")
    parser.add_argument("--rounds", type=count, default=40, metavar="N", help="of 5 samples each (default: 40)")
    add_board(parser)
    parser.add_argument("--data", metavar="DIR", help="default: the data of the search")
    add_json(parser)
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    from lightnas_edge.deploy import default_host, run_settings, verify_network

    run = Run.open(arguments.run_folder)
    arguments.host = arguments.host or default_host(run)
    password = sudo_password(arguments)
    settings = run_settings(run)
    protocol = settings.protocol.model_copy(update={"rounds": arguments.rounds})
    settings = replace(settings, protocol=protocol, **board_settings(arguments))
    _announce(run, settings)
    with progress(f"verifying on {arguments.host}") as bar:

        def draw(status: Status) -> None:
            bar(status.done, max(status.total, 1), status.key, status.eta_s)

        found = verify_network(
            run, devices.connect(arguments.host), target_ms=arguments.latency_ms,
            settings=settings, data=arguments.data, on_progress=draw, sudo_password=password,
        )  # fmt: skip
    if arguments.json:
        print_json(found.record.to_json())
        return _EXIT[found.judgement.verdict]
    print_result(found.line)
    accuracy = found.record.accuracy
    if accuracy:
        print_result(
            f"top-1 accuracy {percent(accuracy.top1)} on the board, {percent(accuracy.pytorch_top1)} in PyTorch "
            f"(n={accuracy.images})"
        )
    if found.judgement.verdict != "met":
        info(found.judgement.reason)
        if found.judgement.remedy:
            info(f"  {found.judgement.remedy}")
    for warning in dict.fromkeys(found.record.warnings):
        warn(warning)
    return _EXIT[found.judgement.verdict]


def _announce(run: Run, settings: Settings) -> None:
    from lightnas_edge.deploy import IMAGES

    predicted = run.found.predicted.metrics.get("latency_ms")
    images = min(IMAGES, run.data.validation_images)
    announce_estimate(
        len(sentinels(run.space)), settings, networks=1, batch_ms=predicted.value if predicted else 0.0, images=images
    )

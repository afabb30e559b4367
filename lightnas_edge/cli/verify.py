"""`lightnas-edge verify`: a network, measured on the board. It and `precision` alone may say "met"."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import devices
from lightnas_edge.cli._console import UsageError, info, print_json, report_error
from lightnas_edge.cli._fleet import unit_folder
from lightnas_edge.cli._measuring import announce_estimate, campaign_progress
from lightnas_edge.cli._model_options import add_model, add_model_measuring, chosen_model, model_settings
from lightnas_edge.cli._model_profile import show_changes
from lightnas_edge.cli._options import (
    add_board,
    add_host,
    add_json,
    add_streams,
    board_settings,
    round_count,
    sudo_password,
)
from lightnas_edge.cli._power_modes import MeasuredMode, chosen_mode, chosen_modes, modes_json, show_modes
from lightnas_edge.cli._several import add_all, chosen_runs, for_each, print_records
from lightnas_edge.cli._verdicts import (
    EXIT,
    add_budgets,
    add_files_for_ci,
    add_sustained,
    asked_budgets,
    budget_words,
    remove_files_for_ci,
    show,
    write_files_for_ci,
)
from lightnas_edge.cli._verify_units import Subject, verify_units, worst
from lightnas_edge.errors import LightnasEdgeError
from lightnas_edge.fleet import chosen_hosts
from lightnas_edge.fleet.campaign import file_name
from lightnas_edge.measuring import Settings, sentinels
from lightnas_edge.runs import Run

if TYPE_CHECKING:
    from lightnas_edge.deploy import Verification
    from lightnas_edge.deploy.references import Reference
    from lightnas_edge.models import Model

MODEL_OPTIONS = (
    "--reference",
    "--against",
    "--shape",
    "--precision",
    "--backend",
    "--threads",
    "--cuda-graph",
    "--out",
)


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "verify", help="measure a network on the board: met, missed or inconclusive",
        description="Measure the exported network of a run, or any ONNX file, on a board, inference by inference; compare its "
        "outputs with a reference, and judge every budget.",
        epilog="exit code 0: every budget is met; 3: missed, inconclusive or not judged. examples: "
        "lightnas-edge verify runs/tiny-0.9ms --host localhost; "
        "lightnas-edge verify --model net.onnx --host jetson.local --latency-ms 20 --p95-ms 25",
    )  # fmt: skip
    parser.add_argument("run_folder", type=Path, nargs="?", metavar="RUN")
    add_all(parser, "verify")
    add_host(parser, default=None, shown="the board of the run's table; with --model this machine", several=True)
    add_budgets(parser, "default: those of the search; one that is given is added, or replaces that of the search")
    parser.add_argument(
        "--rounds",
        type=round_count,
        metavar="N",
        help="visits of the network (default: as many as the budgets' statistics need)",
    )
    add_sustained(parser)
    add_streams(
        parser, "default: 1; of a run, as its table; every budget of a latency is about each stream", default=None
    )
    parser.add_argument(
        "--power-modes", metavar="all|MODE,...",
        help="a verdict for each power mode, and the one that keeps the budget with the least energy; needs sudo; restored afterwards",
    )  # fmt: skip
    add_board(parser)
    parser.add_argument("--data", metavar="DIR", help="labelled images (default: the data of the search)")
    group = add_model(parser)
    add_model_measuring(group)
    group.add_argument("--reference", type=Path, metavar="FILE.npz", help="inputs and expected outputs, by name")
    group.add_argument(
        "--against", type=Path, metavar="FILE.onnx", help="a model with the outputs to expect, usually in fp32"
    )
    group.add_argument("--out", type=Path, metavar="DIR", help="record and report (default: verify-NAME)")
    add_files_for_ci(parser)
    add_json(parser)
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    if (arguments.run_folder is None) == (arguments.model is None):
        raise UsageError("verify takes a run directory, or an ONNX file with --model")
    hosts = [] if arguments.host is None else chosen_hosts(arguments.host)
    remove_files_for_ci(arguments)
    if arguments.power_modes is not None:
        return _run_in_modes(arguments, hosts)
    if len(hosts) > 1:
        return _run_on_units(arguments)
    arguments.host = hosts[0] if hosts else None
    failed: dict[str, str] = {}
    if arguments.model is not None:
        found, code = [_verified_model(arguments)], 0
    else:
        found, code = for_each(chosen_runs(arguments), lambda run: _verified_run(run, arguments), failed)
    records = [each.record for each in found]
    write_files_for_ci(arguments, records, failed)
    print_records(arguments, records)
    return max([code, *(EXIT[record.verdict] for record in records)])


def _run_on_units(arguments: argparse.Namespace) -> int:
    """Every unit measures the network; what they say about all units of their model."""
    subject = _subject(arguments, "several hosts")
    found = verify_units(arguments, subject, subject.folder)
    if found.records:
        last = worst(found.records)
        subject.keep(last, unit_folder(subject.folder, last.host), found.about)
    write_files_for_ci(arguments, found.records, found.about.lost)
    if arguments.json:
        print_json({
            "kind": "fleet-verification", "fleet": found.about.to_json(), "verifications": [record.to_json() for record in found.records],
        })  # fmt: skip
    return found.exit_code


def _run_in_modes(arguments: argparse.Namespace, hosts: Sequence[str]) -> int:
    """A network in one power mode after the other, on one unit or on several."""
    if arguments.power_mode is not None:
        raise UsageError("--power-modes and --power-mode both set the board", hint="give one of them")
    subject = _subject(arguments, "--power-modes")
    if subject.run is None and not hosts:
        raise UsageError("--power-modes needs --host", hint="for example --host orin1")
    if subject.run is not None and not hosts:
        from lightnas_edge.deploy import default_host

        hosts = [default_host(subject.run)]
    found: dict[str, MeasuredMode] = {}
    for mode in chosen_modes(arguments.power_modes, hosts[0]):
        info(f"power mode {mode}")
        folder = subject.folder / "modes" / file_name(mode)
        mine = argparse.Namespace(**{**vars(arguments), "power_mode": mode, "energy": True, "host": ",".join(hosts)})
        try:
            if len(hosts) > 1:
                units = verify_units(mine, subject, folder)
                found[mode] = MeasuredMode(units.records, len(hosts), units.about)
            else:
                found[mode] = MeasuredMode((subject.verify(mine, folder),), 1)
        except LightnasEdgeError as error:  # a mode that this release or this user cannot set costs that mode alone
            report_error(f"power mode {mode}: {error}\n  {error.hint}", error)
    found = {mode: each for mode, each in found.items() if each.records}
    if not found:
        return 1
    chosen = chosen_mode(found)
    last = worst(found[chosen].records)
    folder = subject.folder / "modes" / file_name(chosen)
    of_last = folder if len(hosts) == 1 else unit_folder(folder, last.host)
    subject.keep(last, of_last, found[chosen].about)
    write_files_for_ci(arguments, [record for each in found.values() for record in each.records])
    if arguments.json:
        print_json(modes_json(found))
    else:
        show_modes(found)
    return min(each.exit_code for each in found.values())  # one mode that keeps the budget is enough


def _subject(arguments: argparse.Namespace, what: str) -> Subject:
    """What is measured more than once. Raises UsageError: several networks, or no budget."""
    from lightnas_edge.deploy.judge import check_targets

    if arguments.all or arguments.best:
        raise UsageError(f"{what}: not with --all or --best", hint="name the run of one network")
    if arguments.model is not None:
        check_targets(asked_budgets(arguments))
        folder = arguments.out or Path(f"verify-{chosen_model(arguments).facts.name}")
        return Subject(None, folder, _verified_model)
    run = Run.open(arguments.run_folder)
    check_targets({**run.targets, **asked_budgets(arguments)})
    return Subject(run, run.verify_folder, lambda mine, connection: _verified_run(run, mine, connection))


def _verified_run(
    run: Run, arguments: argparse.Namespace, connection: devices.Connection | None = None
) -> Verification:
    """`connection`: to the board, where it is open."""
    from lightnas_edge.deploy import default_host, run_settings, verify_network
    from lightnas_edge.deploy.judge import check_targets

    given = [option for option in MODEL_OPTIONS if getattr(arguments, option[2:].replace("-", "_"))]
    if given:
        raise UsageError(f"{' and '.join(given)}: only with --model; a run says how its table was measured")
    run.found  # noqa: B018  # first: of a search with several networks, one has to be named
    asked = {**run.targets, **asked_budgets(arguments)}
    check_targets(asked)
    host = arguments.host or default_host(run)
    password = sudo_password(arguments)
    settings = _measured_so(run_settings(run, asked, rounds=arguments.rounds), arguments)
    _announce(run, settings)
    with campaign_progress(f"verifying on {host}", settings.protocol.rounds) as bars:
        found = verify_network(
            run, connection or devices.connect(host), targets=asked,
            settings=settings, data=arguments.data, on_progress=bars.measuring, sudo_password=password,
            command=_command(arguments, [str(run.folder)], host, settings),
        )  # fmt: skip
    if not arguments.json:
        show(found.record, found.line)
    return found


def _verified_model(arguments: argparse.Namespace, connection: devices.Connection | None = None) -> Verification:
    """`connection`: to the board, where it is open."""
    from lightnas_edge.deploy.judge import check_targets
    from lightnas_edge.deploy.verify import energy_rounds_for, rounds_for
    from lightnas_edge.deploy.verify_model import verify_model
    from lightnas_edge.report import build_verification_report

    asked = asked_budgets(arguments)
    check_targets(asked)
    if arguments.host is None:
        arguments.host = "localhost"
        info("no --host given: measuring on this machine (localhost)")
    model = chosen_model(arguments)
    password = sudo_password(arguments)
    connection = connection or devices.connect(arguments.host)
    settings = model_settings(
        arguments, connection, model, arguments.rounds or rounds_for(asked), streams=arguments.streams
    )
    settings = replace(settings, energy_rounds=max(settings.energy_rounds, energy_rounds_for(asked)))
    reference = _reference(arguments, model)
    folder = arguments.out or Path(f"verify-{model.facts.name}")
    announce_estimate(0, settings, networks=1)
    with campaign_progress(f"verifying {model.facts.name} on {arguments.host}", settings.protocol.rounds) as bars:
        found = verify_model(
            model, connection, folder, asked, _measured_so(settings, arguments), reference,
            on_progress=bars.measuring, sudo_password=password,
            command=_command(arguments, ["--model", str(model.path)], arguments.host, settings),
        )  # fmt: skip
    report = build_verification_report(found.record, folder, found.profile)
    if not arguments.json:
        show(found.record, found.line)
        show_changes(found.record.model)
        info(f"report: {report.html}")
    return found


_REPEATED = (
    "--precision", "--backend", "--threads", "--data", "--reference", "--against", "--out", "--power-mode",
)  # fmt: skip  # options with a value


def _command(arguments: argparse.Namespace, subject: Sequence[str], host: str, settings: Settings) -> str:
    """That verifies the same thing in the same way, without the number of rounds: what a remedy repeats."""
    words = ["lightnas-edge", "verify", *subject, "--host", host]
    words += [word for name, sides in arguments.shape for word in ("--shape", f"{name}:{sides}")]
    words += ["--streams", str(settings.streams)] if settings.streams > 1 else []
    for option in _REPEATED:
        value = getattr(arguments, option[2:].replace("-", "_"))
        words += [] if value is None else [option, str(value)]
    words += ["--sustained", f"{arguments.sustained:g}s"] if arguments.sustained else []
    for option in ("--cuda-graph", "--lock-clocks", "--energy", "--ask-sudo-password"):
        words += [option] if getattr(arguments, option[2:].replace("-", "_")) else []
    return shlex.join([*words, *budget_words(arguments)])


def _reference(arguments: argparse.Namespace, model: Model) -> Reference:
    """What the outputs are compared with."""
    from lightnas_edge.deploy import IMAGES, references

    given = [option for option in ("--data", "--reference", "--against") if getattr(arguments, option[2:]) is not None]
    if len(given) > 1:
        raise UsageError(f"{' and '.join(given)} both say what to compare with", hint="give one of them")
    if arguments.reference is not None:
        return references.from_npz(model, arguments.reference)
    if arguments.against is not None:
        return references.from_model(model, arguments.against, dict(arguments.shape))
    if arguments.data is not None:
        return references.from_images(model, arguments.data, IMAGES)
    return references.from_this_machine(model)


def _measured_so(settings: Settings, arguments: argparse.Namespace) -> Settings:
    """With the board's state that was asked, and energy where a budget needs it."""
    board = board_settings(arguments)
    board["energy_rounds"] = max(board["energy_rounds"], settings.energy_rounds)
    protocol = settings.protocol.model_copy(update={"sustained_s": arguments.sustained})
    return replace(settings, protocol=protocol, streams=arguments.streams or settings.streams, **board)


def _announce(run: Run, settings: Settings) -> None:
    from lightnas_edge.deploy import IMAGES

    predicted = run.found.predicted.metrics.get("latency_ms")
    images = min(IMAGES, run.data.validation_images)
    announce_estimate(
        len(sentinels(run.space)), settings, networks=1, batch_ms=predicted.value if predicted else 0.0, images=images
    )

"""`lightnas-edge precision`: one network in every precision of a board, and which one to deploy."""

from __future__ import annotations

import argparse
import shlex
import textwrap
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import devices
from devices import Status
from lightnas_edge.cli._calibration import add_calibration, calibration_images, calibration_options
from lightnas_edge.cli._console import UsageError, info, percent, print_json, print_result, print_table, warn
from lightnas_edge.cli._measuring import CampaignProgress, announce_estimate
from lightnas_edge.cli._model_options import add_model, chosen_model, model_settings
from lightnas_edge.cli._options import (
    add_board,
    add_host,
    add_json,
    board_settings,
    count,
    refuse_impossible,
    round_count,
    sudo_password,
)
from lightnas_edge.cli._verdicts import add_budgets, asked_budgets, budget_words, ran_in_words
from lightnas_edge.measuring import Settings, sentinels
from lightnas_edge.measuring.engines import PRECISIONS, PRECISIONS_OF
from lightnas_edge.records.precision import PrecisionRecord, PrecisionRow
from lightnas_edge.runs import Run
from lightnas_edge.space import load_space

if TYPE_CHECKING:
    from devices import Connection
    from lightnas_edge.deploy.precision import PrecisionTable
    from lightnas_edge.deploy.precision_model import CalibrationInputs
    from lightnas_edge.models import Model
    from lightnas_edge.quantise.calibration import CalibrationImages

COLUMNS = 100  # of the terminal that the result is written for


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "precision", help="the network in fp32, fp16 and int8 on the board, and which one to deploy",
        description="Export a trained network, or convert a float32 ONNX file, to every precision of a board; measure all of them in "
        "turns, compare latency, accuracy, energy and size, judge every budget, and choose the precision to deploy.",
        epilog="exit code 0: the chosen precision keeps every budget; 3: none does. examples: "
        "lightnas-edge precision runs/first --host localhost; "
        "lightnas-edge precision runs/first --host jetson.local --precision fp16,int8 --p95-ms 12 --max-accuracy-drop 1; "
        "lightnas-edge precision --model net.onnx --host jetson.local --latency-ms 20 --data val --calibrate train",
    )  # fmt: skip
    parser.add_argument("run_folder", type=Path, nargs="?", metavar="RUN")
    add_host(parser, default=None, shown="the board of the run's table; with --model this machine")
    parser.add_argument(
        "--precision", type=precisions, metavar="LIST", help="for example fp16,int8 (default: all that the board has)"
    )
    parser.add_argument(
        "--predictor", type=Path, action="append", default=[], metavar="FILE",
        help="of a further precision; the run has that of its own table. May be repeated",
    )  # fmt: skip
    add_budgets(parser, "default: those of the search; one that is given is added, or replaces that of the search")
    parser.add_argument(
        "--rounds", type=round_count, metavar="N",
        help="visits of the network in each precision (default: as many as the budgets' statistics need)",
    )  # fmt: skip
    add_calibration(parser)
    parser.add_argument("--backend", metavar="NAME", help="engine (default: that of the run's table)")
    add_board(parser)
    parser.add_argument("--data", metavar="DIR", help="labelled images (default: the data of the search)")
    group = add_model(parser)
    group.add_argument("--threads", type=count, metavar="N", help="CPU threads of the engine (default: 1)")
    group.add_argument("--cuda-graph", action="store_true", help="launch each inference as one CUDA graph (TensorRT)")
    group.add_argument("--out", type=Path, metavar="DIR", help="record, page and files (default: precision-NAME)")
    add_json(parser)
    parser.set_defaults(run=_run)


def precisions(text: str) -> tuple[str, ...]:
    """argparse type: `fp16,int8`."""
    names = text.split(",")
    if unknown := [name for name in names if name not in PRECISIONS]:
        raise argparse.ArgumentTypeError(f"no such precision: {unknown[0]!r}; choose from {', '.join(PRECISIONS)}")
    return tuple(names)


def _run(arguments: argparse.Namespace) -> int:
    if (arguments.run_folder is None) == (arguments.model is None):
        raise UsageError("precision takes a run directory, or a float32 ONNX file with --model")
    found = _of_run(arguments) if arguments.model is None else _of_model(arguments)
    if arguments.json:
        print_json(found.record.to_json())
    else:
        show(found.record)
        info(f"record: {found.path}")
    return 0 if found.record.choice.precision is not None else 3


def _of_run(arguments: argparse.Namespace) -> PrecisionTable:
    from lightnas_edge.deploy import default_host, run_settings
    from lightnas_edge.deploy.judge import check_targets
    from lightnas_edge.deploy.precision import measure_precisions

    _refuse(arguments, ("--shape", "--threads", "--cuda-graph", "--out"), "only with --model")
    run = Run.open(arguments.run_folder)
    run.found  # noqa: B018  # first: of a search with several networks, one has to be named
    asked = {**run.targets, **asked_budgets(arguments)}
    check_targets(asked)
    host = arguments.host or default_host(run, "precision")
    password = sudo_password(arguments)
    settings = run_settings(run, asked, rounds=arguments.rounds)
    if arguments.backend is not None:
        refuse_impossible(arguments.backend, PRECISIONS_OF.get(arguments.backend, PRECISIONS)[0])
        settings = replace(settings, backend=arguments.backend)
    settings = _measured_so(settings, arguments)
    predicted = run.found.predicted.metrics.get("latency_ms")
    _announce(arguments, settings, len(sentinels(run.space)), predicted.value if predicted else 0.0)
    with _Progress() as progress:
        return measure_precisions(
            run, devices.connect(host), targets=asked, precisions=arguments.precision, predictors=arguments.predictor,
            settings=settings, data=arguments.data, on_progress=progress, sudo_password=password,
            command=_command(arguments, [str(arguments.run_folder)], host), **calibration_options(arguments, run.space.input_size),
        )  # fmt: skip


def _of_model(arguments: argparse.Namespace) -> PrecisionTable:
    from lightnas_edge.deploy import IMAGES, references
    from lightnas_edge.deploy.judge import check_targets
    from lightnas_edge.deploy.precision_model import measure_model_precisions
    from lightnas_edge.deploy.verify import energy_rounds_for, rounds_for
    from lightnas_edge.quantise.calibration import DEFAULT_METHOD
    from lightnas_edge.report.precision_page import build_precision_page

    _refuse(arguments, ("--predictor",), "only with a run, of which a predictor knows the space")
    asked = asked_budgets(arguments)
    check_targets(asked)
    if arguments.host is None:
        arguments.host = "localhost"
        info("no --host given: measuring on this machine (localhost)")
    model = chosen_model(arguments)
    password = sudo_password(arguments)
    connection = devices.connect(arguments.host)
    one = argparse.Namespace(**{**vars(arguments), "precision": "fp32"})  # each precision gets its own later
    settings = model_settings(one, connection, model, arguments.rounds or rounds_for(asked))
    settings = _measured_so(replace(settings, energy_rounds=energy_rounds_for(asked)), arguments)
    if arguments.data is None:
        reference = references.from_this_machine(model)
    else:
        reference = references.from_images(model, arguments.data, IMAGES)
    folder = arguments.out or Path(f"precision-{model.facts.name}")
    _announce(arguments, settings, 0, 0.0)
    with _Progress() as progress:
        found = measure_model_precisions(
            model, connection, folder, asked, settings, reference, precisions=arguments.precision,
            calibration=_calibration_inputs(arguments, model, connection, settings.backend), method=arguments.calibration_method or DEFAULT_METHOD,
            on_progress=progress, sudo_password=password,
            command=_command(arguments, ["--model", str(arguments.model)], arguments.host),
        )  # fmt: skip
    info(f"page: {build_precision_page(found.record, folder)}")
    return found


def _command(arguments: argparse.Namespace, subject: Sequence[str], host: str) -> str:
    """That measures the same thing again in the same way, without the number of rounds: what a remedy repeats."""
    words = ["lightnas-edge", "precision", *subject, "--host", host]
    for name, sides in arguments.shape:
        words += ["--shape", f"{name}:{sides}" if name else str(sides)]
    for option in (
        "--backend", "--threads", "--data", "--calibrate", "--calibration-method", "--power-mode", "--out",
    ):  # fmt: skip
        value = getattr(arguments, option[2:].replace("-", "_"))
        words += [] if value is None else [option, str(value)]
    words += ["--precision", ",".join(arguments.precision)] if arguments.precision else []
    words += [word for path in arguments.predictor for word in ("--predictor", str(path))]
    for option in ("--cuda-graph", "--lock-clocks", "--energy", "--ask-sudo-password"):
        words += [option] if getattr(arguments, option[2:].replace("-", "_")) else []
    return shlex.join([*words, *budget_words(arguments)])


def _calibration_inputs(
    arguments: argparse.Namespace, model: Model, connection: Connection, backend: str
) -> CalibrationInputs | None:
    """Images of --calibrate DIR, or N of those to train on in --data; None where neither was given or int8 is not measured.

    Raises:
        UsageError: a number of images and no --data, or a model that does not take images.
        CalibrationError: images that cannot be used.
    """
    from lightnas_edge.deploy.precision import unavailable_precisions
    from lightnas_edge.deploy.precision_model import CalibrationInputs
    from lightnas_edge.quantise.calibration import DEFAULT_IMAGES, CalibrationImages

    if arguments.calibrate is None and arguments.data is None:
        return None
    if "int8" not in (arguments.precision or PRECISIONS) or "int8" in unavailable_precisions(connection, backend):
        return None
    shapes = [value.shape for value in model.facts.inputs]
    if len(shapes) != 1 or len(shapes[0]) != 4 or shapes[0][1] != 3 or shapes[0][2] != shapes[0][3]:
        raise UsageError(
            f"{model.path} does not take one batch of square colour images, so that images cannot calibrate it",
            hint="leave --calibrate out: fp32 and fp16 need none",
        )
    batch, _, size, _ = (side or 0 for side in shapes[0])
    given = arguments.calibrate or str(DEFAULT_IMAGES)
    found = calibration_images(given, size)
    if not isinstance(found, CalibrationImages):
        if arguments.data is None:
            raise UsageError(
                f"--calibrate {given} takes images of --data", hint="add --data DIR, or name a folder: --calibrate DIR"
            )
        found = _to_train_on(arguments.data, size, found)
    for text in found.warnings:
        warn(text)
    runs = len(found.pixels) // batch
    if not runs:
        raise UsageError(
            f"{given} has fewer images than one batch of the model, which is {batch}", hint="give more images"
        )
    pixels = found.pixels[: runs * batch].reshape(runs, batch, *found.pixels.shape[1:])
    return CalibrationInputs({model.facts.inputs[0].name: pixels}, runs * batch, found.warnings)


def _to_train_on(source: str, size: int, count: int) -> CalibrationImages:
    """Images of --data that do not judge the accuracy, where it has some; else all, with a warning."""
    from lightnas_edge.data import DIGITS, load_data, training_part
    from lightnas_edge.quantise.calibration import CalibrationImages

    if source == DIGITS:
        data = load_data(source, space=replace(load_space("tiny"), input_size=size))  # reads no more of the space
        return CalibrationImages.from_training(data, count)
    part = training_part(Path(source))
    if part is not None:
        return CalibrationImages.from_folder(part, size, count)
    found = CalibrationImages.from_folder(source, size, count)
    shared = "int8 is calibrated on images of --data, by which its accuracy is judged too; give --calibrate DIR"
    return replace(found, warnings=(*found.warnings, shared))


def _refuse(arguments: argparse.Namespace, options: Sequence[str], why: str) -> None:
    given = [option for option in options if getattr(arguments, option[2:].replace("-", "_"))]
    if given:
        raise UsageError(f"{' and '.join(given)}: {why}")


def _measured_so(settings: Settings, arguments: argparse.Namespace) -> Settings:
    """With the board's state that was asked, and energy where a budget needs it."""
    board = board_settings(arguments)
    return replace(settings, **{**board, "energy_rounds": max(board["energy_rounds"], settings.energy_rounds)})


def show(record: PrecisionRecord) -> None:
    """The table for people, one line of details for each precision, the choice, what else was found."""
    mark = "SIMULATED " if record.simulated else ""
    columns = ("precision", "p50 ms", "p95 ms", "speed", "top-1", "to fp32", "verdict")
    rows = [_cells(row) for row in record.measured]
    _print_wrapped(
        f"{mark}{record.name} on {record.host}, measured in turns ({record.passes} passes); predictions in brackets"
    )
    print_table(columns, rows)
    for row in record.rows:
        _print_wrapped(f"{row.precision}: {mark if row.verification else ''}{_details(row)}")
        if row.unavailable is not None and row.remedy:
            info(f"  {row.remedy}")
    choice = record.choice
    _print_wrapped(
        f"{mark}deploy {choice.precision}: {choice.reason}" if choice.precision else f"{mark}{choice.reason}"
    )
    for finding in choice.findings:
        _print_wrapped(f"{mark}{finding}")
    warnings = [
        (row.precision, text) for row in record.measured if row.verification for text in row.verification.warnings
    ]
    for precision, text in dict.fromkeys(warnings):
        warn(f"{precision}: {text}")


def _cells(row: PrecisionRow) -> tuple[str, ...]:
    check = row.verification
    assert check is not None
    difference, accuracy = row.accuracy_difference, check.accuracy
    to_fp32 = ""
    if difference is not None:
        low, high = difference.interval
        to_fp32 = f"{100 * difference.difference:+.1f} ({100 * low:+.1f}, {100 * high:+.1f}) %"
    return (
        row.precision,
        _statistic(row, "latency_ms"),
        _statistic(row, "p95_ms"),
        "" if row.speedup is None else f"{row.speedup.ratio:.2f}x",
        "not scored" if accuracy is None else percent(accuracy.top1),
        to_fp32,
        check.verdict,
    )


def _statistic(row: PrecisionRow, metric: str) -> str:
    """`0.0925 (0.0890)`: measured, and predicted where a predictor of this precision was given."""
    from lightnas_edge.deploy.judge import decimals

    assert row.verification is not None
    measured_ms = row.verification.measured.statistic(metric).latency_ms
    digits = decimals(measured_ms)
    predicted = row.predicted.get(metric)
    return f"{measured_ms:.{digits}f}" + ("" if predicted is None else f" ({predicted.latency_ms:.{digits}f})")


def _details(row: PrecisionRow) -> str:
    check = row.verification
    if check is None:
        return f"not available: {row.unavailable}"
    parts = []
    if row.speedup is not None and row.speedup.interval is not None:
        low, high = row.speedup.interval
        parts.append(f"{row.speedup.ratio:.2f}x the speed of fp32 ({low:.2f} to {high:.2f})")
    sizes = [f"file {row.model_bytes / 1e6:.2f} MB"] if row.model_bytes else []
    sizes += [f"engine {check.engine_bytes / 1e6:.2f} MB"] if check.engine_bytes else []
    sizes += [f"memory {check.peak_memory_mb:.1f} MB"] if check.peak_memory_mb else []
    parts += [", ".join(sizes)] if sizes else []
    if check.energy is not None:
        parts.append(f"energy {check.energy.gross_mj:.3g} mJ")
    floats = check.float_outputs or check.outputs
    if floats is not None:
        parts.append(f"cosine {floats.cosine:.4f} with float32")
    if row.calibrated_on is not None:
        parts.append(f"{'fine-tuned' if row.fine_tuned else 'calibrated'} ({row.calibrated_on} images)")
    parts.append(ran_in_words(check))
    return "; ".join(part for part in parts if part)


def _print_wrapped(text: str) -> None:
    for line in textwrap.wrap(text, COLUMNS, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False):
        print_result(line)


class _Progress:
    """A bar for each turn of a precision."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._title = ""
        self._bars: CampaignProgress | None = None

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def __call__(self, title: str, status: Status) -> None:
        if self._bars is None or title != self._title:
            self._stack.close()
            self._title, self._bars = title, CampaignProgress(self._stack, title)
        self._bars.measuring(status)


def _announce(arguments: argparse.Namespace, settings: Settings, operators: int, batch_ms: float) -> None:
    """For each precision of those that the engine has."""
    from lightnas_edge.deploy import IMAGES

    most = len(arguments.precision or PRECISIONS_OF.get(settings.backend, PRECISIONS))
    info(f"in each of up to {most} precisions:")
    announce_estimate(operators, settings, networks=1, batch_ms=batch_ms, images=IMAGES if batch_ms else 0)

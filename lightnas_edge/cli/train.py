"""`lightnas-edge train`: the network that was found, from the weights of its search or from scratch, and its fine-tuning in 8 bits."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from lightnas_edge.cli._calibration import add_calibration, calibration_images
from lightnas_edge.cli._console import UsageError, info, percent, print_result, silent, warn
from lightnas_edge.cli._learning import learning_progress, read_data
from lightnas_edge.cli._options import (
    add_accumulate,
    add_device,
    add_fresh,
    add_image_copies,
    add_json,
    add_train_precision,
    add_workers,
    count,
    positive,
)
from lightnas_edge.cli._recipe import add_recipe, add_teacher, recipe_of, refuse_recipe, teacher_of
from lightnas_edge.cli._several import add_all, chosen_runs, for_each, print_records
from lightnas_edge.records.deployment import InitialWeights, TeacherRecord, TrainingRecord, recipe_phrase
from lightnas_edge.records.quantisation import Dialect
from lightnas_edge.runs import Run

if TYPE_CHECKING:
    from lightnas_edge.data import DataSet
    from lightnas_edge.train import Initial

Event = dict[str, Any]

_EPOCHS, _FINE_TUNING_EPOCHS = 360, 10
_SHOWN_NAMES = 6  # of tensors, in a message


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "train", help="train the network that was found; fine-tune it in 8 bits",
        description="Train the network of a run: from the weights that it has in the supernet of the search, or from scratch. With "
        "--quantize fine-tune the trained network for 8 bits. After Ctrl-C the same command continues.",
        epilog="examples: lightnas-edge train runs/tiny-0.9ms --epochs 30; "
        "lightnas-edge train runs/tiny-0.9ms --quantize int8 --epochs 3",
    )  # fmt: skip
    parser.add_argument("run_folder", type=Path, metavar="RUN")
    add_all(parser, "train")
    parser.add_argument(
        "--data", metavar="DIR", help="default: the data of the search; with --quantize, of the training"
    )
    parser.add_argument(
        "--epochs", type=count, metavar="N",
        help=f"default: {_EPOCHS}, as published; with --quantize {_FINE_TUNING_EPOCHS}",
    )  # fmt: skip
    parser.add_argument("--batch-size", type=count, default=128, metavar="N", help="default: 128")
    parser.add_argument(
        "--lr", type=positive, metavar="R",
        help="at the top of the schedule (default: 0.5 * batch / 1024, at least 0.05; with --optimiser adamw 0.001 * sqrt(batch / 1024); "
        "with --quantize a hundredth of the former)",
    )  # fmt: skip
    add_accumulate(parser)
    add_train_precision(parser)
    parser.add_argument(
        "--sync-batch-norm", action="store_true",
        help="under torchrun: batch norm sees the images of all processes (default: each process those of its own share)",
    )  # fmt: skip
    add_workers(parser)
    add_image_copies(parser)
    add_device(parser)
    add_fresh(parser, "train from the beginning")
    add_json(parser)
    group = parser.add_argument_group("weights to begin with")
    sources = group.add_mutually_exclusive_group()
    sources.add_argument(
        "--from-supernet", action="store_true",
        help="those of this network in the supernet of the search (default where the run has its checkpoint)",
    )  # fmt: skip
    sources.add_argument("--from-scratch", action="store_true", help="random numbers, as published")
    sources.add_argument(
        "--init", type=Path, metavar="FILE",
        help="tensors of a safetensors file that fit by name and shape, for example train/weights.safetensors of another run",
    )  # fmt: skip
    add_teacher(group)
    add_recipe(parser)
    group = parser.add_argument_group("fine-tuning in 8 bits")
    group.add_argument(
        "--quantize", choices=("int8",),
        help="train the weights that are trained already further, with weights and activations rounded to 8 bits",
    )  # fmt: skip
    add_calibration(group)
    group.add_argument(
        "--dialect", choices=get_args(Dialect),
        help="of the int8 graph (default: that of the engine that the run's table was measured with)",
    )  # fmt: skip
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    from lightnas_edge.nn import joined_ranks

    if arguments.quantize is None:
        for name in ("calibrate", "calibration_method", "dialect"):
            if getattr(arguments, name) is not None:
                raise UsageError(
                    f"--{name.replace('_', '-')} belongs to a fine-tuning in 8 bits", hint="add --quantize int8"
                )
    else:
        for name in ("from_supernet", "from_scratch", "init", "distil", "teacher"):
            if getattr(arguments, name):
                raise UsageError(
                    f"--{name.replace('_', '-')} does not go with --quantize: a fine-tuning in 8 bits begins with the trained weights",
                    hint="train in float32 first, then with --quantize int8",
                )
        for name, plain in (("accumulate", 1), ("train_precision", "fp32"), ("sync_batch_norm", False)):
            if getattr(arguments, name) != plain:
                raise UsageError(f"--{name.replace('_', '-')} does not go with --quantize", hint="leave it out")
        refuse_recipe(arguments)
    if arguments.distil_weight is not None and not (arguments.distil or arguments.teacher):
        raise UsageError("--distil-weight belongs to --distil or --teacher", hint="add one of them")
    act = _trained if arguments.quantize is None else _fine_tuned
    with joined_ranks(arguments.device) as ranks, silent(not ranks.first):
        if ranks.world > 1 and arguments.quantize is not None:
            raise UsageError("a fine-tuning in 8 bits runs in one process", hint="repeat the command without torchrun")
        records, code = for_each(chosen_runs(arguments), lambda run: act(run, arguments))
        if ranks.first:
            print_records(arguments, records)
    return code


def _trained(run: Run, arguments: argparse.Namespace) -> TrainingRecord:
    from lightnas_edge.nn import Ranks
    from lightnas_edge.train import TrainConfig, train_network

    recipe = recipe_of(arguments)
    initial = _initial(run, arguments)
    data = _data(run, arguments.data or run.data.source, arguments)
    if len(data.classes) == len(run.data.classes) and data.classes != run.data.classes:
        warn(f"{data.source} has other classes than the data of the search: the weights and the export are for them")
    elif data.classes != run.data.classes:
        warn(
            f"{data.source} has {len(data.classes)} classes, the data of the search {len(run.data.classes)}; the weights and "
            "the export are for the former, the predicted latency is for the latter"
        )
    config = TrainConfig(
        epochs=arguments.epochs or _EPOCHS,
        batch=arguments.batch_size,
        lr=arguments.lr,
        seed=run.record.seed,
        device=arguments.device,
        micro_batches=arguments.accumulate,
        precision=arguments.train_precision,
        sync_batch_norm=arguments.sync_batch_norm,
        **recipe,
    )
    teacher = teacher_of(run, data.classes, arguments)
    if any(value not in (None, "sgd") for value in recipe.values()):
        info(f"recipe: {recipe_phrase(config.resolved)}")
    with learning_progress("training") as draw:
        record = train_network(
            run, data, config, initial=initial, teacher=teacher, resume=not arguments.fresh, on_event=_beginning(draw)
        ).record
    if Ranks().first and not arguments.json:
        begun = "from scratch" if record.initial is None else f"from the weights of {record.initial.name}"
        print_result(f"trained {record.epochs} epochs {begun}: {_accuracy(record, data)}")
    return record


def _initial(run: Run, arguments: argparse.Namespace) -> Initial | None:
    """The weights to begin with; None: random numbers."""
    from lightnas_edge.train import default_initial, from_file, from_supernet

    if arguments.init is not None:
        return from_file(arguments.init)
    if arguments.from_scratch:
        return None
    return from_supernet(run) if arguments.from_supernet else default_initial(run)


def _beginning(draw: Callable[[Event], None]) -> Callable[[Event], None]:
    """Reports initial weights and the teacher; draws everything else."""

    def on_event(event: Event) -> None:
        if event["kind"] == "initial":
            record: InitialWeights = event["record"]
            info(f"initial weights: {record.summary}; top-1 accuracy before the first step {percent(record.accuracy)}")
            for what, names in (("not in the source", record.missing), ("in another shape there", record.other_shape)):
                if names:
                    info(f"  {what}, so not taken: {_listed(names)}")
        elif event["kind"] == "teacher":
            teacher: TeacherRecord = event["record"]
            info(
                f"teacher: {teacher.name}, top-1 accuracy {percent(teacher.accuracy)}; its answers have a weight of {teacher.weight:g}"
            )
        else:
            draw(event)

    return on_event


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN_NAMES
    return ", ".join(names[:_SHOWN_NAMES]) + (f" and {more} more" if more > 0 else "")


def _fine_tuned(run: Run, arguments: argparse.Namespace) -> TrainingRecord:
    from lightnas_edge.quantise.calibration import DEFAULT_IMAGES, DEFAULT_METHOD, CalibrationImages
    from lightnas_edge.train import dialect_of, fine_tune_quantised, fine_tuning_config

    dialect = arguments.dialect or dialect_of(run)
    data = _data(run, arguments.data or run.weights.record.data.source, arguments)
    images = (
        DEFAULT_IMAGES if arguments.calibrate is None else calibration_images(arguments.calibrate, run.space.input_size)
    )
    if isinstance(images, int):
        images = CalibrationImages.from_training(data, images)
    for warning in images.warnings:
        warn(warning)
    config = fine_tuning_config(
        epochs=arguments.epochs or _FINE_TUNING_EPOCHS,
        batch=arguments.batch_size,
        lr=arguments.lr,
        seed=run.record.seed,
        device=arguments.device,
    )
    with learning_progress("fine-tuning") as draw:

        def on_event(event: dict[str, Any]) -> None:
            if event["kind"] == "calibrated":
                floats, calibrated = percent(event["float_accuracy"]), percent(event["calibrated_accuracy"])
                info(f"top-1 accuracy before the fine-tuning: {floats} in float32, {calibrated} in int8")
            else:
                draw(event)

        record = fine_tune_quantised(
            run, data, config, images, dialect=dialect, method=arguments.calibration_method or DEFAULT_METHOD,
            resume=not arguments.fresh, on_event=on_event,
        ).record  # fmt: skip
    quantised = record.quantised
    assert quantised is not None
    if not arguments.json:
        print_result(
            f"fine-tuned {record.epochs} epochs in int8 ({quantised.dialect}): {_accuracy(record, data)}; without fine-tuning "
            f"{percent(quantised.calibrated_accuracy)}, in float32 {percent(quantised.float_accuracy)}"
        )
    if record.best_accuracy < quantised.calibrated_accuracy:
        warn(
            "the fine-tuning lost accuracy: `export` takes its weights unless --calibrate is given; "
            "try a smaller --lr with --fresh"
        )
    return record


def _data(run: Run, source: str, arguments: argparse.Namespace) -> DataSet:
    return read_data(
        source, space=run.space, seed=run.record.seed, workers=arguments.workers, copies=arguments.image_copies
    )


def _accuracy(record: TrainingRecord, data: DataSet) -> str:
    return (
        f"top-1 accuracy {percent(record.best_accuracy)} (n={len(data.validation)}; best epoch {record.best_epoch + 1}, chosen on "
        f"these same images; last epoch {percent(record.last_accuracy)})"
    )

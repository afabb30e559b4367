"""The options of `train` that change the published recipe, and the teachers."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightnas_edge.cli._console import UsageError
from lightnas_edge.cli._options import positive, share

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lightnas_edge.runs import Run
    from lightnas_edge.train import Distillation

DISTIL_WEIGHT = 0.5
_LARGEST_MAGNITUDE = 30
_OPTIONS = ("optimiser", "weight_decay", "ema", "mixup", "cutmix", "randaugment")


def add_recipe(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("recipe (default: as published; docs/training.md says when each helps)")
    group.add_argument("--optimiser", choices=("sgd", "adamw"), help="default: sgd, with momentum 0.9")
    group.add_argument(
        "--weight-decay", type=_from_zero, metavar="W",
        help="none on biases and batch norm (default: 4e-5; 0.05 with adamw)",
    )  # fmt: skip
    group.add_argument(
        "--ema", type=share, metavar="DECAY",
        help="validate and keep exponential moving averages of the weights, for example 0.999",
    )  # fmt: skip
    group.add_argument("--mixup", type=positive, metavar="ALPHA", help="mix pairs of images, for example 0.2")
    group.add_argument(
        "--cutmix", type=positive, metavar="ALPHA",
        help="paste rectangles of other images, for example 1.0; with --mixup each step draws one of them",
    )  # fmt: skip
    group.add_argument(
        "--randaugment", type=_operations_and_magnitude, metavar="N,M",
        help="N random operations of magnitude M for each image in place of colour jitter, for example 2,9",
    )  # fmt: skip


def add_teacher(group: argparse._ArgumentGroup) -> None:
    teachers = group.add_mutually_exclusive_group()
    teachers.add_argument(
        "--distil", action="store_true",
        help="learn the answers of the largest network of the space too, with the supernet's weights",
    )  # fmt: skip
    teachers.add_argument(
        "--teacher", type=Path, metavar="RUN|FILE",
        help="learn the answers of a network that is trained on the same classes too: a run, of any space with the same input size, "
        "or a file of safetensors of a network of this space",
    )  # fmt: skip
    group.add_argument(
        "--distil-weight", type=share, metavar="W",
        help=f"of these answers in the loss; the labels have the rest (default: {DISTIL_WEIGHT:g})",
    )  # fmt: skip


def recipe_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """The fields of a `TrainConfig`.

    Raises:
        RunError: torchvision is needed and cannot be used.
    """
    if arguments.mixup or arguments.cutmix or arguments.randaugment:
        from lightnas_edge.data.transforms import torchvision_transforms

        torchvision_transforms()
    operations, magnitude = arguments.randaugment or (None, None)
    return {
        "optimiser": arguments.optimiser or "sgd",
        "weight_decay": arguments.weight_decay,
        "ema": arguments.ema,
        "mixup": arguments.mixup,
        "cutmix": arguments.cutmix,
        "randaugment": operations,
        "randaugment_magnitude": magnitude,
    }


def refuse_recipe(arguments: argparse.Namespace) -> None:
    """Raises UsageError: an option that a fine-tuning in 8 bits does not have."""
    for name in _OPTIONS:
        if getattr(arguments, name) is not None:
            raise UsageError(
                f"--{name.replace('_', '-')} does not go with --quantize",
                hint="train in float32 with it first, then with --quantize int8",
            )


def teacher_of(run: Run, classes: Sequence[str], arguments: argparse.Namespace) -> Distillation | None:
    """The network that teaches, if any.

    Raises:
        ModelError, RunError: it cannot teach this network.
    """
    from lightnas_edge.train import largest_of_supernet, trained_network

    weight = arguments.distil_weight or DISTIL_WEIGHT
    space = run.space.with_classes(len(classes))
    if arguments.teacher is not None:
        return trained_network(arguments.teacher, space, classes, weight)
    return largest_of_supernet(run, space, classes, weight) if arguments.distil else None


def _from_zero(text: str) -> float:
    """argparse type: zero or a positive, finite number."""
    return 0.0 if text.strip() in ("0", "0.0") else positive(text)


def _operations_and_magnitude(text: str) -> tuple[int, int]:
    """argparse type of `2,9`."""
    parts = text.split(",")
    if len(parts) != 2 or not all(part.isdecimal() for part in parts) or int(parts[0]) < 1:
        raise argparse.ArgumentTypeError(f"expected two whole numbers such as 2,9, not {text!r}")
    if int(parts[0]) > _LARGEST_MAGNITUDE or int(parts[1]) > _LARGEST_MAGNITUDE:
        raise argparse.ArgumentTypeError(f"expected numbers of at most {_LARGEST_MAGNITUDE}, not {text!r}")
    return int(parts[0]), int(parts[1])

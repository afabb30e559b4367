"""A network that was trained before, as the teacher of a blockwise search or of another training."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightnas_edge.errors import ArchitectureError, ModelError
from lightnas_edge.nn import Network, Supernet
from lightnas_edge.nn.blocks import STAND_ALONE, build_block
from lightnas_edge.nn.weights_file import read_weights
from lightnas_edge.records.base import parse_json
from lightnas_edge.records.plain_text import first_line
from lightnas_edge.runs import Run
from lightnas_edge.space import Architecture, Space

_FORMAT = "weights of a network of this space, as `lightnas-edge train` writes them (RUN/train/weights.safetensors), are needed"
_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")  # a supernet has those of the batch


@dataclass(frozen=True, eq=False)
class Teacher:
    """A trained network: which one, its weights under the names of `nn.Network`, and the hash of its file."""

    architecture: Architecture
    weights: Mapping[str, Tensor]
    sha256: str


def load_teacher(path: Path, space: Space, classes: Sequence[str]) -> Teacher:
    """The network in a safetensors file.

    Its operators are in the file's metadata where `lightnas-edge train` wrote it, else they follow from the shapes; of operators with
    equal shapes, the first one of the space.

    Args:
        path: a file, or a run with trained weights.
        classes: of the images that its answers are for.

    Raises:
        ModelError: no such file, of another space, or of other classes.
        RunError: the run has no trained weights, or they are of another network than its own.
    """
    if path.is_dir():
        path = Run.open(path).weights.path
    file = read_weights(path, error=ModelError, remedy=_FORMAT)
    described = parse_json(
        file.description, f"the description of the network in {path}", error=ModelError, remedy=_FORMAT
    )
    described = described if isinstance(described, dict) else {}
    known = described.pop("classes", None)
    if isinstance(known, list) and [str(each) for each in known] != list(classes):
        raise ModelError(
            f"the teacher in {path} was trained for {_few(known)}, the images have {_few(classes)}",
            hint="train the teacher on the same images, or use those of the teacher",
        )
    space = space.with_classes(len(classes))
    teacher = Teacher(_architecture(path, space, file.weights, described), file.weights, file.sha256)
    _check(path, space, teacher)
    return teacher


@torch.no_grad()
def teach(supernet: Supernet, teacher: Teacher) -> None:
    """Give the supernet the teacher's weights on the teacher's path; the other operators of a layer start as cuts of them.

    Args:
        supernet: with norms as trained networks have them (`Supernet(affine=True)`).
    """
    indices = [int(index) for index in teacher.architecture.indices(supernet.space)]
    state = supernet.state_dict()
    for name, tensor in teacher.weights.items():
        if not name.endswith(_STATISTICS):
            inside = re.sub(r"^layers\.(\d+)\.", lambda found: f"layers.{found[1]}.{indices[int(found[1])]}.", name)
            state[inside].copy_(tensor)
    supernet.start_as_cuts(indices)


def _architecture(
    path: Path, space: Space, weights: Mapping[str, Tensor], described: Mapping[str, Any]
) -> Architecture:
    if "operators" in described:
        try:
            return Architecture.from_json(described, space, source=f"the network in {path}")
        except ArchitectureError as error:
            raise ModelError(
                f"the teacher in {path} is no network of the space {space.name}: {first_line(error)}", hint=_FORMAT
            ) from error
    found = []
    for layer in range(len(space.layers)):
        shapes = {
            name.removeprefix(f"layers.{layer}."): tuple(tensor.shape)
            for name, tensor in weights.items()
            if name.startswith(f"layers.{layer}.") and not name.endswith(_STATISTICS)
        }
        fitting = [index for index in range(len(space.operators)) if _shapes(space, layer, index) == shapes]
        if not fitting:
            raise ModelError(
                f"the teacher in {path} is no network of the space {space.name}: its layer {layer} has the shapes of no operator",
                hint=_FORMAT,
            )
        found.append(fitting[0])
    return Architecture.from_indices(space, found)


def _shapes(space: Space, layer: int, index: int) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        block = build_block(space.at(layer, space.operators[index]), STAND_ALONE)
    return {name: tuple(tensor.shape) for name, tensor in block.state_dict().items() if not name.endswith(_STATISTICS)}


def _check(path: Path, space: Space, teacher: Teacher) -> None:
    """Raises ModelError: a tensor is missing, superfluous, of another shape, or not finite."""
    with torch.device("meta"):
        expected = {
            name: tuple(value.shape) for name, value in Network(space, teacher.architecture).state_dict().items()
        }
    found = {name: tuple(tensor.shape) for name, tensor in teacher.weights.items()}
    for name in sorted({*expected, *found}):
        if name.endswith(_STATISTICS):
            continue
        if expected.get(name) != found.get(name):
            raise ModelError(
                f"the teacher in {path} does not fit: {name} is {_shape(found.get(name))}, {space.name} with "
                f"{space.classes} classes needs {_shape(expected.get(name))}",
                hint=_FORMAT,
            )
        if not bool(torch.isfinite(teacher.weights[name]).all()):
            raise ModelError(f"the teacher in {path} is damaged: {name} is not finite", hint=_FORMAT)


def _shape(shape: tuple[int, ...] | None) -> str:
    return "missing" if shape is None else " x ".join(map(str, shape)) or "a number"


def _few(classes: Sequence[object]) -> str:
    shown = ", ".join(str(each) for each in list(classes)[:4])
    return f"{len(classes)} classes ({shown}{', ...' if len(classes) > 4 else ''})"

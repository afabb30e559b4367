"""Networks that teach another one: the largest of the supernet, or one that was trained before."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from lightnas_edge.errors import ModelError, RunError
from lightnas_edge.nn import Network, estimate_statistics, fit_weights
from lightnas_edge.runs import Run
from lightnas_edge.search import load_teacher
from lightnas_edge.search.entangled_strategy import largest_path
from lightnas_edge.space import Architecture, Space
from lightnas_edge.train.initial import path_of_supernet


@dataclass(frozen=True)
class Distillation:
    """A network that answers for the images of a training.

    Args:
        name: as a phrase.
        weight: of its answers in the loss.
        sha256: of the file that its weights come from.
        identity: what a checkpoint belongs to.
        build: makes it, on the CPU; batches of normalised training images, there too, are for its running statistics.
    """

    name: str
    weight: float
    sha256: str
    identity: Mapping[str, str]
    build: Callable[[Iterable[Tensor]], nn.Module]


def largest_of_supernet(run: Run, space: Space, classes: Sequence[str], weight: float) -> Distillation:
    """The largest network of a run's space, with the weights of the supernet.

    Args:
        space: of the run, with the head of the classes that are trained.
        classes: of the images of the training.
        weight: of its answers in the loss.

    Raises:
        RunError: as `from_supernet`; or these are other classes than those of the search.
    """
    indices = largest_path(run.space)
    initial = path_of_supernet(run, indices)
    if tuple(classes) != tuple(run.data.classes):
        what = f"{len(classes)}" if len(classes) != len(run.data.classes) else "others"
        raise RunError(
            f"the supernet of {run.folder} knows {len(run.data.classes)} classes and cannot teach {what}",
            hint="train without --distil, or on the classes of the search",
        )

    def build(batches: Iterable[Tensor]) -> nn.Module:
        network = Network(space, Architecture.from_indices(space, indices))
        initial.load_into(network, batches)
        return network

    name = f"the largest network of {space.name}, from {initial.name}"
    return Distillation(name, weight, initial.sha256, initial.identity, build)


def trained_network(path: Path, space: Space, classes: Sequence[str], weight: float) -> Distillation:
    """The network of a run, or of a file of safetensors, with its trained weights.

    Args:
        path: a run, of any space with the same input size; or a file, of this space.
        classes: of the images of the training.
        weight: of its answers in the loss.

    Raises:
        ModelError: no such file, of another space, of another input size, or of other classes.
        RunError: the run has no trained weights, or they are of another network than its own.
    """
    own = Run.open(path).space if path.is_dir() else space
    if own.input_size != space.input_size:
        raise ModelError(
            f"the teacher {path} takes images of {own.input_size} px, the network that is trained takes {space.input_size} px",
            hint="use a teacher with the same input size",
        )
    teacher = load_teacher(path, own, classes)

    def build(batches: Iterable[Tensor]) -> nn.Module:
        network = Network(own.with_classes(len(classes)), teacher.architecture)
        if not fit_weights(network, teacher.weights).statistics:
            estimate_statistics(network, batches)
        return network

    name = f"the network of {path}"
    return Distillation(name, weight, teacher.sha256, {"source": "file", "sha256": teacher.sha256}, build)

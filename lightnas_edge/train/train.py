"""Training of a found network, from scratch or from weights that there are."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lightnas_edge.data import DataSet
from lightnas_edge.errors import RunError
from lightnas_edge.files import sha256_of
from lightnas_edge.nn import Network, Ranks
from lightnas_edge.records.deployment import TrainingRecord
from lightnas_edge.records.plain_text import first_line
from lightnas_edge.records.quantisation import QuantisedTraining
from lightnas_edge.runs import Run
from lightnas_edge.space import Architecture, Space
from lightnas_edge.train.config import TrainConfig, fine_tuning_schedule
from lightnas_edge.train.distillation import Distillation
from lightnas_edge.train.initial import Initial
from lightnas_edge.train.training import Event, Trained, Training

_BEST_NOTE = "the best epoch is chosen on the validation images, as published: its accuracy is an optimistic estimate"


@dataclass(frozen=True)
class TrainResult:
    """The record of a training, and where the weights of its best epoch lie."""

    record: TrainingRecord
    weights: Path


def train_network(
    run: Run | Path,
    data: DataSet,
    config: TrainConfig,
    *,
    initial: Initial | None = None,
    teacher: Distillation | None = None,
    resume: bool = True,
    on_event: Callable[[Event], None] | None = None,
) -> TrainResult:
    """Train the network of a run and keep the weights of its best epoch.

    Under `torchrun` every process calls it alike, and the first one writes.

    Writes `train/weights.safetensors` and `train/result.json` in addition to the files of `train_architecture`. Images of other
    classes than those of the search are recorded with the weights: the export names the classes that were trained.

    Raises:
        RunError: the run has no network, holds another training, cannot be written, or another process writes there.
        DivergedError, DataError, KeyboardInterrupt: as `train_architecture`.
    """
    run = run if isinstance(run, Run) else Run.open(run)
    architecture = run.architecture
    ranks = Ranks()
    with run.writing("train") if ranks.first else nullcontext():
        record, weights = train_architecture(
            run.train_folder, run.space, architecture, data, config,
            initial=initial, teacher=teacher, resume=resume, on_event=on_event,
        )  # fmt: skip
        if ranks.first:
            run.save_training(record, weights)
        ranks.wait()
    return TrainResult(record, run.weights.path)


def train_architecture(
    folder: Path,
    space: Space,
    architecture: Architecture,
    data: DataSet,
    config: TrainConfig,
    *,
    initial: Initial | None = None,
    teacher: Distillation | None = None,
    resume: bool = True,
    on_event: Callable[[Event], None] | None = None,
) -> tuple[TrainingRecord, bytes]:
    """Train one network of a space.

    Writes `metrics.jsonl` and `checkpoint.pt` in `folder`. Called again with the same arguments it resumes from the
    last checkpoint; on the CPU with the same bits as if it had not stopped.

    Args:
        space: its number of classes is replaced by that of the data.
        initial: the weights to begin with (`from_supernet`, `from_file`); None: random numbers. The training then has `fine_tuning_schedule`.
        teacher: the network learns its answers too.

    Returns:
        The record of the training, and the weights of its best epoch in the form of safetensors.

    Raises:
        DivergedError: the loss left the finite numbers.
        DataError: an image cannot be read.
        RunError: the folder holds another training, or cannot be written.
        KeyboardInterrupt: after Ctrl-C, with a checkpoint of the last finished step.
    """
    space = space.with_classes(len(data.classes))
    if initial is not None:
        config = fine_tuning_schedule(config)
    with torch.random.fork_rng():
        training = Training(
            folder,
            lambda: Network(space, architecture),
            data,
            config,
            identity={"space": space.sha256, "architecture": list(architecture.names)},
            on_event=on_event or (lambda event: None),
            initial=initial,
            teacher=teacher,
        )
        trained = training.run(resume=resume)
    return recorded(trained, trained.weights, space, architecture, data, config)


def recorded(
    trained: Trained,
    weights: Mapping[str, Tensor],
    space: Space,
    architecture: Architecture,
    data: DataSet,
    config: TrainConfig,
    quantised: QuantisedTraining | None = None,
) -> tuple[TrainingRecord, bytes]:
    """The record of a training, and these weights in the form of safetensors."""
    from safetensors.torch import save

    # One entry: safetensors writes several in random order, and equal weights must be equal files.
    description = {"network": json.dumps({**architecture.to_json(), "classes": list(data.classes)})}
    content = bytes(save({name: value.detach().contiguous() for name, value in weights.items()}, metadata=description))
    record = TrainingRecord(
        space_sha256=space.sha256,
        operators=architecture.names,
        data=data.record,
        weights_sha256=sha256_of(content),
        best_accuracy=trained.best_accuracy,
        best_epoch=trained.best_epoch,
        last_accuracy=trained.accuracies[-1],
        epochs=config.epochs,
        elapsed_s=trained.elapsed_s,
        note=_BEST_NOTE,
        config=config.resolved,
        initial=trained.initial,
        teacher=trained.teacher,
        quantised=quantised,
    )
    return record, content


def load_network(run: Run | Path) -> Network:
    """The trained network of a run, in evaluation mode on the CPU.

    Raises:
        RunError: nothing is trained there, or the weights do not fit the architecture.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    run = run if isinstance(run, Run) else Run.open(run)
    weights = run.weights
    network = Network(run.space.with_classes(len(weights.record.data.classes)), run.architecture)
    try:
        network.load_state_dict(load_file(weights.path))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise RunError(
            f"the weights {weights.path} cannot be used: {first_line(error)}",
            hint=f"`lightnas-edge train {shlex.quote(str(run.folder))} --fresh` trains the network again",
        ) from error
    return network.eval()

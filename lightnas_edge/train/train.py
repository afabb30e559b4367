"""The training loop: the published recipe, checkpoints, and the weights of the best epoch."""

from __future__ import annotations

import copy
import json
import math
import shlex
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightnas_edge.data import DataSet, normalise
from lightnas_edge.errors import DivergedError, RunError
from lightnas_edge.files import sha256_of
from lightnas_edge.nn import Network
from lightnas_edge.nn.cost import seconds_of, trial_batch
from lightnas_edge.nn.device import choose_device, undo_of_forward
from lightnas_edge.nn.loop import TrainingLoop
from lightnas_edge.records.deployment import TrainingRecord
from lightnas_edge.records.metrics import TrainingEpoch, TrainingStep
from lightnas_edge.runs import Run
from lightnas_edge.space import Architecture, Space
from lightnas_edge.train.config import TrainConfig

SCHEMA = 1
Event = dict[str, Any]

BEST_NOTE = "the best epoch is chosen on the validation images, as published: its accuracy is an optimistic estimate"


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
    resume: bool = True,
    on_event: Callable[[Event], None] | None = None,
) -> TrainResult:
    """Train the network of a run from scratch and keep the weights of its best epoch.

    Writes `train/weights.safetensors` and `train/result.json` in addition to the files of `train_architecture`. Images of other
    classes than those of the search are recorded with the weights: the export names the classes that were trained.

    Raises:
        RunError: the run has no network, holds another training, cannot be written, or another process writes there.
        DivergedError, DataError, KeyboardInterrupt: as `train_architecture`.
    """
    run = run if isinstance(run, Run) else Run.open(run)
    architecture = run.architecture
    with run.writing("train"):
        record, weights = train_architecture(
            run.train_folder, run.space, architecture, data, config, resume=resume, on_event=on_event
        )
        return TrainResult(record, run.save_training(record, weights))


def train_architecture(
    folder: Path,
    space: Space,
    architecture: Architecture,
    data: DataSet,
    config: TrainConfig,
    *,
    resume: bool = True,
    on_event: Callable[[Event], None] | None = None,
) -> tuple[TrainingRecord, bytes]:
    """Train one network of a space from scratch.

    Writes `metrics.jsonl` and `checkpoint.pt` in `folder`. Called again with the same arguments it resumes from the
    last checkpoint; on the CPU with the same bits as if it had not stopped.

    Args:
        space: its number of classes is replaced by that of the data.

    Returns:
        The record of the training, and the weights of its best epoch in the form of safetensors.

    Raises:
        DivergedError: the loss left the finite numbers.
        DataError: an image cannot be read.
        RunError: the folder holds another training, or cannot be written.
        KeyboardInterrupt: after Ctrl-C, with a checkpoint of the last finished step.
    """
    space = space.with_classes(len(data.classes))
    with torch.random.fork_rng():
        training = _Training(folder, space, architecture, data, config, on_event or (lambda event: None))
        return training.run(resume=resume)


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
            f"the weights {weights.path} cannot be used: {str(error).splitlines()[0]}",
            hint=f"`lightnas-edge train {shlex.quote(str(run.folder))} --fresh` trains the network again",
        ) from error
    return network.eval()


class _Training:
    """State of a running training; all that a checkpoint must hold is in `state`, and `_restore` sets it."""

    def __init__(
        self,
        folder: Path,
        space: Space,
        architecture: Architecture,
        data: DataSet,
        config: TrainConfig,
        on_event: Callable[[Event], None],
    ) -> None:
        self.folder, self.space, self.architecture = folder, space, architecture
        self.data, self.config, self.on_event = data, config, on_event
        self.device = choose_device(config.device)
        self.train_batches = data.train_loader(config.batch, augment=config.augment)
        self.validation_batches = data.validation_loader(config.batch)
        torch.manual_seed(config.seed)
        self.network = Network(space, architecture).to(self.device)
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's types
        decayed = [weight for weight in self.network.parameters() if weight.dim() > 1]
        others = [weight for weight in self.network.parameters() if weight.dim() == 1]  # biases and batch norm
        self.optimiser = torch.optim.SGD(
            [{"params": decayed, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}],
            lr=config.peak_lr,
            momentum=config.momentum,
            fused=True,
        )
        self.epoch, self.step = 0, 0  # what comes next
        self.totals = [0.0, 0.0, 0]  # loss * images, correct, images, of this epoch
        self.accuracies: list[float] = []  # on the validation images, by epoch
        self.best: dict[str, Tensor] = {}
        self.pending: list[tuple[Event, Tensor, Tensor, int]] = []
        identity = {
            "space": space.sha256,
            "architecture": [operator.name for operator in architecture.operators],
            "data": data.sha256,
            "data_seed": data.seed,
            **{name: value for name, value in asdict(config).items() if name != "checkpoint_s"},
        }
        self.loop = TrainingLoop(
            self,
            folder,
            what=f"the training in {folder}",
            schema=SCHEMA,
            identity=identity,
            device=self.device,
            checkpoint_s=config.checkpoint_s,
            on_event=on_event,
        )

    def run(self, *, resume: bool) -> tuple[TrainingRecord, bytes]:
        state = self.loop.open(resume=resume)
        if state is not None:
            self._restore(state)
        self.on_event(
            {
                "kind": "start",
                "epochs": self.config.epochs,
                "steps": len(self.train_batches),
                "epoch": self.epoch,
                "step": self.step,
                "resumed": state is not None,
            }
        )
        with self.loop:
            left = len(self.train_batches) * (self.config.epochs - self.epoch) - self.step
            self.loop.estimate(left, lambda: self._seconds_for(left))
            while self.epoch < self.config.epochs:
                self._train_epoch()
                self._finish_epoch()
        return self._conclude()

    def _train_epoch(self) -> None:
        self.network.train()
        for pixels, labels in self.loop.steps(self.train_batches.batches(self.epoch, start=self.step)):
            self._train_step(normalise(pixels.to(self.device)), labels.to(self.device))
            self.step += 1
            self.loop.tick(self.step)

    def _train_step(self, images: Tensor, labels: Tensor) -> None:
        lr = self.config.lr_at(self.epoch + (self.step + 1) / len(self.train_batches))
        for group in self.optimiser.param_groups:
            group["lr"] = lr
        self.optimiser.zero_grad(set_to_none=True)
        with self.loop.abandonable():
            logits, loss = self._pass(self.network, images, labels)
        nn.utils.clip_grad_norm_(self.network.parameters(), self.config.clip_norm)
        self.optimiser.step()
        line = {
            "epoch": self.epoch,
            "step": self.step,
            "lr": lr,
            "elapsed_s": self.loop.elapsed_s,
        }
        self.pending.append((line, loss.detach(), _correct(logits, labels), len(labels)))

    def _pass(self, network: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and loss; the gradients are in the parameters."""
        logits = network(images)
        loss = F.cross_entropy(logits, labels, label_smoothing=self.config.label_smoothing)
        torch.autograd.backward(loss)
        return logits, loss

    def _seconds_for(self, steps: int) -> float:
        """From steps on a copy; an image of the validation takes a third of one of the training."""
        pixels, labels, wait_s = trial_batch(self.train_batches)
        images, labels = normalise(pixels.to(self.device)), labels.to(self.device)
        network = copy.deepcopy(self.network).train()
        optimiser = torch.optim.SGD(network.parameters(), lr=0.0, momentum=self.config.momentum)

        def train() -> None:
            self._pass(network, images, labels)
            optimiser.step()

        train()  # memory is allocated and kernels are chosen at the first pass
        step_s = seconds_of(train, self.device) + wait_s
        validation_share = len(self.data.validation) / 3 / (len(self.train_batches) * self.config.batch)
        return steps * step_s * (1 + validation_share)

    def flush(self) -> None:
        """Read the losses of the last steps from the device, check and write them."""
        pending, self.pending = self.pending, []
        lines = []
        for line, loss_tensor, correct_tensor, images in pending:
            loss, correct = float(loss_tensor), float(correct_tensor)
            if not math.isfinite(loss):
                raise DivergedError(
                    f"the loss became {loss} at epoch {line['epoch']}, step {line['step']} of the training",
                    hint=f"begin again with --fresh and a smaller learning rate, now {self.config.peak_lr:g} at its top",
                )
            self.totals[0] += loss * images
            self.totals[1] += correct
            self.totals[2] += images
            lines.append(TrainingStep(**line, loss=loss, accuracy=correct / images, images=images))
        self.loop.write(lines)

    def _finish_epoch(self) -> None:
        self.loop.flush()
        with self.loop.abandonable():
            validation_loss, accuracy = self._validate()
        self.accuracies.append(accuracy)
        if accuracy == max(self.accuracies) and self.accuracies.count(accuracy) == 1:  # of equals, the first
            self.best = {name: value.detach().cpu().clone() for name, value in self.network.state_dict().items()}
        loss, correct, images = self.totals
        record = TrainingEpoch(
            epoch=self.epoch,
            train_loss=loss / images,
            train_accuracy=correct / images,
            validation_loss=validation_loss,
            validation_accuracy=accuracy,
            best_accuracy=max(self.accuracies),
            elapsed_s=self.loop.elapsed_s,
        )
        self.loop.write([record])
        self.totals = [0.0, 0.0, 0]
        self.epoch, self.step = self.epoch + 1, 0
        self.loop.end_epoch(last=self.epoch == self.config.epochs)

    @torch.inference_mode()
    def _validate(self) -> tuple[float, float]:
        self.network.eval()
        loss, correct = torch.zeros((), device=self.device), torch.zeros((), device=self.device)
        for pixels, labels in self.validation_batches.batches(0):
            labels = labels.to(self.device)
            logits = self.network(normalise(pixels.to(self.device)))
            loss += F.cross_entropy(logits, labels, reduction="sum")
            correct += _correct(logits, labels)
        count = len(self.data.validation)
        if not math.isfinite(float(loss)):
            raise DivergedError(f"the validation loss became {float(loss)} in epoch {self.epoch} of the training")
        return float(loss) / count, float(correct) / count

    def state(self) -> dict[str, Any]:
        return {
            "epoch": self.epoch,
            "step": self.step,
            "network": self.network.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "best": self.best,
            "accuracies": self.accuracies,
            "totals": self.totals,
        }

    def _restore(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.epoch, self.step, self.best = state["epoch"], state["step"], state["best"]
        self.accuracies, self.totals = state["accuracies"], state["totals"]

    def undo(self) -> Callable[[], None]:
        return undo_of_forward(self.network, self.device)

    def _conclude(self) -> tuple[TrainingRecord, bytes]:
        from safetensors.torch import save

        # One entry: safetensors writes several in random order, and equal weights must be equal files.
        description = {"network": json.dumps({**self.architecture.to_json(), "classes": list(self.data.classes)})}
        weights = save({name: value.contiguous() for name, value in self.best.items()}, metadata=description)
        best = max(self.accuracies)
        record = TrainingRecord(
            space_sha256=self.space.sha256,
            operators=self.architecture.names,
            data=self.data.record,
            weights_sha256=sha256_of(weights),
            best_accuracy=best,
            best_epoch=self.accuracies.index(best),
            last_accuracy=self.accuracies[-1],
            epochs=self.config.epochs,
            elapsed_s=self.loop.elapsed_s,
            note=BEST_NOTE,
            config=asdict(self.config),
        )
        return record, weights


def _correct(logits: Tensor, labels: Tensor) -> Tensor:
    return (logits.detach().argmax(-1) == labels).sum().float()

"""The training loop: the published recipe, checkpoints, and the weights of the best epoch."""

from __future__ import annotations

import json
import math
import shlex
import time
from collections.abc import Callable, Sequence
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
from lightnas_edge.nn.loop import (
    Interruptible,
    MetricsLog,
    choose_device,
    load_checkpoint,
    random_state,
    require_same,
    restore_random_state,
    save_checkpoint,
)
from lightnas_edge.records.deployment import TrainingRecord
from lightnas_edge.records.metrics import TrainingEpoch, TrainingStep
from lightnas_edge.runs import Run
from lightnas_edge.space import Architecture, Space
from lightnas_edge.train.config import TrainConfig

SCHEMA = 1
FLUSH_S = 0.5
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
    """State of a running training; everything that a checkpoint must hold is an attribute set in __init__ or
    `_restore`.
    """

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
        self.elapsed_s = 0.0
        self.pending: list[tuple[Event, Tensor, Tensor, int]] = []
        self.identity = {
            "space": space.sha256,
            "architecture": [operator.name for operator in architecture.operators],
            "data": data.sha256,
            "data_seed": data.seed,
            **{name: value for name, value in asdict(config).items() if name != "checkpoint_s"},
        }

    def run(self, *, resume: bool) -> tuple[TrainingRecord, bytes]:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.checkpoint_path = self.folder / "checkpoint.pt"
        position = 0
        if resume and self.checkpoint_path.exists():
            position = self._restore(load_checkpoint(self.checkpoint_path, schema=SCHEMA))
        else:
            self.checkpoint_path.unlink(missing_ok=True)
        self.metrics = MetricsLog(self.folder / "metrics.jsonl", position)
        self.on_event(
            {
                "kind": "start",
                "epochs": self.config.epochs,
                "steps": len(self.train_batches),
                "epoch": self.epoch,
                "step": self.step,
                "resumed": position > 0,
            }
        )
        self.started = time.monotonic() - self.elapsed_s
        self.saved = self.flushed = time.monotonic()
        try:
            with Interruptible() as self.interrupt:
                while self.epoch < self.config.epochs:
                    self._train_epoch()
                    self._finish_epoch()
        finally:
            self.metrics.close()
        return self._conclude()

    def _train_epoch(self) -> None:
        self.network.train()
        for pixels, labels in self.train_batches.batches(self.epoch, start=self.step):
            self._train_step(normalise(pixels.to(self.device)), labels.to(self.device))
            self.step += 1
            now = time.monotonic()
            if now - self.flushed > FLUSH_S:
                self._flush()
            if self.interrupt.requested or now - self.saved > self.config.checkpoint_s:
                self._save()
            if self.interrupt.requested:
                raise KeyboardInterrupt

    def _train_step(self, images: Tensor, labels: Tensor) -> None:
        lr = self.config.lr_at(self.epoch + (self.step + 1) / len(self.train_batches))
        for group in self.optimiser.param_groups:
            group["lr"] = lr
        self.optimiser.zero_grad(set_to_none=True)
        logits = self.network(images)
        loss = F.cross_entropy(logits, labels, label_smoothing=self.config.label_smoothing)
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(self.network.parameters(), self.config.clip_norm)
        self.optimiser.step()
        line = {
            "epoch": self.epoch,
            "step": self.step,
            "lr": lr,
            "elapsed_s": round(time.monotonic() - self.started, 3),
        }
        self.pending.append((line, loss.detach(), _correct(logits, labels), len(labels)))

    def _flush(self) -> None:
        """Read the losses of the last steps from the device, check and write them."""
        pending, self.pending = self.pending, []
        self.flushed = time.monotonic()
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
        self._write(lines)

    def _finish_epoch(self) -> None:
        self._flush()
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
            elapsed_s=round(time.monotonic() - self.started, 3),
        )
        self._write([record])
        self.totals = [0.0, 0.0, 0]
        self.epoch, self.step = self.epoch + 1, 0
        ended = self.epoch == self.config.epochs
        if ended or self.interrupt.requested or time.monotonic() - self.saved > self.config.checkpoint_s:
            self._save()
        if self.interrupt.requested and not ended:
            raise KeyboardInterrupt

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

    def _write(self, lines: Sequence[TrainingStep | TrainingEpoch]) -> None:
        events = [line.to_json() for line in lines]
        self.metrics.write(events)
        for event in events:
            self.on_event(event)

    def _save(self) -> None:
        self._flush()
        self.metrics.sync()
        save_checkpoint(
            self.checkpoint_path,
            {
                "schema": SCHEMA,
                "identity": self.identity,
                "epoch": self.epoch,
                "step": self.step,
                "network": self.network.state_dict(),
                "optimiser": self.optimiser.state_dict(),
                "best": self.best,
                "accuracies": self.accuracies,
                "random": random_state(self.device),
                "totals": self.totals,
                "metrics_bytes": self.metrics.position,
                "elapsed_s": time.monotonic() - self.started,
            },
        )
        self.saved = time.monotonic()

    def _restore(self, state: dict[str, Any]) -> int:
        require_same(state["identity"], self.identity, f"the training in {self.folder}")
        self.network.load_state_dict(state["network"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.epoch, self.step, self.best = state["epoch"], state["step"], state["best"]
        self.accuracies, self.totals, self.elapsed_s = state["accuracies"], state["totals"], state["elapsed_s"]
        restore_random_state(state["random"], self.device)
        return int(state["metrics_bytes"])

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
            elapsed_s=round(time.monotonic() - self.started, 3),
            note=BEST_NOTE,
            config=asdict(self.config),
        )
        return record, weights


def _correct(logits: Tensor, labels: Tensor) -> Tensor:
    return (logits.detach().argmax(-1) == labels).sum().float()

"""The loop of a training: the published recipe, checkpoints, and the weights of the best epoch."""

from __future__ import annotations

import copy
import itertools
import json
import math
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightnas_edge.data import DataSet, Loader, normalise
from lightnas_edge.errors import DivergedError
from lightnas_edge.nn import Network
from lightnas_edge.nn.cost import seconds_of, trial_batch
from lightnas_edge.nn.device import choose_device, undo_of_forward
from lightnas_edge.nn.loop import TrainingLoop
from lightnas_edge.records.base import Record
from lightnas_edge.records.deployment import InitialWeights, TeacherRecord
from lightnas_edge.records.metrics import TrainingEpoch, TrainingStep
from lightnas_edge.train.config import TrainConfig
from lightnas_edge.train.distillation import Distillation
from lightnas_edge.train.initial import STATISTICS_IMAGES, Initial
from lightnas_edge.train.recipe import Averaged, Mixing, augmentation, make_optimiser

SCHEMA = 2
Event = dict[str, Any]


@dataclass(frozen=True)
class Trained:
    """The weights of the best epoch, of equals the first, and the accuracies of all."""

    weights: dict[str, Tensor]
    accuracies: tuple[float, ...]  # on the validation images, by epoch
    elapsed_s: float
    initial: InitialWeights | None = None
    teacher: TeacherRecord | None = None

    @property
    def best_accuracy(self) -> float:
        return max(self.accuracies)

    @property
    def best_epoch(self) -> int:
        return self.accuracies.index(self.best_accuracy)


class Training:
    """State of a running training; all that a checkpoint must hold is in `state`, and `_restore` sets it.

    Args:
        build: the network to train. It is called with PyTorch's random numbers seeded by the configuration.
        identity: what a checkpoint belongs to, in addition to the images and the configuration.
        initial: the weights to begin with; None: those that `build` gave the network.
        teacher: its answers are learned too.
    """

    def __init__(
        self,
        folder: Path,
        build: Callable[[], nn.Module],
        data: DataSet,
        config: TrainConfig,
        *,
        identity: dict[str, Any],
        on_event: Callable[[Event], None],
        initial: Initial | None = None,
        teacher: Distillation | None = None,
    ) -> None:
        self.data, self.config, self.on_event = data, config, on_event
        self.initial, self.teacher = initial, teacher
        self.teaching: nn.Module | None = None
        self.initial_record: InitialWeights | None = None
        self.teacher_record: TeacherRecord | None = None
        self.device = choose_device(config.device)
        pin = self.device.type == "cuda"
        self.policy = augmentation(config)
        self.train_batches = data.train_loader(config.batch, augment=config.augment, policy=self.policy, pin=pin)
        self.validation_batches = data.validation_loader(config.batch, pin=pin)
        torch.manual_seed(config.seed)
        self.network = build().to(self.device)
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's types
        self.optimiser = make_optimiser(self.network, config)
        self.mixing = Mixing.of(config, len(data.classes))
        self.averaged = None if config.ema is None else Averaged(self.network, config.ema)
        self.epoch, self.step = 0, 0  # what comes next
        self.totals = [0.0, 0.0, 0]  # loss * images, correct, images, of this epoch
        self.accuracies: list[float] = []  # on the validation images, by epoch
        self.best: dict[str, Tensor] = {}
        self.pending: list[tuple[Event, Tensor, Tensor, int]] = []
        recipe = {name: value for name, value in config.resolved.items() if name != "checkpoint_s"}
        self.loop = TrainingLoop(
            self,
            folder,
            what=f"the training in {folder}",
            schema=SCHEMA,
            identity={
                **identity,
                **data.identity,
                "initial": None if initial is None else initial.identity,
                "teacher": None if teacher is None else {**teacher.identity, "weight": teacher.weight},
                **recipe,
            },
            device=self.device,
            checkpoint_s=config.checkpoint_s,
            on_event=on_event,
        )

    def run(self, *, resume: bool) -> Trained:
        state = self.loop.open(resume=resume)
        if state is not None:
            self._restore(state)
        elif self.initial is not None:
            self._begin(self.initial)
        if self.teacher is not None:
            self._call_teacher(self.teacher)
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
        with self.loop, closing(self.train_batches), closing(self.validation_batches):
            left = len(self.train_batches) * (self.config.epochs - self.epoch) - self.step
            self.loop.estimate(left, lambda: self._seconds_for(left))
            while self.epoch < self.config.epochs:
                self._train_epoch()
                self._finish_epoch()
        return Trained(self.best, tuple(self.accuracies), self.loop.elapsed_s, self.initial_record, self.teacher_record)

    def _begin(self, initial: Initial) -> None:
        """Take the initial weights, and see what they are worth."""
        assert isinstance(self.network, Network)
        begun = initial.load_into(self.network, self._statistics_batches())
        _, accuracy = score(self.network, self.validation_batches, self.device)
        self.initial_record = initial.record(begun, accuracy)
        self.on_event({"kind": "initial", "record": self.initial_record})

    def _call_teacher(self, teacher: Distillation) -> None:
        with torch.random.fork_rng():
            self.teaching = teacher.build(self._statistics_batches()).to(self.device).requires_grad_(False)
        self.teaching.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's types
        self.teaching.eval()
        if self.teacher_record is None:
            _, accuracy = score(self.teaching, self.validation_batches, self.device)
            self.teacher_record = TeacherRecord(
                name=teacher.name, sha256=teacher.sha256, accuracy=accuracy, weight=teacher.weight
            )
            self.on_event({"kind": "teacher", "record": self.teacher_record})

    def _statistics_batches(self) -> Iterator[Tensor]:
        """Training images, as the network sees them."""
        count = -(-STATISTICS_IMAGES // self.config.batch)
        for pixels, _ in itertools.islice(self.train_batches.batches(0), count):
            yield normalise(pixels.to(self.device))

    def _train_epoch(self) -> None:
        self.network.train()
        for pixels, labels in self.loop.steps(self.train_batches.batches(self.epoch, start=self.step)):
            images = normalise(pixels.to(self.device, non_blocking=True))
            labels = labels.to(self.device, non_blocking=True)
            if self.mixing is not None:
                images, labels = self.mixing(images, labels, epoch=self.epoch, step=self.step)
            self._train_step(images, labels)
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
        if self.averaged is not None:
            self.averaged.update_parameters(self.network)
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
        if self.teaching is not None and self.teacher is not None:
            with torch.no_grad():
                answers = torch.softmax(self.teaching(images), -1)
            loss = torch.lerp(loss, F.cross_entropy(logits, answers), self.teacher.weight)
        torch.autograd.backward(loss)
        return logits, loss

    def _seconds_for(self, steps: int) -> float:
        """From steps on a copy; an image of the validation takes a third of one of the training."""
        pixels, labels, wait_s = trial_batch(self.train_batches)
        images, labels = normalise(pixels.to(self.device, non_blocking=True)), labels.to(self.device, non_blocking=True)
        network = copy.deepcopy(self.network).train()
        optimiser = make_optimiser(network, self.config)

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
            loss, right = float(loss_tensor), float(correct_tensor)
            if not math.isfinite(loss):
                raise DivergedError(
                    f"the loss became {loss} at epoch {line['epoch']}, step {line['step']} of the training",
                    hint=f"begin again with --fresh and a smaller learning rate, now {self.config.peak_lr:g} at its top",
                )
            self.totals[0] += loss * images
            self.totals[1] += right
            self.totals[2] += images
            lines.append(TrainingStep(**line, loss=loss, accuracy=right / images, images=images))
        self.loop.write(lines)

    def _finish_epoch(self) -> None:
        self.loop.flush()
        with self.loop.abandonable():
            validation_loss, accuracy = self._validate()
        self.accuracies.append(accuracy)
        if accuracy == max(self.accuracies) and self.accuracies.count(accuracy) == 1:  # of equals, the first
            self.best = {name: value.detach().cpu().clone() for name, value in self.judged.state_dict().items()}
        loss, right, images = self.totals
        record = TrainingEpoch(
            epoch=self.epoch,
            train_loss=loss / images,
            train_accuracy=right / images,
            validation_loss=validation_loss,
            validation_accuracy=accuracy,
            best_accuracy=max(self.accuracies),
            elapsed_s=self.loop.elapsed_s,
        )
        self.loop.write([record])
        self.totals = [0.0, 0.0, 0]
        self.epoch, self.step = self.epoch + 1, 0
        self.loop.end_epoch(last=self.epoch == self.config.epochs)

    @property
    def judged(self) -> nn.Module:
        """What is validated and kept: the averaged weights where the recipe has them."""
        return self.network if self.averaged is None else self.averaged.module

    def _validate(self) -> tuple[float, float]:
        loss, accuracy = score(self.judged, self.validation_batches, self.device)
        if not math.isfinite(loss):
            raise DivergedError(f"the validation loss became {loss} in epoch {self.epoch} of the training")
        return loss, accuracy

    def state(self) -> dict[str, Any]:
        return {
            "epoch": self.epoch,
            "step": self.step,
            "network": self.network.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "averaged": None if self.averaged is None else self.averaged.state_dict(),
            "best": self.best,
            "accuracies": self.accuracies,
            "totals": self.totals,
            "initial": _json_of(self.initial_record),
            "teacher": _json_of(self.teacher_record),
        }

    def _restore(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        self.optimiser.load_state_dict(state["optimiser"])
        if self.averaged is not None:
            self.averaged.load_state_dict(state["averaged"])
        self.epoch, self.step, self.best = state["epoch"], state["step"], state["best"]
        self.accuracies, self.totals = state["accuracies"], state["totals"]
        if state["initial"] is not None:
            self.initial_record = InitialWeights.parse(json.dumps(state["initial"]), "the checkpoint")
        if state["teacher"] is not None:
            self.teacher_record = TeacherRecord.parse(json.dumps(state["teacher"]), "the checkpoint")

    def undo(self) -> Callable[[], None]:
        return undo_of_forward(self.network, self.device)


@torch.inference_mode()
def score(network: nn.Module, batches: Loader, device: torch.device) -> tuple[float, float]:
    """Mean loss and top-1 accuracy, in evaluation mode."""
    network.eval()
    loss, right, count = torch.zeros((), device=device), torch.zeros((), device=device), 0
    for pixels, labels in batches.batches(0):
        labels = labels.to(device)
        logits = network(normalise(pixels.to(device)))
        loss += F.cross_entropy(logits, labels, reduction="sum")
        right += _correct(logits, labels)
        count += len(labels)
    return float(loss) / count, float(right) / count


def _json_of(record: Record | None) -> dict[str, Any] | None:
    return None if record is None else record.to_json()


def _correct(logits: Tensor, labels: Tensor) -> Tensor:
    """() right answers; of a mixed image, the class of the larger share is right."""
    if labels.dim() > 1:
        labels = labels.argmax(-1)
    return (logits.detach().argmax(-1) == labels).sum().float()

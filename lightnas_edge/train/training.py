"""The loop of a training: the published recipe, checkpoints, and the weights of the best epoch."""

from __future__ import annotations

import copy
import itertools
import json
import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightnas_edge.data import DataSet, Loader, normalise
from lightnas_edge.errors import ConfigError, DataError, DivergedError
from lightnas_edge.nn import Network, Ranks
from lightnas_edge.nn.cost import seconds_of, trial_batch
from lightnas_edge.nn.device import choose_device, undo_of_forward
from lightnas_edge.nn.execution import PLAIN, Execution, agreed_execution
from lightnas_edge.nn.loop import TrainingLoop
from lightnas_edge.nn.synchronised import with_synchronised_norms
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

    Under `torchrun` every rank holds the same weights and running statistics after every step, to the last bit.

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
        self.ranks = Ranks()
        _require_two_images(data, config, self.ranks.world)
        self.policy = augmentation(config)
        pin, share = self.device.type == "cuda", (self.ranks.rank, self.ranks.world)
        self.train_batches = data.train_loader(
            config.batch, augment=config.augment, policy=self.policy, share=share, pin=pin
        )
        self.validation_batches = data.validation_loader(config.batch, share=share, pin=pin)
        torch.manual_seed(config.seed)
        self.network = build().to(self.device)
        if self.ranks.rank:
            torch.manual_seed(config.seed + self.ranks.rank)  # what is dropped out may differ between processes
        self.execution = PLAIN
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
                "processes": self.ranks.world,
                **recipe,
            },
            device=self.device,
            checkpoint_s=config.checkpoint_s,
            on_event=on_event,
            ranks=self.ranks,
        )

    def run(self, *, resume: bool) -> Trained:
        state = self.loop.open(resume=resume)
        if state is not None:
            self._restore(state)
        else:
            if self.initial is not None:
                self._begin(self.initial)
            self._use(self._chosen_execution())
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
            self.loop.estimate(left, lambda: self._seconds_for(left), together=True)
            while self.epoch < self.config.epochs:
                self._train_epoch()
                self._finish_epoch()
        return Trained(self.best, tuple(self.accuracies), self.loop.elapsed_s, self.initial_record, self.teacher_record)

    def _begin(self, initial: Initial) -> None:
        """Take the initial weights, and see what they are worth."""
        assert isinstance(self.network, Network)
        begun = initial.load_into(self.network, self._statistics_batches())
        _, accuracy = self._score(self.network)
        self.initial_record = initial.record(begun, accuracy)
        self.on_event({"kind": "initial", "record": self.initial_record})

    def _call_teacher(self, teacher: Distillation) -> None:
        with torch.random.fork_rng():
            batches = (images.cpu() for images in self._statistics_batches())
            self.teaching = teacher.build(batches).to(self.device).requires_grad_(False)
        self.teaching.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's types
        self.teaching.eval()
        if self.teacher_record is None:
            _, accuracy = self._score(self.teaching)
            self.teacher_record = TeacherRecord(
                name=teacher.name, sha256=teacher.sha256, accuracy=accuracy, weight=teacher.weight
            )
            self.on_event({"kind": "teacher", "record": self.teacher_record})

    def _statistics_batches(self) -> Iterator[Tensor]:
        """Training images, as the network sees them; the same ones on every rank."""
        count = -(-STATISTICS_IMAGES // self.config.batch)
        whole: AbstractContextManager[Loader] = nullcontext(self.train_batches)
        if self.ranks.world > 1:
            whole = closing(self.data.train_loader(self.config.batch, augment=self.config.augment, policy=self.policy))
        with whole as batches:
            for pixels, _ in itertools.islice(batches.batches(0), count):
                yield normalise(pixels.to(self.device))

    def _chosen_execution(self) -> Execution:
        """As configured; a trial decides on rank 0 and holds for all."""
        if self.config.precision != "auto":
            return Execution(bf16=self.config.precision == "bf16")
        pixels, labels, _ = trial_batch(self.train_batches)
        images, labels = normalise(pixels.to(self.device)), labels.to(self.device)
        micro_batches = self._micro_batches(len(labels))
        chosen, times_ms = agreed_execution(
            self.network.train(),
            lambda copy, some: copy(some),
            images.tensor_split(micro_batches)[0],
            labels.tensor_split(micro_batches)[0],
            self.ranks,
        )
        self.on_event({"kind": "precision", "chosen": str(chosen), "step_ms": times_ms})
        return chosen

    def _use(self, execution: Execution) -> None:
        self.execution = execution
        if self.config.sync_batch_norm and self.ranks.world > 1:
            # After the initial weights, whose statistics are estimated in PyTorch's own norms.
            self.network = with_synchronised_norms(self.network, self.device)
        for module in (self.network, self.judged):
            module.to(memory_format=execution.memory_format)  # type: ignore[call-overload]  # missing in torch's types

    def _train_epoch(self) -> None:
        self.network.train()
        for pixels, labels in self.loop.steps(self.train_batches.batches(self.epoch, start=self.step)):
            images = normalise(pixels.to(self.device, non_blocking=True))
            labels = labels.to(self.device, non_blocking=True)
            if self.mixing is not None:
                images, labels = self.mixing(images, labels, epoch=self.epoch, step=self.step, process=self.ranks.rank)
            self._train_step(images, labels)
            self.step += 1
            self.loop.tick(self.step)

    def _train_step(self, images: Tensor, labels: Tensor) -> None:
        lr = self.config.lr_of_step(self.step, len(self.train_batches), self.epoch)
        for group in self.optimiser.param_groups:
            group["lr"] = lr
        self.optimiser.zero_grad(set_to_none=True)
        whole = self.train_batches.images_of(self.step)
        with self.loop.abandonable():
            figures = self._passes(self.network, images, labels, self.ranks.world / whole)
        self.ranks.average_step(self.network, figures)
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
        self.pending.append((line, figures[0], figures[1] * whole, whole))

    def _passes(self, network: nn.Module, images: Tensor, labels: Tensor, weight: float) -> Tensor:
        """(2,) the sum of the images' losses and the number of right answers, times the weight; so are the gradients in the parameters.

        With the weight `world / images of the whole batch`, the mean over the ranks is the mean over the batch.
        """
        figures = torch.zeros(2, device=images.device)
        parts = self._micro_batches(len(labels))
        for some_images, some_labels in zip(images.tensor_split(parts), labels.tensor_split(parts), strict=True):
            share = weight * len(some_labels)
            with self.execution.context(images.device):
                logits = network(some_images).float()
                loss = self._loss(logits, some_images, some_labels)
            torch.autograd.backward(loss * share)
            figures += torch.stack([loss.detach() * share, _correct(logits, some_labels) * weight])
        return figures

    def _loss(self, logits: Tensor, images: Tensor, labels: Tensor) -> Tensor:
        loss = F.cross_entropy(logits, labels, label_smoothing=self.config.label_smoothing)
        if self.teaching is None or self.teacher is None:
            return loss
        with torch.no_grad():
            answers = torch.softmax(self.teaching(images).float(), -1)
        return torch.lerp(loss, F.cross_entropy(logits, answers), self.teacher.weight)

    def _micro_batches(self, images: int) -> int:
        return max(1, min(self.config.micro_batches, images // 2))  # batch norm needs two images

    def _seconds_for(self, steps: int) -> float:
        """From steps on a copy; an image of the validation takes a third of one of the training."""
        pixels, labels, wait_s = trial_batch(self.train_batches)
        images, labels = normalise(pixels.to(self.device, non_blocking=True)), labels.to(self.device, non_blocking=True)
        network = copy.deepcopy(self.network).train()
        optimiser = make_optimiser(network, self.config)

        def train() -> None:
            self._passes(network, images, labels, 1 / len(labels))
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
                    hint=self._smaller_steps,
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

    def _score(self, network: nn.Module) -> tuple[float, float]:
        return score(network, self.validation_batches, self.device, self.ranks)

    @property
    def judged(self) -> nn.Module:
        """What is validated and kept: the averaged weights where the recipe has them."""
        return self.network if self.averaged is None else self.averaged.module

    @property
    def _smaller_steps(self) -> str:
        return f"begin again with --fresh and a smaller learning rate, now {self.config.peak_lr:g} at its top"

    def _validate(self) -> tuple[float, float]:
        loss, accuracy = self._score(self.judged)
        if not math.isfinite(loss):
            raise DivergedError(
                f"the validation loss became {loss} in epoch {self.epoch} of the training", hint=self._smaller_steps
            )
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
            "execution": self.execution.to_json(),
            "initial": _json_of(self.initial_record),
            "teacher": _json_of(self.teacher_record),
        }

    def _restore(self, state: dict[str, Any]) -> None:
        self._use(Execution(**state["execution"]))
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
def score(network: nn.Module, batches: Loader, device: torch.device, ranks: Ranks | None = None) -> tuple[float, float]:
    """Mean loss and top-1 accuracy, in evaluation mode; over the shares of all ranks, the same on each."""
    network.eval()
    sums = torch.zeros(3, dtype=torch.float64)  # loss, right answers, images
    on_device = torch.zeros(2, device=device)
    count = 0
    for pixels, labels in batches.batches(0):
        labels = labels.to(device)
        logits = network(normalise(pixels.to(device)))
        on_device += torch.stack([F.cross_entropy(logits, labels, reduction="sum"), _correct(logits, labels)])
        count += len(labels)
    sums[:2], sums[2] = on_device.cpu(), count
    (ranks or Ranks()).average([sums])
    return float(sums[0] / sums[2]), float(sums[1] / sums[2])


def _require_two_images(data: DataSet, config: TrainConfig, processes: int) -> None:
    """Raises ConfigError, DataError: a process would have a single image, and batch norm needs two."""
    if processes == 1:
        return
    if config.batch < 2 * processes:
        raise ConfigError(
            f"batch: {config.batch} images for {processes} processes; batch norm needs two in each",
            hint=f"a batch of {2 * processes} images or more, or fewer processes",
        )
    if len(data.train) < 2 * processes:
        raise DataError(
            f"{data.source} has {len(data.train)} training images for {processes} processes; batch norm needs two in each",
            hint="fewer processes",
        )


def _json_of(record: Record | None) -> dict[str, Any] | None:
    return None if record is None else record.to_json()


def _correct(logits: Tensor, labels: Tensor) -> Tensor:
    """() right answers; of a mixed image, the class of the larger share is right."""
    if labels.dim() > 1:
        labels = labels.argmax(-1)
    return (logits.detach().argmax(-1) == labels).sum().float()

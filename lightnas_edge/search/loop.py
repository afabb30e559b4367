"""The search loop: warm-up, then one epoch of weights and one of validation images in turn."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import torch

from lightnas_edge.data import Loader
from lightnas_edge.nn.device import undo_of_forward
from lightnas_edge.nn.execution import Execution, agreed_execution
from lightnas_edge.nn.loop import TrainingLoop
from lightnas_edge.records.run import SampledPaths
from lightnas_edge.search.cost import StepsLeft, estimated_seconds
from lightnas_edge.search.metrics import SearchMetrics
from lightnas_edge.search.state import SCHEMA, SearchState

Event = dict[str, Any]


class SearchLoop:
    """Trains a state to the end of its schedule, with checkpoints and metrics below `folder`.

    Args:
        what: the search in an error message.
        compared_images: forward passes of an image after the loop, for the estimate of the cost.
    """

    def __init__(
        self,
        state: SearchState,
        folder: Path,
        *,
        what: str,
        compared_images: int,
        on_event: Callable[[Event], None],
    ) -> None:
        self.search, self.metrics = state, SearchMetrics(state)
        self.context, self.config, self.ranks = state.context, state.context.config, state.context.ranks
        self.compared_images, self.on_event = compared_images, on_event
        self.loop = TrainingLoop(
            self,
            folder,
            what=what,
            schema=SCHEMA,
            identity=state.identity,
            device=state.device,
            checkpoint_s=self.config.checkpoint_s,
            on_event=on_event,
            ranks=self.ranks,
        )
        self.context.abandonable = self.loop.abandonable

    def run(self, *, resume: bool) -> float:
        """To the end. Returns the seconds that all processes took which worked on this search, one after the other."""
        search = self.search
        checkpoint = self.loop.open(resume=resume)
        if checkpoint is None:
            search.use(self._execution())
        else:
            search.restore(checkpoint)
            # The sums are rank 0's; the other ranks start this epoch's at zero, which changes only the displayed means.
            if self.ranks.first:
                self.metrics.totals = checkpoint["totals"]
        weights_done = len(search.weight_batches) if search.phase == "architecture" else 0
        self.on_event(
            {
                "kind": "start",
                "epochs": self.config.epochs,
                "warmup_epochs": self.context.schedule.warmup_epochs,
                "weight_steps": len(search.weight_batches),
                "architecture_steps": len(search.architecture_batches),
                "epoch": search.epoch,
                "step": search.step + weights_done,  # of the epoch
                "resumed": checkpoint is not None,
            }
        )
        with self.loop, closing(search.weight_batches), closing(search.architecture_batches):
            left = StepsLeft.of(search)
            self.loop.estimate(left.total, lambda: estimated_seconds(search, left, self.compared_images))
            while not search.finished:
                self._epoch()
        return self.loop.elapsed_s

    # -- what the training loop drives --------------------------------------------------------------------

    def flush(self) -> None:
        self.loop.write(self.metrics.step_lines())

    def state(self) -> dict[str, Any]:
        return {**self.search.to_checkpoint(), "totals": self.metrics.totals}

    def undo(self) -> Callable[[], None]:
        return undo_of_forward(self.search.supernet, self.search.device, [self.context.generator])

    # -- epochs and steps -----------------------------------------------------------------------------------

    def _execution(self) -> Execution:
        """As configured; a trial decides on rank 0 and holds for all."""
        if self.config.precision != "auto":
            return Execution(bf16=self.config.precision == "bf16")
        space, device = self.context.space, self.search.device
        side = space.input_size
        count = max(2, self.config.batch // self.ranks.world // self.config.micro_batches)  # what is in memory at once
        images = torch.randn(count, 3, side, side, device=device)
        labels = torch.randint(space.classes, (count,), device=device)
        path = [0] * len(space.layers)
        chosen, times_ms = agreed_execution(
            self.search.supernet, lambda supernet, some: supernet(some, path), images, labels, self.ranks
        )
        self.on_event({"kind": "precision", "chosen": str(chosen), "step_ms": times_ms})
        return chosen

    def _epoch(self) -> None:
        search = self.search
        if search.phase != "architecture":
            search.phase = "warmup" if self.context.schedule.is_warmup(search.epoch) else "weights"
            self._phase(search.weight_batches, self._train_weights)
            if search.phase == "weights":
                search.phase, search.step = "architecture", 0
        if search.phase == "architecture":
            self._phase(search.architecture_batches, self._learn)
            search.strategy.end_epoch(search.epoch)
        self.loop.flush()
        line = self.metrics.epoch_line(self.loop.elapsed_s)
        self.loop.write([line])
        if line.validation_accuracy is not None:
            images = len(search.validation_labels)
            search.sampled_paths = SampledPaths(accuracy=line.validation_accuracy, chance=line.chance, images=images)
            self._warn_at_chance(search.sampled_paths)
        search.epoch, search.phase, search.step = search.epoch + 1, "weights", 0
        self.loop.end_epoch(last=search.finished)

    def _warn_at_chance(self, paths: SampledPaths) -> None:
        """Once, when a supernet that learns would have left chance behind and most of the search is still to come."""
        done, warmup_epochs = self.search.epoch + 1, self.context.schedule.warmup_epochs
        due = warmup_epochs + math.ceil((self.config.epochs - warmup_epochs) / 4)
        if done == due < self.config.epochs and paths.warning is not None:
            self.on_event({"kind": "warning", "text": f"after {done} of {self.config.epochs} epochs {paths.warning}"})

    def _phase(self, loader: Loader, do_step: Callable[[torch.Tensor, torch.Tensor], None]) -> None:
        search = self.search
        search.supernet.requires_grad_(search.phase != "architecture")
        for group in search.optimiser.param_groups:
            group["lr"] = self.context.schedule.weight_lr_at(search.epoch)
        for pixels, labels in self.loop.steps(loader.batches(search.epoch, start=search.step)):
            do_step(*search.on_device(pixels, labels))
            search.step += 1
            self.loop.tick(search.step)

    def _train_weights(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        search = self.search
        outcome, paths = search.strategy.train_weights(
            search.supernet, search.optimiser, images, labels, warmup=search.phase == "warmup"
        )
        self.metrics.note(outcome, paths, self.loop.elapsed_s)

    def _learn(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        outcome, paths = self.search.strategy.learn(self.search.supernet, images, labels, self.search.epoch)
        self.metrics.note(outcome, paths, self.loop.elapsed_s)

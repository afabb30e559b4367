"""What a search has learned so far, and where it stands: all that a checkpoint holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lightnas_edge.data import DataSet, Loader, normalise
from lightnas_edge.errors import RunError
from lightnas_edge.nn import Ranks, Supernet
from lightnas_edge.nn.checkpoint import load_checkpoint, require_same
from lightnas_edge.nn.device import choose_device
from lightnas_edge.nn.execution import Execution
from lightnas_edge.records.run import SampledPaths
from lightnas_edge.search.blockwise_strategy import BlockwiseStrategy
from lightnas_edge.search.config import BLOCKWISE, ENTANGLED, LIGHTNAS, PUBLISHED, SHARED, Schedule, SearchConfig
from lightnas_edge.search.constraints import Budget, predicted
from lightnas_edge.search.entangled_strategy import EntangledStrategy
from lightnas_edge.search.lightnas_strategy import LightNasStrategy
from lightnas_edge.search.shared_strategy import SharedStrategy
from lightnas_edge.search.strategy import SearchContext, SearchStrategy
from lightnas_edge.search.teacher import Teacher, teach
from lightnas_edge.space import Space

SCHEMA = 5
_STRATEGIES: dict[str, type[SearchStrategy]] = {
    SHARED: SharedStrategy,
    ENTANGLED: EntangledStrategy,
    BLOCKWISE: BlockwiseStrategy,
    LIGHTNAS: LightNasStrategy,
}
# Parts of the identity in which budgets may differ that are added to a finished search: it trains no weight any more.
_OF_BUDGETS = {"budgets", "predictors", "processes", "device", "two_sided", "pixels"}


class SearchState:
    """Supernet, optimiser, strategy and random numbers, with the epoch, phase and step that come next.

    Its random numbers are PyTorch's own: it seeds them.
    """

    def __init__(
        self,
        space: Space,
        data: DataSet,
        budgets: Sequence[Budget],
        config: SearchConfig,
        teacher: Teacher | None = None,
    ) -> None:
        ranks = Ranks()
        self.device = choose_device(config.device)
        self.weight_batches, self.architecture_batches = _loaders(data, config, ranks)
        kind = _STRATEGIES[config.method]
        torch.manual_seed(config.seed)
        self.supernet = Supernet(space, entangled=kind.entangled, affine=config.teacher is not None)
        if teacher is not None:
            teach(self.supernet, teacher)
        self.supernet.to(self.device).train()
        torch.manual_seed(config.seed + ranks.rank)  # what is dropped out may differ between processes
        self.optimiser = torch.optim.SGD(
            self.supernet.parameters(),
            lr=config.first_weight_lr,
            momentum=PUBLISHED.momentum,
            weight_decay=PUBLISHED.weight_decay,
            foreach=True,  # not fused: that one fails when candidates meet their first gradient at different steps
        )
        self.validation_labels = data.validation.labels
        schedule = Schedule.of(config, len(self.architecture_batches))
        self.context = SearchContext(
            space, config, schedule, torch.Generator().manual_seed(config.seed), ranks, self.chance
        )
        if teacher is not None:
            self.context.teacher = [int(index) for index in teacher.architecture.indices(space)]
        self.strategy = kind(self.context, budgets)
        self.epoch, self.phase, self.step = 0, "warmup", 0  # what comes next
        self.sampled_paths: SampledPaths | None = None  # of the last epoch with steps on validation images
        self.identity = _identity(space, data, budgets, config, ranks)

    @property
    def chance(self) -> float:
        """Accuracy on the validation images of always answering their most frequent class."""
        return float(np.bincount(self.validation_labels).max() / len(self.validation_labels))

    @property
    def finished(self) -> bool:
        return self.epoch >= self.context.config.epochs

    def use(self, execution: Execution) -> None:
        """Compute in this precision and memory format from now on."""
        self.context.execution = execution
        self.supernet.to(memory_format=execution.memory_format)  # type: ignore[call-overload]  # missing in torch's types

    def on_device(self, pixels: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """A batch of a loader as the supernet takes it."""
        images = normalise(pixels.to(self.device))
        return images.contiguous(memory_format=self.context.execution.memory_format), labels.to(self.device)

    def to_checkpoint(self) -> dict[str, Any]:
        """Tensors and plain values."""
        return {
            "epoch": self.epoch,
            "phase": self.phase,
            "step": self.step,
            "supernet": self.supernet.state_dict(),
            "weight_optimiser": self.optimiser.state_dict(),
            "strategy": self.strategy.state(),
            "execution": self.context.execution.to_json(),
            "tau": self.context.schedule.tau(self.epoch),  # follows from the epoch; here for readers
            "paths_random": self.context.generator.get_state(),
            "sampled_paths": None if self.sampled_paths is None else self.sampled_paths.to_json(),
        }

    def restore(self, checkpoint: dict[str, Any]) -> None:
        """Resume the same search."""
        self.supernet.load_state_dict(checkpoint["supernet"])
        self.optimiser.load_state_dict(checkpoint["weight_optimiser"])
        self.strategy.restore(checkpoint["strategy"])
        self.context.generator.set_state(checkpoint["paths_random"])
        self._restore_sampled_paths(checkpoint)
        self.epoch, self.phase, self.step = checkpoint["epoch"], checkpoint["phase"], checkpoint["step"]
        self.use(Execution(**checkpoint["execution"]))

    def restore_finished(self, path: Path, run_dir: Path) -> dict[str, Any]:
        """Load what a finished search has learned, for budgets that it did not know; the checkpoint is returned.

        Raises:
            RunError: it has not begun or not ended, or was another search.
        """
        remedy = "run the same `lightnas-edge search` again: it resumes and finishes"
        if not path.exists():
            raise RunError(f"{run_dir} holds no search that has begun", hint=remedy)
        checkpoint = load_checkpoint(path, schema=SCHEMA)
        require_same(
            {name: value for name, value in checkpoint["identity"].items() if name not in _OF_BUDGETS},
            {name: value for name, value in self.identity.items() if name not in _OF_BUDGETS},
            f"the search in {run_dir}",
            hint="add budgets with the space and the data of that search, or start a new search",
        )
        self.epoch = checkpoint["epoch"]
        if not self.finished:
            raise RunError(
                f"the search in {run_dir} has finished {self.epoch} of {self.context.config.epochs} epochs", hint=remedy
            )
        self.supernet.load_state_dict(checkpoint["supernet"])
        self.strategy.load_finished(checkpoint["strategy"])
        self._restore_sampled_paths(checkpoint)
        self.use(Execution(**checkpoint["execution"]))
        return checkpoint

    def _restore_sampled_paths(self, checkpoint: dict[str, Any]) -> None:
        kept = checkpoint["sampled_paths"]
        self.sampled_paths = None if kept is None else SampledPaths(**kept)


def load_supernet(path: Path, space: Space) -> Supernet:
    """The supernet of a search, on the CPU in training mode.

    Args:
        space: of the search, with the head of its classes.

    Raises:
        RunError: the checkpoint is damaged, of another schema, or of a search of another space.
    """
    checkpoint = load_checkpoint(path, schema=SCHEMA)
    if checkpoint["identity"]["space"] != space.sha256:
        raise RunError(f"the checkpoint {path} is of a search of another space than {space.name}")
    identity = checkpoint["identity"]
    entangled = _STRATEGIES[identity["method"]].entangled
    supernet = Supernet(space, entangled=entangled, affine=identity["teacher"] is not None)
    supernet.load_state_dict(checkpoint["supernet"])
    return supernet


def _loaders(data: DataSet, config: SearchConfig, ranks: Ranks) -> tuple[Loader, Loader]:
    """Batches of the weight steps, and of the steps on validation images."""
    share = (ranks.rank, ranks.world)
    architecture_batch = config.architecture_batch or config.batch
    return (
        data.train_loader(config.batch, share=share),
        data.validation_loader(architecture_batch, shuffle=True, share=share),
    )


def _identity(
    space: Space, data: DataSet, budgets: Sequence[Budget], config: SearchConfig, ranks: Ranks
) -> dict[str, Any]:
    """The question that a checkpoint belongs to."""
    settings = asdict(config)
    uniform = [[operator] * len(space.layers) for operator in range(len(space.operators))]
    return {
        "space": space.sha256,
        **data.identity,
        "processes": ranks.world,
        "budgets": [
            {"name": budget.name, **{metric: float(target) for metric, target in budget.targets.items()}}
            for budget in budgets
        ],
        "predictors": [predicted(budget.constraints, uniform) for budget in budgets],
        **{name: settings[name] for name in settings if name not in ("checkpoint_s", "confidence", "candidates")},
    }

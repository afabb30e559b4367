"""What validation images tell about operators: losses of whole paths, or differences between two operators of every layer.

The published search uses the gradient of one factor per layer. Some layers receive no gradient: the batch norm of the next block
cancels the factor. Neither evidence here has that gap.

Losses of whole paths are measurements of networks:

    loss(path, batch) = level(batch) + sum of cost[layer, operator of the path] + noise

Several paths share each batch, so that the level cancels.

Differences come from one pass in which two operators of every layer run, each with a factor of one half: the derivative of the loss
along the two factors is the difference of their costs, in the midst of the mixtures of the other layers:

    difference(layer, batch) = cost[layer, first] - cost[layer, second] + noise(layer)

It is differentiable in one pass and compares as many pairs as there are layers. A path contains its operators as they are, and a
mixture does not.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightnas_edge.nn import Supernet
from lightnas_edge.nn.execution import Execution
from lightnas_edge.predictor.base import one_hot_of
from lightnas_edge.search.config import LOSSES, SearchConfig
from lightnas_edge.search.posterior import OperatorPosterior, arithmetic_of, fit_scores, prior_scores
from lightnas_edge.search.steps import Outcome, Path, pair_differences, path_losses
from lightnas_edge.space import Space

Array = NDArray[np.float64]

MEMORY = 0.25  # of the epochs searched so far: an epoch this long ago has weight 1/e, since the weights have changed
_MIN_PATHS, _MIN_PASSES = 8, 8


class Evidence(Protocol):
    """Grows during a search; all of it is in `state`."""

    def draw(self, generator: torch.Generator) -> list[Path]:
        """What the next batch runs: paths, or a pair of operators for every layer as two paths."""

    def measure(
        self, supernet: Supernet, images: Tensor, labels: Tensor, drawn: list[Path], execution: Execution
    ) -> tuple[Tensor, Outcome]:
        """Run it. The values stay on the device."""

    def add(self, drawn: list[Path], values: list[float], epoch: int) -> None:
        """Add what `measure` gave."""

    def posterior(self) -> OperatorPosterior:
        """The posterior after all so far; before there is enough, arithmetic alone and without uncertainty."""

    def state(self) -> dict[str, Any]:
        """Plain lists, for a checkpoint."""

    def restore(self, state: dict[str, Any]) -> None:
        """Resume from `state`."""


def begin_evidence(space: Space, config: SearchConfig) -> Evidence:
    return PathLosses(space, config.paths) if config.evidence == LOSSES else PairDifferences(space)


class PathLosses:
    """Losses of sampled paths, several of each batch, and what follows from them."""

    def __init__(self, space: Space, paths_of_batch: int = 4) -> None:
        self.space, self.paths_of_batch = space, paths_of_batch
        self.paths: list[list[int]] = []
        self.losses: list[float] = []
        self.batches: list[int] = []
        self.epochs: list[int] = []
        self._next = 0
        self._arithmetic = arithmetic_of(space)

    def draw(self, generator: torch.Generator) -> list[Path]:
        return [uniform_path(self.space, generator) for _ in range(self.paths_of_batch)]

    def measure(
        self, supernet: Supernet, images: Tensor, labels: Tensor, drawn: list[Path], execution: Execution
    ) -> tuple[Tensor, Outcome]:
        return path_losses(supernet, images, labels, drawn, execution=execution)

    def add(self, drawn: list[Path], values: list[float], epoch: int) -> None:
        """Add paths of one batch and the loss of each. A single path is ignored: there is nothing to compare it with."""
        if len(drawn) > 1:
            self.paths += drawn
            self.losses += values
            self.batches += [self._next] * len(drawn)
            self.epochs += [epoch] * len(drawn)
            self._next += 1

    def __len__(self) -> int:
        return len(self.losses)

    def posterior(self) -> OperatorPosterior:
        if len(self) < _MIN_PATHS:
            return prior_scores(self._arithmetic)
        one_hot = one_hot_of(self.space, np.array(self.paths))
        design = np.concatenate([np.array(self.losses)[:, None], one_hot.reshape(len(self), -1)], axis=1)
        contrasts, epochs = self._contrasts(design)
        losses, seen = contrasts[:, 0], contrasts[:, 1:]
        scale = float(losses.std())
        return fit_scores(self._arithmetic, losses, seen, age_weight=_by_age(epochs), scale=scale, rows_per_path=1.0)

    def _contrasts(self, design: Array) -> tuple[Array, Array]:
        """(n, F) to (n - batches, F) and their epochs: each path against the mean of those before it in its batch.

        Helmert's contrasts: independent of the batch's level and of each other, with the noise of a single path.
        """
        batches = np.array(self.batches)
        first = np.searchsorted(batches, batches)  # position of the batch's first path
        place = np.arange(len(batches)) - first
        total = np.concatenate([np.zeros((1, design.shape[1])), np.cumsum(design, axis=0)])
        later = np.flatnonzero(place > 0)
        before = (total[later] - total[first[later]]) / place[later, None]
        found: Array = (design[later] - before) * np.sqrt(place[later] / (place[later] + 1.0))[:, None]
        return found, np.array(self.epochs, dtype=np.float64)[later]

    def state(self) -> dict[str, Any]:
        return {"paths": self.paths, "losses": self.losses, "batches": self.batches, "epochs": self.epochs}

    def restore(self, state: dict[str, Any]) -> None:
        self.paths, self.losses = [list(path) for path in state["paths"]], list(state["losses"])
        self.batches, self.epochs = list(state["batches"]), list(state["epochs"])
        self._next = 1 + max(self.batches, default=-1)


class PairDifferences:
    """Differences between two operators of every layer, one pass each, and what follows from them.

    Shapes: N passes, L layers.
    """

    def __init__(self, space: Space) -> None:
        self.space = space
        self.pairs: list[list[Path]] = []  # (N, 2, L)
        self.differences: list[list[float]] = []  # (N, L)
        self.epochs: list[int] = []
        self._arithmetic = arithmetic_of(space)

    def draw(self, generator: torch.Generator) -> list[Path]:
        """Two paths that differ in every layer."""
        layers, operators = len(self.space.layers), len(self.space.operators)
        first = torch.randint(operators, (layers,), generator=generator)
        step = torch.randint(1, operators, (layers,), generator=generator)
        return [first.tolist(), ((first + step) % operators).tolist()]

    def measure(
        self, supernet: Supernet, images: Tensor, labels: Tensor, drawn: list[Path], execution: Execution
    ) -> tuple[Tensor, Outcome]:
        return pair_differences(supernet, images, labels, list(zip(*drawn, strict=True)), execution=execution)

    def add(self, drawn: list[Path], values: list[float], epoch: int) -> None:
        """Add a pass: two paths, and (L,) the loss with the operator of the first less that with that of the second."""
        self.pairs.append(drawn)
        self.differences.append(values)
        self.epochs.append(epoch)

    def __len__(self) -> int:
        return len(self.epochs)

    def posterior(self) -> OperatorPosterior:
        """Noise differs between layers: rows have the weight that the spread of their layer gives them."""
        if len(self) < _MIN_PASSES:
            return prior_scores(self._arithmetic)
        layers = self._arithmetic.shape[0]
        pairs, differences = np.array(self.pairs), np.array(self.differences)
        variance = np.maximum((differences**2).mean(axis=0), 1e-300)  # (L,)
        ages = _by_age(np.array(self.epochs, dtype=np.float64))
        contrasts = np.zeros((len(self), layers, *self._arithmetic.shape))
        passes, places = np.ix_(range(len(self)), range(layers))
        contrasts[passes, places, places, pairs[:, 0]] = 1.0
        contrasts[passes, places, places, pairs[:, 1]] = -1.0
        # The losses of two random paths differ by one such difference in every layer.
        scale = float(np.sqrt(variance.sum() / 2))
        return fit_scores(
            self._arithmetic, differences.ravel(), contrasts.reshape(len(self) * layers, -1), age_weight=np.repeat(ages, layers),
            precision=np.tile(variance.mean() / variance, len(self)), scale=scale, rows_per_path=2 / layers,
        )  # fmt: skip

    def state(self) -> dict[str, Any]:
        return {"pairs": self.pairs, "differences": self.differences, "epochs": self.epochs}

    def restore(self, state: dict[str, Any]) -> None:
        self.pairs = [[list(path) for path in pair] for pair in state["pairs"]]
        self.differences, self.epochs = [list(row) for row in state["differences"]], list(state["epochs"])


def uniform_path(space: Space, generator: torch.Generator) -> Path:
    """Every operator of every layer equally likely."""
    path: Path = torch.randint(len(space.operators), (len(space.layers),), generator=generator).tolist()
    return path


def _by_age(epochs: Array) -> Array:
    found: Array = np.exp((epochs - epochs.max()) / max(1.0, MEMORY * (1 + epochs.max() - epochs.min())))
    return found

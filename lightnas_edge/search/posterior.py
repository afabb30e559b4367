"""Scores of operators, fitted to the losses of whole paths by Bayesian linear regression.

The published search uses the gradient of one factor per layer. Some layers receive no gradient: the batch norm of the
next block cancels the factor. Here the loss of a path on validation images is a measurement of a network:

    loss(path, batch) = level(batch) + sum of cost[layer, operator of the path] + noise

Several paths share each batch, so the level cancels. The costs have a normal prior. One further coefficient stands for
arithmetic: operators that compute more lower the loss a little, unless the losses contradict it. The widths of the
prior and of the noise follow from the losses by evidence maximisation (scikit-learn's BayesianRidge). With few or noisy
paths, arithmetic alone separates the operators; with many, each operator has its own estimate.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightnas_edge.predictor.base import one_hot_of
from lightnas_edge.space import Space, operator_cost

Array = NDArray[np.float64]

MEMORY = 0.25  # of the epochs searched so far: an epoch this long ago has weight 1/e, since the weights have changed
_MIN_PATHS = 8
# Prior of the arithmetic coefficient: of two networks one standard deviation apart in arithmetic (of random paths), the larger
# has a loss 0.3 standard deviations lower, with the weight of 10 paths. A judgement: a larger network of a family, fully
# trained, is usually the more accurate one.
_ARITHMETIC_COEFFICIENT, _ARITHMETIC_WEIGHT = -0.3, 10.0


@dataclass(frozen=True)
class OperatorPosterior:
    """Normal posterior of the operator scores: larger is better.

    In units of the loss. Before there are enough losses, in units of their unknown standard deviation: such scores order
    operators and are no losses.

    Shapes: L layers, K operators, R unknowns.
    """

    mean: Array  # (L, K)
    root: Array  # (L * K, R): the covariance is root @ root.T

    def sample(self, generator: np.random.Generator) -> Array:
        """(L, K) one draw from the posterior."""
        drawn: Array = self.mean + (self.root @ generator.normal(size=self.root.shape[1])).reshape(self.mean.shape)
        return drawn

    @property
    def score_std(self) -> float:
        """Standard deviation of the scores within a layer, root mean square over the layers."""
        return float(np.sqrt(self.mean.var(axis=1).mean()))

    @property
    def posterior_std(self) -> float:
        """Posterior standard deviation of a score relative to the mean of its layer, root mean square over operators."""
        layers, operators = self.mean.shape
        centred = self.root.reshape(layers, operators, -1)
        centred = centred - centred.mean(axis=1, keepdims=True)
        return float(np.sqrt((centred**2).sum(axis=2).mean()))


class PathLosses:
    """Losses of sampled paths, several of each batch, and what follows from them."""

    def __init__(self, space: Space) -> None:
        self.space = space
        self.paths: list[list[int]] = []
        self.losses: list[float] = []
        self.batches: list[int] = []
        self.epochs: list[int] = []
        self._next = 0
        arithmetic = np.array(
            [[operator_cost(space.at(layer, op))[0] for op in space.operators] for layer in range(len(space.layers))],
            dtype=np.float64,
        )
        arithmetic = np.log1p(arithmetic / np.maximum(arithmetic.mean(axis=1, keepdims=True), 1e-300))
        arithmetic -= arithmetic.mean(axis=1, keepdims=True)
        # (L, K), so that its sum over a random path has a deviation of 1
        self._arithmetic = arithmetic / max(float(np.sqrt(arithmetic.var(axis=1).sum())), 1e-300)

    def add(self, paths: list[list[int]], losses: list[float], epoch: int) -> None:
        """Add paths of one batch and the loss of each. A single path is ignored: there is nothing to compare it with."""
        if len(paths) > 1:
            self.paths += paths
            self.losses += losses
            self.batches += [self._next] * len(paths)
            self.epochs += [epoch] * len(paths)
            self._next += 1

    def __len__(self) -> int:
        return len(self.losses)

    def posterior(self) -> OperatorPosterior:
        """The posterior after all losses so far; before there are enough, arithmetic alone and without uncertainty."""
        layers, operators = len(self.space.layers), len(self.space.operators)
        prior_only = OperatorPosterior(-_ARITHMETIC_COEFFICIENT * self._arithmetic, np.zeros((layers * operators, 1)))
        if len(self) < _MIN_PATHS:
            return prior_only
        from sklearn.linear_model import BayesianRidge

        one_hot = one_hot_of(self.space, np.array(self.paths))
        arithmetic = (one_hot * self._arithmetic).sum(axis=(1, 2))[:, None]
        design = np.concatenate([np.array(self.losses)[:, None], one_hot.reshape(len(self), -1), arithmetic], axis=1)
        contrasts, epochs = self._contrasts(design)
        losses, seen = contrasts[:, 0], contrasts[:, 1:]
        scale = float(losses.std())
        if scale == 0 or not math.isfinite(scale):
            return prior_only
        weight = np.exp((epochs - epochs.max()) / max(1.0, MEMORY * (1 + epochs.max() - epochs.min())))
        prior = np.zeros((1, seen.shape[1]))
        prior[0, -1] = 1.0
        model = BayesianRidge(fit_intercept=False, max_iter=300)
        model.fit(
            np.concatenate([seen, prior]),
            np.append(losses / scale, _ARITHMETIC_COEFFICIENT),
            sample_weight=np.append(weight, _ARITHMETIC_WEIGHT),
        )
        back = np.concatenate([np.eye(layers * operators), self._arithmetic.reshape(-1, 1)], axis=1)
        mean = -scale * (back @ model.coef_).reshape(layers, operators)
        values, vectors = np.linalg.eigh(np.asarray(model.sigma_))
        root = scale * back @ (vectors * np.sqrt(np.maximum(values, 0.0)))
        return OperatorPosterior(mean - mean.mean(axis=1, keepdims=True), root)

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
        """Plain lists, for a checkpoint."""
        return {"paths": self.paths, "losses": self.losses, "batches": self.batches, "epochs": self.epochs}

    def restore(self, state: dict[str, Any]) -> None:
        self.paths, self.losses = [list(path) for path in state["paths"]], list(state["losses"])
        self.batches, self.epochs = list(state["batches"]), list(state["epochs"])
        self._next = 1 + max(self.batches, default=-1)

"""Scores of operators: a normal posterior, fitted by Bayesian linear regression to differences of losses.

The costs of the operators have a normal prior. One further coefficient stands for arithmetic: operators that compute more lower
the loss a little, unless the losses contradict it. The widths of the prior and of the noise follow from the losses by evidence
maximisation (scikit-learn's BayesianRidge). With little or noisy evidence, arithmetic alone separates the operators; with much,
each operator has its own estimate.

What losses cannot tell: weights that were trained for a short time, and shared, undervalue large networks, by more than the noise of the
losses shows. So arithmetic has a say that no amount of evidence removes (`with_capacity`), the more, the less the supernet has learned.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from lightnas_edge.space import Space, operator_cost

Array = NDArray[np.float64]

# Prior of the arithmetic coefficient: of two networks one standard deviation apart in arithmetic (of random paths), the larger
# has a loss 0.3 standard deviations lower, with the weight of 10 paths. A judgement: a larger network of a family, fully
# trained, is usually the more accurate one.
_ARITHMETIC_COEFFICIENT, _ARITHMETIC_WEIGHT = -0.3, 10.0


_LEAST_LEARNED = 0.1  # a supernet near chance tells nothing: arithmetic counts nine times


@dataclass(frozen=True)
class OperatorPosterior:
    """Normal posterior of the operator scores: larger is better.

    In units of the loss. Before there are enough losses, in units of their unknown standard deviation: such scores order
    operators and are no losses.

    Shapes: L layers, K operators, R unknowns.
    """

    mean: Array  # (L, K)
    root: Array  # (L * K, R): the covariance is root @ root.T
    capacity: Array | None = None  # (L, K) the part of the mean that arithmetic added

    def with_capacity(self, arithmetic: Array, weight: float) -> OperatorPosterior:
        """Scores to which arithmetic adds so many times what the losses say: see above.

        Args:
            arithmetic: (L, K), see `arithmetic_of`.
            weight: see `arithmetic_weight`.
        """
        of_paths = float(np.sqrt(self.mean.var(axis=1).sum()))  # deviation of the scores of random paths
        capacity = weight * of_paths * arithmetic
        return replace(self, mean=self.mean + capacity, capacity=capacity)

    def score(self, indices: NDArray[np.integer]) -> float:
        """Mean score of a network, (L,) operators."""
        return float(self.mean[np.arange(len(indices)), indices].sum())

    def capacity_of(self, indices: NDArray[np.integer]) -> float:
        """What of it arithmetic added."""
        return 0.0 if self.capacity is None else float(self.capacity[np.arange(len(indices)), indices].sum())

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


def arithmetic_of(space: Space) -> Array:
    """(L, K) multiply-accumulates on a logarithmic scale, centred in every layer, of deviation 1 summed over a random path."""
    macs = np.array(
        [[operator_cost(space.at(layer, op))[0] for op in space.operators] for layer in range(len(space.layers))],
        dtype=np.float64,
    )
    logs = np.log1p(macs / np.maximum(macs.mean(axis=1, keepdims=True), 1e-300))
    logs -= logs.mean(axis=1, keepdims=True)
    found: Array = logs / max(float(np.sqrt(logs.var(axis=1).sum())), 1e-300)
    return found


def arithmetic_weight(accuracy: float, chance: float) -> float:
    """How many times what the losses say arithmetic counts: what the supernet still has to learn, relative to what it has learned.

    No constant weight chooses better in searches of 2 to 20 epochs on the digits benchmark, and a long search needs no other (docs/search.md).

    Args:
        accuracy: of the paths that gave the losses, on held-out images.
        chance: accuracy there of always answering the most frequent class.
    """
    learned = (accuracy - chance) / max(1.0 - chance, 1e-12)
    learned = min(max(learned, _LEAST_LEARNED), 1.0)
    return (1.0 - learned) / learned


def prior_scores(arithmetic: Array) -> OperatorPosterior:
    """Before there are losses: arithmetic alone, without uncertainty."""
    return OperatorPosterior(-_ARITHMETIC_COEFFICIENT * arithmetic, np.zeros((arithmetic.size, 1)))


def fit_scores(
    arithmetic: Array,
    differences: Array,
    contrasts: Array,
    *,
    age_weight: Array,
    precision: Array | float = 1.0,
    scale: float,
    rows_per_path: float,
) -> OperatorPosterior:
    """The posterior after differences of losses between networks or operators.

    Args:
        arithmetic: (L, K), see `arithmetic_of`.
        differences: (n,) of losses.
        contrasts: (n, L * K) of their operators, such that differences = contrasts @ costs + noise.
        age_weight: (n,) how much the rows still count, since the weights of the supernet have changed.
        precision: (n,) relative to each other, from the noise of the rows.
        scale: deviation of the losses of random paths.
        rows_per_path: how many rows tell as much as the loss of one path.
    """
    shape = arithmetic.shape
    if scale == 0 or not math.isfinite(scale):
        return prior_scores(arithmetic)
    from sklearn.linear_model import BayesianRidge

    # The sum of the weights is the number of rows of equal weight that would tell as much.
    weight = age_weight * age_weight.sum() / (age_weight**2).sum() * precision / np.mean(precision)
    seen = np.concatenate([contrasts, contrasts @ arithmetic.reshape(-1, 1)], axis=1)
    prior = np.zeros((1, seen.shape[1]))
    prior[0, -1] = 1.0
    model = BayesianRidge(fit_intercept=False, max_iter=300)
    model.fit(
        np.concatenate([seen, prior]),
        np.append(differences / scale, _ARITHMETIC_COEFFICIENT),
        sample_weight=np.append(weight, _ARITHMETIC_WEIGHT * rows_per_path),
    )
    back = np.concatenate([np.eye(arithmetic.size), arithmetic.reshape(-1, 1)], axis=1)
    mean = -scale * (back @ model.coef_).reshape(shape)
    values, vectors = np.linalg.eigh(np.asarray(model.sigma_))
    root = scale * back @ (vectors * np.sqrt(np.maximum(values, 0.0)))
    return OperatorPosterior(mean - mean.mean(axis=1, keepdims=True), root)

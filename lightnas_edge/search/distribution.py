"""The distribution of paths for one budget, given operator scores: one Lagrange multiplier per constraint, solved for.

Of all distributions with independent layers whose expected cost keeps the budgets, the one nearest to the softmax of the
scores has

    p[layer, operator] ~ exp(score - sum over constraints of lam * cost / target)

with multipliers that minimise a convex function: the published gradient ascent on lambda takes single steps on the same
function. A constraint with a multiplier above zero is binding. The shared method displays these and trains uniform paths.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special

from lightnas_edge.predictor import Predictor
from lightnas_edge.predictor.base import one_hot_of
from lightnas_edge.search.constraints import Constraint

Array = NDArray[np.float64]

_MAX_MULTIPLIER = 1e3  # beyond it only the path of lowest cost has any probability
_RANDOM = 20  # networks per coefficient for the linear fit to a predictor that is not linear


@dataclass(frozen=True)
class LinearCost:
    """A constraint in units of its target: constant + sum of (L, K) costs."""

    constant: float
    cost: Array

    @classmethod
    def of(cls, constraint: Constraint) -> LinearCost:
        constant, cost = _linear(constraint.predictor)
        return cls(constant / constraint.target, cost / constraint.target)


@dataclass(frozen=True)
class PathDistribution:
    """(L, K) probabilities of a path's operators, and the multiplier of each constraint."""

    probabilities: Array
    multipliers: tuple[float, ...]
    expected: tuple[float, ...]  # cost of a sampled path on average, in units of the target


def nearest_within(score: Array, costs: Sequence[LinearCost], *, two_sided: bool = False) -> PathDistribution:
    """The distribution above.

    Args:
        score: (L, K) logits without any budget.
        two_sided: the multiplier of the first constraint may be negative, as published.
    """

    def logits(lam: Array) -> Array:
        return score - np.tensordot(lam, np.stack([each.cost for each in costs]), axes=1)

    def dual(lam: Array) -> tuple[float, Array]:
        slack = np.array([1 - each.constant for each in costs])
        chances = special.softmax(logits(lam), axis=1)
        expected = np.array([(chances * each.cost).sum() for each in costs])
        return float(special.logsumexp(logits(lam), axis=1).sum() + lam @ slack), slack - expected

    bounds = [(-_MAX_MULTIPLIER if two_sided and index == 0 else 0.0, _MAX_MULTIPLIER) for index in range(len(costs))]
    found = optimize.minimize(dual, np.zeros(len(costs)), jac=True, method="L-BFGS-B", bounds=bounds)
    chances = special.softmax(logits(found.x), axis=1)
    expected = tuple(each.constant + float((chances * each.cost).sum()) for each in costs)
    return PathDistribution(chances, tuple(float(value) for value in found.x), expected)


def _linear(predictor: Predictor) -> tuple[float, Array]:
    """The predictor's own terms, or a least-squares fit to random networks; the selection uses the predictor itself."""
    linear = predictor.linear_terms()
    if linear is not None:
        return linear
    space = predictor.space
    layers, operators = len(space.layers), len(space.operators)
    indices = np.random.default_rng(0).integers(operators, size=(_RANDOM * layers * operators, layers))
    seen = one_hot_of(space, indices).reshape(len(indices), -1)
    values = predictor.predict_indices(indices)
    cost = np.linalg.lstsq(seen, values - values.mean(), rcond=None)[0]
    return float(values.mean()), np.asarray(cost, dtype=np.float64).reshape(layers, operators)

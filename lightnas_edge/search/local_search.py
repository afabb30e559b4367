"""The selection where a predictor has no convex bound: a search that is not exact, and never above a target.

A linear program is solved around the best network so far. The predictor itself checks each answer: one that keeps the budgets
is the centre of the next program, one that breaks them tightens it. Single and double changes are tried at the end.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray

from lightnas_edge.predictor import ConvexBound, reachable_range
from lightnas_edge.predictor.base import neighbours, one_hot_of
from lightnas_edge.search.constraints import Constraint
from lightnas_edge.search.milp import Limit, select_exactly
from lightnas_edge.search.problem import Array, Indices, Problem
from lightnas_edge.space import Space

_MOST_STEPS = 30  # programs that are solved
_GAIN = 1e-9  # a change must raise the score by more than this


def select_by_steps(wanted: Array, problem: Problem) -> Indices | None:
    """(L,) the best network that was found within the budgets; None where none was found."""
    space, constraints, confidence = problem.space, problem.constraints, problem.confidence
    banned, min_utilisation = problem.banned, problem.min_utilisation
    layers, operators = wanted.shape

    def value(indices: Indices, of: Constraint) -> Array:
        """(B,) in units of the target."""
        one_hot = one_hot_of(space, indices)
        predictor = of.predictor
        found = predictor.predict(one_hot) if confidence is None else predictor.upper(one_hot, confidence)
        return found / of.target

    def kept(indices: Indices) -> NDArray[np.bool_]:
        fits: NDArray[np.bool_] = np.all([value(indices, constraint) <= 1 for constraint in constraints], axis=0)
        for other in banned:
            fits &= (indices != other).any(axis=1)
        return fits

    def score(indices: Indices) -> Array:
        total: Array = wanted[np.arange(layers), indices].sum(axis=1)
        return total

    generator = np.random.default_rng(0)
    sampled = generator.integers(operators, size=(40 * layers * operators, layers))
    models = [_linear_fit(space, sampled, value(sampled, constraint)) for constraint in constraints]
    tightening = np.zeros(len(constraints))
    best: Indices | None = None
    for _ in range(_MOST_STEPS):
        limits = [Limit(ConvexBound(*model), 1 - less) for model, less in zip(models, tightening, strict=True)]
        found = select_exactly(wanted, limits, banned, min_utilisation) if (tightening < 1).all() else None
        if found is None:
            break
        truth = np.array([value(found[None], constraint)[0] for constraint in constraints])
        if (truth <= 1).all():
            if best is None or score(found[None])[0] > score(best[None])[0]:
                best = found
            near = neighbours(space, found)
            centred = [
                _local_fit(found, near, partial(value, of=constraint), *model)
                for constraint, model in zip(constraints, models, strict=True)
            ]
            if all(new[0] == old[0] for new, old in zip(centred, models, strict=True)):
                break
            models, tightening = centred, np.zeros(len(constraints))
        else:
            tightening += np.where(truth > 1, np.maximum(truth - 1, 1e-6), 0.0)
    if best is None:
        ends = np.stack(
            [reachable_range(constraint.predictor).lowest_architecture.indices(space) for constraint in constraints]
        )
        ends = ends[kept(ends)]
        if not len(ends):
            return None
        best = np.asarray(ends[0], dtype=np.int64)
    if min_utilisation is not None:
        return best  # further changes would consider the score alone
    improved = True
    while improved:
        improved = False
        for moves in (neighbours(space, best), _double_changes(space, best)):
            gains = score(moves) - score(best[None])[0]
            better = moves[gains > _GAIN]
            better = better[kept(better)] if len(better) else better
            if len(better):
                best, improved = better[score(better).argmax()], True
                break
    return best


def _linear_fit(space: Space, indices: Indices, values: Array) -> tuple[float, Array]:
    """Least squares: (constant, (L, K) cost), the costs centred by the smallest norm."""
    flat = one_hot_of(space, indices).reshape(len(indices), -1)
    middle = float(values.mean())
    cost = np.asarray(np.linalg.lstsq(flat, values - middle, rcond=None)[0], dtype=np.float64)
    return middle, cost.reshape(len(space.layers), len(space.operators))


def _local_fit(
    centre: Indices, near: Indices, value: Callable[[Indices], Array], constant: float, cost: Array
) -> tuple[float, Array]:
    """Exact at the centre and at every single change of it."""
    at_centre = float(value(centre[None])[0])
    layers = np.arange(len(centre))
    changed = (near != centre).argmax(axis=1)
    local = np.zeros(cost.shape, dtype=np.float64)
    local[changed, near[np.arange(len(near)), changed]] = value(near) - at_centre
    shift = at_centre - float(local[layers, centre].sum())
    if np.allclose(local, cost) and math.isclose(shift, constant):
        return constant, cost
    return shift, local


def _double_changes(space: Space, indices: Indices) -> Indices:
    """Every architecture that differs in exactly two layers."""
    single = neighbours(space, indices)
    layer = (single != indices).argmax(axis=1)
    first, second = np.nonzero(layer[:, None] < layer[None, :])
    found = single[first].copy()
    rows = np.arange(len(found))
    found[rows, layer[second]] = single[second, layer[second]]
    return found

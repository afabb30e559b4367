"""The network to deploy: of all that keep every budget under its predictor, the one with the highest sum of scores.

Exact (milp.py) where every predictor has a convex bound; else by local search (local_search.py), and `exact` is False.

Scores are clipped `_FLOOR` below the best of their layer, since the solver keeps about nine digits and a score of minus
infinity has none. A clipped score is higher than the given one, so a network without a clipped operator that wins under the
clipped scores also wins under the given ones. If the budgets force a clipped operator into the network, it is the optimum of the
clipped scores alone, and `exact` is False. Scores in units of a loss never come near that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightnas_edge.errors import BudgetError, LightnasEdgeError
from lightnas_edge.predictor.base import one_hot_of
from lightnas_edge.search.constraints import Constraint, require_one_space
from lightnas_edge.search.infeasibility import infeasible
from lightnas_edge.search.optimum import optimum
from lightnas_edge.search.problem import Problem
from lightnas_edge.space import Architecture, Space

_FLOOR = 50.0


@dataclass(frozen=True)
class Selection:
    """The chosen network.

    `predicted` and `upper` hold one number per constraint, in its unit; `upper` is the predictor's one-sided bound at
    the requested confidence, None without one. `score` is the sum of the scores of the chosen operators. `exact`: proven
    that no network of the space within the budgets has a higher sum of these scores; False where the search was heuristic.
    """

    architecture: Architecture
    predicted: tuple[float, ...]
    upper: tuple[float, ...] | None
    score: float
    exact: bool


def select(
    space: Space,
    scores: NDArray[np.floating[Any]],
    constraints: Sequence[Constraint],
    confidence: float | None = None,
    *,
    min_utilisation: float | None = None,
    exclude: Sequence[Architecture] = (),
) -> Selection:
    """The network of the highest score whose predictions (their upper bounds, with a confidence) exceed no target.

    Of equal scores, the network with the lower cost in the first constraint is taken.

    Args:
        scores: (L, K), larger is better; the sum over a network's operators is maximised.
        confidence: from 0.5 to below 1: the probability that a measurement keeps each target.
        min_utilisation: share, for example 0.995: choose among networks that use at least this share of the highest
            value of the first metric that the budgets allow together. None: no lower limit.
        exclude: networks that are not chosen again.

    Raises:
        BudgetError: no sensible confidence, or predictors of different spaces.
        InfeasibleBudgetError: no network keeps them all; the message says which one, or which together.
    """
    if confidence is not None and not 0.5 <= confidence < 1:
        raise BudgetError(f"a confidence for a budget lies from 0.5 up to 1, found {confidence}")
    require_one_space(constraints)
    wanted = np.asarray(scores, dtype=np.float64)
    shape = len(space.layers), len(space.operators)
    if wanted.shape != shape or np.isnan(wanted).any():
        raise LightnasEdgeError(f"scores are {shape} numbers for space {space.name}, found {wanted.shape} or nan")
    clipped = np.maximum(wanted, wanted.max(axis=1, keepdims=True) - _FLOOR)
    banned = tuple(architecture.indices(space) for architecture in exclude)
    problem = Problem(space, tuple(constraints), confidence, min_utilisation, banned)
    chosen, exact = optimum(clipped, problem)
    if chosen is None:
        raise infeasible(problem, exact)
    one_hot = one_hot_of(space, chosen[None])
    predictors = [constraint.predictor for constraint in constraints]
    own = np.arange(shape[0]), chosen
    return Selection(
        Architecture.from_indices(space, chosen),
        tuple(float(predictor.predict(one_hot)[0]) for predictor in predictors),
        None
        if confidence is None
        else tuple(float(predictor.upper(one_hot, confidence)[0]) for predictor in predictors),
        float(wanted[own].sum()),
        exact and bool((wanted[own] == clipped[own]).all()),
    )


def check_budget(space: Space, constraints: Sequence[Constraint], confidence: float | None = None) -> None:
    """Check, before anything is trained, that a network of the space keeps the budgets.

    Raises:
        BudgetError, InfeasibleBudgetError: as `select`.
    """
    select(space, np.zeros((len(space.layers), len(space.operators))), constraints, confidence)

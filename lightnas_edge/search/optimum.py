"""The network of the highest sum of scores: exactly where every predictor has a convex bound, else by local search."""

from __future__ import annotations

import numpy as np

from lightnas_edge.search.local_search import select_by_steps
from lightnas_edge.search.milp import limits_of, select_exactly
from lightnas_edge.search.problem import Array, Indices, Problem


def optimum(scores: Array, problem: Problem) -> tuple[Indices | None, bool]:
    """(L,) the best network, None where none was found that keeps the budgets; and whether that is proven.

    Args:
        scores: (L, K), finite.
    """
    limits = limits_of(problem)
    if limits is None:
        return select_by_steps(scores, problem), False
    return select_exactly(scores, limits, problem.banned, problem.min_utilisation), True


def is_possible(problem: Problem) -> bool:
    """Whether a network was found that keeps the budgets."""
    space = problem.space
    return optimum(np.zeros((len(space.layers), len(space.operators))), problem)[0] is not None

"""Why no network keeps the budgets, and what would help."""

from __future__ import annotations

from collections.abc import Sequence

from lightnas_edge.errors import InfeasibleBudgetError
from lightnas_edge.predictor import reachable_range
from lightnas_edge.predictor.base import one_hot_of
from lightnas_edge.search.constraints import Constraint
from lightnas_edge.search.optimum import is_possible, optimum
from lightnas_edge.search.problem import Problem


def infeasible(problem: Problem, exact: bool) -> InfeasibleBudgetError:
    """Says which budget cannot be kept, or which can be kept alone and not together.

    Args:
        exact: it is proven that no network keeps them.
    """
    space, constraints, confidence = problem.space, problem.constraints, problem.confidence
    if problem.banned and is_possible(problem.under(*constraints)):
        return InfeasibleBudgetError(f"no further network of space {space.name} keeps {_listed(constraints)}")
    surely = "" if confidence is None else f" with {100 * confidence:g} % confidence"
    found = "keeps" if exact else "was found to keep"
    for constraint in constraints:
        if len(constraints) > 1 and is_possible(problem.under(constraint)):
            continue
        reach, unit = reachable_range(constraint.predictor), constraint.unit
        bound, least = "", 1.02 * reach.lowest
        if confidence is not None:
            upper = float(constraint.predictor.upper(reach.lowest_architecture.one_hot(space)[None], confidence)[0])
            bound, least = f"; the upper bound of the lowest network is {upper:.4g} {unit}", 1.02 * upper
        named = f"{constraint.metric} " if len(constraints) > 1 or constraint.metric != "latency_ms" else ""
        return InfeasibleBudgetError(
            f"no network of space {space.name} {found} {named}{constraint.target:g} {unit}{surely}: "
            f"the range is {reach.lowest:.4g} to {reach.highest:.4g} {unit}, "
            f"median {reach.median:.4g} {unit}{bound}",
            hint=f"raise the budget to at least {least:.3g} {unit}, choose a smaller space, or a faster power mode",
        )
    return InfeasibleBudgetError(
        f"no network of space {space.name} {found} all of {_listed(constraints)} together{surely}, "
        "although each of them alone is feasible",
        hint="\n".join(_trade_offs(problem)) or "loosen one of them",
    )


def _trade_offs(problem: Problem) -> list[str]:
    """For every budget: the lowest value that a network needs that keeps all the others."""
    lines = []
    for constraint in problem.constraints:
        others = tuple(other for other in problem.constraints if other is not constraint)
        predictor, linear = constraint.predictor, constraint.predictor.linear_terms()
        lowest = None if linear is None else optimum(-linear[1], problem.under(*others))[0]
        if lowest is None:
            continue
        one_hot = one_hot_of(problem.space, lowest[None])
        confidence = problem.confidence
        needed = predictor.predict(one_hot) if confidence is None else predictor.upper(one_hot, confidence)
        lines.append(
            f"with {_listed(others)}, {constraint.metric} needs about {1.001 * float(needed[0]):.4g} {constraint.unit}"
        )
    return lines


def _listed(constraints: Sequence[Constraint]) -> str:
    return " and ".join(map(str, constraints))

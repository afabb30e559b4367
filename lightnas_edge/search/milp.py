"""The exact optimum under convex bounds, by mixed-integer linear programming: one binary for each layer and operator.

With linear bounds one program is enough. An upper bound at a confidence, mean + z * deviation, is not linear but convex in
the one-hot: a network that breaks it is cut off by the bound's tangent there, which no network that keeps the bound violates.
Every cut removes at least one of finitely many networks, so the loop ends, and what it ends with is the optimum.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import optimize, sparse

from lightnas_edge.errors import LightnasEdgeError
from lightnas_edge.predictor import ConvexBound
from lightnas_edge.search._descriptors import stdout_to_stderr
from lightnas_edge.search.problem import Array, Indices, Problem

_SCALE = 1e3  # range of the scores that the solver sees
_TIE = 1e-9  # scores this close, relative to their range, are a tie
_MOST_CUTS = 500


@dataclass(frozen=True)
class Limit:
    """What a network's bound may reach."""

    bound: ConvexBound
    target: float


def limits_of(problem: Problem) -> list[Limit] | None:
    """None where a predictor has no convex bound."""
    bounds = [each.predictor.convex_bound(problem.confidence) for each in problem.constraints]
    limits = [
        Limit(bound, constraint.target)
        for bound, constraint in zip(bounds, problem.constraints, strict=True)
        if bound is not None
    ]
    return limits if len(limits) == len(bounds) else None


def select_exactly(
    wanted: Array, limits: Sequence[Limit], banned: Sequence[Indices] = (), min_utilisation: float | None = None
) -> Indices | None:
    """(L,) the network of the highest score within the bounds, of equals the one of lower cost; None without any."""
    cuts = _Cuts(limits, (wanted.shape[0], wanted.shape[1]), banned)
    first = limits[0].bound
    if min_utilisation is not None:
        # To a thousandth: proving which of many networks is nearest to a limit takes minutes and is not needed.
        highest = cuts.maximise(first.cost, gap=1e-3)
        if highest is None:
            return None
        most = first.constant + _total(first.cost, highest)
        cuts.add(-first.cost.ravel() / most, (first.constant - min_utilisation * most) / most)
    score = _scaled(wanted)
    best = cuts.maximise(score)
    if best is None:
        return None
    least = _total(score, best) - _TIE * _SCALE
    lowest = cuts.maximise(_scaled(-first.cost), at_least=(score, least))
    return best if lowest is None else lowest


def _scaled(score: Array) -> Array:
    """Each layer from 0 down, the whole spanning `_SCALE`: the same order of networks, well above the solver's 1e-6."""
    below = score - score.max(axis=1, keepdims=True)
    found: Array = below * (_SCALE / max(-float(below.min()), 1e-300))
    return found


def _total(score: Array, indices: Indices) -> float:
    return float(score[np.arange(len(score)), indices].sum())


class _Cuts:
    """The linear relaxation of the bounds, refined wherever a solution breaks one of them."""

    def __init__(self, limits: Sequence[Limit], shape: tuple[int, int], banned: Sequence[Indices] = ()) -> None:
        self.limits, self.shape = limits, shape
        layers, operators = shape
        self.one_per_layer = optimize.LinearConstraint(
            sparse.csr_matrix(np.kron(np.eye(layers), np.ones(operators))), 1, 1
        )
        self.rows: list[Array] = []
        self.most: list[float] = []  # of each row
        for limit in limits:
            self._cut(limit, np.full(layers * operators, 1 / operators))
        for indices in banned:
            self.ban(indices)

    def add(self, row: Array, most: float) -> None:
        """row . x <= most"""
        self.rows.append(row)
        self.most.append(most)

    def ban(self, indices: Indices) -> None:
        layers, operators = self.shape
        self.add(np.eye(operators)[indices].ravel(), layers - 1.0)

    def maximise(
        self, score: Array, at_least: tuple[Array, float] | None = None, *, gap: float = 0.0
    ) -> Indices | None:
        """(L,) the network of the highest score within every bound; None when there is none.

        Args:
            at_least: (score, limit) that the network must reach too.
            gap: relative distance to the optimum that is accepted.
        """
        layers, operators = self.shape
        for _ in range(_MOST_CUTS):
            constraints = [self.one_per_layer, optimize.LinearConstraint(np.stack(self.rows), -np.inf, self.most)]
            if at_least is not None:
                constraints.append(optimize.LinearConstraint(at_least[0].reshape(1, -1), at_least[1], np.inf))
            with stdout_to_stderr():  # HiGHS prints to descriptor 1 now and then
                solved = optimize.milp(
                    -score.ravel(), integrality=np.ones(score.size, dtype=np.int64), bounds=optimize.Bounds(0, 1),
                    constraints=constraints, options={"mip_rel_gap": gap},
                )  # fmt: skip
            if solved.status == 2:
                return None
            if solved.x is None:
                raise LightnasEdgeError(f"the selection could not be solved: {solved.message}")
            chosen: Indices = solved.x.reshape(layers, operators).argmax(axis=1)
            x = np.eye(operators)[chosen].ravel()
            broken = [limit for limit in self.limits if limit.bound.at(x)[0] > limit.target]
            for limit in broken:
                self._cut(limit, x)
            if not broken and (at_least is None or _total(at_least[0], chosen) >= at_least[1]):
                return chosen
            # The solver keeps limits to about one in 10^6; a network that is over by less is named and left out.
            self.ban(chosen)
        raise LightnasEdgeError(
            f"the selection did not settle within {_MOST_CUTS} cuts", hint="choose without --confidence"
        )

    def _cut(self, limit: Limit, x: Array) -> None:
        """The tangent at x, in units of the target; the bound is convex, so it holds wherever the bound does."""
        value, slope = limit.bound.at(x)
        self.add(slope / limit.target, (limit.target - value + float(slope @ x)) / limit.target)

"""The exact optimum under convex bounds: by listing (listing.py), else by mixed-integer linear programming.

An upper bound at a confidence, mean + z * deviation, is not linear but convex in the one-hot: a mixture or a network that breaks
it is cut off by the bound's tangent there, which no network that keeps the bound violates. Cuts around the best mixture of
operators take a linear program each, milliseconds. Where the networks that may be the best are too many to list, integer
programs follow, one binary for each layer and operator: every cut removes at least one of finitely many networks, so the loop
ends, and what it ends with is the optimum.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import optimize

from lightnas_edge.errors import LightnasEdgeError
from lightnas_edge.predictor import ConvexBound
from lightnas_edge.search._descriptors import stdout_to_stderr
from lightnas_edge.search.listing import Relaxation, TooManyError, best_listed
from lightnas_edge.search.problem import Array, Indices, Problem

_SCALE = 1e3  # range of the scores that the solver sees
_TIE = 1e-9  # scores this close, relative to their range, are a tie
_MOST_CUTS = 500
_NEAR = 1e-4  # a mixture may exceed a limit by this share
_ROUNDING = 1e-9


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
    if any(limit.target < limit.bound.least for limit in limits):
        return None
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
    relaxation = cuts.relax(score)
    if relaxation is None:
        return None
    try:
        return best_listed(score, first.cost, relaxation, cuts.allow, _TIE * _SCALE)
    except TooManyError:
        return _by_integer_programs(cuts, score, first.cost)


def _by_integer_programs(cuts: _Cuts, score: Array, cost: Array) -> Indices | None:
    best = cuts.maximise(score)
    if best is None:
        return None
    least = _total(score, best) - _TIE * _SCALE
    lowest = cuts.maximise(_scaled(-cost), at_least=(score, least))
    return best if lowest is None else lowest


def _scaled(score: Array) -> Array:
    """Each layer from 0 down, the whole spanning `_SCALE`: the same order of networks, well above the solver's 1e-6."""
    below = score - score.max(axis=1, keepdims=True)
    found: Array = below * (_SCALE / max(-float(below.min()), 1e-300))
    return found


def _total(score: Array, indices: Indices) -> float:
    return float(score[np.arange(len(score)), indices].sum())


class _Cuts:
    """Linear limits: rules that hold exactly, and tangents of the bounds, refined wherever a solution breaks one of them."""

    def __init__(self, limits: Sequence[Limit], shape: tuple[int, int], banned: Sequence[Indices] = ()) -> None:
        self.limits, self.shape = limits, shape
        layers, operators = shape
        self.one_per_layer: Array = np.asarray(np.kron(np.eye(layers), np.ones(operators)), dtype=np.float64)
        self.rules: list[tuple[Array, float]] = []  # row . x <= most
        self.tangents: list[tuple[Array, float]] = []
        for limit in limits:
            self._cut(limit, np.full(layers * operators, 1 / operators))
        for indices in banned:
            self.ban(indices)

    def add(self, row: Array, most: float) -> None:
        """row . x <= most"""
        self.rules.append((row, most))

    def ban(self, indices: Indices) -> None:
        layers, operators = self.shape
        self.add(np.eye(operators)[indices].ravel(), layers - 1.0)

    def allow(self, indices: Indices) -> NDArray[np.bool_]:
        """(n,) whether networks keep every bound and rule, from their (n, L) indices."""
        found = np.ones(len(indices), dtype=np.bool_)
        for limit in self.limits:
            found &= limit.bound.values(indices) <= limit.target
        one_hot = np.eye(self.shape[1])[indices].reshape(len(indices), -1)
        for row, most in self.rules:
            found &= one_hot @ row <= most + _ROUNDING
        return found

    def relax(self, score: Array) -> Relaxation | None:
        """The best mixture of operators, with cuts added until it nearly keeps the bounds; None: there is none."""
        for _ in range(_MOST_CUTS):
            rows, most = self._rows()
            solved = optimize.linprog(
                -score.ravel(),
                A_ub=rows,
                b_ub=most,
                A_eq=self.one_per_layer,
                b_eq=np.ones(self.shape[0]),
                bounds=(0, 1),
            )
            if solved.status == 2:
                return None
            if solved.x is None:
                raise LightnasEdgeError(f"the selection could not be solved: {solved.message}")
            broken = [limit for limit in self.limits if limit.bound.at(solved.x)[0] > limit.target * (1 + _NEAR)]
            if not broken:
                break
            for limit in broken:
                self._cut(limit, solved.x)
        price = np.maximum(-solved.ineqlin.marginals, 0.0)  # any price that is not negative gives a bound
        priced = score - (price @ rows).reshape(self.shape)
        highest = priced.max(axis=1, keepdims=True)
        return Relaxation(float(price @ most + highest.sum()), highest - priced)

    def maximise(
        self, score: Array, at_least: tuple[Array, float] | None = None, *, gap: float = 0.0
    ) -> Indices | None:
        """(L,) the network of the highest score within every bound, by integer programs; None when there is none.

        Args:
            at_least: (score, limit) that the network must reach too.
            gap: relative distance to the optimum that is accepted.
        """
        layers, operators = self.shape
        for _ in range(_MOST_CUTS):
            constraints = [
                optimize.LinearConstraint(self.one_per_layer, 1, 1),
                optimize.LinearConstraint(self._rows()[0], -np.inf, self._rows()[1]),
            ]
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

    def _rows(self) -> tuple[Array, Array]:
        rows = [*self.rules, *self.tangents]
        return np.stack([row for row, _ in rows]), np.array([most for _, most in rows])

    def _cut(self, limit: Limit, x: Array) -> None:
        """The tangent at x, in units of the target; the bound is convex, so it holds wherever the bound does."""
        value, slope = limit.bound.at(x)
        self.tangents.append((slope / limit.target, (limit.target - value + float(slope @ x)) / limit.target))

"""The network to deploy: of all that keep every budget under its predictor, the one with the highest sum of scores.

With linear predictors the problem is a mixed-integer linear program: one binary per (layer, operator), solved to the
end. An upper bound at a confidence, mean + z * deviation, is not linear but convex in the one-hot: a network that
breaks the true bound is cut off by the bound's tangent there, which no network that keeps the bound violates. Every cut
removes at least one of finitely many networks, so the loop ends, and what it ends with is the exact optimum. With the
MLP no such cut exists: the linear problem is solved around the best network so far, each answer is checked by the
predictor itself, and single and double changes are tried at the end; `exact` is then False.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, sparse

from lightnas_edge.errors import BudgetError, InfeasibleBudgetError, LightnasEdgeError
from lightnas_edge.predictor import ConvexBound, reachable_range
from lightnas_edge.predictor.base import neighbours, one_hot_of
from lightnas_edge.search._descriptors import stdout_to_stderr
from lightnas_edge.search.constraints import Constraint, require_one_space
from lightnas_edge.space import Architecture, Space

Array = NDArray[np.float64]
Indices = NDArray[np.int64]

_FLOOR = 50.0  # scores are clipped this far below the best of their layer, which keeps the numbers well scaled
_SCALE = 1e3  # range of the scores that the solver sees
_TIE = 1e-9  # scores this close, relative to their range, are a tie
_MOST_CUTS = 500
_MOST_STEPS = 30  # of the linearisation around an MLP


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
    wanted = np.maximum(wanted, wanted.max(axis=1, keepdims=True) - _FLOOR)
    banned = [architecture.indices(space) for architecture in exclude]
    bounds = [constraint.predictor.convex_bound(confidence) for constraint in constraints]
    limits = [
        _Limit(bound, constraint.target)
        for bound, constraint in zip(bounds, constraints, strict=True)
        if bound is not None
    ]
    exact = len(limits) == len(constraints)
    if exact:
        chosen = _select_exactly(wanted, limits, banned, min_utilisation)
    else:
        chosen = _select_by_steps(wanted, space, constraints, confidence, banned, min_utilisation)
    if chosen is None:
        raise _infeasible(space, constraints, confidence, exact, len(banned))
    one_hot = one_hot_of(space, chosen[None])
    predictors = [constraint.predictor for constraint in constraints]
    return Selection(
        Architecture.from_indices(space, chosen),
        tuple(float(predictor.predict(one_hot)[0]) for predictor in predictors),
        None
        if confidence is None
        else tuple(float(predictor.upper(one_hot, confidence)[0]) for predictor in predictors),
        float(np.asarray(scores)[np.arange(shape[0]), chosen].sum()),
        exact,
    )


def check_budget(space: Space, constraints: Sequence[Constraint], confidence: float | None = None) -> None:
    """Check, before anything is trained, that a network of the space keeps the budgets.

    Raises:
        BudgetError, InfeasibleBudgetError: as `select`.
    """
    select(space, np.zeros((len(space.layers), len(space.operators))), constraints, confidence)


# -- linear predictors: exact --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Limit:
    """What a network's bound may reach."""

    bound: ConvexBound
    target: float


def _select_exactly(
    wanted: Array, limits: Sequence[_Limit], banned: Sequence[Indices] = (), min_utilisation: float | None = None
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

    def __init__(self, limits: Sequence[_Limit], shape: tuple[int, int], banned: Sequence[Indices] = ()) -> None:
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

    def _cut(self, limit: _Limit, x: Array) -> None:
        """The tangent at x, in units of the target; the bound is convex, so it holds wherever the bound does."""
        value, slope = limit.bound.at(x)
        self.add(slope / limit.target, (limit.target - value + float(slope @ x)) / limit.target)


# -- other predictors: searched, and checked by the predictor itself ----------------------------------------------


def _select_by_steps(
    wanted: Array,
    space: Space,
    constraints: Sequence[Constraint],
    confidence: float | None,
    banned: Sequence[Indices] = (),
    min_utilisation: float | None = None,
) -> Indices | None:
    """Linearise, solve, check, tighten; then single and double changes. Never above a target."""
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
        limits = [_Limit(ConvexBound(*model), 1 - less) for model, less in zip(models, tightening, strict=True)]
        found = _select_exactly(wanted, limits, banned, min_utilisation) if (tightening < 1).all() else None
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
            better = moves[gains > _TIE]
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


def _infeasible(
    space: Space, constraints: Sequence[Constraint], confidence: float | None, exact: bool, banned: int
) -> InfeasibleBudgetError:
    """Says which budget cannot be kept, or which can be kept alone and not together."""
    if banned and _possible(space, constraints, confidence):
        return InfeasibleBudgetError(f"no further network of space {space.name} keeps {_listed(constraints)}")
    surely = "" if confidence is None else f" with {100 * confidence:g} % confidence"
    found = "keeps" if exact else "was found to keep"
    for constraint in constraints:
        if len(constraints) > 1 and _possible(space, [constraint], confidence):
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
        hint="\n".join(_trade_offs(space, constraints, confidence)) or "loosen one of them",
    )


def _listed(constraints: Sequence[Constraint]) -> str:
    return " and ".join(map(str, constraints))


def _possible(space: Space, constraints: Sequence[Constraint], confidence: float | None) -> bool:
    try:
        check_budget(space, constraints, confidence)
    except InfeasibleBudgetError:
        return False
    return True


def _trade_offs(space: Space, constraints: Sequence[Constraint], confidence: float | None) -> list[str]:
    """For every budget: the lowest value that a network needs that keeps all the others."""
    lines = []
    for constraint in constraints:
        others = [other for other in constraints if other is not constraint]
        linear = constraint.predictor.linear_terms()
        if linear is None or not _possible(space, others, confidence):
            continue
        lowest = select(space, -linear[1], others, confidence).architecture.one_hot(space)[None]
        predictor = constraint.predictor
        needed = float((predictor.predict(lowest) if confidence is None else predictor.upper(lowest, confidence))[0])
        lines.append(f"with {_listed(others)}, {constraint.metric} needs about {1.001 * needed:.4g} {constraint.unit}")
    return lines

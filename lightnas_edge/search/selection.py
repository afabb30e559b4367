"""The network to deploy: of all that keep the budget under the predictor, the one the search prefers most.

With a linear predictor the problem is a mixed-integer linear program: one binary per (layer, operator), solved to the
end. An upper bound at a confidence, mean + z * deviation, is not linear but convex in the one-hot: a network that
breaks the true bound is cut off by the bound's tangent there, which no network that keeps the bound violates. Every cut
removes at least one of finitely many networks, so the loop ends, and what it ends with is the exact optimum. With the
MLP no such cut exists: the linear problem is solved around the best network so far, each answer is checked by the
predictor itself, and single and double changes are tried in the end; `exact` is then False.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, sparse

from lightnas_edge.errors import BudgetError, InfeasibleBudgetError, LightnasEdgeError
from lightnas_edge.predictor import AdditivePredictor, Predictor, reachable_range
from lightnas_edge.predictor.base import neighbours, one_hot_of
from lightnas_edge.space import Architecture, Space

Array = NDArray[np.float64]

_FLOOR = 50.0  # log-probabilities are cut off this far below their layer's best: e^-50 is never, and keeps numbers sane
_SCALE = 1e3  # range of the scores that the solver sees
_SAME = 1e-9  # preferences this near, relative to their range, are a tie
_MOST_CUTS = 500
_MOST_STEPS = 30  # of the linearisation around an MLP


@dataclass(frozen=True)
class Selection:
    """The chosen network.

    `upper` is the predictor's one-sided bound at the confidence asked for, None when none was asked for.
    `preference` is the sum of the chosen log-probabilities. `exact`: no network of the space within the budget is
    preferred more; False when that was searched for rather than proven.
    """

    architecture: Architecture
    predicted: float
    upper: float | None
    preference: float
    exact: bool


def select(
    space: Space,
    preference: NDArray[np.floating[Any]],
    predictor: Predictor,
    target: float,
    confidence: float | None = None,
) -> Selection:
    """The most preferred network whose prediction (its upper bound, with a confidence) does not exceed the target.

    Of equally preferred networks the cheaper one is taken.

    Args:
        preference: (L, K) log-probabilities of the search.
        target: in the predictor's unit.
        confidence: between 0.5 and 1: a measurement shall keep the target with this probability.

    Raises:
        BudgetError: the target is not a positive, finite number.
        InfeasibleBudgetError: no network keeps it; the message has the reachable range.
    """
    check_target(target)
    if confidence is not None and not 0.5 <= confidence < 1:
        raise BudgetError(f"a confidence for a budget lies from 0.5 up to 1, found {confidence}")
    wanted = np.asarray(preference, dtype=np.float64)
    shape = len(space.layers), len(space.operators)
    if wanted.shape != shape or np.isnan(wanted).any():
        raise LightnasEdgeError(f"preferences are {shape} numbers for space {space.name}, found {wanted.shape} or nan")
    wanted = np.maximum(wanted, wanted.max(axis=1, keepdims=True) - _FLOOR)
    linear = predictor.linear_terms()
    if linear is None or (confidence is not None and not isinstance(predictor, AdditivePredictor)):
        chosen, exact = _select_by_steps(wanted, predictor, target, confidence), False
    else:
        factor, noise = _uncertainty(predictor) if confidence is not None else (None, 0.0)
        bound = _Bound(
            linear[0], linear[1], 0.0 if confidence is None else predictor.quantile(confidence), factor, noise
        )
        chosen, exact = _select_exactly(wanted, bound, target), True
    if chosen is None:
        raise _infeasible(space, predictor, target, confidence, exact)
    one_hot = one_hot_of(space, chosen[None])
    return Selection(
        Architecture.from_indices(space, chosen),
        float(predictor.predict(one_hot)[0]),
        None if confidence is None else float(predictor.upper(one_hot, confidence)[0]),
        float(np.asarray(preference)[np.arange(shape[0]), chosen].sum()),
        exact,
    )


def check_budget(predictor: Predictor, target: float, confidence: float | None = None) -> None:
    """Whether any network of the predictor's space keeps the budget; for asking before anything is trained.

    Raises:
        BudgetError, InfeasibleBudgetError: as `select`.
    """
    space = predictor.space
    select(space, np.zeros((len(space.layers), len(space.operators))), predictor, target, confidence)


def check_target(target: float) -> None:
    """Raises BudgetError unless the target is a positive, finite number."""
    if not (isinstance(target, (int, float)) and math.isfinite(target) and target > 0):
        raise BudgetError(f"a budget is a positive number of milliseconds, found {target!r}")


# -- linear predictors: exact --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Bound:
    """constant + cost.x + z * sqrt(|[1, x] @ factor|^2 + noise^2), convex in the flat one-hot x."""

    constant: float
    cost: Array  # (L, K)
    z: float
    factor: Array | None  # (1 + L*K, R)
    noise: float

    def at(self, x: Array) -> tuple[float, Array]:
        """Value and gradient."""
        value, slope = self.constant + float(self.cost.ravel() @ x), self.cost.ravel()
        if self.z == 0 or self.factor is None:
            return value, slope
        along = self.factor[0] + x @ self.factor[1:]
        deviation = math.sqrt(float(along @ along) + self.noise**2)
        if deviation == 0:
            return value, slope
        return value + self.z * deviation, slope + self.z / deviation * (self.factor[1:] @ along)


def _uncertainty(predictor: Predictor) -> tuple[Array | None, float]:
    if not isinstance(predictor, AdditivePredictor):
        return None, 0.0
    return predictor.factor, predictor.noise


def _select_exactly(wanted: Array, bound: _Bound, target: float) -> NDArray[np.int64] | None:
    """(L,) the most preferred network within the bound, the cheaper of equals; None when there is none."""
    cuts = _Cuts(bound, target, (wanted.shape[0], wanted.shape[1]))
    score = _scaled(wanted)
    best = cuts.maximise(score)
    if best is None:
        return None
    least = _total(score, best) - _SAME * _SCALE
    cheapest = cuts.maximise(_scaled(-bound.cost), at_least=(score, least))
    return best if cheapest is None else cheapest


def _scaled(score: Array) -> Array:
    """Each layer from 0 down, the whole spanning `_SCALE`: the same order of networks, well above the solver's 1e-6."""
    below = score - score.max(axis=1, keepdims=True)
    found: Array = below * (_SCALE / max(-float(below.min()), 1e-300))
    return found


def _total(score: Array, indices: NDArray[np.int64]) -> float:
    return float(score[np.arange(len(score)), indices].sum())


class _Cuts:
    """The linear relaxation of the bound, refined wherever a solution breaks the bound itself."""

    def __init__(self, bound: _Bound, target: float, shape: tuple[int, int]) -> None:
        self.bound, self.target, self.shape = bound, target, shape
        layers, operators = shape
        self.one_per_layer = optimize.LinearConstraint(
            sparse.csr_matrix(np.kron(np.eye(layers), np.ones(operators))), 1, 1
        )
        self.rows: list[Array] = []
        self.limits: list[float] = []
        self._cut(np.full(layers * operators, 1 / operators))

    def maximise(self, score: Array, at_least: tuple[Array, float] | None = None) -> NDArray[np.int64] | None:
        layers, operators = self.shape
        for _ in range(_MOST_CUTS):
            constraints = [self.one_per_layer, optimize.LinearConstraint(np.stack(self.rows), -np.inf, self.limits)]
            if at_least is not None:
                constraints.append(optimize.LinearConstraint(at_least[0].reshape(1, -1), at_least[1], np.inf))
            solved = optimize.milp(
                -score.ravel(), integrality=np.ones(score.size, dtype=np.int64), bounds=optimize.Bounds(0, 1),
                constraints=constraints, options={"mip_rel_gap": 0.0},
            )  # fmt: skip
            if solved.status == 2:
                return None
            if solved.x is None:
                raise LightnasEdgeError(f"the selection could not be solved: {solved.message}")
            chosen = solved.x.reshape(layers, operators).argmax(axis=1)
            x = np.zeros((layers, operators))
            x[np.arange(layers), chosen] = 1.0
            if self.bound.at(x.ravel())[0] > self.target:
                self._cut(x.ravel())
            elif at_least is None or _total(at_least[0], chosen) >= at_least[1]:
                found: NDArray[np.int64] = chosen
                return found
            # The solver keeps limits to about one in 10^6; a network that is over by less is named and left out.
            self.rows.append(x.ravel())
            self.limits.append(layers - 1.0)
        raise LightnasEdgeError(
            f"the selection did not settle within {_MOST_CUTS} cuts", hint="choose without --confidence"
        )

    def _cut(self, x: Array) -> None:
        """The tangent at x, in units of the target; the bound is convex, so it holds wherever the bound does."""
        value, slope = self.bound.at(x)
        self.rows.append(slope / self.target)
        self.limits.append((self.target - value + float(slope @ x)) / self.target)


# -- other predictors: searched, and checked by the predictor itself ----------------------------------------------


def _select_by_steps(
    wanted: Array, predictor: Predictor, target: float, confidence: float | None
) -> NDArray[np.int64] | None:
    """Linearise, solve, check, tighten; then single and double changes. Never above the target."""
    space = predictor.space
    layers, operators = wanted.shape

    def value(indices: NDArray[np.int64]) -> Array:
        one_hot = one_hot_of(space, indices)
        return predictor.predict(one_hot) if confidence is None else predictor.upper(one_hot, confidence)

    def worth(indices: NDArray[np.int64]) -> Array:
        total: Array = wanted[np.arange(layers), indices].sum(axis=1)
        return total

    generator = np.random.default_rng(0)
    around = generator.integers(operators, size=(40 * layers * operators, layers))
    constant, cost = _linear_fit(space, around, value(around))
    best: NDArray[np.int64] | None = None
    tightening = 0.0
    for _ in range(_MOST_STEPS):
        limit = target - tightening
        found = _select_exactly(wanted, _Bound(constant, cost, 0.0, None, 0.0), limit) if limit > 0 else None
        if found is None:
            break
        truth = float(value(found[None])[0])
        if truth <= target:
            if best is None or worth(found[None])[0] > worth(best[None])[0]:
                best = found
            near = neighbours(space, found)
            centred_constant, cost = _local_fit(space, found, near, value, constant, cost)
            if centred_constant == constant:
                break
            constant, tightening = centred_constant, 0.0
        else:
            tightening += max(truth - target, 1e-6 * target)
    if best is None:
        cheapest = reachable_range(predictor).cheapest.indices(space)
        if value(cheapest[None])[0] > target:
            return None
        best = cheapest
    improved = True
    while improved:
        improved = False
        for moves in (neighbours(space, best), _double_changes(space, best)):
            gains = worth(moves) - worth(best[None])[0]
            better = moves[gains > _SAME]
            better = better[value(better) <= target] if len(better) else better
            if len(better):
                best, improved = better[worth(better).argmax()], True
                break
    return best


def _linear_fit(space: Space, indices: NDArray[np.int64], values: Array) -> tuple[float, Array]:
    """Least squares: (constant, (L, K) cost), the costs centred by the smallest norm."""
    flat = one_hot_of(space, indices).reshape(len(indices), -1)
    middle = float(values.mean())
    cost = np.asarray(np.linalg.lstsq(flat, values - middle, rcond=None)[0], dtype=np.float64)
    return middle, cost.reshape(len(space.layers), len(space.operators))


def _local_fit(
    space: Space, centre: NDArray[np.int64], near: NDArray[np.int64], value: Any, constant: float, cost: Array
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


def _double_changes(space: Space, indices: NDArray[np.int64]) -> NDArray[np.int64]:
    """Every architecture that differs in exactly two layers."""
    single = neighbours(space, indices)
    layer = (single != indices).argmax(axis=1)
    first, second = np.nonzero(layer[:, None] < layer[None, :])
    found = single[first].copy()
    rows = np.arange(len(found))
    found[rows, layer[second]] = single[second, layer[second]]
    return found


def _infeasible(
    space: Space, predictor: Predictor, target: float, confidence: float | None, exact: bool
) -> InfeasibleBudgetError:
    reach, unit = reachable_range(predictor), predictor.unit
    surely = "" if confidence is None else f" with {100 * confidence:g} % confidence"
    bound = ""
    if confidence is not None:
        upper = float(predictor.upper(reach.cheapest.one_hot(space)[None], confidence)[0])
        bound = f"; the cheapest network's upper bound is {upper:.4g} {unit}"
    found = "keeps" if exact else "was found to keep"
    return InfeasibleBudgetError(
        f"no network of space {space.name} {found} {target:g} {unit}{surely}: "
        f"they reach from {reach.lowest:.4g} to {reach.highest:.4g} {unit}, "
        f"median {reach.median:.4g} {unit}{bound}",
        hint=f"ask for at least {1.02 * reach.lowest:.3g} {unit}, choose a smaller space, or a faster power mode",
    )

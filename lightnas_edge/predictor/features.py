"""Predictors over tables of features: networks or blocks outside our search spaces, from any source.

A row has amounts of *work* (multiplications, bytes, how often an operator occurs), which cost in proportion, and
*traits* (sizes, kernels, strides), which decide how efficiently the work is done. Several models are tried, and the one
with the lowest error on rows held out in turn is kept:

    additive           Bayesian linear regression on the work
    priced work        one price per kind of work, none negative, fitted to relative errors
    gaussian process   the same, and a Gaussian process for the rest: linear, products of pairs, smooth at three scales
    trees              the same, and randomised trees for the rest (scikit-learn's ExtraTreesRegressor); many rows

Intervals are conformal: the model's deviation is scaled until the interval contains the promised share of held-out rows.
`extrapolated` names rows outside the applicability domain, where no held-out row supports the interval.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import linalg, optimize, stats
from sklearn.ensemble import ExtraTreesRegressor
from sklearn.linear_model import BayesianRidge
from sklearn.neighbors import NearestNeighbors

from lightnas_edge.errors import PredictorError
from lightnas_edge.predictor._evidence import JITTER, cholesky, fit_prior_scales
from lightnas_edge.predictor.base import Array
from lightnas_edge.records.predictor import LEAST_DEGREES

ADDITIVE, PRICED, GAUSSIAN, TREES = "additive", "priced work", "gaussian process", "trees"
LEAST_ROWS = 20
_GAUSSIAN_ROWS = 600  # beyond, its cost grows with the cube of the rows
_TREE_ROWS = 300  # below, trees have too little to split
_LARGEST_FACTOR = 1e6  # beyond all measured values; an interval that ends there says that nothing is known
_LEAST_DEVIATION = 0.1  # of a single row, in units of the error of held-out rows
_SCALES = (0.5, 1.5, 4.0)  # of the smooth parts, in units of the spread of all traits together


@dataclass(frozen=True, eq=False)
class Features:
    """n rows.

    Args:
        work: (n, W) amounts, none negative.
        traits: (n, D) numbers; sizes as their logarithms.
    """

    work: Array
    traits: Array

    def __post_init__(self) -> None:
        if self.work.ndim != 2 or self.traits.ndim != 2 or len(self.work) != len(self.traits):
            raise PredictorError(f"work and traits need equal rows, found {self.work.shape} and {self.traits.shape}")
        if not (np.isfinite(self.work).all() and np.isfinite(self.traits).all()):
            raise PredictorError("a feature is not a finite number")
        if (self.work < 0).any():
            raise PredictorError("an amount of work is negative")

    def __len__(self) -> int:
        return len(self.work)

    def take(self, rows: NDArray[np.integer]) -> Features:
        return Features(self.work[rows], self.traits[rows])


class FeaturePredictor:
    """Feature rows -> values, with intervals; made by `fit_features`.

    Attributes:
        method: the model that was chosen.
        errors: of every model that was tried, on rows held out in turn: relative or in the unit of the values.
    """

    def __init__(
        self,
        method: str,
        errors: dict[str, float],
        model: _Model,
        off: Array,
        floor: float,
        relative: bool,
        seen: Features,
        value: Array,
    ):
        self.method = method
        self.errors = errors
        self.relative = relative
        self._model = model
        self._off = np.sort(off)
        self._floor = floor
        self._range = (
            (np.log(value.min() / _LARGEST_FACTOR), np.log(value.max() * _LARGEST_FACTOR)) if relative else None
        )
        self._domain = _Domain(seen)

    def predict(self, features: Features) -> Array:
        """(n,)"""
        centre, _ = self._model.predict(features)
        return self._value(centre)

    def interval(self, features: Features, confidence: float = 0.9) -> tuple[Array, Array]:
        """(low (n,), high (n,)): a measurement lies between them with this probability, inside the applicability domain."""
        centre, deviation = self._model.predict(features)
        rank = min(int(np.ceil((len(self._off) + 1) * confidence)), len(self._off)) - 1
        half = float(self._off[rank]) * np.maximum(deviation, self._floor)
        return self._value(centre - half), self._value(centre + half)

    def _value(self, found: Array) -> Array:
        """Of logarithms where errors are relative; far from all rows these may exceed what a number can be."""
        return found if self._range is None else np.exp(np.clip(found, *self._range))

    def extrapolated(self, features: Features) -> NDArray[np.bool_]:
        """(n,): True outside the applicability domain."""
        return self._domain.extrapolated(features)


def fit_features(
    features: Features, value: Array, *, relative: bool = True, seed: int = 0, folds: int = 5, method: str | None = None
) -> FeaturePredictor:
    """The model with the lowest error on rows held out in turn, fitted to all rows.

    Args:
        value: (n,) measured; above 0 where errors are relative.
        relative: fit and select by relative errors (MAPE), else by absolute ones (RMSE).
        method: name of a model; None selects one.

    Raises:
        PredictorError: too few rows, or values at or below 0 with relative errors.
    """
    value = np.asarray(value, dtype=np.float64)
    if len(value) != len(features) or not np.isfinite(value).all():
        raise PredictorError(
            f"expected {len(features)} finite values, found {np.isfinite(value).sum()} of {len(value)}"
        )
    if len(value) < LEAST_ROWS:
        raise PredictorError(f"at least {LEAST_ROWS} rows are needed, found {len(value)}")
    if relative and (value <= 0).any():
        raise PredictorError("relative errors need values above 0", hint="relative=False selects by absolute errors")
    models = _models(len(value), relative, seed)
    if method is not None:
        if method not in models:
            raise PredictorError(f"no such model for these rows: {method!r}", hint=f"choose from: {', '.join(models)}")
        models = {method: models[method]}
    fold_of = np.random.default_rng(seed).permutation(len(value)) % folds
    target = np.log(value) if relative else value
    errors, off, floors = dict[str, float](), dict[str, Array](), dict[str, float]()
    for name, make in models.items():
        centre, deviation = np.zeros(len(value)), np.ones(len(value))
        for fold in range(folds):
            held_out, seen = np.flatnonzero(fold_of == fold), np.flatnonzero(fold_of != fold)
            model = make().fit(features.take(seen), value[seen])
            centre[held_out], deviation[held_out] = model.predict(features.take(held_out))
        # A model that has nearly as many parameters as rows may be sure of a row and far off: its ratio has no bound.
        floors[name] = _LEAST_DEVIATION * float(np.sqrt(np.mean((target - centre) ** 2))) or 1e-9
        off[name] = np.abs(target - centre) / np.maximum(deviation, floors[name])
        errors[name] = (
            float(np.mean(np.abs(np.exp(centre) / value - 1)))
            if relative
            else float(np.sqrt(np.mean((centre - value) ** 2)))
        )
    best = min(errors, key=lambda name: errors[name])
    model = models[best]().fit(features, value)
    return FeaturePredictor(best, errors, model, off[best], floors[best], relative, features, value)


class _Model(Protocol):
    """`predict` gives (n,) centre and (n,) deviation, of the logarithm where errors are relative."""

    def fit(self, features: Features, value: Array) -> _Model: ...

    def predict(self, features: Features) -> tuple[Array, Array]: ...


def _models(rows: int, relative: bool, seed: int) -> dict[str, Callable[[], _Model]]:
    first: Callable[[], _Model] = _Priced if relative else _Additive
    found: dict[str, Callable[[], _Model]] = {PRICED if relative else ADDITIVE: first}
    if rows <= _GAUSSIAN_ROWS:
        found[GAUSSIAN] = lambda: _Rest(first(), relative, _Smooth())
    if rows >= _TREE_ROWS:
        found[TREES] = lambda: _Rest(first(), relative, _Trees(seed))
    return found


class _Additive:
    def fit(self, features: Features, value: Array) -> _Additive:
        self._size = features.work.max(axis=0, initial=0.0)
        self._size[self._size == 0] = 1.0
        self._linear = BayesianRidge().fit(features.work / self._size, value)
        return self

    def predict(self, features: Features) -> tuple[Array, Array]:
        centre, deviation = self._linear.predict(features.work / self._size, return_std=True)
        return centre, deviation


class _Priced:
    def fit(self, features: Features, value: Array) -> _Priced:
        self._size = features.work.max(axis=0, initial=0.0)
        self._size[self._size == 0] = 1.0
        work = features.work / self._size
        self._price, _ = optimize.nnls(work / value[:, None], np.ones(len(value)))
        self._least = 0.1 * float(value.min())  # work of no price at all still takes time
        return self

    def predict(self, features: Features) -> tuple[Array, Array]:
        """The deviation is one for all rows, so that intervals are as wide as the errors of held-out rows."""
        total = np.log(np.maximum(features.work / self._size @ self._price, self._least))
        return total, np.ones(len(total))


class _Rest:
    """A first model, and another for what it leaves."""

    def __init__(self, first: _Model, relative: bool, rest: _Smooth | _Trees) -> None:
        self._first, self._relative, self._rest = first, relative, rest

    def fit(self, features: Features, value: Array) -> _Rest:
        centre, _ = self._first.fit(features, value).predict(features)
        self._rest.fit(features, centre, (np.log(value) if self._relative else value) - centre)
        return self

    def predict(self, features: Features) -> tuple[Array, Array]:
        centre, _ = self._first.predict(features)
        rest, deviation = self._rest.predict(features, centre)
        return centre + rest, deviation


class _Trees:
    def __init__(self, seed: int) -> None:
        self._trees = ExtraTreesRegressor(120, min_samples_leaf=2, random_state=seed)

    def fit(self, features: Features, centre: Array, rest: Array) -> None:
        self._trees.fit(self._inputs(features, centre), rest)
        self._floor = 0.2 * float(np.std(rest)) or 1e-9

    def predict(self, features: Features, centre: Array) -> tuple[Array, Array]:
        inputs = self._inputs(features, centre)
        each = np.stack([tree.predict(inputs) for tree in self._trees.estimators_])
        return each.mean(axis=0), np.hypot(each.std(axis=0), self._floor)

    def _inputs(self, features: Features, centre: Array) -> NDArray[np.float32]:
        return np.column_stack([features.traits, centre]).astype(np.float32)


class _Smooth:
    """Gaussian process with kernels: constant, linear in the work, products of pairs of it, smooth in traits and work."""

    def fit(self, features: Features, centre: Array, rest: Array) -> None:
        self._scaling = _Scaling(features)
        self._unit = float(np.std(rest)) or 1.0
        self._seen = self._scaling.inputs(features)
        kernels = [*_kernels(self._seen, self._seen), np.eye(len(rest))]
        defaults = [1.0, 1.0, 0.3, *([0.3] * len(_SCALES)), 0.1]
        self._scales = fit_prior_scales(
            kernels, rest / self._unit, np.zeros(len(rest)), defaults, [20.0] * len(kernels)
        )
        self._factor = cholesky(_mixed(self._scales, kernels) + JITTER * np.eye(len(rest)))
        self._solved = linalg.cho_solve(self._factor, rest / self._unit)

    def predict(self, features: Features, centre: Array) -> tuple[Array, Array]:
        inputs = self._scaling.inputs(features)
        cross = _mixed(self._scales, _kernels(inputs, self._seen))
        work = inputs[0]
        length = (work**2).sum(axis=1)
        own = _mixed(self._scales, [np.ones(len(work)), length, length**2, *([np.ones(len(work))] * len(_SCALES)), 1.0])
        variance = own - np.einsum("ij,ji->i", cross, linalg.cho_solve(self._factor, cross.T))
        return self._unit * (cross @ self._solved), self._unit * np.sqrt(np.maximum(variance, JITTER))


class _Scaling:
    """Columns by their mean and spread, divided so that two random rows are about one apart."""

    def __init__(self, features: Features) -> None:
        both = np.column_stack([features.work, features.traits])
        self._centre = [both.mean(axis=0), features.work.mean(axis=0)]
        self._spread = [np.where(values > 0, values, 1.0) for values in (both.std(axis=0), features.work.std(axis=0))]

    def inputs(self, features: Features) -> tuple[Array, Array]:
        """(n, W) work, (n, W + D) work and traits."""
        work = (features.work - self._centre[1]) / self._spread[1] / np.sqrt(max(features.work.shape[1], 1))
        both = np.column_stack([features.work, features.traits])
        return work, (both - self._centre[0]) / self._spread[0] / np.sqrt(both.shape[1])


def _kernels(rows: tuple[Array, Array], columns: tuple[Array, Array]) -> list[Array]:
    linear = rows[0] @ columns[0].T
    return [np.ones_like(linear), linear, linear**2, *(_matern(rows[1], columns[1], scale) for scale in _SCALES)]


def _matern(rows: Array, columns: Array, scale: float) -> Array:
    """Matérn kernel of order 3/2: continuous, once differentiable, as times are that have floors and steps."""
    squared = (rows**2).sum(axis=1)[:, None] + (columns**2).sum(axis=1) - 2 * rows @ columns.T
    distance = np.sqrt(3 * np.maximum(squared, 0)) / scale
    found: Array = (1 + distance) * np.exp(-distance)
    return found


def _mixed(scales: Array, kernels: Sequence[Array | float]) -> Array:
    total: Array = sum(scale**2 * kernel for scale, kernel in zip(scales, kernels, strict=False))
    return total


class _Domain:
    """The applicability domain: between the extremes of every feature, and near a measured row."""

    def __init__(self, seen: Features) -> None:
        self._low, self._high = seen.traits.min(axis=0), seen.traits.max(axis=0)
        self._most = seen.work.max(axis=0, initial=0.0)
        spread = seen.traits.std(axis=0)
        self._spread = np.where(spread > 0, spread, 1.0)
        self._near = NearestNeighbors(n_neighbors=2).fit(seen.traits / self._spread)
        apart, _ = self._near.kneighbors(seen.traits / self._spread)
        self._apart = float(apart[:, 1].max())

    def extrapolated(self, features: Features) -> NDArray[np.bool_]:
        slack = 1e-9 * (1 + np.abs(self._high))
        beyond = (features.traits < self._low - slack) | (features.traits > self._high + slack)
        more = features.work > self._most * (1 + 1e-9)
        distance, _ = self._near.kneighbors(features.traits / self._spread, n_neighbors=1)
        found: NDArray[np.bool_] = beyond.any(axis=1) | more.any(axis=1) | (distance[:, 0] > self._apart + 1e-9)
        return found


# -- from one board to another --------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Transfer:
    """Values on a new board, from those on a known one and a few measured.

    Args:
        centre: (n,) logarithm of the value of every row.
        deviation: (n,) of a measurement, of the logarithm.
        measured: rows behind it.
    """

    centre: Array
    deviation: Array
    measured: int

    def predict(self) -> Array:
        return np.exp(self.centre)

    def interval(self, confidence: float = 0.9) -> tuple[Array, Array]:
        half = float(stats.t.ppf((1 + confidence) / 2, max(self.measured - 1, LEAST_DEGREES))) * self.deviation
        return np.exp(self.centre - half), np.exp(self.centre + half)


# Differences between two boards, in logarithms: (default scale, factor of one standard deviation). A block that the known
# board runs at a high rate (work per time) is limited by that work on a weaker one; launch overhead limits both.
_DIFFERENCE = {
    "common": (0.5, 3.0),
    "value": (0.1, 3.0),
    "traits": (0.2, 3.0),
    "rates": (0.2, 3.0),
    "smooth": (0.2, 3.0),
    "noise": (0.04, 3.0),
}


def first_rows(features: Features, known: Array, count: int) -> list[int]:
    """Which rows to measure first on a new board: each reduces the variance of all others the most, before any is measured."""
    covariance = _mixed(*_default_difference(features, known))
    noise = _DIFFERENCE["noise"][0] ** 2
    chosen: list[int] = []
    for _ in range(min(count, len(known))):
        gain = (covariance**2).mean(axis=0) / (np.diag(covariance) + noise)
        gain[chosen] = -1.0
        best = int(gain.argmax())
        chosen.append(best)
        covariance = covariance - np.outer(covariance[:, best], covariance[best]) / (covariance[best, best] + noise)
    return chosen


def fit_transfer(features: Features, known: Array, rows: Sequence[int], value: Array) -> Transfer:
    """A Gaussian process for what the boards differ by, in closed form.

    Args:
        known: (n,) values of all rows on the known board, above 0.
        rows: m positions of those measured on the new board.
        value: (m,) what they showed, above 0.
    """
    places = np.asarray(rows, dtype=np.int64)
    if len(places) == 0 or len(places) != len(value) or (known <= 0).any() or (value <= 0).any():
        raise PredictorError("a transfer needs measured rows, and values above 0 on both boards")
    difference = np.log(value) - np.log(known[places])
    _, kernels = _default_difference(features, known)
    seen = [*(kernel[np.ix_(places, places)] for kernel in kernels), np.eye(len(places))]
    defaults, factors = zip(*_DIFFERENCE.values(), strict=True)
    scales = fit_prior_scales(seen, difference, np.zeros(len(places)), defaults, factors)
    covariance = _mixed(scales, kernels)
    factor = cholesky(_mixed(scales, seen) + JITTER * np.eye(len(places)))
    cross = covariance[places]
    centre = np.log(known) + cross.T @ linalg.cho_solve(factor, difference)
    variance = np.diag(covariance) - np.einsum("ij,ij->j", cross, linalg.cho_solve(factor, cross)) + scales[-1] ** 2
    return Transfer(centre, np.sqrt(np.maximum(variance, JITTER)), len(places))


def _default_difference(features: Features, known: Array) -> tuple[Array, list[Array]]:
    """(scales, kernels (n, n)); the last scale is the noise, which has no kernel here."""
    level = _standard(np.log(known)[:, None])
    traits = _standard(features.traits)
    rates = _standard(features.work / known[:, None])
    place = np.column_stack([traits, level, rates])
    linear = [columns @ columns.T for columns in (np.ones((len(known), 1)), level, traits, rates)]
    return np.array([scale for scale, _ in _DIFFERENCE.values()]), [*linear, _matern(place, place, 1.5)]


def _standard(columns: Array) -> Array:
    """Each by its mean and spread, divided so that two random rows are about one apart."""
    spread = columns.std(axis=0)
    found: Array = (columns - columns.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    return found / float(np.sqrt(max(columns.shape[1], 1)))

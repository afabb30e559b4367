"""Models of tables of features, each from rows to values; features.py averages them.

additive           Bayesian linear regression on the work
priced work        one price per kind of work, none negative, fitted to relative errors
power law          Bayesian linear regression of the logarithm on traits and logarithms of work: extrapolates with a constant exponent
gaussian process   the first of these, and a Gaussian process for the rest: linear, products of pairs, smooth at three scales
trees              randomised trees (scikit-learn's ExtraTreesRegressor); constant beyond the measured rows
corrected trees    the first, and randomised trees for the rest; in proportion to the work beyond the measured rows
boosting           the first, and gradient boosting for the rest (HistGradientBoostingRegressor); many rows

Where the work is known in fewer kinds too (`Features.joined`), these models take those, and there is a further one:

corrected trees of separate work        the priced work in all kinds, and randomised trees for the rest

Where the layers of the rows are known, and errors are relative, they have models of their own:

priced layers      one price per kind of work of every kind of layer, in whole tiles, none negative (layer_prices.py)
gaussian process of layers      these, and a Gaussian process for what is particular to layers (layer_process.py)
corrected trees    this process, and randomised trees for what it leaves of rows that it has not seen
boosting           the priced layers, and gradient boosting for the rest; many rows
gaussian process   as above; few rows
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import linalg
from sklearn.ensemble import ExtraTreesRegressor, HistGradientBoostingRegressor
from sklearn.linear_model import BayesianRidge
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # it ships no types

from lightnas_edge.errors import PredictorError
from lightnas_edge.predictor._evidence import JITTER, cholesky, fit_prior_scales
from lightnas_edge.predictor.base import Array, spread_of
from lightnas_edge.predictor.kernels import matern, squared_distances
from lightnas_edge.predictor.layer_prices import LayerPrices
from lightnas_edge.predictor.layer_process import LayerProcess, fit_layer_scales
from lightnas_edge.predictor.layers import Layers
from lightnas_edge.predictor.prices import fit_prices

ADDITIVE, PRICED, GAUSSIAN, TREES = "additive", "priced work", "gaussian process", "trees"
CORRECTED, BOOSTING, POWER = "corrected trees", "boosting", "power law"
SEPARATE = "corrected trees of separate work"
LAYER_PRICES, LAYERS = "priced layers", "gaussian process of layers"
_GAUSSIAN_ROWS = 600  # beyond, its cost grows with the cube of the rows
_MANY_ROWS = 300  # below, boosting has too little to split; beyond, trees alone are worse than those that correct
_FEW_ROWS = 100  # below, they tell prices of sums better than of every kind of layer
_LARGEST_TRAIT = 1e30  # trees compute in single precision
_LENGTHS = (0.5, 1.5, 4.0)  # of the smooth parts, in units of the spread of all traits together


@dataclass(frozen=True, eq=False)
class Features:
    """n rows.

    Args:
        work: (n, W) amounts, none negative.
        traits: (n, D) numbers; sizes as their logarithms.
        layers: of n rows, where they are known; predictions of times and energies are better with them.
        joined: (n, C) the same work in fewer kinds, such as all that is moved, weights or not. Large blocks have few weights, and do not
            tell what these cost: a price of their own may be far off where there are many. For relative errors without layers only.
    """

    work: Array
    traits: Array
    layers: Layers | None = None
    joined: Array | None = None

    def __post_init__(self) -> None:
        if self.work.ndim != 2 or self.traits.ndim != 2 or len(self.work) != len(self.traits):
            raise PredictorError(f"work and traits need equal rows, found {self.work.shape} and {self.traits.shape}")
        if self.traits.shape[1] == 0:
            raise PredictorError("at least one trait is needed: what rows are alike follows from them")
        if not (np.abs(self.traits) < _LARGEST_TRAIT).all():
            raise PredictorError(
                f"a trait is not a number below {_LARGEST_TRAIT:g}; sizes are wanted as their logarithms"
            )
        for name, amounts in {"work": self.work, "joined work": self.joined}.items():
            if amounts is not None and (amounts.ndim != 2 or len(amounts) != len(self.traits)):
                raise PredictorError(f"the {name} has the shape {amounts.shape}, and there are {len(self.traits)} rows")
            if amounts is not None and not (np.isfinite(amounts) & (amounts >= 0)).all():
                raise PredictorError(f"an amount of {name} is negative or not a finite number")
        if self.layers is not None and len(self.layers) != len(self.work):
            raise PredictorError(f"the layers are of {len(self.layers)} rows, not of {len(self.work)}")

    @property
    def form(self) -> str:
        """What every row has, in words."""
        parts = [f"{self.work.shape[1]} kinds of work", f"{self.traits.shape[1]} traits"]
        parts += ["layers"] * (self.layers is not None)
        parts += [] if self.joined is None else [f"{self.joined.shape[1]} kinds of joined work"]
        return ", ".join(parts)

    def __len__(self) -> int:
        return len(self.work)

    def take(self, rows: NDArray[np.integer]) -> Features:
        layers = None if self.layers is None else self.layers.take(rows)
        joined = None if self.joined is None else self.joined[rows]
        return Features(self.work[rows], self.traits[rows], layers, joined)

    def of_joined_work(self) -> Features:
        assert self.joined is not None, "the form of the rows was checked before"
        return Features(self.joined, self.traits)


class Model(Protocol):
    def fit(self, features: Features, value: Array) -> Model: ...

    def predict(self, features: Features) -> Array:
        """(n,), the logarithm where errors are relative."""


Maker = Callable[[int], Model]  # with how many random trees; makes one that is not fitted


def models_of(features: Features, value: Array, relative: bool, seed: int) -> dict[str, Maker]:
    """The models that these rows can carry, by name."""
    found: dict[str, Maker]
    if relative and features.layers is not None:
        return _models_of_layers(features, value, seed)
    if relative and features.joined is not None:
        joined = models_of(features.of_joined_work(), value, relative, seed)
        found = {name: _of_joined_work(make) for name, make in joined.items()}
        return found | {SEPARATE: lambda trees: _Rest(Priced(), True, _trees(trees, seed))}
    first: Callable[[], Model] = Priced if relative else Additive
    found = {PRICED if relative else ADDITIVE: lambda trees: first()}
    if relative:
        found[POWER] = lambda trees: PowerLaw()
    if len(value) <= _GAUSSIAN_ROWS:
        scales = _scales_of(first(), features, value, relative)
        found[GAUSSIAN] = lambda trees: _Rest(first(), relative, _Smooth(scales))
    if len(value) < _MANY_ROWS:
        found[TREES] = lambda trees: _Rest(_Nothing(), relative, _trees(trees, seed))
    found[CORRECTED] = lambda trees: _Rest(first(), relative, _trees(trees, seed))
    if len(value) >= _MANY_ROWS:
        found[BOOSTING] = lambda trees: _Rest(first(), relative, _boosting(seed))
    return found


def _models_of_layers(features: Features, value: Array, seed: int) -> dict[str, Maker]:
    """Models of sums know nothing of a kind and kernel of layer that was not measured: none but where rows are few."""
    scales = fit_layer_scales(_layers(features), value)
    process = _Once(lambda: LayerProcess(scales))
    found: dict[str, Maker] = {
        LAYER_PRICES: lambda trees: _LayerPrices(),
        LAYERS: lambda trees: _LayerProcess(process),
        CORRECTED: lambda trees: _Rest(_LayerProcess(process), True, _trees(trees, seed)),
    }
    if len(value) < _FEW_ROWS:
        of_sums = _scales_of(Priced(), features, value, True)
        found[GAUSSIAN] = lambda trees: _Rest(Priced(), True, _Smooth(of_sums))
    if len(value) >= _MANY_ROWS:
        found[BOOSTING] = lambda trees: _Rest(_LayerPrices(), True, _boosting(seed))
    return found


def held_out_logarithm(features: Features, value: Array, folds: int = 5) -> Array:
    """(n,) logarithm of every row's value, predicted from the other rows by prices and a Gaussian process."""
    found = np.log(value)
    if len(value) < 2 * folds:  # too few to predict one another
        return found
    fold_of, limit = np.random.default_rng(0).permutation(len(value)) % folds, _GAUSSIAN_ROWS
    with threadpool_limits(1):
        order = np.random.default_rng(0).permutation(len(value))
        some = order[:limit]
        scales = _scales_of(Priced(), features.take(some), value[some], True)
        for fold in range(folds):
            # By chance: the first rows of a table that is sorted by size are the small ones.
            seen, held_out = np.sort(order[fold_of[order] != fold][:limit]), np.flatnonzero(fold_of == fold)
            model = _Rest(Priced(), True, _Smooth(scales)).fit(features.take(seen), value[seen])
            found[held_out] = model.predict(features.take(held_out))
    return found


def _layers(features: Features) -> Layers:
    assert features.layers is not None, "the form of the rows was checked before"
    return features.layers


def _of_joined_work(make: Maker) -> Maker:
    return lambda trees: _OfJoinedWork(make(trees))


class _OfJoinedWork:
    def __init__(self, model: Model) -> None:
        self._model = model

    def fit(self, features: Features, value: Array) -> _OfJoinedWork:
        self._model.fit(features.of_joined_work(), value)
        return self

    def predict(self, features: Features) -> Array:
        return self._model.predict(features.of_joined_work())


class _LayerPrices:
    def fit(self, features: Features, value: Array) -> _LayerPrices:
        self._prices = LayerPrices().fit(_layers(features), value)
        return self

    def predict(self, features: Features) -> Array:
        return np.log(self._prices.shares(_layers(features))[1])


class _Once:
    """A process that is fitted to the same rows, and asked for the same ones, once: two models take it."""

    def __init__(self, make: Callable[[], LayerProcess]) -> None:
        self._make = make
        self._fitted: tuple[Layers, Array, LayerProcess] | None = None
        self._asked: tuple[LayerProcess, Layers, Array] | None = None

    def fit(self, layers: Layers, value: Array) -> LayerProcess:
        if self._fitted is None or self._fitted[0] is not layers or self._fitted[1] is not value:
            self._fitted = layers, value, self._make().fit(layers, value)
        return self._fitted[2]

    def predict(self, process: LayerProcess, layers: Layers) -> Array:
        if self._asked is None or self._asked[0] is not process or self._asked[1] is not layers:
            self._asked = process, layers, process.predict(layers)
        return self._asked[2]


class _LayerProcess:
    def __init__(self, once: _Once) -> None:
        self._once = once

    def fit(self, features: Features, value: Array) -> _LayerProcess:
        self._process = self._once.fit(_layers(features), value)
        return self

    def predict(self, features: Features) -> Array:
        return self._once.predict(self._process, _layers(features))

    def held_out(self) -> Array:
        """(n,) of the rows that it was fitted to."""
        return self._process.held_out


class _Nothing:
    def fit(self, features: Features, value: Array) -> _Nothing:
        return self

    def predict(self, features: Features) -> Array:
        return np.zeros(len(features))


class Additive:
    def fit(self, features: Features, value: Array) -> Additive:
        self._size = _largest(features)
        self._linear = BayesianRidge().fit(features.work / self._size, value)
        return self

    def predict(self, features: Features) -> Array:
        found: Array = self._linear.predict(features.work / self._size)
        return found


class Priced:
    def fit(self, features: Features, value: Array) -> Priced:
        self._price = fit_prices(features.work, value)
        self._least = 0.1 * float(value.min())  # work of no price at all still takes time
        return self

    def predict(self, features: Features) -> Array:
        return np.log(np.maximum(features.work @ self._price, self._least))


class PowerLaw:
    def fit(self, features: Features, value: Array) -> PowerLaw:
        positive = np.where(features.work > 0, features.work, np.inf).min(axis=0, initial=np.inf)
        self._least = np.where(np.isfinite(positive), positive, 1.0)
        columns = self._columns(features)
        self._centre, spread = columns.mean(axis=0), columns.std(axis=0)
        self._spread = np.where(spread > 1e-9, spread, np.inf)
        self._linear = BayesianRidge().fit((columns - self._centre) / self._spread, np.log(value))
        return self

    def predict(self, features: Features) -> Array:
        found: Array = self._linear.predict((self._columns(features) - self._centre) / self._spread)
        return found

    def _columns(self, features: Features) -> Array:
        return np.column_stack([features.traits, np.log1p(features.work / self._least)])


def _largest(features: Features) -> Array:
    found: Array = features.work.max(axis=0, initial=0.0)
    return np.where(found > 0, found, 1.0)


class _Remainder(Protocol):
    def fit(self, features: Features, centre: Array, rest: Array) -> None: ...

    def predict(self, features: Features, centre: Array) -> Array: ...


class _Rest:
    """A first model, and another for what it leaves."""

    def __init__(self, first: Model, relative: bool, rest: _Remainder) -> None:
        self._first, self._relative, self._rest = first, relative, rest

    def fit(self, features: Features, value: Array) -> _Rest:
        first = self._first.fit(features, value)
        centre = first.held_out() if isinstance(first, _LayerProcess) else first.predict(features)
        self._rest.fit(features, centre, (np.log(value) if self._relative else value) - centre)
        return self

    def predict(self, features: Features) -> Array:
        centre = self._first.predict(features)
        return centre + self._rest.predict(features, centre)


def _inputs(features: Features, centre: Array) -> NDArray[np.float32]:
    return np.column_stack([features.traits, np.log1p(features.work), centre]).astype(np.float32)


class _Regression:
    """A regressor of scikit-learn on all features and the first model's prediction."""

    def __init__(self, regressor: ExtraTreesRegressor | HistGradientBoostingRegressor) -> None:
        self._regressor = regressor

    def fit(self, features: Features, centre: Array, rest: Array) -> None:
        self._regressor.fit(_inputs(features, centre), rest)

    def predict(self, features: Features, centre: Array) -> Array:
        found: Array = self._regressor.predict(_inputs(features, centre))
        return found


def _trees(trees: int, seed: int) -> _Regression:
    return _Regression(ExtraTreesRegressor(trees, max_features=0.7, random_state=seed))


def _boosting(seed: int) -> _Regression:
    return _Regression(
        HistGradientBoostingRegressor(max_leaf_nodes=15, min_samples_leaf=10, max_features=0.3, random_state=seed)
    )


class _Smooth:
    """Gaussian process with kernels: constant, linear in the work, products of pairs of it, smooth in traits and work."""

    def __init__(self, scales: Array) -> None:
        self._scales = scales

    def fit(self, features: Features, centre: Array, rest: Array) -> None:
        self._scaling = _Scaling(features)
        self._unit = float(np.std(rest)) or 1.0
        self._ends = float(rest.min()), float(rest.max())
        self._seen = self._scaling.inputs(features)
        covariance = mixed(self._scales, [*_kernels(self._seen, self._seen), np.eye(len(rest))])
        self._solved = linalg.cho_solve(cholesky(covariance + JITTER * np.eye(len(rest))), rest / self._unit)

    def predict(self, features: Features, centre: Array) -> Array:
        cross = mixed(self._scales, _kernels(self._scaling.inputs(features), self._seen))
        # Products of work grow without limit beyond the measured rows: no correction is larger than those that were needed.
        return np.clip(self._unit * (cross @ self._solved), *self._ends)


def _scales_of(first: Model, features: Features, value: Array, relative: bool) -> Array:
    """Prior scales of the Gaussian process, in units of the spread of what the first model leaves."""
    rest = (np.log(value) if relative else value) - first.fit(features, value).predict(features)
    seen = _Scaling(features).inputs(features)
    kernels = [*_kernels(seen, seen), np.eye(len(rest))]
    defaults = [1.0, 1.0, 0.3, *([0.3] * len(_LENGTHS)), 0.1]
    unit = float(np.std(rest)) or 1.0
    return fit_prior_scales(kernels, rest / unit, np.zeros(len(rest)), defaults, [20.0] * len(kernels))


class _Scaling:
    """Columns by their mean and spread, divided so that two random rows are about one apart."""

    def __init__(self, features: Features) -> None:
        both = np.column_stack([features.work, features.traits])
        self._centre = [both.mean(axis=0), features.work.mean(axis=0)]
        self._spread = [spread_of(both), spread_of(features.work)]

    def inputs(self, features: Features) -> tuple[Array, Array]:
        """(n, W) work, (n, W + D) work and traits."""
        work = (features.work - self._centre[1]) / self._spread[1] / np.sqrt(max(features.work.shape[1], 1))
        both = np.column_stack([features.work, features.traits])
        return work, (both - self._centre[0]) / self._spread[0] / np.sqrt(both.shape[1])


def _kernels(rows: tuple[Array, Array], columns: tuple[Array, Array]) -> list[Array]:
    linear = rows[0] @ columns[0].T
    squared = squared_distances(rows[1], columns[1])
    return [np.ones_like(linear), linear, linear**2, *(matern(squared, length) for length in _LENGTHS)]


def mixed(scales: Array, kernels: Sequence[Array | float]) -> Array:
    total: Array = sum(scale**2 * kernel for scale, kernel in zip(scales, kernels, strict=False))
    return total

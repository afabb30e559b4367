"""Predictors over tables of features: networks or blocks outside our search spaces, from any source.

A row has amounts of *work* (multiplications, bytes, how often an operator occurs), which cost in proportion, and
*traits* (sizes, kernels, strides), which decide how efficiently the work is done; where they are known, it has *layers*
(layers.py). The prediction is an average of several models (feature_models.py). Its weights and its intervals come from rows held out in two ways:

    at random    rows like the measured ones
    in groups    all rows of some values of a feature, as when a width or a size is new, or with a kind and kernel of layer

How much a row resembles the one kind or the other decides between two sets of weights, and with the disagreement of the models
and the size of the prediction how wide its interval is (feature_intervals.py). The second set is of each row: groups that were new
in the same way count most, so that the lower end of a size has other weights than the upper one.
`extrapolated` names rows outside the applicability domain, where no held-out row supports the interval.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # it ships no types

from lightnas_edge.errors import PredictorError
from lightnas_edge.predictor.base import Array, spread_of
from lightnas_edge.predictor.feature_intervals import Alike, Domain, ErrorScale, Evidence, Novelty, robust_limit
from lightnas_edge.predictor.feature_models import Features, Maker, Model, models_of

__all__ = ["AVERAGE", "LEAST_ROWS", "FeaturePredictor", "Features", "fit_features"]

AVERAGE = "average"
LEAST_ROWS = 20
_LARGEST_FACTOR = 1e6  # beyond all measured values; an interval that ends there says that nothing is known
_ROUNDING = 1e-6  # of the values: models that disagree less agree
_SLABS = 8  # of the rows by one trait; a group is the lowest or the highest two, or the two in the middle
_COLUMNS = 5  # traits by which groups are held out: those least alike
_CLUSTERS = 8
_VARIANTS = 16  # kinds and kernels of layers that are held out, those of the most rows
_GROUP_SEEN, _GROUP_HELD_OUT = 1000, 200  # rows at most, for the time that a fit takes
_TREES, _TREES_HELD_OUT = 100, 30  # of each model with random trees; a mean of fewer differs little
_MANY_ROWS = 1000  # beyond, some of the folds and groups tell as much
# Of the weights to equal ones, in units of the mean squared error: of rows held out at random, and of the few groups.
_SHRINKAGE, _FAR_SHRINKAGE = 1e-3, 0.1


class FeaturePredictor:
    """Feature rows -> values, with intervals; made by `fit_features`.

    Attributes:
        method: the model that predicts, or `AVERAGE`.
        errors: of every model and of the prediction, on rows held out at random: relative or in the unit of the values.
        weights: of every model, for rows like the measured ones.
    """

    def __init__(
        self, models: Mapping[str, Model], held_out: _HeldOut, features: Features, value: Array, relative: bool
    ):
        self._models = list(models.values())
        self._form = features.form
        self._domain = Domain(features)
        self._range = _range(value) if relative else None
        grouped, target = held_out.group >= 0, held_out.target
        off = held_out.centres - target[:, None]
        products = off[:, :, None] * off[:, None, :]
        self._near = _weights(products[~grouped].mean(axis=0), _SHRINKAGE)
        self._products = products[grouped].reshape(-1, off.shape[1] ** 2)
        self._alike = Alike(held_out.shift[grouped], held_out.group[grouped])
        self._new = Novelty(held_out.novelty, grouped)
        evidence = self._evidence(held_out.centres, held_out.novelty, held_out.shift, held_out.group)
        self._scale = ErrorScale(evidence, np.abs(target - evidence.centre), grouped, self._alike)
        # Trees fit the noise of the measured rows, and so the models may disagree more there than on others.
        known = self._asked(features).disagreement
        self._agreed = max(robust_limit(evidence.disagreement[~grouped]), robust_limit(known))
        self._agreed += _ROUNDING * (1.0 if relative else float(np.abs(value).max()))
        self.method = AVERAGE if len(models) > 1 else next(iter(models))
        self.weights = dict(zip(models, self._near.tolist(), strict=True))
        each = dict(zip([*models, self.method], [*held_out.centres.T, evidence.centre], strict=True))
        self.errors = {name: _error(target[~grouped], centre[~grouped], relative) for name, centre in each.items()}

    def predict(self, features: Features) -> Array:
        """(n,)"""
        return self._value(self._asked(features).centre)

    def interval(self, features: Features, confidence: float = 0.9) -> tuple[Array, Array]:
        """(low (n,), high (n,)): a measurement lies between them with this probability, inside the applicability domain."""
        evidence = self._asked(features)
        half = self._scale.half_width(evidence, confidence)
        if self._range is not None:  # beyond, nothing is known
            half[(evidence.centre < self._range[0]) | (evidence.centre > self._range[1])] = np.inf
        return self._value(evidence.centre - half), self._value(evidence.centre + half)

    def extrapolated(self, features: Features) -> NDArray[np.bool_]:
        """(n,): True outside the applicability domain, or where the models disagree more than on measured and held-out rows."""
        if len(features) == 0:
            return np.zeros(0, dtype=np.bool_)
        disagree = self._asked(features).disagreement > self._agreed
        return self._domain.extrapolated(features) | disagree

    def _asked(self, features: Features) -> Evidence:
        if features.form != self._form:
            raise PredictorError(f"this predictor was fitted to rows of {self._form}, and these have {features.form}")
        if len(features) == 0:
            return Evidence(np.zeros(0), np.zeros(0), np.zeros((0, 4)), np.zeros(0), np.zeros((0, self._alike.columns)))
        centres = np.stack([model.predict(features) for model in self._models], axis=1)
        return self._evidence(centres, self._domain.novelty(features), self._domain.shift(features))

    def _evidence(
        self, centres: Array, novelty: Array, shift: Array, group: NDArray[np.int64] | None = None
    ) -> Evidence:
        new = self._new.probability(novelty)
        centre = centres @ self._near
        if len(self._products):
            products = self._alike.mean(self._products, shift, group)
            far = _weights(products.reshape(len(centres), *2 * centres.shape[1:]), _FAR_SHRINKAGE)
            centre += new * ((centres * far).sum(axis=1) - centre)
        return Evidence(centre, centres.std(axis=1), novelty, new, shift)

    def _value(self, found: Array) -> Array:
        """Of logarithms where errors are relative; far from all rows these may exceed what a number can be."""
        return found if self._range is None else np.exp(np.clip(found, *self._range))


@dataclass(frozen=True, eq=False)
class _HeldOut:
    """k held-out rows, some of them several times; M models.

    Args:
        centres: (k, M)
        target: (k,) logarithms of the values where errors are relative.
        novelty: (k, 4), relative to the rows that the models saw.
        shift: (k, 3 D + 1), as novelty.
        group: (k,) in which each was held out; -1 at random.
    """

    centres: Array
    target: Array
    novelty: Array
    shift: Array
    group: NDArray[np.int64]


def fit_features(
    features: Features, value: Array, *, relative: bool = True, seed: int = 0, folds: int = 5, method: str | None = None
) -> FeaturePredictor:
    """The average of models with the lowest error on held-out rows; the models are fitted to all rows.

    Rows are of different things, of which some may have equal features. Several measurements of one thing are one row, their mean:
    as rows of their own they would predict one another.

    Args:
        value: (n,) measured; above 0 where errors are relative.
        relative: fit and judge by relative errors, else by absolute ones.
        method: name of one model; None averages all.

    Raises:
        PredictorError: too few rows, folds that these rows cannot be dealt to, or values at or below 0 with relative errors.
    """
    value = np.asarray(value, dtype=np.float64)
    if value.shape != (len(features),) or not np.isfinite(value).all():
        raise PredictorError(
            f"expected {len(features)} finite values, found {np.isfinite(value).sum()} in an array of shape {value.shape}"
        )
    if len(value) < LEAST_ROWS:
        raise PredictorError(f"at least {LEAST_ROWS} rows are needed, found {len(value)}")
    if relative and (value <= 0).any():
        raise PredictorError("relative errors need values above 0", hint="relative=False judges by absolute errors")
    if not 2 <= folds <= len(value):
        raise PredictorError(f"rows are held out in 2 to {len(value)} folds, found {folds}")
    # More threads make such small matrices and tables slower.
    with threadpool_limits(1):
        models = models_of(features, value, relative, seed)
        if method is not None:
            if method not in models:
                raise PredictorError(
                    f"no such model for these rows: {method!r}", hint=f"choose from: {', '.join(models)}"
                )
            models = {method: models[method]}
        held_out = _held_out(models, features, value, relative, seed, folds)
        fitted = {name: make(_TREES).fit(features, value) for name, make in models.items()}
        return FeaturePredictor(fitted, held_out, features, value, relative)


def _held_out(
    models: Mapping[str, Maker], features: Features, value: Array, relative: bool, seed: int, folds: int
) -> _HeldOut:
    target = np.log(value) if relative else value
    parts = []
    generator = np.random.default_rng(seed)
    for rows, group in _splits(features, value, seed, folds):
        seen = np.setdiff1d(np.arange(len(value)), rows)
        if group >= 0:
            seen, rows = (
                generator.permutation(each)[:most] for each, most in ((seen, _GROUP_SEEN), (rows, _GROUP_HELD_OUT))
            )
        known, asked = features.take(seen), features.take(rows)
        of_known = value[seen]
        centres = np.stack(
            [make(_TREES_HELD_OUT).fit(known, of_known).predict(asked) for make in models.values()], axis=1
        )
        domain = Domain(known)
        parts.append((centres, target[rows], domain.novelty(asked), domain.shift(asked), np.full(len(rows), group)))
    return _HeldOut(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _splits(features: Features, value: Array, seed: int, folds: int) -> Iterator[tuple[NDArray[np.int64], int]]:
    """(held-out rows, number of the group or -1)."""
    count, generator = len(value), np.random.default_rng(seed)
    fold_of = generator.permutation(count) % folds
    many = count > _MANY_ROWS
    for fold in range(3 if many else folds):
        yield np.flatnonzero(fold_of == fold), -1
    groups = []
    by_size = _slabs(value, 4)  # values grow with all work
    groups += [by_size == 0, by_size == 3]
    for column in _unlike(features.traits, _COLUMNS):
        slabs = _slabs(column, _SLABS)
        groups += [slabs < 2, slabs >= 6, (slabs == 3) | (slabs == 4)]
        if not many:
            groups += [slabs < 4, slabs >= 4]
    places = features.traits / spread_of(features.traits)
    if len(np.unique(places, axis=0)) >= 2 * _CLUSTERS:
        cluster_of = KMeans(_CLUSTERS, n_init=1, random_state=seed).fit_predict(places)
        groups += [
            np.isin(cluster_of, pair) for pair in generator.permutation(_CLUSTERS).reshape(-1, 2)[: 1 if many else 2]
        ]
    if features.layers is not None:
        has = features.layers.variants()
        has = has[:, has.sum(axis=0) <= count // 2]
        groups += list(has.T[np.argsort(-has.sum(axis=0), kind="stable")[:_VARIANTS]])
    for number, group in enumerate(groups):
        if 0 < group.sum() <= count // 2:
            yield np.flatnonzero(group), number


def _unlike(columns: Array, count: int) -> list[Array]:
    """Columns of at least three values: each the one least correlated with those before."""
    usable = [column for column in columns.T if len(np.unique(column)) >= 3]
    if not usable:
        return []
    alike = np.abs(np.corrcoef(usable)).reshape(len(usable), len(usable))
    chosen = [0]
    while len(chosen) < min(count, len(usable)):
        most = alike[chosen].max(axis=0)
        most[chosen] = np.inf
        chosen.append(int(most.argmin()))
    return [usable[place] for place in chosen]


def _slabs(column: Array, count: int) -> NDArray[np.int64]:
    """(n,) equally many rows in each slab by the order of their values; equal values are in one."""
    ordered = np.sort(column)
    place = np.searchsorted(ordered, column, "left") + np.searchsorted(ordered, column, "right")
    found: NDArray[np.int64] = np.minimum(place * count // (2 * len(column)), count - 1)
    return found


def _weights(products: Array, shrinkage: float) -> Array:
    """(..., M, M) mean products of the models' errors -> (..., M) weights of the average with the lowest squared error.

    None is negative, 1 together. The best weights of every set of models are in closed form; the best set is taken.
    """
    models = products.shape[-1]
    unit = np.trace(products, axis1=-2, axis2=-1)[..., None, None] / models
    products = products / np.where(unit > 0, unit, 1.0) + shrinkage * np.eye(models)
    best, least = np.zeros(products.shape[:-1]), np.full(products.shape[:-2], np.inf)
    for size in range(1, models + 1):
        for some in itertools.combinations(range(models), size):
            of = list(some)
            raw = np.linalg.solve(products[..., of, :][..., of], np.ones((*products.shape[:-2], size, 1)))[..., 0]
            total = raw.sum(axis=-1)
            better = (raw >= 0).all(axis=-1) & (1 / total < least)
            least = np.where(better, 1 / total, least)
            full = np.zeros_like(best)
            full[..., of] = raw / total[..., None]
            best = np.where(better[..., None], full, best)
    return best


def _range(value: Array) -> tuple[float, float]:
    return float(np.log(value.min() / _LARGEST_FACTOR)), float(np.log(value.max() * _LARGEST_FACTOR))


def _error(target: Array, centre: Array, relative: bool) -> float:
    return float(
        np.mean(np.abs(np.expm1(np.clip(centre - target, -50, 50))))
        if relative
        else np.sqrt(np.mean((centre - target) ** 2))
    )

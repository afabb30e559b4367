"""A Gaussian process over layers: how far the cost of each layer is from its price, learned from sums over layers.

The relative deviation of a row from its prices (layer_prices.py) is the sum over its layers of their deviations, each times the layer's part
in the row, and noise. Deviations of layers of one variant (kind and kernel) have a covariance of

    smooth       in the logarithms of all sizes, at two scales
    padding      linear, and smooth, in what is computed beyond the need because tiles are whole
    particular   to one layer: an engine's choice of a GPU kernel changes with a size without a rule

Every variant has scales of its own; variants share nothing but the prices. The measurements have noise in proportion to the value, noise
of equal size, and outliers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import linalg, sparse

from lightnas_edge.predictor._evidence import JITTER, cholesky, fit_prior_scales
from lightnas_edge.predictor.base import Array
from lightnas_edge.predictor.kernels import matern, squared_distances
from lightnas_edge.predictor.layer_prices import LayerPrices
from lightnas_edge.predictor.layers import Layers, LayerShapes, Variant

# Relative deviations, as prior scales: smooth, smooth at a shorter distance, padding, smooth in padding, particular.
_DEFAULTS = (0.05, 0.03, 0.03, 0.03, 0.02)
_NOISE = (0.015, 0.015)  # in proportion, and of equal size in units of the median value
_FACTOR = 4.0  # one standard deviation of the prior of a scale
_LENGTHS = (1.0, 0.25)  # in logarithms of sizes
_SCALES_ROWS = 600  # tell the scales: the cost of each step grows with the cube of them
_STEPS = 30
_ROWS = 3500  # in the covariance at most
_TAIL = 4.0  # degrees of freedom of the noise
_BLOCK = 1000  # layers in one matrix of a kernel
_UNUSED = 1e-4  # a smaller scale changes nothing
_OUTLIERS = 0.003  # of the rows at each end do not tell the scales
_EQUAL = 1e-10  # squared distance

Places = NDArray[np.int64]
Single = NDArray[np.float32]  # kernels of many layers: half the time, and far more exact than any measurement


@dataclass(frozen=True, eq=False)
class LayerScales:
    """Prior scales; variants that are not named have the defaults.

    Args:
        of_variant: (5,) in the order above.
        noise: in proportion to the value, and of equal size in units of the median value.
    """

    of_variant: Mapping[Variant, Array]
    noise: tuple[float, float] = _NOISE

    def of(self, variant: Variant) -> Array:
        return self.of_variant.get(variant, np.array(_DEFAULTS))


def fit_layer_scales(layers: Layers, value: Array) -> LayerScales:
    """The most probable scales, from some of the rows. value: (n,), above 0."""
    some = np.random.default_rng(0).permutation(len(layers))[:_SCALES_ROWS]
    left = _Left(layers.take(some), LayerPrices().fit(layers, value), value[some])
    variants = left.variants()
    kernels = [
        _between(left, left, variant, variant, _only(part))
        for variant in variants.values()
        for part in range(len(_DEFAULTS))
    ]
    kernels += [np.eye(len(some)), np.diag(left.inverse_size**2)]
    defaults = [*(_DEFAULTS * len(variants)), *_NOISE]
    rest = np.clip(left.rest, *np.quantile(left.rest, [_OUTLIERS, 1 - _OUTLIERS]))
    found = fit_prior_scales(kernels, rest, np.zeros(len(some)), defaults, [_FACTOR] * len(kernels), steps=_STEPS)
    each = found[:-2].reshape(len(variants), len(_DEFAULTS))
    return LayerScales(dict(zip(variants, each, strict=True)), (float(found[-2]), float(found[-1])))


class LayerProcess:
    """The process with given scales; it predicts logarithms of values.

    Attributes:
        held_out: (n,) of the rows that it was fitted to, each from the others.
    """

    def __init__(self, scales: LayerScales) -> None:
        self._scales = scales

    def fit(self, layers: Layers, value: Array) -> LayerProcess:
        """value: (n,), above 0."""
        self._prices = LayerPrices().fit(layers, value)
        order = np.random.default_rng(0).permutation(len(layers))
        some, others = order[:_ROWS], order[_ROWS:]
        left = _Left(layers.take(some), self._prices, value[some])
        covariance = _covariance(left, left, self._scales)
        constant, equal = self._scales.noise
        noise = constant**2 + (equal * left.inverse_size) ** 2 + JITTER
        solved, variance = _solved(covariance, noise, left.rest)
        # A row that is far off has more noise than is usual: one step towards noise with heavy tails.
        off = solved**2 * variance
        solved, variance = _solved(covariance, noise * np.maximum(1, (_TAIL + off) / (_TAIL + 1)), left.rest)
        self._seen, self._solved = left, solved
        self.held_out = np.log(value)
        self.held_out[some] -= solved * variance
        if len(others):
            self.held_out[others] = self.predict(layers.take(others))
        return self

    def predict(self, layers: Layers) -> Array:
        """(n,)"""
        asked = _Left(layers, self._prices)
        found: Array = asked.base + _covariance(asked, self._seen, self._scales) @ self._solved
        return found


class _Left:
    """Rows by the parts of their layers, and what prices leave of the logarithms of their values."""

    def __init__(self, layers: Layers, prices: LayerPrices, value: Array | None = None) -> None:
        self.shapes = layers.shapes
        shares, base = prices.shares(layers)
        self.shares = sparse.csc_array(shares)
        self.base = np.log(base)
        self.rest = np.zeros(len(base)) if value is None else np.log(value) - self.base
        self.inverse_size = np.median(base) / base
        self._used = np.flatnonzero(np.diff(self.shares.indptr))

    def variants(self) -> dict[Variant, Places]:
        """Layers that a row has, by variant."""
        of = self.shapes.variant[self._used]
        return {self.shapes.variants[number]: self._used[of == number] for number in np.unique(of)}


class _Pair:
    """Some layers and others, and the parts of their covariance."""

    def __init__(self, rows: LayerShapes, a: Places, columns: LayerShapes, b: Places) -> None:
        self._squared = squared_distances(rows.places[a], columns.places[b]).astype(np.float32)
        self._padding = rows.padding[a], columns.padding[b]

    def smooth(self, length: float) -> Single:
        return matern(self._squared, length)

    def part(self, number: int) -> Single:
        """(a, b) in the order of `_DEFAULTS`."""
        a, b = self._padding
        if number < len(_LENGTHS):
            return self.smooth(_LENGTHS[number])
        if number == 2:
            return a.astype(np.float32) @ b.T.astype(np.float32)
        if number == 3:
            return matern(squared_distances(a, b).astype(np.float32), 1.0) * self.smooth(2.0)
        return (self._squared < _EQUAL).astype(np.float32)


def _covariance(rows: _Left, columns: _Left, scales: LayerScales) -> Array:
    """Of the deviations of n rows with those of others."""
    found = np.zeros((len(rows.base), len(columns.base)))
    there = columns.variants()
    for variant, here in rows.variants().items():
        if variant in there:
            found += _between(rows, columns, here, there[variant], _mixed(scales.of(variant)))
    return found


def _between(rows: _Left, columns: _Left, a: Places, b: Places, kernel: Callable[[_Pair], Single]) -> Array:
    """A kernel between layers `a` and `b`, summed over the layers of rows."""
    found = np.zeros((len(rows.base), len(columns.base)))
    of_columns = columns.shares[:, b].tocsr().astype(np.float32)
    for start in range(0, len(a), _BLOCK):
        some = a[start : start + _BLOCK]
        between = kernel(_Pair(rows.shapes, some, columns.shapes, b))
        found += rows.shares[:, some].tocsr().astype(np.float32) @ (of_columns @ between.T).T
    return found


def _only(part: int) -> Callable[[_Pair], Single]:
    return lambda pair: pair.part(part)


def _mixed(scales: Array) -> Callable[[_Pair], Single]:
    used = [number for number, scale in enumerate(scales) if scale > _UNUSED] or [0]

    def kernel(pair: _Pair) -> Single:
        parts = [np.float32(scales[number] ** 2) * pair.part(number) for number in used]
        found: Single = np.sum(parts, axis=0, dtype=np.float32)
        return found

    return kernel


def _solved(covariance: Array, noise: Array, rest: Array) -> tuple[Array, Array]:
    """(n,) weights of the rows, and (n,) the variance of each given the others."""
    factor = cholesky(covariance + np.diag(noise))
    solved: Array = linalg.cho_solve(factor, rest)
    inverse, _ = linalg.lapack.dpotri(factor[0], lower=1)
    return solved, 1 / np.maximum(np.diag(inverse), 1e-300)

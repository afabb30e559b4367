"""Prices per amount of work of every variant of layers, none negative, fitted to relative errors of rows."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from lightnas_edge.predictor.base import Array
from lightnas_edge.predictor.layers import Layers, LayerShapes, Variant
from lightnas_edge.predictor.prices import fit_prices

_LEAST = 1e-4  # of the lowest value: what a layer without a price takes


class LayerPrices:
    """Values of rows as sums over their layers, and one fixed cost."""

    def fit(self, layers: Layers, value: Array) -> LayerPrices:
        """value: (n,), above 0."""
        seen = np.flatnonzero(layers.variants().any(axis=0))
        variants = [layers.shapes.variants[number] for number in seen]
        kinds = sorted({kind for kind, _ in variants})
        of_kind = np.array([kinds.index(kind) if kind in kinds else -1 for kind, _ in layers.shapes.variants])
        self._fixed, each = _priced(layers, seen, layers.shapes.variant, value)
        self._price: dict[Variant, Array] = dict(zip(variants, each, strict=True))
        _, each = _priced(layers, np.arange(len(kinds)), of_kind[layers.shapes.variant], value)
        self._of_kind = dict(zip(kinds, each, strict=True))
        self._least = _LEAST * float(value.min())
        return self

    def costs(self, shapes: LayerShapes) -> Array:
        """(m,) of every layer, above 0."""
        found = np.empty(len(shapes))
        for number, variant in enumerate(shapes.variants):
            of = shapes.variant == number
            found[of] = self._cost(variant, of, shapes)
        return np.maximum(found, self._least)

    def shares(self, layers: Layers) -> tuple[sparse.csr_array, Array]:
        """(n, m) parts of the layers in the value of each row; (n,) values."""
        costs = self.costs(layers.shapes)
        value = layers.counts @ costs + max(self._fixed, self._least)
        return sparse.csr_array(layers.counts.multiply(costs).multiply(1 / value[:, None])), value

    def _cost(self, variant: Variant, of: NDArray[np.bool_], shapes: LayerShapes) -> Array:
        """Where the variant was not measured, by the prices of its kind.

        The prices of one variant do not tell what grows with the kernel: the multiplications of a first layer are in proportion to
        what it moves. Those of all kernels of the kind do. Times the ratio of both for the nearest kernels.
        """
        amounts = shapes.amounts[of]
        if variant in self._price:
            measured: Array = amounts @ self._price[variant]
            return measured
        kind, kernel = variant
        kernels = sorted(each for other, each in self._price if other == kind)
        if not self._price:  # no measured row has any layer
            return np.zeros(len(amounts))
        if not kernels:
            of_any: Array = amounts @ np.mean(list(self._price.values()), axis=0)
            return of_any
        near = [each for each in kernels if each < kernel][-1:] + [each for each in kernels if each > kernel][:1]
        ratios = []
        for other in near:
            there = shapes.amounts_with(other)[of]
            known, of_kind = (there @ price for price in (self._price[kind, other], self._of_kind[kind]))
            ratios.append(np.log(np.maximum(known, self._least) / np.maximum(of_kind, self._least)))
        ratio = np.average(ratios, axis=0, weights=1 / np.abs(np.log(np.array(near) / kernel)))
        found: Array = np.maximum(amounts @ self._of_kind[kind], self._least) * np.exp(ratio)
        return found


def _priced(layers: Layers, groups: NDArray[np.int64], of: NDArray[np.int64], value: Array) -> tuple[float, Array]:
    """Fixed cost, and (G, T) prices of the layers whose number in `of` is each of `groups`."""
    columns = [np.ones((len(layers), 1))]
    for group in groups:
        members = np.flatnonzero(of == group)
        columns.append(layers.counts[:, members] @ layers.shapes.amounts[members])
    price = fit_prices(np.concatenate(columns, axis=1), value)
    return float(price[0]), price[1:].reshape(len(groups), layers.shapes.amounts.shape[1])

"""Prices per amount of work of every variant of layers, none negative, fitted to relative errors of rows."""

from __future__ import annotations

import numpy as np
from scipy import sparse

from lightnas_edge.predictor.base import Array
from lightnas_edge.predictor.layers import Layers, LayerShapes, Variant
from lightnas_edge.predictor.prices import fit_prices

_LEAST = 1e-4  # of the lowest value: what a layer without a price takes


class LayerPrices:
    """Values of rows as sums over their layers, and one fixed cost."""

    def fit(self, layers: Layers, value: Array) -> LayerPrices:
        """value: (n,), above 0."""
        shapes = layers.shapes
        seen = np.flatnonzero(layers.variants().any(axis=0))
        columns = [np.ones((len(layers), 1))]
        for variant in seen:
            of = np.flatnonzero(shapes.variant == variant)
            columns.append(layers.counts[:, of] @ shapes.amounts[of])
        price = fit_prices(np.concatenate(columns, axis=1), value)
        self._fixed = float(price[0])
        parts = price[1:].reshape(len(seen), -1)
        self._price: dict[Variant, Array] = {
            shapes.variants[variant]: part for variant, part in zip(seen, parts, strict=True)
        }
        self._least = _LEAST * float(value.min())
        return self

    def costs(self, shapes: LayerShapes) -> Array:
        """(m,) of every layer, above 0."""
        found = np.empty(len(shapes))
        for number, variant in enumerate(shapes.variants):
            of = shapes.variant == number
            found[of] = shapes.amounts[of] @ self._price_of(variant)
        return np.maximum(found, self._least)

    def shares(self, layers: Layers) -> tuple[sparse.csr_array, Array]:
        """(n, m) parts of the layers in the value of each row; (n,) values."""
        costs = self.costs(layers.shapes)
        value = layers.counts @ costs + max(self._fixed, self._least)
        return sparse.csr_array(layers.counts.multiply(costs).multiply(1 / value[:, None])), value

    def _price_of(self, variant: Variant) -> Array:
        """Where the variant was not measured, between those of its kind with the nearest kernels."""
        if variant in self._price:
            return self._price[variant]
        kind, kernel = variant
        kernels = sorted(each for other, each in self._price if other == kind)
        if not kernels:
            everything: Array = np.mean(list(self._price.values()), axis=0)
            return everything
        near = [each for each in kernels if each < kernel][-1:] + [each for each in kernels if each > kernel][:1]
        distance = np.abs(np.log(np.array(near) / kernel))
        found: Array = np.average([self._price[kind, each] for each in near], axis=0, weights=1 / distance)
        return found

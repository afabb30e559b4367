"""Rows described by their layers: which layers a network or a block runs, and how often each.

The time of a row is nearly the sum over its layers. Layers of one kind and kernel run by one family of kernels of a GPU, so
that they share prices and deviations (layer_prices.py, layer_process.py). They are a *variant* here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from lightnas_edge.errors import PredictorError
from lightnas_edge.predictor.base import Array

Variant = tuple[str, int]  # kind, kernel
_TILES = (2, 4, 8, 16, 32)  # rows and columns of an output that a GPU may compute together
_CHANNELS = (64, 128)  # output channels
_PIXELS = (64, 128)
_KERNEL = 2  # row of the sizes


class Layer(NamedTuple):
    """A layer at batch 1; the side is that of a square image, 1 for a linear layer.

    Args:
        kind: "conv", "depthwise", "linear" or any other: layers of one kind and kernel are alike.
    """

    kind: str
    in_channels: int
    out_channels: int
    kernel: int
    in_side: int
    out_side: int
    groups: int = 1


class LayerShapes:
    """m distinct layers, as numbers."""

    def __init__(self, layers: Sequence[Layer]) -> None:
        if any(min(layer[1:]) < 1 for layer in layers):
            raise PredictorError("a size of a layer is below 1")
        self.variants: tuple[Variant, ...] = tuple(sorted({(layer.kind, layer.kernel) for layer in layers}))
        number = {variant: place for place, variant in enumerate(self.variants)}
        self.variant = np.array([number[layer.kind, layer.kernel] for layer in layers], dtype=np.int64)
        self._sizes = np.array([layer[1:] for layer in layers], dtype=np.float64).reshape(len(layers), 6).T

    def __len__(self) -> int:
        return len(self.variant)

    @cached_property
    def amounts(self) -> Array:
        """(m, T): multiplications, as they are and in whole tiles of several sizes; values moved; weights; launches.

        A GPU computes whole tiles, so that 17 columns may take as long as 32 do.
        """
        return _amounts(self._sizes)

    def amounts_with(self, kernel: int) -> Array:
        """(m, T) of the same layers with another kernel."""
        sizes = self._sizes.copy()
        sizes[_KERNEL] = kernel
        return _amounts(sizes)

    @cached_property
    def places(self) -> Array:
        """(m, 5) logarithms of the sizes."""
        entering, leaving, kernel, before, after, groups = self._sizes
        return np.log(np.column_stack([entering / groups, leaving, kernel, before, after]))

    @cached_property
    def padding(self) -> Array:
        """(m, P): logarithms of what is computed in whole tiles, relative to what is needed; and what divides the side."""
        entering, leaving, _, _, after, groups = self._sizes
        columns = [(leaving, 64), (leaving, 128), (entering / groups, 64), (after**2, 64), (after**2, 128)]
        columns += [(after, tile) for tile in _TILES]
        padded = [np.log(_whole(amount, tile) / amount) for amount, tile in columns]
        return np.column_stack([*padded, *(after % step == 0 for step in (2, 4, 8))]).astype(np.float64)


@dataclass(frozen=True, eq=False)
class Layers:
    """n rows.

    Args:
        counts: (n, m) how often each row runs each of the distinct layers.
    """

    shapes: LayerShapes
    counts: sparse.csr_array

    @classmethod
    def of(cls, rows: Sequence[Iterable[Layer]]) -> Layers:
        number: dict[Layer, int] = {}
        places = [(row, number.setdefault(each, len(number))) for row, layers in enumerate(rows) for each in layers]
        row, column = np.array(places, dtype=np.int64).reshape(-1, 2).T
        counts = sparse.csr_array((np.ones(len(row)), (row, column)), shape=(len(rows), len(number)))
        return cls(LayerShapes(list(number)), counts)

    def __len__(self) -> int:
        return int(self.counts.shape[0])

    def take(self, rows: NDArray[np.integer]) -> Layers:
        return Layers(self.shapes, self.counts[rows])

    def of_variants(self) -> Array:
        """(n, V) how many layers of each of the variants of `shapes` each row runs."""
        of_layer = sparse.csr_array(
            (np.ones(len(self.shapes)), (np.arange(len(self.shapes)), self.shapes.variant)),
            shape=(len(self.shapes), len(self.shapes.variants)),
        )
        found: Array = (self.counts @ of_layer).toarray()
        return found

    def variants(self) -> NDArray[np.bool_]:
        """(n, V) which of the variants of `shapes` each row runs."""
        return self.of_variants() > 0


def _amounts(sizes: Array) -> Array:
    entering, leaving, kernel, before, after, groups = sizes
    each, pixels = kernel**2 * entering / groups, after**2
    tiled = [each * leaving * pixels, *(each * leaving * _whole(after, tile) ** 2 for tile in _TILES)]
    tiled += [each * leaving * _whole(pixels, some) for some in _PIXELS]
    for channels in _CHANNELS:
        joined = each * _whole(leaving, channels)
        tiled += [joined * pixels, *(joined * _whole(pixels, some) for some in _PIXELS)]
    moved = entering * before**2 + leaving * pixels
    # The longest chain of additions takes its time even where no other work is left.
    return np.column_stack([*tiled, each, moved, each * leaving, np.ones(len(each))])


def _whole(amount: Array, tile: int) -> Array:
    found: Array = np.ceil(amount / tile) * tile
    return found

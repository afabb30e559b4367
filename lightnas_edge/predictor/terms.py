"""Which costs a space has: a constant, and one per distinct operator at a shape."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightnas_edge.predictor.base import Array
from lightnas_edge.space import ShapedOperator, Space


@dataclass(frozen=True)
class Terms:
    """Which costs a space has: the constant first, then one per distinct operator at a shape."""

    space: Space
    keys: tuple[str, ...]  # (P,)
    position: NDArray[np.int64]  # (L, K) in 1..P; 0 for an identity, which costs nothing

    @classmethod
    def of(cls, space: Space) -> Terms:
        keys: dict[str, int] = {}
        position = np.zeros((len(space.layers), len(space.operators)), dtype=np.int64)
        for layer in range(len(space.layers)):
            for column, operator in enumerate(space.operators):
                shaped = space.at(layer, operator)
                if not shaped.is_identity:
                    position[layer, column] = keys.setdefault(shaped.key, len(keys) + 1)
        return cls(space, tuple(keys), position)

    def shaped(self) -> list[ShapedOperator]:
        """(P,) in the order of `keys`."""
        by_key = {shaped.key: shaped for shaped in self.space.shaped_operators()}
        return [by_key[key] for key in self.keys]

    def counts(self, indices: NDArray[np.integer[Any]]) -> Array:
        """(n, L) -> (n, 1 + P): one constant, and how often the network has each operator."""
        found = np.zeros((len(indices), 1 + len(self.keys)))
        places = self.position[np.arange(len(self.space.layers)), indices]
        np.add.at(found, (np.arange(len(indices))[:, None], places), 1.0)
        found[:, 0] = 1.0
        return found

    def spread_out(self, values: Array) -> Array:
        """(1 + P, ...) -> (L, K, ...), zero for identities."""
        places: Array = values[self.position].copy()
        places[self.position == 0] = 0.0
        return places

"""What the additive model misses far from the measured networks.

The model is fitted where networks were measured. What it misses there looks like noise of every network, and is learned
with it. A search for the most multiplications within a latency goes to networks that are three to six times as far from the
mean as a usual one, in several sums over their operators at once. What the model misses there is larger: a smooth
function that is no sum of operators differs from one in second order, so it grows with the square of the distance.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from lightnas_edge.predictor.terms import Terms
from lightnas_edge.predictor.work import work

Array = NDArray[np.float64]

_RANDOM_NETWORKS = 5  # of the space, that count with the measured ones: few networks show hardly any spread
_LEAST = 1e-3  # variance of a direction, relative to the sums' own


@dataclass(frozen=True)
class DistantDiscrepancy:
    """Nothing up to the usual squared distance of measured networks, and `step_std` for each further one.

    Args:
        root: (1 + P, D): the length of `counts @ root` is the distance from the mean of the measured networks, in units of
            their spread, in the few sums that a search moves.
        step_std: standard deviation, in the metric's unit.
    """

    root: Array
    step_std: float = 1.0

    @classmethod
    def of(cls, terms: Terms, counts: Array) -> DistantDiscrepancy | None:
        """From (n, 1 + P) measured networks, in blocks, 1x1 and depthwise multiplications, and memory traffic.

        None where all networks of the space are equal in these.
        """
        sums = np.zeros((1 + len(terms.keys), 4))
        sums[1:, 0] = 1.0
        sums[1:, 1:] = [work(shaped) for shaped in terms.shaped()]
        per_layer = terms.spread_out(sums)  # (L, K, 4)
        centre, spread = per_layer.mean(axis=1).sum(axis=0), np.zeros((4, 4))
        for layer in per_layer - per_layer.mean(axis=1, keepdims=True):
            spread += layer.T @ layer / len(layer)
        unit = np.sqrt(np.diag(spread))
        varies = unit > 1e-9 * np.maximum(np.abs(centre), 1e-300)
        if not varies.any():
            return None
        unit = unit[varies]
        scaled = sums[:, varies] / unit
        scaled[0] = -centre[varies] / unit
        correlation = spread[np.ix_(varies, varies)] / np.outer(unit, unit)
        return cls(scaled)._around(counts, _RANDOM_NETWORKS, correlation)

    def std(self, counts: Array) -> Array:
        """(n, 1 + P) -> (n,)"""
        square = ((counts @ self.root) ** 2).sum(axis=1) / self._usual
        found: Array = self.step_std * np.maximum(square - 1, 0.0)
        return found

    @property
    def factor(self) -> Array:
        """(1 + P, D): the standard deviation is the squared length of `counts @ factor`, less `step_std`, or zero."""
        found: Array = math.sqrt(self.step_std / self._usual) * self.root
        return found

    def extended(self, counts: Array, networks: int) -> DistantDiscrepancy:
        """After (n, 1 + P) more networks than the `networks` so far."""
        return self._around(counts, networks + _RANDOM_NETWORKS, np.eye(self.root.shape[1]))

    @property
    def _usual(self) -> float:
        """Root mean square of the squared distance, of networks with normal sums."""
        directions = self.root.shape[1]
        return math.sqrt(directions * (directions + 2))

    def _around(self, counts: Array, networks: int, spread: Array) -> DistantDiscrepancy:
        """From the mean of the counted networks and of `networks` with mean 0 and this (D, D) spread."""
        own = counts @ self.root
        total = networks + len(own)
        centre = own.sum(axis=0) / total
        spread = (networks * spread + own.T @ own) / total - np.outer(centre, centre)
        values, vectors = np.linalg.eigh(spread)
        kept = values > _LEAST * values[-1]
        root = self.root.copy()
        root[0] -= centre
        return replace(self, root=root @ vectors[:, kept] / np.sqrt(values[kept]))

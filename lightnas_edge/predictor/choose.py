"""Selection of the most informative networks: those that reduce the mean posterior variance the most."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from lightnas_edge.predictor.additive import AdditivePredictor
from lightnas_edge.predictor.base import Array, neighbours
from lightnas_edge.space import Architecture


def next_networks(
    predictor: AdditivePredictor,
    candidates: Sequence[Architecture],
    count: int,
    *,
    target: Sequence[Architecture] | None = None,
    improve: bool = False,
    known: Collection[Architecture] = (),
) -> list[Architecture]:
    """Greedy choice by the fall of the mean posterior variance over `target` (512 random networks when None).

    The model is linear, so the choice depends on the networks measured before and not on the values still to come.

    Args:
        improve: change the best candidate layer by layer while the variance falls further. The result may be a network
            outside `candidates`, but none of `known`.
    """
    space, terms = predictor.space, predictor.terms
    if target is None:
        indices = np.random.default_rng(0).integers(len(space.operators), size=(512, len(space.layers)))
    else:
        indices = np.stack([architecture.indices(space) for architecture in target])
    targets = terms.counts(indices)
    weight = targets.T @ targets / len(targets)
    covariance = predictor.covariance.copy()
    noise = max(predictor.noise**2, 1e-12 * float(np.trace(covariance)))

    def gain(rows: NDArray[np.int64]) -> Array:
        """(n, L) -> (n,): fall of the mean variance when the network is measured."""
        counts = terms.counts(rows)
        cross = counts @ covariance
        own = np.einsum("ij,ij->i", cross, counts) + noise
        fall: Array = np.einsum("ij,ij->i", cross @ weight, cross) / own
        return fall

    pool = np.stack([architecture.indices(space) for architecture in candidates]) if candidates else indices[:0]
    taken = {tuple(architecture.indices(space).tolist()) for architecture in known}
    chosen: list[Architecture] = []
    while len(pool) and len(chosen) < count:
        gains = gain(pool)
        place = int(gains.argmax())
        best, most = pool[place], float(gains[place])
        pool = np.delete(pool, place, axis=0)
        while improve:
            around = np.array([row for row in neighbours(space, best) if tuple(row.tolist()) not in taken])
            gains = gain(around) if len(around) else np.zeros(1)
            if gains.max() <= most:
                break
            best, most = around[int(gains.argmax())], float(gains.max())
        if tuple(best.tolist()) in taken:
            continue
        taken.add(tuple(best.tolist()))
        counts = terms.counts(best[None])[0]
        cross = covariance @ counts
        covariance = covariance - np.outer(cross, cross) / (float(cross @ counts) + noise)
        chosen.append(Architecture.from_indices(space, best))
    return chosen

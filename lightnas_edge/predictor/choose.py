"""Which networks to measure next: those that leave the least doubt about all the others."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lightnas_edge.predictor.additive import AdditivePredictor
from lightnas_edge.space import Architecture


def next_networks(
    predictor: AdditivePredictor,
    candidates: Sequence[Architecture],
    count: int,
    *,
    target: Sequence[Architecture] | None = None,
) -> list[Architecture]:
    """Greedy choice by the fall of the mean posterior variance over `target` (512 random networks when None).

    What is chosen does not depend on what will be measured, only on what is already known: the model is linear.
    """
    space, terms = predictor.space, predictor.terms
    if target is None:
        indices = np.random.default_rng(0).integers(len(space.operators), size=(512, len(space.layers)))
    else:
        indices = np.stack([architecture.indices(space) for architecture in target])
    wanted = terms.counts(indices)
    pool = terms.counts(np.stack([architecture.indices(space) for architecture in candidates]))
    covariance = predictor.covariance.copy()
    left = list(range(len(candidates)))
    chosen: list[Architecture] = []
    noise = max(predictor.noise**2, 1e-12 * float(np.trace(covariance)))
    while left and len(chosen) < count:
        cross = pool[left] @ covariance  # (C, 1 + P)
        own = np.einsum("ij,ij->i", cross, pool[left]) + noise
        gain = ((cross @ wanted.T) ** 2).mean(axis=1) / own
        best = int(gain.argmax())
        covariance = covariance - np.outer(cross[best], cross[best]) / own[best]
        chosen.append(candidates[left.pop(best)])
    return chosen

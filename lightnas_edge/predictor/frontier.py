"""Networks such as a search chooses: of high scores within limits on a metric, all over its range.

Choosing favours networks that are predicted too low, and these are far from random ones. A predictor of random networks alone does
not know how wrong it is there. With some of these networks measured, its costs are right where they are used, and its intervals know how
wrong it is.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lightnas_edge.errors import PredictorError
from lightnas_edge.predictor.base import Array, Predictor, one_hot_of
from lightnas_edge.predictor.counted import CountedPredictor
from lightnas_edge.predictor.near import require_reachable
from lightnas_edge.space import Architecture

FRONTIER_SHARE = 0.4  # of the networks to be measured; the rest are random (benchmarks/predict_simulated.py)
# The scores of a search are not known when networks are measured. They mostly grow with the multiplications: by a power of these, times
# a random factor per operator with this standard deviation of its logarithm at most.
_POWERS, _SCATTER = (0.5, 1.0), 0.5
_NEAR = 0.02  # relative: how far below a given limit networks are wanted
_RANDOM = 2000  # networks whose predictions show the range
_BLOCK = 64  # networks that are chosen together
_FRUITLESS = 10  # blocks without a further network: the space has no more
_BISECTIONS, _LARGEST = 40, 12.0  # of the logarithm of the price of a unit of the metric
_GOLDEN = (np.sqrt(5) - 1) / 2  # multiples of it, modulo 1, are even at every count


def frontier_networks(
    predictor: Predictor,
    count: int,
    seed: int = 0,
    *,
    limit: float | None = None,
    known: Collection[Architecture] = (),
) -> list[Architecture]:
    """Distinct networks of high scores within limits: `count`, or as many as are found; none where all of them are known.

    The first n are the same for every larger count.

    Args:
        limit: in the predictor's unit; the range of random networks when None.
        known: networks that are not wanted again.

    Raises:
        PredictorError: the limit is out of the range of the space, or the predictor is no sum of costs.
    """
    linear = predictor.linear_terms()
    if linear is None:
        raise PredictorError(
            f"networks where a search chooses come from a sum of costs; a predictor of type {predictor.type} is none",
            hint=f"fit one with `lightnas-edge fit --space {predictor.space.option} --samples FILE --method samples`",
        )
    space = predictor.space
    if limit is not None:
        require_reachable(predictor, limit)
    constant, cost = linear
    macs = CountedPredictor(space, "macs_m").cost
    macs = macs / max(float(macs.max()), 1e-300)
    values = predictor.predict_indices(
        np.random.default_rng(0).integers(len(space.operators), size=(_RANDOM, len(space.layers)))
    )
    found: dict[Architecture, None] = {}
    block = fruitless = 0
    while len(found) < count and fruitless < _FRUITLESS:
        generator = np.random.default_rng([seed, block])
        power = generator.uniform(*_POWERS, size=(_BLOCK, 1, 1))
        scatter = _SCATTER * generator.uniform(size=(_BLOCK, 1, 1)) ** 2
        scores = macs**power * np.exp(scatter * generator.normal(size=(_BLOCK, *macs.shape)))
        even = (generator.uniform() + _GOLDEN * np.arange(_BLOCK)) % 1
        limits = np.quantile(values, even) if limit is None else limit * (1 - _NEAR * even)
        chosen = best_within(constant, cost, scores, limits)
        new = [Architecture.from_indices(space, row) for row in chosen]
        before = len(found)
        found |= dict.fromkeys(network for network in new if network not in known)
        fruitless = 0 if len(found) > before else fruitless + 1
        block += 1
    return list(found)[:count]


@dataclass(frozen=True)
class HalfWidths:
    """Of 90 % intervals, relative to the prediction: medians over networks of both kinds."""

    random: float
    frontier: float


def half_widths(predictor: Predictor) -> HalfWidths:
    """How certain a predictor is of random networks, and of those that a search chooses.

    Raises:
        PredictorError: as `frontier_networks`.
    """
    space = predictor.space
    random = np.random.default_rng(0).integers(len(space.operators), size=(4 * _BLOCK, len(space.layers)))
    frontier = np.stack([network.indices(space) for network in frontier_networks(predictor, _BLOCK)])

    def half_width(networks: NDArray[np.int64]) -> float:
        one_hot = one_hot_of(space, networks)
        predicted = predictor.predict(one_hot)
        return float(np.median((predictor.interval(one_hot, 0.9)[1] - predicted) / np.abs(predicted)))

    return HalfWidths(half_width(random), half_width(frontier))


def best_within(constant: float, cost: Array, scores: Array, limits: Array) -> NDArray[np.int64]:
    """(n, L) networks of nearly the highest score within each limit; the one of the lowest cost where nothing is within.

    The best at a price per unit of cost, which bisection finds for each limit, and then single changes while they fit.

    Args:
        cost: (L, K). scores: (n, L, K). limits: (n,) of the constant plus the costs.
    """
    layers = np.arange(len(cost))
    unit = np.ptp(scores, axis=2).mean(axis=1) / max(float(np.ptp(cost, axis=1).mean()), 1e-300)
    low, high = np.full(len(limits), -_LARGEST), np.full(len(limits), _LARGEST)
    best = np.tile(cost.argmin(axis=1), (len(limits), 1))
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        price = np.exp(middle) * unit
        chosen = (scores - price[:, None, None] * cost).argmax(axis=2)
        fits = constant + cost[layers, chosen].sum(axis=1) <= limits
        best[fits] = chosen[fits]
        low, high = np.where(fits, low, middle), np.where(fits, middle, high)
    for network, score, limit in zip(best, scores, limits, strict=True):
        while True:
            left = limit - constant - cost[layers, network].sum()
            gain = score - score[layers, network][:, None]
            gain[cost - cost[layers, network][:, None] > left] = 0.0
            layer, operator = np.unravel_index(gain.argmax(), gain.shape)
            if gain[layer, operator] <= 0:
                break
            network[layer] = operator
    return best

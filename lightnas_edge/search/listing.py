"""The exact optimum by listing: networks in bands below what the best mixture of operators reaches.

A linear program over mixtures of operators gives a bound on every allowed network's score, and how much each operator loses of
it, whatever the others are (its reduced cost). A network whose operators lose more than the bound is above the best allowed
network cannot be the best. The others are few, since the bound is close, and are checked one by one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lightnas_edge.search.problem import Array, Indices

_MOST_LISTED = 300_000  # partial networks at a time: some 50 MB
_CHUNK = 1024
_FIRST_BAND, _WIDER = 1e-8, 4.0  # of the range of scores


@dataclass(frozen=True)
class Relaxation:
    """No allowed network scores above `bound` less the sum of its operators' losses.

    `loss`: (L, K), not negative.
    """

    bound: float
    loss: Array


class TooManyError(Exception):
    """More networks than can be listed may be the best."""


def best_listed(
    score: Array, cost: Array, relaxation: Relaxation, is_allowed: Callable[[Indices], NDArray[np.bool_]], tie: float
) -> Indices | None:
    """(L,) the allowed network of the highest score, of those within `tie` of it the one of lowest cost; None: none is allowed.

    Args:
        score, cost: (L, K).
        is_allowed: of (n, L) indices.

    Raises:
        TooManyError: with another method.
    """
    layers = np.arange(len(score))
    everything = float(relaxation.loss.max(axis=1).sum())
    band = _FIRST_BAND * float(np.ptp(score, axis=1).sum())
    while True:
        listed = _within(relaxation.loss, band)
        totals = score[layers, listed].sum(axis=1)
        best = _best_allowed(listed, totals, is_allowed, tie)
        if len(best) and totals[best].max() >= relaxation.bound - band + tie:
            return np.asarray(listed[min(best, key=lambda row: float(cost[layers, listed[row]].sum()))])
        if not len(best) and band > everything:
            return None
        band = max(_WIDER * band, tie)
        if len(best):  # no wider than what settles it
            band = min(band, relaxation.bound - float(totals[best].max()) + 2 * tie)


def _best_allowed(
    listed: Indices, totals: Array, is_allowed: Callable[[Indices], NDArray[np.bool_]], tie: float
) -> list[int]:
    """Rows of the allowed networks within `tie` of the best of them."""
    order = np.argsort(-totals, kind="stable")
    found: list[int] = []
    for start in range(0, len(order), _CHUNK):
        rows = order[start : start + _CHUNK]
        if found and totals[rows[0]] < totals[found[0]] - tie:
            break
        allowed = rows[is_allowed(listed[rows])]
        found += [int(row) for row in allowed if not found or totals[row] >= totals[found[0]] - tie]
        found = [row for row in found if totals[row] >= totals[found[0]] - tie]
    return found


def _within(loss: Array, band: float) -> Indices:
    """(n, L) every network that loses no more than the band."""
    order = np.argsort((loss <= band).sum(axis=1), kind="stable")
    lost, chosen = np.zeros(1), np.zeros((1, 0), dtype=np.int64)
    for layer in order:
        total = lost[:, None] + loss[layer]
        rows, operators = np.nonzero(total <= band)
        if len(rows) > _MOST_LISTED:
            raise TooManyError
        lost = total[rows, operators]
        chosen = np.column_stack([chosen[rows], operators])
    found = np.empty_like(chosen)
    found[:, order] = chosen
    return found

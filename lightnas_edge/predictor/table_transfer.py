"""Values of a known board, transferred to a new one with a few measured rows.

The logarithm of the ratio of the boards is a Gaussian process: one factor for all rows, and deviations from it that follow the value on
the known board, the traits, the rates (work per time on the known board), and what is particular about a row of the known table.
A few rows do not tell how large each of these is. The prediction is therefore an average over many sets of prior scales, weighted by
how probable each makes the measured rows. Half of the sets allow one factor for all rows and nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from lightnas_edge.errors import PredictorError
from lightnas_edge.predictor._evidence import JITTER
from lightnas_edge.predictor.base import Array, require_probability, spread_of
from lightnas_edge.predictor.feature_models import Features, held_out_logarithm
from lightnas_edge.predictor.kernels import matern, squared_distances

_MOST_ROWS = 200  # measured rows in one fit: the cost grows with the cube of them
_SETS = 256  # of prior scales, and as many with one factor for all
_LEAST_WEIGHT = 1e-4  # of a set of scales in the average; less changes nothing
# Differences between two boards, in logarithms: (default scale, factor of one standard deviation). A block that the known
# board runs at a high rate (work per time) is limited by that work on a weaker one; launch overhead limits both.
_DIFFERENCE = {
    "common": (0.5, 3.0),
    "value": (0.1, 3.0),
    "traits": (0.2, 3.0),
    "rates": (0.2, 3.0),
    "products of rates": (0.2, 3.0),
    "smooth": (0.2, 3.0),
    "particular": (0.5, 3.0),
    "noise": (0.04, 3.0),
}


@dataclass(frozen=True, eq=False)
class Transfer:
    """Values on a new board, from those on a known one and a few measured.

    Args:
        centre: (n,) logarithm of the value of every row.
        deviation: (n,) of a measurement, of the logarithm.
        measured: rows behind it.
        one_factor: probability that one factor relates the boards.
    """

    centre: Array
    deviation: Array
    measured: int
    one_factor: float

    def predict(self) -> Array:
        return np.exp(self.centre)

    def interval(self, confidence: float = 0.9) -> tuple[Array, Array]:
        require_probability(confidence)
        half = float(stats.norm.ppf((1 + confidence) / 2)) * self.deviation
        return np.exp(self.centre - half), np.exp(self.centre + half)


def first_rows(features: Features, known: Array, count: int) -> list[int]:
    """Which rows to measure first on a new board: each reduces the variance of all others the most, before any is measured.

    Raises PredictorError where the known values are not numbers above 0, one for each row.
    """
    if np.shape(known) != (len(features),) or not (np.isfinite(known) & (known > 0)).all():
        raise PredictorError(f"the first rows follow from {len(features)} known values above 0")
    columns = _Columns(features, known)
    everything = np.arange(len(known))
    scales = np.array([scale for scale, _ in _DIFFERENCE.values()])
    covariance = np.tensordot(scales[:-1] ** 2, columns.kernels(everything, everything), axes=1)
    noise = scales[-1] ** 2
    chosen: list[int] = []
    for _ in range(min(count, len(known))):
        gain = (covariance**2).mean(axis=0) / (np.diag(covariance) + noise)
        gain[chosen] = -1.0
        best = int(gain.argmax())
        chosen.append(best)
        covariance = covariance - np.outer(covariance[:, best], covariance[best]) / (covariance[best, best] + noise)
    return chosen


def fit_transfer(features: Features, known: Array, rows: Sequence[int], value: Array) -> Transfer:
    """The average over prior scales, each in closed form.

    Args:
        known: (n,) values of all rows on the known board, above 0.
        rows: m positions of those measured on the new board.
        value: (m,) what they showed, above 0.

    Raises:
        PredictorError: no rows, or values that have no logarithm.
    """
    places, known, value = np.asarray(rows, dtype=np.int64), np.asarray(known, float), np.asarray(value, float)
    usable = np.isfinite(known).all() and np.isfinite(value).all() and (known > 0).all() and (value > 0).all()
    if len(places) == 0 or len(places) != len(value) or len(known) != len(features) or not usable:
        raise PredictorError("a transfer needs measured rows, and values above 0 on both boards")
    if not ((places >= 0) & (places < len(known))).all():
        raise PredictorError(
            f"the measured rows are positions among {len(known)} rows, found {places.min()} to {places.max()}"
        )
    some = np.linspace(0, len(places) - 1, min(len(places), _MOST_ROWS)).astype(np.int64)
    places, value = places[some], value[some]
    difference = np.log(value) - np.log(known[places])
    columns = _Columns(features, known)
    scales = _sets_of_scales()
    squares = scales[:, :-1] ** 2
    noise = scales[:, -1] ** 2
    seen = np.tensordot(squares, columns.kernels(places, places), axes=1)
    seen += (noise[:, None, None] + JITTER * (1 + seen.max(axis=(1, 2)))[:, None, None]) * np.eye(len(places))
    lower = np.linalg.cholesky(seen)
    solved = np.linalg.solve(seen, np.broadcast_to(difference[:, None], (len(seen), len(places), 1)))[..., 0]
    evidence = -0.5 * solved @ difference - np.log(np.einsum("sii->si", lower)).sum(axis=1)
    weight = np.exp(evidence - evidence.max())
    weight /= weight.sum()
    one_factor = float(weight[_SETS:].sum())
    centre, square = np.zeros(len(known)), np.zeros(len(known))
    cross, own = columns.kernels(np.arange(len(known)), places), columns.variances()
    probable = np.flatnonzero(weight >= _LEAST_WEIGHT)
    for each, share in zip(probable, weight[probable] / weight[probable].sum(), strict=True):
        covariance = np.tensordot(squares[each], cross, axes=1)
        mean = covariance @ solved[each]
        explained = np.einsum("ij,ji->i", covariance, np.linalg.solve(seen[each], covariance.T))
        centre += share * mean
        square += share * (mean**2 + np.maximum(squares[each] @ own - explained, 0) + noise[each])
    deviation = np.sqrt(np.maximum(square - centre**2, JITTER))
    return Transfer(np.log(known) + centre, deviation, len(places), one_factor)


def _sets_of_scales() -> Array:
    """(2 * _SETS, K) spread evenly over the prior; the second half has one factor and noise only."""
    defaults, factors = (np.array(column) for column in zip(*_DIFFERENCE.values(), strict=True))
    uniform = stats.qmc.Sobol(len(defaults), seed=0).random(_SETS)
    scales = np.exp(np.log(defaults) + stats.norm.ppf(np.clip(uniform, 1e-6, 1 - 1e-6)) * np.log(factors))
    alone = scales * [name in ("common", "noise") for name in _DIFFERENCE]
    return np.concatenate([scales, alone])


class _Columns:
    """What the difference between two boards may follow, of n rows."""

    def __init__(self, features: Features, known: Array) -> None:
        particular = np.log(known) - held_out_logarithm(features, known)
        self._level = _standard(np.log(known)[:, None])
        self._traits = _standard(features.traits)
        self._rates = _standard(features.work / known[:, None])
        self._particular = particular[:, None]
        self._place = np.column_stack([self._traits, self._level, self._rates])

    def kernels(self, rows: NDArray[np.integer], columns: NDArray[np.integer]) -> Array:
        """(K - 1, rows, columns); the noise has none."""
        level, traits, rates, particular = (
            each[rows] @ each[columns].T for each in (self._level, self._traits, self._rates, self._particular)
        )
        smooth = matern(squared_distances(self._place[rows], self._place[columns]), 1.5)
        return np.stack([np.ones_like(level), level, traits, rates, rates**2, smooth, particular])

    def variances(self) -> Array:
        """(K - 1, n)"""
        level, traits, rates, particular = (
            (each**2).sum(axis=1) for each in (self._level, self._traits, self._rates, self._particular)
        )
        return np.stack([np.ones_like(level), level, traits, rates, rates**2, np.ones_like(level), particular])


def _standard(columns: Array) -> Array:
    """Each by its mean and spread, divided so that two random rows are about one apart."""
    found: Array = (columns - columns.mean(axis=0)) / spread_of(columns)
    return found / float(np.sqrt(max(columns.shape[1], 1)))

"""How far a prediction from features may be off, and where that is known.

Held-out rows show errors of two kinds: of rows like the measured ones, held out at random, and of new ones, held out as groups.
What is known of a row before it is measured (`Evidence`) decides between both, and how large its error is expected to be.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import optimize
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import NearestNeighbors

from lightnas_edge.predictor.base import Array
from lightnas_edge.predictor.feature_models import Features

_ISOLATED = 0.01  # share of measured rows, at least one, that may be far from all others without moving the limit
_NEAR = 0.02  # distance, in spreads of the traits, below which two rows count as equally near
_SLOPE = 0.3  # one standard deviation of the prior of the slopes, per spread of the evidence
_KNOTS = (0.1, 0.25, 0.5, 0.75, 0.9)  # quantiles of the predictions where the slope of the error may change


def robust_limit(values: Array) -> float:
    """The largest, without the few that are isolated."""
    ordered = np.sort(values)
    return float(ordered[-1 - min(max(1, int(_ISOLATED * len(ordered))), len(ordered) - 1)])


class Domain:
    """The applicability domain: between the extremes of every feature, and near a measured row."""

    def __init__(self, seen: Features) -> None:
        self._low, self._high = seen.traits.min(axis=0), seen.traits.max(axis=0)
        self._most = seen.work.max(axis=0, initial=0.0)
        spread = seen.traits.std(axis=0)
        self._spread = np.where(spread > 0, spread, 1.0)
        places = seen.traits / self._spread
        self._near = NearestNeighbors(n_neighbors=2).fit(places)
        self._values = [np.unique(column) for column in places.T]
        apart, _ = self._near.kneighbors(places)
        self._apart = robust_limit(apart[:, 1])

    def novelty(self, features: Features) -> Array:
        """(n, 3) logarithms of distances: to the nearest row, to the nearest value of every trait alone, to their extremes."""
        places = features.traits / self._spread
        beyond = np.maximum(np.maximum(self._low / self._spread - places, places - self._high / self._spread), 0)
        distance, _ = self._near.kneighbors(places, n_neighbors=1)
        gap = np.zeros(len(places))
        for column, values in zip(places.T, self._values, strict=True):
            after = np.searchsorted(values, column)
            below, above = values[np.maximum(after - 1, 0)], values[np.minimum(after, len(values) - 1)]
            gap += np.minimum(np.abs(column - below), np.abs(column - above)) ** 2
        return np.log(np.column_stack([distance[:, 0], np.sqrt(gap), np.sqrt((beyond**2).sum(axis=1))]) + _NEAR)

    def extrapolated(self, features: Features) -> NDArray[np.bool_]:
        slack = 1e-9 * (1 + np.abs(self._high))
        beyond = (features.traits < self._low - slack) | (features.traits > self._high + slack)
        more = features.work > self._most * (1 + 1e-9)
        distance, _ = self._near.kneighbors(features.traits / self._spread, n_neighbors=1)
        found: NDArray[np.bool_] = beyond.any(axis=1) | more.any(axis=1) | (distance[:, 0] > self._apart + 1e-9)
        return found


class Novelty:
    """Whether a row resembles those held out at random or those held out as groups."""

    def __init__(self, novelty: Array, grouped: NDArray[np.bool_]) -> None:
        self._odds, self._even = None, 0.0
        if 0 < grouped.sum() < len(grouped):
            self._odds = LogisticRegression().fit(novelty, grouped)
            self._even = float(np.log(grouped.sum() / (~grouped).sum()))

    def probability(self, novelty: Array) -> Array:
        """(n,) of a new one, if both were as frequent."""
        if self._odds is None:
            return np.zeros(len(novelty))
        found: Array = 1 / (1 + np.exp(np.clip(self._even - self._odds.decision_function(novelty), -50, 50)))
        return found


@dataclass(frozen=True, eq=False)
class Evidence:
    """What is known of n rows before they are measured.

    Args:
        centre: (n,) predictions.
        disagreement: (n,) standard deviation of the models' predictions.
        novelty: (n, 3) of `Domain.novelty`.
        new: (n,) of `Novelty.probability`.
    """

    centre: Array
    disagreement: Array
    novelty: Array
    new: Array


class ErrorScale:
    """The expected absolute error of a row, and the quantiles of the ratio of errors to it.

    The expectation is log-linear in the evidence, fitted as the mean of exponential variables; both kinds of held-out rows
    have equal weight in it. It grows with novelty and disagreement, never falls.
    """

    def __init__(self, evidence: Evidence, error: Array, grouped: NDArray[np.bool_]) -> None:
        self._unit = float(error.mean()) or 1e-9
        self._least = 1e-3 * self._unit
        self._knots = np.quantile(evidence.centre, _KNOTS)
        self._ends = float(evidence.centre.min()), float(evidence.centre.max())
        self._spread = float(evidence.centre.std()) or 1.0
        columns = self._columns(evidence)
        self._mean = columns.mean(axis=0)
        self._size = np.where(columns.std(axis=0) > 0, columns.std(axis=0), 1.0)
        design = np.column_stack([np.ones(len(error)), (columns - self._mean) / self._size])
        scaled = (error + self._least) / self._unit
        share = np.where(grouped, 0.5 / max(grouped.sum(), 1), 0.5 / max((~grouped).sum(), 1))
        share /= share.sum()
        rows = min(max((~grouped).sum(), 1), 1000)  # rows of one group are alike: more of them tell little more

        def loss(slopes: Array) -> tuple[float, Array]:
            level = design @ slopes
            ratio = scaled * np.exp(-np.clip(level, -30, 30))
            prior = slopes[1:] / _SLOPE**2 / rows
            value = share @ (level + ratio) + 0.5 * prior @ slopes[1:]
            return float(value), design.T @ (share * (1 - ratio)) + np.concatenate([[0.0], prior])

        bounds = [(None, None), *([(0.0, None)] * 4), *([(None, None)] * (design.shape[1] - 5))]
        self._slopes = optimize.minimize(loss, np.zeros(design.shape[1]), jac=True, method="L-BFGS-B", bounds=bounds).x
        ratio = error / self.expected(evidence)
        self._near = np.sort(ratio[~grouped])
        self._far = np.sort(ratio[grouped]) if grouped.any() else self._near

    def expected(self, evidence: Evidence) -> Array:
        """(n,) absolute error."""
        columns = (self._columns(evidence) - self._mean) / self._size
        found: Array = self._unit * np.exp(np.clip(self._slopes[0] + columns @ self._slopes[1:], -12, 12))
        return found

    def half_width(self, evidence: Evidence, confidence: float) -> Array:
        """(n,) of the interval that contains the value with this probability."""
        near, far = (_conformal(ratio, confidence) for ratio in (self._near, self._far))
        return (near + evidence.new * (far - near)) * self.expected(evidence)

    def _columns(self, evidence: Evidence) -> Array:
        centre = np.clip(evidence.centre, *self._ends)
        hinges = np.maximum(centre[:, None] - self._knots, 0) / self._spread
        disagreement = np.log(evidence.disagreement + 0.1 * self._unit)
        size = centre / self._spread
        return np.column_stack([evidence.novelty, disagreement, size, hinges, evidence.new, evidence.new * size])


def _conformal(ratio: Array, confidence: float) -> float:
    rank = min(int(np.ceil((len(ratio) + 1) * confidence)), len(ratio)) - 1
    return float(ratio[rank])

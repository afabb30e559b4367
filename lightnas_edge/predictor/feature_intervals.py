"""How far a prediction from features may be off, and where that is known.

Held-out rows show errors of two kinds: of rows like the measured ones, held out at random, and of new ones, held out as groups.
What is known of a row before it is measured (`Evidence`) decides between both, and how large its error is expected to be.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import NearestNeighbors

from lightnas_edge.predictor.base import Array, require_probability, spread_of
from lightnas_edge.predictor.feature_models import Features
from lightnas_edge.predictor.layers import Layers, Variant

_ISOLATED = 0.01  # share of measured rows, at least one, that may be far from all others without moving the limit
_ANY_SHIFT = (
    0.05  # what a held-out row says about one that differs in other ways, relative to one that differs in the same way
)
_OTHER_SHIFT = 1e-3  # the same, where one of both has layers that were not measured and the other has none
_LAYERS_APART = 3.0  # spreads of the traits: as far away is a row of which no layer was measured
_BLOCK = 500  # rows in one matrix of shares
_NEAR = 0.02  # distance, in spreads of the traits, below which two rows count as equally near
_SLOPE = 0.3  # one standard deviation of the prior of the slopes, per spread of the evidence
# That of the disagreement of the models: errors in proportion to it, as centre and one standard deviation of the exponent.
_OF_DISAGREEMENT = 1.0, 0.5
_CONSTANT = 1e-4  # a column that varies less tells nothing
_KNOTS = (0.1, 0.25, 0.5, 0.75, 0.9)  # quantiles of the predictions where the slope of the error may change


def robust_limit(values: Array) -> float:
    """The largest, without the few that are isolated."""
    ordered = np.sort(values)
    return float(ordered[-1 - min(max(1, int(_ISOLATED * len(ordered))), len(ordered) - 1)])


class Domain:
    """The applicability domain: between the extremes of every feature, near a measured row, and of layers that were measured."""

    def __init__(self, seen: Features) -> None:
        self._low, self._high = seen.traits.min(axis=0), seen.traits.max(axis=0)
        self._most = seen.work.max(axis=0, initial=0.0)
        self._spread = spread_of(seen.traits)
        places = seen.traits / self._spread
        different = np.unique(places, axis=0)  # a row that was measured twice is not near another one
        places = different if len(different) > 1 else places
        self._near = NearestNeighbors(n_neighbors=2).fit(places)
        self._values = [np.unique(column) for column in places.T]
        apart, _ = self._near.kneighbors(places)
        self._apart = robust_limit(apart[:, 1])
        self._variants = None if seen.layers is None else frozenset(_variants(seen.layers))

    def novelty(self, features: Features) -> Array:
        """(n, 4) logarithms of distances: to the nearest row, to the nearest value of every trait alone, to their extremes; of new layers."""
        places = features.traits / self._spread
        beyond = np.maximum(np.maximum(self._low / self._spread - places, places - self._high / self._spread), 0)
        distance, _ = self._near.kneighbors(places, n_neighbors=1)
        gap = np.linalg.norm(self._gaps(places), axis=1)
        apart = np.log(np.column_stack([distance[:, 0], gap, np.linalg.norm(beyond, axis=1)]) + _NEAR)
        return np.column_stack([apart, np.log1p(self.new_layers(features) / _NEAR)])

    def _gaps(self, places: Array) -> Array:
        """(n, D) distance to the nearest value of every trait alone."""
        found = np.zeros(places.shape)
        for gap, column, values in zip(found.T, places.T, self._values, strict=True):
            after = np.searchsorted(values, column)
            below, above = values[np.maximum(after - 1, 0)], values[np.minimum(after, len(values) - 1)]
            gap[:] = np.minimum(np.abs(column - below), np.abs(column - above))
        return found

    def shift(self, features: Features) -> Array:
        """(n, 3 D + 1) in spreads: below the least of every trait, above the largest, from the nearest value in between; new layers."""
        places = features.traits / self._spread
        below = np.maximum(self._low / self._spread - places, 0)
        above = np.maximum(places - self._high / self._spread, 0)
        gaps = np.maximum(self._gaps(places) - _NEAR, 0) * (below + above == 0)
        return np.concatenate([below, above, gaps, _LAYERS_APART * self.new_layers(features)[:, None]], axis=1)

    def extrapolated(self, features: Features) -> NDArray[np.bool_]:
        slack = 1e-9 * (1 + np.abs(self._high))
        beyond = (features.traits < self._low - slack) | (features.traits > self._high + slack)
        more = features.work > self._most * (1 + 1e-9)
        distance, _ = self._near.kneighbors(features.traits / self._spread, n_neighbors=1)
        found: NDArray[np.bool_] = beyond.any(axis=1) | more.any(axis=1) | (distance[:, 0] > self._apart + 1e-9)
        found |= self.new_layers(features) > 0
        return found

    def new_layers(self, features: Features) -> Array:
        """(n,) share of the layers of each row whose kind and kernel no measured row has."""
        if self._variants is None or features.layers is None:
            return np.zeros(len(features))
        counts = features.layers.of_variants()
        new = np.array([variant not in self._variants for variant in features.layers.shapes.variants], dtype=bool)
        found: Array = counts[:, new].sum(axis=1) / np.maximum(counts.sum(axis=1), 1)
        return found


def _variants(layers: Layers) -> list[Variant]:
    return [layers.shapes.variants[number] for number in np.flatnonzero(layers.variants().any(axis=0))]


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


class Alike:
    """What rows that were held out in groups say about others: more where both differ in the same way from the measured rows.

    Args:
        shift: (k, 3 D + 1) of `Domain.shift`.
        group: (k,) in which each was held out.

    Attributes:
        columns: 3 D + 1.
    """

    def __init__(self, shift: Array, group: NDArray[np.int64]) -> None:
        self._direction, self._size, self._group = _unit(shift), np.linalg.norm(shift, axis=1), group
        self._new_layers = shift[:, -1] > 0
        self.columns = shift.shape[1]
        self._in_group = (group[:, None] == np.unique(group)).astype(np.float64)

    def mean(self, values: Array, shift: Array, group: NDArray[np.int64] | None = None) -> Array:
        """(k, C) -> (n, C) for rows of this shift (n, 3 D + 1); rows of their own `group` (n,) do not count."""
        return np.concatenate([share @ values for share in self._shares(shift, group)])

    def quantile(self, values: Array, level: float, shift: Array) -> Array:
        """(k,) -> (n,), larger where few groups count: the errors of one group have a common part.

        The factor is that of Student's t for as many degrees of freedom, which is right where a group has one error.
        """
        order = np.argsort(values)
        upper = (1 + level) / 2
        found = []
        for share in self._shares(shift, None):
            groups = 1 / ((share @ self._in_group) ** 2).sum(axis=1)
            place = (np.cumsum(share[:, order], axis=1) < level).sum(axis=1)
            quantile = values[order[np.minimum(place, len(order) - 1)]]
            found.append(quantile * special.stdtrit(groups, upper) / special.ndtri(upper))
        return np.concatenate(found)

    def _shares(self, shift: Array, group: NDArray[np.int64] | None) -> Iterator[Array]:
        """(some of n, k), 1 together in each row."""
        for start in range(0, max(len(shift), 1), _BLOCK):
            asked = shift[start : start + _BLOCK]
            size = np.linalg.norm(asked, axis=1, keepdims=True)
            depth = 2 * size * self._size / np.maximum(size**2 + self._size**2, 1e-300)
            depth /= np.maximum(depth.max(axis=1, keepdims=True), 1e-300)
            found = depth * np.maximum(_unit(asked) @ self._direction.T, 0.0) ** 2 + _ANY_SHIFT
            found *= np.where((asked[:, -1:] > 0) == self._new_layers, 1.0, _OTHER_SHIFT)
            if group is not None:
                found *= group[start : start + _BLOCK, None] != self._group
            yield found / np.maximum(found.sum(axis=1, keepdims=True), 1e-300)


def _unit(shift: Array) -> Array:
    found: Array = shift / np.maximum(np.linalg.norm(shift, axis=1, keepdims=True), 1e-300)
    return found


@dataclass(frozen=True, eq=False)
class Evidence:
    """What is known of n rows before they are measured.

    Args:
        centre: (n,) predictions.
        disagreement: (n,) standard deviation of the models' predictions.
        novelty: (n, 4) of `Domain.novelty`.
        new: (n,) of `Novelty.probability`.
        shift: (n, 3 D + 1) of `Domain.shift`.
    """

    centre: Array
    disagreement: Array
    novelty: Array
    new: Array
    shift: Array


class ErrorScale:
    """The expected absolute error of a row, and the quantiles of the ratio of errors to it.

    The expectation is log-linear in the evidence, fitted as the mean of exponential variables; both kinds of held-out rows
    have equal weight in it. With the same probability of being new it grows with novelty and disagreement, never falls. Few held-out rows disagree as much as rows far outside,
    so that the prior decides there.
    """

    def __init__(self, evidence: Evidence, error: Array, grouped: NDArray[np.bool_], alike: Alike) -> None:
        self._alike = alike
        self._unit = float(error.mean()) or 1e-9
        self._least = 1e-3 * self._unit
        self._knots = np.quantile(evidence.centre, _KNOTS)
        self._ends = float(evidence.centre.min()), float(evidence.centre.max())
        self._spread = float(evidence.centre.std()) or 1.0
        columns = self._columns(evidence)
        self._mean = columns.mean(axis=0)
        self._size = np.where(columns.std(axis=0) > _CONSTANT, columns.std(axis=0), 1.0)
        design = np.column_stack([np.ones(len(error)), (columns - self._mean) / self._size])
        scaled = (error + self._least) / self._unit
        share = np.where(grouped, 0.5 / max(grouped.sum(), 1), 0.5 / max((~grouped).sum(), 1))
        share /= share.sum()
        rows = min(max((~grouped).sum(), 1), 1000)  # rows of one group are alike: more of them tell little more
        growing = evidence.novelty.shape[1] + 1
        usual, spread = np.zeros(design.shape[1] - 1), np.full(design.shape[1] - 1, _SLOPE)
        usual[growing - 1], spread[growing - 1] = np.multiply(_OF_DISAGREEMENT, self._size[growing - 1])

        def loss(slopes: Array) -> tuple[float, Array]:
            level = design @ slopes
            ratio = scaled * np.exp(-np.clip(level, -30, 30))
            prior = (slopes[1:] - usual) / spread**2 / rows
            value = share @ (level + ratio) + 0.5 * prior @ (slopes[1:] - usual)
            return float(value), design.T @ (share * (1 - ratio)) + np.concatenate([[0.0], prior])

        bounds = [(None, None), *([(0.0, None)] * growing), *([(None, None)] * (design.shape[1] - 1 - growing))]
        self._slopes = optimize.minimize(loss, np.zeros(design.shape[1]), jac=True, method="L-BFGS-B", bounds=bounds).x
        ratio = error / self.expected(evidence)
        self._near = np.sort(ratio[~grouped])
        self._far = ratio[grouped]

    def expected(self, evidence: Evidence) -> Array:
        """(n,) absolute error."""
        columns = (self._columns(evidence) - self._mean) / self._size
        found: Array = self._unit * np.exp(np.clip(self._slopes[0] + columns @ self._slopes[1:], -12, 12))
        return found

    def half_width(self, evidence: Evidence, confidence: float) -> Array:
        """(n,) of the interval that contains the value with this probability.

        Raises PredictorError where it is none.
        """
        require_probability(confidence)
        near = _conformal(self._near, confidence)
        quantile = np.full(len(evidence.new), near)
        if len(self._far):
            quantile += evidence.new * (self._alike.quantile(self._far, confidence, evidence.shift) - near)
        found: Array = quantile * self.expected(evidence)
        return found

    def _columns(self, evidence: Evidence) -> Array:
        centre = np.clip(evidence.centre, *self._ends)
        hinges = np.maximum(centre[:, None] - self._knots, 0) / self._spread
        disagreement = np.log(evidence.disagreement + 0.1 * self._unit)
        size = centre / self._spread
        return np.column_stack([evidence.novelty, disagreement, size, hinges, evidence.new, evidence.new * size])


def _conformal(ratio: Array, confidence: float) -> float:
    """The quantile of sorted ratios that one more does not exceed with this probability.

    Beyond the largest one, which few rows reach early, the tail is that of exponential ratios, as they are fitted.
    """
    count = len(ratio)
    rank = int(np.ceil((count + 1) * confidence))
    if rank <= count:
        return float(ratio[rank - 1])
    return float(ratio[-1] * np.log1p(-confidence) / np.log(1 / (count + 1)))

"""A predictor after measurements of networks that it had predicted: its uncertainty recalibrated, its costs updated."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import linalg, optimize

from lightnas_edge.predictor._evidence import cholesky
from lightnas_edge.predictor.additive import AdditivePredictor
from lightnas_edge.predictor.observations import Observations
from lightnas_edge.records.predictor import Calibration

Array = NDArray[np.float64]

# Of the logarithms of two factors, upwards and downwards. Up is easier than down: too narrow an interval breaks a budget, too wide a
# one wastes some of it. The scatter of networks is the easier one, or else a few networks bend the costs to fit their noise.
_COSTS_STD, _SCATTER_STD = (0.5, 0.25), (0.7, 0.25)
_COMMON_STD = 0.03  # of the ratio of all measurements to their predictions: sessions and kinds of networks differ by a few per cent
_LARGEST = 4.0  # logarithm of a factor


@dataclass(frozen=True)
class Uncertainties:
    """What measurements show of a predictor's uncertainties: two factors on standard deviations, and a relative one to be added."""

    costs: float = 1.0
    scatter: float = 1.0  # of networks around the sum of their costs
    common: float = 0.0  # of a ratio that all costs have in common


AS_STATED = Uncertainties()


def recalibrated(before: AdditivePredictor, observations: Observations) -> AdditivePredictor:
    """The posterior after further networks, under uncertainties that they have shown.

    The networks were chosen by `before` and measured afterwards, so what it predicted of them shows what its intervals are
    like where a search chooses. The uncertainties are the most probable ones under a prior around the stated ones. With larger
    ones of the costs, the update moves them further.

    Raises:
        FingerprintError, PredictorError: as `AdditivePredictor.updated`.
    """
    shown = shown_uncertainties(before, observations)
    known = before.fit.calibration
    wider = before if known is None else before.scaled(shown.scatter, _scaled(known, shown.scatter, len(observations)))
    relative = shown.costs if known is None else shown.costs / shown.scatter
    covariance = relative**2 * wider.covariance + shown.common**2 * np.outer(before.mean, before.mean)
    wider = AdditivePredictor(
        wider.space, wider.origin, wider.mean, covariance, wider.noise, discrepancy=wider.discrepancy,
        distant=wider.distant, applicability=wider.applicability, terms=wider.terms,
    )  # fmt: skip
    after = wider.updated(observations)
    if known is not None:
        return after
    # A predictor of a table alone has no calibration before it has networks.
    assert after.fit.calibration is not None
    return after.scaled(shown.scatter, _scaled(after.fit.calibration, shown.scatter, 0))


def predictive_residuals(
    predictor: AdditivePredictor, observations: Observations, shown: Uncertainties = AS_STATED
) -> Array:
    """(n,) measured less predicted in standard deviations, each given those before it: independent where the model is right.

    Networks that a search chooses under one budget are alike, so their errors have most of their causes in common.
    """
    root, lower = cholesky(_Parts.of(predictor, observations).covariance(shown))
    residual = observations.value - predictor.predict(observations.one_hot)
    whitened: Array = linalg.solve_triangular(root, residual, lower=lower)
    return whitened


def shown_uncertainties(predictor: AdditivePredictor, observations: Observations) -> Uncertainties:
    """The most probable ones after measurements of networks that the predictor has not seen."""
    parts = _Parts.of(predictor, observations)
    residual = observations.value - predictor.predict(observations.one_hot)

    def loss(tried: Array) -> float:
        root, lower = cholesky(parts.covariance(_uncertainties(tried)))
        whitened = linalg.solve_triangular(root, residual, lower=lower)
        prior = sum((log / std[int(log < 0)]) ** 2 for log, std in zip(tried, (_COSTS_STD, _SCATTER_STD), strict=False))
        prior += (tried[2] / _COMMON_STD) ** 2
        return float(0.5 * whitened @ whitened + np.log(np.diag(root)).sum() + 0.5 * prior)

    bounds = [(-_LARGEST, _LARGEST)] * 2 + [(0.0, 10 * _COMMON_STD)]
    starts = (
        (0.0, 0.0, 0.0),
        (2.0, 0.0, 0.0),
        (0.0, 1.0, 0.0),
        (0.0, 0.0, _COMMON_STD),
    )  # each may explain the same residuals
    found = min((optimize.minimize(loss, start, method="L-BFGS-B", bounds=bounds) for start in starts), key=_value)
    return _uncertainties(found.x)


@dataclass(frozen=True)
class _Parts:
    """(n, n) each: what the covariance of the measurements consists of."""

    costs: Array
    scatter: Array
    common: Array
    measuring: Array

    @classmethod
    def of(cls, predictor: AdditivePredictor, observations: Observations) -> _Parts:
        one_hot = observations.one_hot
        along = predictor.factor[0] + one_hot.reshape(len(observations), -1) @ predictor.factor[1:]
        costs = along @ along.T
        predicted = predictor.predict(one_hot)
        session = observations.common_error_of(predicted)
        return cls(
            costs,
            predictor.covariance_of(one_hot) - costs,
            np.outer(predicted, predicted),
            session @ session.T + np.diag(observations.standard_error**2),
        )

    def covariance(self, shown: Uncertainties) -> Array:
        factors = shown.costs, shown.scatter, shown.common, 1.0
        parts = self.costs, self.scatter, self.common, self.measuring
        total: Array = np.sum([factor**2 * part for factor, part in zip(factors, parts, strict=True)], axis=0)
        return total


def _uncertainties(tried: Array) -> Uncertainties:
    return Uncertainties(float(np.exp(tried[0])), float(np.exp(tried[1])), float(tried[2]))


def _value(found: optimize.OptimizeResult) -> float:
    return float(found.fun)


def _scaled(calibration: Calibration, factor: float, networks: int) -> Calibration:
    """After `networks` more that the deviation was learned from. They leave tails that residuals have shown as they are."""
    more = 0 if calibration.heavy_tails else networks
    return Calibration(
        std_factor=float(f"{factor * calibration.std_factor:.4g}"),
        degrees_of_freedom=min(calibration.degrees_of_freedom + more, 1e9),
        heavy_tails=calibration.heavy_tails,
    )

"""How far the intervals of a fit can be trusted, told by the networks it was fitted to, each held out in its turn.

All of it is a pure function of numbers; the additive predictor and the MLP share it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats

Array = NDArray[np.float64]

LEAST_DEGREES = 3  # of freedom: with fewer networks the prior decides more than they do
_FITTED = 3  # widths of the prior that the same networks decided, in effect
_TAILS = (3.0, 5.0, 8.0, 15.0)  # degrees of freedom that networks can tell from each other
_PREFERENCE = 2.0  # of log likelihood, for the tails that the number of networks alone would give
_DOUBT = 0.5, 0.25  # of the logarithm of the scale, upwards and downwards, before any network has spoken


@dataclass(frozen=True)
class HeldOut:
    """n networks, each predicted by the other n - 1 at the same widths of the prior; all (n,)."""

    residual: Array  # measured less predicted
    doubt: Array  # standard deviation of the model alone, without the noise of measuring


@dataclass(frozen=True)
class Calibration:
    """Standardised residuals are `scale` times a Student t with so many degrees of freedom."""

    scale: float
    degrees: float


def leave_one_out(mean: Array, covariance: Array, counts: Array, value: Array, variance: Array) -> HeldOut:
    """In closed form, from the posterior that has seen every network.

    Shapes: C costs, n networks.

    Args:
        mean: (C,) and covariance: (C, C) of the posterior.
        counts: (n, C). value: (n,) as measured. variance: (n,) of the noise that the posterior was given.
    """
    seen = np.einsum("ij,ij->i", counts @ covariance, counts)
    left = np.maximum(variance - seen, 1e-9 * variance)
    return HeldOut((value - counts @ mean) * variance / left, np.sqrt(np.maximum(seen, 0.0) * variance / left))


def calibrate(standardised: Array) -> Calibration:
    """From residuals over the deviations that were stated for them, (n,), with nothing known for n = 0.

    The scale is the most likely one, drawn towards 1 while networks are few. Their tails are taken as heavier than their number
    demands only where the networks say so.
    """
    count = len(standardised)
    usual = float(max(count - _FITTED, LEAST_DEGREES))
    if count == 0:
        return Calibration(1.0, usual)
    # What was fitted made the residuals smaller than those of networks still to come.
    standardised = standardised * np.sqrt(count / max(count - _FITTED, 1))
    best, most = Calibration(1.0, usual), -np.inf
    for degrees in (usual, *(tail for tail in _TAILS if tail < usual)):
        found = optimize.minimize_scalar(
            _loss, bounds=(-2.0, 2.0), args=(standardised, degrees), method="bounded", options={"xatol": 1e-3}
        )
        likelihood = -float(found.fun) + (_PREFERENCE if degrees == usual else 0.0)
        if likelihood > most:
            best, most = Calibration(float(np.exp(found.x)), degrees), likelihood
    return best


def _loss(log_scale: float, standardised: Array, degrees: float) -> float:
    likelihood = stats.t.logpdf(standardised * np.exp(-log_scale), degrees) - log_scale
    return float(0.5 * (log_scale / _DOUBT[int(log_scale < 0)]) ** 2 - likelihood.sum())

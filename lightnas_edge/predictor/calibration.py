"""Calibration of intervals on the networks of a fit, each held out in turn.

Pure functions of numbers; the additive predictor and the MLP share them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats

from lightnas_edge.records.predictor import LEAST_DEGREES, Calibration

Array = NDArray[np.float64]

_FITTED = 3  # prior scales that the same networks decided, in effect
_TAILS = (3.0, 5.0, 8.0, 15.0)  # degrees of freedom that a set of networks can distinguish
_DEFAULT_BONUS = 2.0  # of log likelihood, for the tails that follow from the number of networks alone
_PRIOR_STD = 0.5, 0.25  # of the logarithm of the factor, upwards and downwards


@dataclass(frozen=True)
class HeldOut:
    """n networks, each predicted by the other n - 1 at the same prior scales; all (n,)."""

    residual: Array  # measured less predicted
    model_std: Array  # standard deviation of the model, without the noise of measuring


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
    """From (n,) residuals over their stated deviations; n = 0 gives a factor of 1.

    The factor is the most probable one under a prior around 1, which decides while networks are few. Tails heavier than
    the number of networks demands need evidence.
    """
    count = len(standardised)
    usual = float(max(count - _FITTED, LEAST_DEGREES))
    if count == 0:
        return uncalibrated(0)
    # Fitting the prior scales made these residuals smaller than those of new networks.
    standardised = standardised * np.sqrt(count / max(count - _FITTED, 1))
    best, most = Calibration(std_factor=1.0, degrees_of_freedom=usual), -np.inf
    for degrees in (usual, *(tail for tail in _TAILS if tail < usual)):
        found = optimize.minimize_scalar(
            _loss, bounds=(-2.0, 2.0), args=(standardised, degrees), method="bounded", options={"xatol": 1e-3}
        )
        likelihood = -float(found.fun) + (_DEFAULT_BONUS if degrees == usual else 0.0)
        if likelihood > most:
            best, most = Calibration(std_factor=float(np.exp(found.x)), degrees_of_freedom=degrees), likelihood
    return best


def uncalibrated(networks: int) -> Calibration:
    """Of networks that were not held out: the stated deviations are kept, and few networks give heavy tails.

    One degree of freedom less than networks. `calibrate` subtracts three because it follows a fit of the prior scales to
    the same networks.
    """
    return Calibration(std_factor=1.0, degrees_of_freedom=max(networks - 1, LEAST_DEGREES))


def _loss(log_factor: float, standardised: Array, degrees: float) -> float:
    likelihood = stats.t.logpdf(standardised * np.exp(-log_factor), degrees) - log_factor
    return float(0.5 * (log_factor / _PRIOR_STD[int(log_factor < 0)]) ** 2 - likelihood.sum())

"""Calibration of intervals on the networks of a fit, each held out in turn.

Pure functions of numbers; the additive predictor and the MLP share them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special

from lightnas_edge.records.predictor import LEAST_DEGREES, Calibration

Array = NDArray[np.float64]

_TAILS = (3.0, 5.0, 8.0, 15.0)  # degrees of freedom that a set of networks can distinguish
_DEFAULT_BONUS = 2.0  # of log likelihood, for the tails that follow from the number of networks alone
_PRIOR_STD = 0.5, 0.25  # of the logarithm of the factor, upwards and downwards
# Of the factor on the discrepancy of distant networks: the centre of its prior, and one standard deviation of its logarithm.
# 1 is a discrepancy that is all of this kind. On eight kinds of simulated boards (benchmarks/predict_simulated.py) most kinds have the
# lowest loss at 0.5 to 1, and the one where the multiplications and the traffic of a network compete at 2 to 3.5; 2 has the lowest of all.
_GROWTH, _GROWTH_STD = 2.0, 0.7
_BOUND = 0.95  # of the upper bounds that keep a budget
_LOG_GROWTHS = np.linspace(-2.5, 2.5, 26)


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


def calibrate(standardised: Array, fitted: float) -> Calibration:
    """From (n,) residuals over their stated deviations; n = 0 gives a factor of 1.

    Args:
        fitted: numbers that the same networks decided, in effect.

    The factor is the most probable one under a prior around 1, which decides while networks are few. Tails heavier than
    the number of networks demands need evidence.
    """
    count = len(standardised)
    usual = float(max(count - fitted, LEAST_DEGREES))
    if count == 0:
        return uncalibrated(0)
    # Fitting the prior scales made these residuals smaller than those of new networks.
    standardised = standardised * np.sqrt(count / max(count - fitted, 1))
    best, most = Calibration(std_factor=1.0, degrees_of_freedom=usual), -np.inf
    for degrees in (usual, *(tail for tail in _TAILS if tail < usual)):
        found = optimize.minimize_scalar(
            _loss, bounds=(-2.0, 2.0), args=(standardised, degrees), method="bounded", options={"xatol": 1e-3}
        )
        likelihood = -float(found.fun) + (_DEFAULT_BONUS if degrees == usual else 0.0)
        if likelihood > most:
            factor, heavy = float(np.exp(found.x)), degrees != usual
            best = Calibration(std_factor=factor, degrees_of_freedom=degrees, heavy_tails=heavy)
            most = likelihood
    return best


def probable_growth(residual: Array, near_std: Array, distant_std: Array, fitted: float) -> float:
    """Factor on the discrepancy of distant networks, with the 95 % quantile of all probable factors together.

    Their root mean square would be larger: a few large factors decide it, and hardly the quantile.

    Residuals inform it where some of the networks are far from the others: they grow with the distance, or not.

    Args:
        residual: (n,) of networks that were held out.
        near_std: (n,) their stated deviations without the part of distant networks.
        distant_std: (n,) that part.
        fitted: as in `calibrate`.
    """
    count = len(residual)
    degrees = float(max(count - fitted, LEAST_DEGREES))
    residual = residual * math.sqrt(count / max(count - fitted, 1))
    losses = []
    for log_growth in _LOG_GROWTHS:
        deviation = np.hypot(near_std, np.exp(log_growth) * distant_std)
        found = optimize.minimize_scalar(
            _loss, bounds=(-2.0, 2.0), args=(residual / deviation, degrees), method="bounded", options={"xatol": 1e-2}
        )
        off = (log_growth - math.log(_GROWTH)) / _GROWTH_STD
        losses.append(float(found.fun) + float(np.log(deviation).sum()) + 0.5 * off**2)
    probable = np.exp(min(losses) - np.array(losses))
    growths, probable = np.exp(_LOG_GROWTHS), probable / probable.sum()
    normal = special.ndtri(_BOUND)
    low, high = growths[0] / 2, 2 * growths[-1]  # every mixture lies between its parts
    return float(optimize.brentq(lambda growth: probable @ special.ndtr(growth * normal / growths) - _BOUND, low, high))


def uncalibrated(networks: int) -> Calibration:
    """Of networks that were not held out: the stated deviations are kept, and few networks give heavy tails.

    One degree of freedom less than networks. `calibrate` subtracts the scales that were fitted to the same networks.
    """
    return Calibration(std_factor=1.0, degrees_of_freedom=max(networks - 1, LEAST_DEGREES))


def _loss(log_factor: float, standardised: Array, degrees: float) -> float:
    squares = np.log1p((standardised * math.exp(-log_factor)) ** 2 / degrees).sum()
    constant = math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2) - 0.5 * math.log(degrees * math.pi)
    likelihood = len(standardised) * (constant - log_factor) - (degrees + 1) / 2 * squares
    return float(0.5 * (log_factor / _PRIOR_STD[int(log_factor < 0)]) ** 2 - likelihood)

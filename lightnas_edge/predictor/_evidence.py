"""Scales of the parts of a normal prior, by the marginal likelihood of the data."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import linalg, optimize
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # it ships no types

from lightnas_edge.errors import PredictorError
from lightnas_edge.predictor.base import Array

JITTER = 1e-12  # relative, in variances: against round-off
_JITTERS = (0.0, JITTER, 1e-10, 1e-8, 1e-6)  # tried in turn, of the mean variance


def cholesky(covariance: Array) -> tuple[Array, bool]:
    """What `linalg.cho_solve` takes, of a covariance that may be singular.

    The optimiser tries scales that are far apart, and tables have equal rows: then round-off makes a covariance indefinite by about
    n * 1e-16 of its largest eigenvalue. The smallest jitter that a factor exists with is added to the variances.

    Args:
        covariance: (n, n), symmetric, positive semi-definite but for round-off.

    Raises:
        PredictorError: numbers that are not finite, or no covariance.
    """
    unit = float(np.mean(np.diag(covariance)))
    if np.isfinite(covariance).all():
        for jitter in _JITTERS:
            shifted = covariance + jitter * unit * np.eye(len(covariance)) if jitter else covariance
            try:
                return linalg.cho_factor(shifted, lower=True)
            except linalg.LinAlgError:
                continue
    raise PredictorError(
        "the measurements cannot be fitted: their covariance has no factor",
        hint="check the table for values that differ by many orders of magnitude",
    )


def fit_prior_scales(
    kernels: Sequence[Array], residual: Array, variance: Array, defaults: Sequence[float], factors: Sequence[float]
) -> Array:
    """Maximum of the marginal likelihood of `residual`, times a broad log-normal prior on every scale.

    The residual is normal with covariance sum of scale**2 * kernel, plus `variance` on the diagonal.

    Args:
        kernels: M of (n, n).
        residual: (n,), of the order of 1.
        variance: (n,) known noise of each residual.
        defaults: (M,) centres of the priors of the scales.
        factors: (M,) one standard deviation of each prior, as a factor on the default.

    Returns:
        (M,) scales.
    """
    centre, spread = np.log(defaults), np.log(factors)
    count = len(residual)
    stack = np.stack([kernel.ravel() for kernel in kernels])

    def loss(log_scales: Array) -> tuple[float, Array]:
        weights = np.exp(2 * log_scales)
        total = (weights @ stack).reshape(count, count) + np.diag(variance + JITTER)
        factor = cholesky(total)
        inverse = linalg.cho_solve(factor, np.eye(count))
        solved = inverse @ residual
        off = (log_scales - centre) / spread
        value = 0.5 * residual @ solved + np.log(np.diag(factor[0])).sum() + 0.5 * off @ off
        slope = stack @ (inverse - np.outer(solved, solved)).ravel() * weights + off / spread
        return float(value), slope

    bounds = list(zip(centre - 4 * spread, centre + 4 * spread, strict=True))
    with threadpool_limits(
        1, user_api="blas"
    ):  # more threads make such small matrices up to 50 times slower (measured)
        found = optimize.minimize(loss, centre, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": 100})
    scales: Array = np.exp(found.x)
    return scales

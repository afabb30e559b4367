"""Scales of the parts of a normal prior, by the marginal likelihood of the data."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import linalg, optimize
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # it ships no types

from lightnas_edge.predictor.base import Array

JITTER = 1e-12  # relative, in variances: against round-off


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
        factor = linalg.cho_factor(total, lower=True)
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

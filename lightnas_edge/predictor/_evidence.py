"""How wide each part of a normal prior is, as the data themselves tell."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import linalg, optimize
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # it ships no types

from lightnas_edge.predictor.base import Array

JITTER = 1e-12  # relative, in variances: against round-off


def most_likely_widths(
    kernels: Sequence[Array], residual: Array, variance: Array, defaults: Sequence[float], doubts: Sequence[float]
) -> Array:
    """Maximum of the marginal likelihood of `residual`, times a broad log-normal prior on every width.

    The residual is taken as normal with covariance sum of width**2 * kernel, plus `variance` on the diagonal.

    Args:
        kernels: M of (n, n).
        residual: (n,), of the order of 1.
        variance: (n,) known of each, besides.
        defaults: (M,) widths to begin with.
        doubts: (M,) by which factor each may be off (one standard deviation).

    Returns:
        (M,) widths.
    """
    centre, spread = np.log(defaults), np.log(doubts)
    count = len(residual)
    stack = np.stack([kernel.ravel() for kernel in kernels])

    def loss(log_widths: Array) -> tuple[float, Array]:
        weights = np.exp(2 * log_widths)
        total = (weights @ stack).reshape(count, count) + np.diag(variance + JITTER)
        factor = linalg.cho_factor(total, lower=True)
        inverse = linalg.cho_solve(factor, np.eye(count))
        solved = inverse @ residual
        off = (log_widths - centre) / spread
        value = 0.5 * residual @ solved + np.log(np.diag(factor[0])).sum() + 0.5 * off @ off
        slope = stack @ (inverse - np.outer(solved, solved)).ravel() * weights + off / spread
        return float(value), slope

    bounds = list(zip(centre - 4 * spread, centre + 4 * spread, strict=True))
    with threadpool_limits(1, user_api="blas"):  # matrices this small only lose time to further threads: measured, 50x
        found = optimize.minimize(loss, centre, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": 100})
    widths: Array = np.exp(found.x)
    return widths

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
    kernels: Sequence[Array],
    residual: Array,
    variance: Array,
    defaults: Sequence[float],
    factors: Sequence[float],
    *,
    steps: int = 100,
) -> Array:
    """Maximum of the marginal likelihood of `residual`, times a broad log-normal prior on every scale.

    The residual is normal with covariance sum of scale**2 * kernel, plus `variance`.

    Args:
        kernels: M of (n, n).
        residual: (n,), of the order of 1.
        variance: (n,) known noise of each residual, or its (n, n) covariance.
        defaults: (M,) centres of the priors of the scales.
        factors: (M,) one standard deviation of each prior, as a factor on the default.
        steps: of the optimiser at most.

    Returns:
        (M,) scales.
    """
    evidence = Evidence(kernels, residual, variance, defaults, factors)
    # More threads make such small matrices up to 50 times slower (measured).
    with threadpool_limits(1, user_api="blas"):
        return evidence.most_probable(steps)


class Evidence:
    """The marginal likelihood of `fit_prior_scales` as a function of the scales; the arguments are the same."""

    def __init__(
        self,
        kernels: Sequence[Array],
        residual: Array,
        variance: Array,
        defaults: Sequence[float],
        factors: Sequence[float],
    ) -> None:
        self.centre, self.spread = np.log(defaults), np.log(factors)
        self.residual = residual
        self._stack = np.stack([kernel.ravel() for kernel in kernels])
        known = np.diag(variance) if variance.ndim == 1 else variance
        self._known = known + JITTER * np.eye(len(residual))

    def loss(self, log_scales: Array) -> tuple[float, Array]:
        """Negative logarithm of the posterior of the (M,) scales up to a constant, and its gradient."""
        count, residual = len(self.residual), self.residual
        weights = np.exp(2 * log_scales)
        factor = cholesky((weights @ self._stack).reshape(count, count) + self._known)
        inverse = linalg.cho_solve(factor, np.eye(count))
        solved = inverse @ residual
        off = (log_scales - self.centre) / self.spread
        value = 0.5 * residual @ solved + np.log(np.diag(factor[0])).sum() + 0.5 * off @ off
        slope = self._stack @ (inverse - np.outer(solved, solved)).ravel() * weights + off / self.spread
        return float(value), slope

    def most_probable(self, steps: int = 100) -> Array:
        """(M,) scales."""
        bounds = list(zip(self.centre - 4 * self.spread, self.centre + 4 * self.spread, strict=True))
        found = optimize.minimize(
            self.loss, self.centre, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": steps}
        )
        scales: Array = np.exp(found.x)
        return scales

    def decided(self, scales: Array) -> float:
        """How many of the M scales the residuals decide, and not the prior: between 0 and M.

        Of each direction, the share of the curvature of the posterior at its maximum that the likelihood has.
        """
        at, step = np.log(scales), 1e-3
        slopes = [self.loss(at + move)[1] - self.loss(at - move)[1] for move in step * np.eye(len(at))]
        curvature = np.array(slopes) / (2 * step) * np.outer(self.spread, self.spread)  # the prior's is 1
        values = np.linalg.eigvalsh((curvature + curvature.T) / 2)
        return float((1 - 1 / np.maximum(values, 1.0)).sum())

"""Normal unknowns and what measurements say about them, in closed form."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

from lightnas_edge.predictor._evidence import cholesky

Array = NDArray[np.float64]

_CHUNK = 500  # networks per exact update; updates compose, so this bounds memory, not accuracy


@dataclass(frozen=True)
class Joint:
    """A normal distribution of the costs, and behind them of one unknown per session that was measured in."""

    mean: Array  # (C,)
    covariance: Array  # (C, C)

    def with_sessions(self, common_error: Array) -> Joint:
        """With a standard normal unknown for each column of (n, S): how far the correction of a session's drift is off."""
        width, sessions = len(self.mean), common_error.shape[1]
        covariance = np.eye(width + sessions)
        covariance[:width, :width] = self.covariance
        return Joint(np.concatenate([self.mean, np.zeros(sessions)]), covariance)

    def after(self, seen: Array, value: Array, variance: Array) -> Joint:
        """Given `value = seen @ unknowns + noise` of the (n,) variances; `seen` is (n, C)."""
        mean, covariance = self.mean, self.covariance
        for start in range(0, len(value), _CHUNK):
            rows = slice(start, start + _CHUNK)
            cross = seen[rows] @ covariance
            factor = cholesky(cross @ seen[rows].T + np.diag(variance[rows]))
            gain = linalg.cho_solve(factor, cross)
            mean = mean + gain.T @ (value[rows] - seen[rows] @ mean)
            covariance = covariance - cross.T @ gain
            covariance = (covariance + covariance.T) / 2
        return Joint(mean, covariance)

    def costs(self, width: int) -> tuple[Array, Array]:
        """Mean and covariance of the first unknowns alone."""
        return self.mean[:width], self.covariance[:width, :width]

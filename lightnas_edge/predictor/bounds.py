"""Upper bounds of a prediction in a form that a solver can use."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class ConvexBound:
    """constant + cost.x + z * deviation, with z >= 0: convex in the flat one-hot x (L*K,).

    deviation^2 = |[1, x] @ factor|^2 + noise^2 + max(|[1, x] @ distant|^2 - distant_from, 0)^2: the length of a vector of
    convex functions that are not negative.
    """

    constant: float
    cost: Array  # (L, K)
    z: float = 0.0  # deviations above the prediction; 0: the bound is the prediction, and linear
    factor: Array | None = None  # (1 + L*K, R); None where the prediction has no uncertainty
    noise: float = 0.0
    distant: Array | None = None  # (1 + L*K, D); None where the uncertainty does not grow with the distance
    distant_from: float = 0.0
    least: float = -math.inf  # the bound of a network is this where the sum is less; a target below it cannot be kept

    def at(self, x: Array) -> tuple[float, Array]:
        """(value, gradient (L*K,)) of the sum at a flat one-hot, or between some."""
        value, slope = self.constant + float(self.cost.ravel() @ x), self.cost.ravel()
        if self.z == 0 or self.factor is None:
            return value, slope
        along = self.factor[0] + x @ self.factor[1:]
        variance, half_slope = float(along @ along) + self.noise**2, self.factor[1:] @ along
        if self.distant is not None:
            away = self.distant[0] + x @ self.distant[1:]
            beyond = max(float(away @ away) - self.distant_from, 0.0)
            variance, half_slope = variance + beyond**2, half_slope + 2 * beyond * (self.distant[1:] @ away)
        deviation = math.sqrt(variance)
        if deviation == 0:
            return value, slope
        return value + self.z * deviation, slope + self.z / deviation * half_slope

    def values(self, indices: NDArray[np.int64]) -> Array:
        """(n,) of networks, from their (n, L) indices."""
        layers, operators = self.cost.shape
        one_hot = np.eye(operators)[indices].reshape(len(indices), layers * operators)
        value = self.constant + one_hot @ self.cost.ravel()
        if self.z == 0 or self.factor is None:
            return np.asarray(np.maximum(value, self.least))
        variance = ((self.factor[0] + one_hot @ self.factor[1:]) ** 2).sum(axis=1) + self.noise**2
        if self.distant is not None:
            away = ((self.distant[0] + one_hot @ self.distant[1:]) ** 2).sum(axis=1)
            variance = variance + np.maximum(away - self.distant_from, 0.0) ** 2
        return np.asarray(np.maximum(value + self.z * np.sqrt(variance), self.least))

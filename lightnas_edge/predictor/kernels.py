"""Covariances of smooth functions."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from lightnas_edge.predictor.base import Array

_Float = TypeVar("_Float", np.float32, np.float64)


def squared_distances(rows: Array, columns: Array) -> Array:
    """(n, D), (m, D) -> (n, m)"""
    squared = (rows**2).sum(axis=1)[:, None] + (columns**2).sum(axis=1) - 2 * rows @ columns.T
    found: Array = np.maximum(squared, 0.0)
    return found


def matern(squared: NDArray[_Float], length: float) -> NDArray[_Float]:
    """Matérn kernel of order 3/2 of squared distances: continuous, once differentiable, as times are that have floors and steps."""
    distance: NDArray[_Float] = np.sqrt(squared * (3 / length**2))
    found: NDArray[_Float] = (1 + distance) * np.exp(-distance)
    return found

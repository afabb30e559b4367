"""Least squares without negative prices, of relative errors."""

from __future__ import annotations

import numpy as np
from scipy import optimize

from lightnas_edge.predictor.base import Array

_DIGITS = 9  # columns that agree in these are one


def fit_prices(work: Array, value: Array) -> Array:
    """(W,) prices of (n, W) amounts whose sums have the lowest squared relative error of (n,) values above 0."""
    size = work.max(axis=0, initial=0.0)
    if not size.any():
        return np.zeros(work.shape[1])  # SciPy's nnls ends the process where there is no column
    scaled = work / np.where(size > 0, size, 1.0)
    _, first = np.unique(scaled.round(_DIGITS), axis=1, return_index=True)
    first = np.sort(first[size[first] > 0])
    price = np.zeros(work.shape[1])
    price[first] = _nonnegative(scaled[:, first] / value[:, None]) / size[first]
    return price


def _nonnegative(columns: Array) -> Array:
    """(W,) x >= 0 with columns @ x near 1."""
    ones = np.ones(len(columns))
    try:
        found, _ = optimize.nnls(columns, ones, maxiter=100 * max(columns.shape[1], 1))
    except RuntimeError:  # it went in circles, as it may with columns that nearly agree
        found = optimize.lsq_linear(columns, ones, bounds=(0, np.inf), lsmr_tol="auto").x
    return found

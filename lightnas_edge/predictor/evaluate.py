"""Errors of a predictor on measured networks, with the repeatability of the measurements."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

import luts
from lightnas_edge.errors import PredictorError
from lightnas_edge.files import finite
from lightnas_edge.predictor.base import Array, Predictor
from lightnas_edge.predictor.observations import Observations, load_observations
from lightnas_edge.records.predictor import Scores

CONFIDENCE = 0.9  # of the interval whose coverage is reported


def evaluate(
    predictor: Predictor, samples: Sequence[luts.Lut] | Observations, *, lut: luts.Lut | None = None
) -> Scores:
    """Scores on measured networks, which should not be those the predictor was fitted to.

    Args:
        lut: its session is the reference for drift between the files; the first file's session when None.

    Raises:
        FingerprintError: the networks were measured on another board or in another state.
        PredictorError: no networks, networks of another space, or of another metric.
    """
    if isinstance(samples, Observations):
        observations = samples
    else:
        observations = load_observations(predictor.space, samples, lut, metric=predictor.metric)
    if observations.metric != predictor.metric:
        raise PredictorError(
            f"the predictor is of {predictor.metric}, the measured networks are of {observations.metric}"
        )
    predictor.require_same_board(observations.fingerprint, "the measured networks")
    one_hot = observations.one_hot
    low, high = predictor.interval(one_hot, CONFIDENCE)
    return score(predictor.predict(one_hot), low, high, observations, predictor.extrapolated(one_hot))


def score(
    predicted: Array, low: Array, high: Array, observations: Observations, extrapolated: NDArray[np.bool_] | None = None
) -> Scores:
    """All arguments (n,); limits are nan where a method states no interval, `extrapolated` None where it has no domain."""
    measured = observations.value
    with np.errstate(divide="ignore", invalid="ignore"):  # a net energy of 0: its relative errors are unknown
        relative = predicted / measured - 1
    within_1, within_5, within_10 = (float(np.mean(np.abs(relative) <= limit)) for limit in (0.01, 0.05, 0.10))
    covered = (low <= measured) & (measured <= high)
    has_interval = not (np.isnan(low).any() or np.isnan(high).any())
    in_domain = np.ones(len(measured), dtype=bool) if extrapolated is None else ~extrapolated
    tau = float(stats.kendalltau(predicted, measured).statistic) if len(measured) > 1 else math.nan
    return Scores(
        n=len(measured),
        rmse=float(np.sqrt(np.mean((predicted - measured) ** 2))),
        mape=finite(float(np.mean(np.abs(relative)))),
        bias=finite(float(np.mean(relative))),
        within_1=within_1,
        within_5=within_5,
        within_10=within_10,
        kendall_tau=finite(tau),
        coverage_90=float(np.mean(covered)) if has_interval else None,
        extrapolated=None if extrapolated is None else float(np.mean(extrapolated)),
        coverage_90_in_domain=float(np.mean(covered[in_domain])) if has_interval and in_domain.any() else None,
        repeatability=finite(observations.repeatability),
    )

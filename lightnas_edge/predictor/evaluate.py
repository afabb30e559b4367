"""How good a predictor is on measured networks, beside how well the measurements repeat."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

import luts
from lightnas_edge.errors import PredictorError
from lightnas_edge.predictor.base import Array, Predictor
from lightnas_edge.predictor.observations import Observations, load_observations

CONFIDENCE = 0.9  # of the interval whose coverage is reported


@dataclass(frozen=True)
class Scores:
    """Errors of predictions against measurements; shares lie between 0 and 1, nan is unknown."""

    n: int
    rmse: float
    mape: float  # mean absolute relative error
    bias: float  # mean relative error, above 0 when predictions are too high
    within_1: float  # share of networks predicted within 1 % of the measurement
    within_5: float
    within_10: float
    kendall_tau: float
    coverage_90: float  # share of measurements inside the predictor's 90 % interval
    outside: float  # share of networks that the predictor calls outside what was measured
    coverage_90_inside: float  # the same as coverage_90, of the other networks
    repeatability: float  # relative: what measuring the same networks again would differ by

    def to_json(self) -> dict[str, Any]:
        return {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in asdict(self).items()
        }


def evaluate(
    predictor: Predictor, samples: Sequence[luts.Lut] | Observations, *, lut: luts.Lut | None = None
) -> Scores:
    """Scores on measured networks, which should not be those the predictor was fitted to.

    Args:
        lut: bring the files to this table's day by the sentinels they share; the first file's day when None.

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
    return score(predictor.predict(one_hot), low, high, observations, predictor.outside(one_hot))


def score(
    predicted: Array, low: Array, high: Array, observations: Observations, outside: NDArray[np.bool_] | None = None
) -> Scores:
    """All arguments (n,); limits are nan where a method states no interval, `outside` None where it does not say."""
    measured = observations.value
    relative = predicted / measured - 1
    within_1, within_5, within_10 = (float(np.mean(np.abs(relative) <= limit)) for limit in (0.01, 0.05, 0.10))
    covered = (low <= measured) & (measured <= high)
    stated = not (np.isnan(low).any() or np.isnan(high).any())
    inside = np.ones(len(measured), dtype=bool) if outside is None else ~outside
    tau = float(stats.kendalltau(predicted, measured).statistic) if len(measured) > 1 else math.nan
    return Scores(
        len(measured),
        float(np.sqrt(np.mean((predicted - measured) ** 2))),
        float(np.mean(np.abs(relative))),
        float(np.mean(relative)),
        within_1,
        within_5,
        within_10,
        tau,
        float(np.mean(covered)) if stated else math.nan,
        math.nan if outside is None else float(np.mean(outside)),
        float(np.mean(covered[inside])) if stated and inside.any() else math.nan,
        observations.repeatability,
    )

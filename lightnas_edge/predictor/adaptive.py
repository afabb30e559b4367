"""Measuring as many networks as it takes: where the predictor stands, whether to stop, what to measure next.

Everything follows from what was measured so far, so a run that was interrupted goes on where it stopped.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightnas_edge.errors import PredictorError
from lightnas_edge.predictor.additive import AdditivePredictor
from lightnas_edge.predictor.base import one_hot_of, reachable_range
from lightnas_edge.predictor.choose import next_networks
from lightnas_edge.predictor.observations import Observations
from lightnas_edge.space import Architecture

_CONFIDENCE = 0.9
_TARGETS = 512  # networks that stand for those one wants to know
_CANDIDATES = 1024
_STEPS = 300  # single changes tried on each network that shall come near a value
_FLOOR = 1.1  # times the floor: what is left of the model's doubt is not worth measuring
_LEAST = 20  # networks before noise and doubt can be told apart


@dataclass(frozen=True)
class FitProgress:
    """Where a predictor stands after so many networks. All but `networks` are relative to the predicted value."""

    networks: int
    half_width: float  # of the 90 % interval of a measurement, median over the networks one wants to know
    floor: float  # what would be left of it if the costs were known exactly: the next two
    misfit: float  # what no sum of operators can tell
    measuring: float  # the noise of measuring
    leave_one_out: float  # root mean square error on the measured networks, each predicted by the others
    repeatability: float  # nan when unknown

    def to_json(self) -> dict[str, Any]:
        return {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in asdict(self).items()
        }


def assess(predictor: AdditivePredictor, observations: Observations, around: float | None = None) -> FitProgress:
    """
    Args:
        around: a value of the metric; the networks one wants to know are those near it, or all of the space when None.

    Raises:
        PredictorError: no network of the space comes near the value.
    """
    one_hot = one_hot_of(predictor.space, wanted_networks(predictor, around))
    predicted = predictor.predict(one_hot)
    quantile = predictor.quantile((1 + _CONFIDENCE) / 2)
    unit = float(np.median(observations.value))
    measuring = math.sqrt(max(predictor.noise**2 - predictor.misfit**2, 0.0))
    floor, misfit, measured = (
        float(np.median(quantile * part / predicted)) for part in (predictor.noise, predictor.misfit, measuring)
    )
    told = (predictor.fit.get("leave_one_out") or {}).get("rmse")
    return FitProgress(
        len(observations),
        float(np.median(quantile * predictor.deviation(one_hot) / predicted)),
        floor,
        misfit,
        measured,
        math.nan if told is None else told / unit,
        observations.repeatability,
    )


def stopping_reason(progress: FitProgress, until: float, most: int) -> str | None:
    """`reached`, `noise` or `misfit` (what is left, and which part of it is larger), `count`, or None to go on."""
    if progress.half_width <= until:
        return "reached"
    if progress.networks >= _LEAST and progress.half_width <= _FLOOR * progress.floor:
        return "noise" if progress.measuring >= progress.misfit else "misfit"
    return "count" if progress.networks >= most else None


def choose_batch(
    predictor: AdditivePredictor, known: Collection[Architecture], count: int, around: float | None = None
) -> list[Architecture]:
    """The networks that leave the least doubt about those one wants to know; none of the known ones.

    Raises:
        PredictorError: no network of the space comes near the value.
    """
    space = predictor.space
    targets = [Architecture.from_indices(space, row) for row in wanted_networks(predictor, around)]
    generator = np.random.default_rng(len(known))
    pool = dict.fromkeys(Architecture.random(space, generator) for _ in range(_CANDIDATES))
    if around is not None:
        pool |= dict.fromkeys(targets)
    candidates = [architecture for architecture in pool if architecture not in known]
    return next_networks(predictor, candidates, count, target=targets, improve=True, known=known)


def wanted_networks(predictor: AdditivePredictor, around: float | None) -> NDArray[np.int64]:
    """(512, L) the same for equal predictors: random ones, or random ones changed until they come near the value.

    Raises:
        PredictorError: the value is out of the space's reach.
    """
    space = predictor.space
    generator = np.random.default_rng(0)
    shape = _TARGETS, len(space.layers)
    indices = generator.integers(len(space.operators), size=shape)
    if around is None:
        return indices
    reach = reachable_range(predictor)
    if not reach.lowest <= around <= reach.highest:
        raise PredictorError(
            f"no network of space {space.name} is predicted near {around:g} {predictor.unit}: they reach from {reach}",
            hint="choose a value between them",
        )
    rows = np.arange(_TARGETS)
    away = np.abs(predictor.predict_indices(indices) - around)
    for _ in range(_STEPS):
        changed = indices.copy()
        changed[rows, generator.integers(shape[1], size=_TARGETS)] = generator.integers(
            len(space.operators), size=_TARGETS
        )
        off = np.abs(predictor.predict_indices(changed) - around)
        # Near enough is near enough: going on would leave few networks, all of one kind.
        better = (off < away) & (away > 0.02 * around)
        indices[better], away[better] = changed[better], off[better]
    return indices

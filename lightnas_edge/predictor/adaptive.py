"""Adaptive sampling: the progress of a fit, when to stop, and which networks to measure next.

Everything is a function of the measurements so far, so an interrupted sampling resumes where it stopped.
"""

from __future__ import annotations

import math
from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from lightnas_edge.files import finite
from lightnas_edge.predictor.additive import AdditivePredictor
from lightnas_edge.predictor.base import one_hot_of
from lightnas_edge.predictor.choose import next_networks
from lightnas_edge.predictor.frontier import frontier_networks
from lightnas_edge.predictor.near import moved_near, require_reachable
from lightnas_edge.predictor.observations import Observations
from lightnas_edge.records.adaptive import FitProgress, StoppingReason
from lightnas_edge.space import Architecture

_CONFIDENCE = 0.9
_TARGETS = 512  # networks that represent the networks of interest
_FRONTIER_TARGETS = 64  # the same, of such as a search chooses: these are alike
_CANDIDATES = 1024
_FLOOR = 1.1  # times the floor: the remaining uncertainty of the model is negligible
_LEAST = 20  # networks before noise and model uncertainty can be separated


def assess(
    predictor: AdditivePredictor, observations: Observations, around: float | None = None, *, frontier: bool = False
) -> FitProgress:
    """Progress of the fit, on the networks of interest.

    Args:
        around: a value of the metric; networks near it are of interest, or all of the space when None.
        frontier: networks such as a search chooses are of interest, within the value where it is given.

    Raises:
        PredictorError: no network of the space comes near the value.
    """
    if frontier:
        chosen = frontier_networks(predictor, _FRONTIER_TARGETS, limit=around)
        networks = np.stack([architecture.indices(predictor.space) for architecture in chosen])
    else:
        networks = networks_of_interest(predictor, around)
    one_hot = one_hot_of(predictor.space, networks)
    predicted = np.abs(predictor.predict(one_hot))
    quantile = predictor.quantile((1 + _CONFIDENCE) / 2)
    unit = abs(float(np.median(observations.value)))
    measuring = math.sqrt(max(predictor.noise**2 - predictor.discrepancy**2, 0.0))
    least = predictor.floor_std(one_hot)
    floor, noise = (float(np.median(quantile * part / predicted)) for part in (least, measuring))
    discrepancy = math.sqrt(max(floor**2 - noise**2, 0.0))
    rmse = predictor.fit.leave_one_out_rmse
    return FitProgress(
        networks=len(observations),
        half_width=float(np.median(quantile * predictor.deviation(one_hot) / predicted)),
        floor=floor,
        discrepancy=discrepancy,
        noise=noise,
        leave_one_out=None if rmse is None else rmse / unit,
        repeatability=finite(observations.repeatability),
    )


def stopping_reason(progress: FitProgress, until: float, most: int) -> StoppingReason | None:
    """`reached`, `count`, the larger part of the floor (`noise` or `discrepancy`), or None to continue."""
    if progress.half_width <= until:
        return "reached"
    if progress.networks >= _LEAST and progress.half_width <= _FLOOR * progress.floor:
        return "noise" if progress.noise >= progress.discrepancy else "discrepancy"
    return "count" if progress.networks >= most else None


def choose_batch(
    predictor: AdditivePredictor, known: Collection[Architecture], count: int, around: float | None = None
) -> list[Architecture]:
    """The most informative networks about the networks of interest; none of the known ones.

    Raises:
        PredictorError: no network of the space comes near the value.
    """
    space = predictor.space
    targets = [Architecture.from_indices(space, row) for row in networks_of_interest(predictor, around)]
    generator = np.random.default_rng(len(known))
    pool = dict.fromkeys(Architecture.random(space, generator) for _ in range(_CANDIDATES))
    if around is not None:
        pool |= dict.fromkeys(targets)
    candidates = [architecture for architecture in pool if architecture not in known]
    return next_networks(predictor, candidates, count, target=targets, improve=True, known=known)


def networks_of_interest(predictor: AdditivePredictor, around: float | None) -> NDArray[np.int64]:
    """(512, L), equal for equal predictors: random networks, or random ones changed until they are near the value.

    Raises:
        PredictorError: the value is out of the range of the space.
    """
    space = predictor.space
    generator = np.random.default_rng(0)
    shape = _TARGETS, len(space.layers)
    indices = generator.integers(len(space.operators), size=shape)
    if around is None:
        return indices
    require_reachable(predictor, around)
    return moved_near(predictor, indices, around, generator)[0]

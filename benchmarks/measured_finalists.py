"""What `search --confirm` hands over where every measurement can be had at once: looked up, or made by a known board."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.searches import CONFIDENCE, Found, Truth
from lightnas_edge.predictor import AdditivePredictor, Observations
from lightnas_edge.predictor.recalibration import recalibrated
from lightnas_edge.search import Budget, Constraint, SearchConfig
from lightnas_edge.search.candidates import Known, promising, shortlist
from lightnas_edge.search.posterior import OperatorPosterior
from lightnas_edge.space import Architecture, Space, operator_cost

MEASURED = 8  # finalists of a budget, at most


@dataclass(frozen=True)
class Confirmed:
    """What `search --confirm` ends with: the network handed over, and the predictor that has learned from the finalists."""

    chosen: Architecture
    predictor: AdditivePredictor
    estimate: tuple[float, float] | None  # of the network, and its standard deviation; None: it was not measured


def with_measured_finalists(truth: Truth, posterior: OperatorPosterior) -> Found:
    """The network of every budget, as `search --confirm 8 --confidence 0.95` chooses by these operator scores.

    Budgets do not learn from each other here, and candidates are not compared on held-out images.
    """

    def observe(architectures: Sequence[Architecture]) -> Observations:
        return truth.observations.take(truth.rows_of(architectures))

    found = {}
    for number, target_ms in enumerate(truth.budgets_ms):
        chosen = confirmed(truth.predictor, observe, posterior, float(target_ms), CONFIDENCE).chosen
        found[number] = tuple(int(index) for index in chosen.indices(truth.space))
    return found


def arithmetic_alone(space: Space) -> OperatorPosterior:
    """Scores that are the multiplications of each operator."""
    macs = [[operator_cost(space.at(layer, each))[0] for each in space.operators] for layer in range(len(space.layers))]
    mean = np.array(macs, dtype=np.float64) / 1e6
    return OperatorPosterior(mean, np.zeros((mean.size, 1)))


def confirmed(
    before: AdditivePredictor,
    observe: Callable[[Sequence[Architecture]], Observations],
    posterior: OperatorPosterior,
    target_ms: float,
    confidence: float | None = None,
    allowed: int = MEASURED,
) -> Confirmed:
    """One budget of `search --confirm`.

    Args:
        observe: measures networks; of one that was measured before, the same value.
        allowed: finalists, at most.
    """
    space, config = before.space, SearchConfig(confidence=confidence)
    predictor, known = before, Known()
    measured: list[Architecture] = []
    estimates: dict[Architecture, tuple[float, float]] = {}

    def score(architecture: Architecture) -> float:
        return posterior.score(architecture.indices(space))

    while True:
        budget = Budget("budget", (Constraint(predictor, target_ms),))
        candidates = [each.architecture for each in shortlist(space, posterior, budget, config, 1, known)]
        cautious = max(candidates, key=score)
        left = allowed - len(measured)
        reserved = 0 if confidence is None or cautious in measured else 1
        count = math.ceil((left - reserved) / 2)
        if confidence is None and cautious in measured:
            break
        finalists = promising(space, posterior, budget, config, count, known) if left else []
        if confidence is None:
            finalists = list(dict.fromkeys([cautious, *finalists]))[:count]
        new = [each for each in finalists or [cautious] if each not in measured]
        if not left or not new:
            break
        measured += new
        observed = observe(measured)
        predictor = recalibrated(before, observed)
        mean, std = predictor.of_measured(observed.one_hot, observed.value, observed.standard_error)
        estimates = dict(zip(measured, zip(mean.tolist(), std.tolist(), strict=True), strict=True))
        upper_ms = mean if confidence is None else mean + predictor.quantile(confidence) * std
        known = _known(measured, np.maximum(upper_ms, observed.value) <= target_ms)
    handed_over = cautious if cautious in measured or not known.kept else max(known.kept, key=score)
    return Confirmed(handed_over, predictor, estimates.get(handed_over))


def _known(measured: Sequence[Architecture], keeps: NDArray[np.bool_]) -> Known:
    """Judged as `confirm.py` does: what is not shown to keep the budget is not chosen."""
    kept = [each for each, does in zip(measured, keeps, strict=True) if does]
    return Known(tuple(kept), tuple(each for each in measured if each not in kept))

"""What `search --confirm` hands over where every network has been measured: its measurements are looked up."""

from __future__ import annotations

import math
from dataclasses import replace
from statistics import NormalDist

import numpy as np

from benchmarks.searches import CONFIDENCE, Found, Network, Truth
from lightnas_edge.predictor.recalibration import recalibrated
from lightnas_edge.search import Budget, Constraint, SearchConfig
from lightnas_edge.search.candidates import Known, promising, shortlist
from lightnas_edge.search.posterior import OperatorPosterior
from lightnas_edge.space import Architecture, Space, operator_cost

MEASURED = 8  # finalists of a budget, at most


def with_measured_finalists(truth: Truth, posterior: OperatorPosterior) -> Found:
    """The network of every budget, as `search --confirm 8 --confidence 0.95` chooses by these operator scores.

    Budgets do not learn from each other here, and candidates are not compared on held-out images.
    """
    return {number: _of_budget(truth, posterior, float(target_ms)) for number, target_ms in enumerate(truth.budgets_ms)}


def arithmetic_alone(space: Space) -> OperatorPosterior:
    """Scores that are the multiplications of each operator."""
    macs = [[operator_cost(space.at(layer, each))[0] for each in space.operators] for layer in range(len(space.layers))]
    mean = np.array(macs, dtype=np.float64) / 1e6
    return OperatorPosterior(mean, np.zeros((mean.size, 1)))


def _of_budget(truth: Truth, posterior: OperatorPosterior, target_ms: float) -> Network:
    space, config = truth.space, SearchConfig(confidence=CONFIDENCE)
    budget, known = Budget("budget", (Constraint(truth.predictor, target_ms),)), Known()
    measured: list[Architecture] = []

    def score(architecture: Architecture) -> float:
        return posterior.score(architecture.indices(space))

    while True:
        cautious = max((each.architecture for each in shortlist(space, posterior, budget, config, 1, known)), key=score)
        left = MEASURED - len(measured)
        reserved = 0 if cautious in measured else 1
        finalists = promising(space, posterior, budget, config, math.ceil((left - reserved) / 2), known) if left else []
        new = [each for each in finalists or [cautious] if each not in measured]
        if not left or not new:
            break
        measured += new
        known = _known(truth, measured, target_ms)
        rows = truth.rows_of(measured)
        predictor = recalibrated(truth.predictor, truth.observations.take(rows))
        budget = replace(budget, constraints=(Constraint(predictor, target_ms),))
    chosen = cautious if cautious in measured or not known.kept else max(known.kept, key=score)
    return tuple(int(index) for index in chosen.indices(space))


def _known(truth: Truth, measured: list[Architecture], target_ms: float) -> Known:
    """Judged as `confirm.py` does: what is not shown to keep the budget is not chosen."""
    rows = truth.rows_of(measured)
    observed = truth.observations
    upper_ms = observed.value[rows] + NormalDist().inv_cdf(CONFIDENCE) * observed.standard_error[rows]
    kept = [each for each, upper in zip(measured, upper_ms, strict=True) if upper <= target_ms]
    return Known(tuple(kept), tuple(each for each in measured if each not in kept))

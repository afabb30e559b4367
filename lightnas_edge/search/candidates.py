"""A few networks within a budget that may be the best, and how they are ranked once they are scored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from lightnas_edge.data import DataSet
from lightnas_edge.errors import InfeasibleBudgetError
from lightnas_edge.graph import FP32, Arithmetic
from lightnas_edge.predictor.base import one_hot_of
from lightnas_edge.search.config import SearchConfig
from lightnas_edge.search.constraints import Budget
from lightnas_edge.search.deployed import Penalty
from lightnas_edge.search.posterior import OperatorPosterior
from lightnas_edge.search.selection import Selection, select
from lightnas_edge.space import Architecture, Space

# Share of what the budgets allow, with a two-sided budget; the published result may deviate from its target by 0.7 %.
MIN_UTILISATION = 0.995
CALIBRATION_IMAGES = 512  # training images whose statistics normalise a candidate
RANGE_IMAGES = 256  # of them, whose activations give the ranges of an int8 graph
HELD_OUT_IMAGES = 2000  # at most, evenly spaced


@dataclass(frozen=True)
class Candidate:
    """A network within the budget, and how the supernet scores it on held-out images.

    `loss` and `accuracy` are of float32 and None when the network was not scored; `penalty` is that of its precision, None
    in float32. `estimate`: see `estimated_losses`.
    """

    selection: Selection
    loss: float | None = None
    accuracy: float | None = None
    penalty: Penalty | None = None
    estimate: float | None = None


@dataclass(frozen=True)
class Known:
    """Networks that were measured on the board of a budget: their measurements decide, see confirm.py."""

    kept: tuple[Architecture, ...] = ()  # within every limit
    broken: tuple[Architecture, ...] = ()  # over one, or impossible to measure


NOTHING_KNOWN = Known()


def shortlist(
    space: Space,
    posterior: OperatorPosterior,
    budget: Budget,
    config: SearchConfig,
    count: int,
    known: Known = NOTHING_KNOWN,
) -> list[Selection]:
    """Networks that may be the best within the budget; first the one with the highest posterior mean score.

    The others are exact optima of scores drawn from the posterior: they differ more where the posterior is wide. Those that were
    measured and keep the budget come last, in addition to `count`. The `score` of all is the posterior mean.

    Raises:
        InfeasibleBudgetError: no network keeps the budget.
    """
    try:
        found = _selections(space, posterior, budget, config, count, known.broken)
    except InfeasibleBudgetError:
        if not known.kept:
            raise
        found = []
    chosen = [selection.architecture for selection in found]
    return found + [
        _measured(space, architecture, posterior, budget, config)
        for architecture in known.kept
        if architecture not in chosen
    ]


def promising(
    space: Space,
    posterior: OperatorPosterior,
    budget: Budget,
    config: SearchConfig,
    count: int,
    known: Known = NOTHING_KNOWN,
) -> list[Architecture]:
    """Networks worth measuring: the highest posterior mean scores that the predictions themselves keep within the budget.

    A measurement decides about them, so no upper bound has to keep the budget first: that would pass over better networks, most of which
    keep it. At most `count`, best first; none that scores no higher than a network that was measured and keeps the budget.
    """
    reached = max((posterior.score(each.indices(space)) for each in known.kept), default=-np.inf)
    found: list[Architecture] = []
    min_utilisation = MIN_UTILISATION if config.is_two_sided else None
    for _ in range(count):
        try:
            selection = select(
                space,
                posterior.mean,
                budget.constraints,
                min_utilisation=min_utilisation,
                exclude=(*known.broken, *found),
            )
        except InfeasibleBudgetError:
            break
        if selection.score <= reached:
            break
        found.append(selection.architecture)
    return found


def _selections(
    space: Space,
    posterior: OperatorPosterior,
    budget: Budget,
    config: SearchConfig,
    count: int,
    exclude: Sequence[Architecture],
) -> list[Selection]:
    min_utilisation = MIN_UTILISATION if config.is_two_sided else None
    choose = partial(
        select, space, constraints=budget.constraints, confidence=config.confidence, min_utilisation=min_utilisation,
        exclude=exclude,
    )  # fmt: skip
    found = [choose(scores=posterior.mean)]
    generator = np.random.default_rng([config.seed, 17])
    for _ in range(2 * (count - 1)):  # draws repeat where the posterior is narrow
        if len(found) >= count or posterior.posterior_std == 0:
            break
        other = choose(scores=posterior.sample(generator))
        if all(other.architecture != known.architecture for known in found):
            found.append(replace(other, score=posterior.score(other.architecture.indices(space))))
    return found


def _measured(
    space: Space, architecture: Architecture, posterior: OperatorPosterior, budget: Budget, config: SearchConfig
) -> Selection:
    """A network that its measurement keeps within the budget, whatever the predictors say of it."""
    indices = architecture.indices(space)
    one_hot = one_hot_of(space, indices[None])
    predictors = [constraint.predictor for constraint in budget.constraints]
    upper = None
    if config.confidence is not None:
        upper = tuple(float(predictor.upper(one_hot, config.confidence)[0]) for predictor in predictors)
    return Selection(
        architecture,
        tuple(float(predictor.predict(one_hot)[0]) for predictor in predictors),
        upper,
        posterior.score(indices),
        exact=False,
    )


def estimated_losses(
    space: Space, posterior: OperatorPosterior, candidates: Sequence[Candidate]
) -> NDArray[np.float64]:
    """(C,) smaller is better: the loss in the network's own precision, up to a constant of the search.

    In float32 there are two estimates of about equal weight: the candidate's own loss contains interactions of its
    operators, the posterior rests on the losses of hundreds of paths. With the first alone, the benchmark with known truth
    ends no better than without any comparison, rather worse (docs/search.md). Their mean is the estimate.

    What arithmetic adds to the scores is taken from the losses too: inherited weights undervalue large networks in both.

    The posterior knows nothing of the precision, so the penalty is measured alone, and counts in full: within the mean it
    would count by half, and int8 would look half as bad as it is. A network that its precision cannot compute is infinite.

    The candidate's loss is without label smoothing, since it is reported; the paths' losses have it, as in training. Losses
    with smoothing differ 0.75 to 0.81 times as much between networks, at a correlation above 0.995. With smoothing in both,
    choices among 8 networks of that benchmark had an accuracy 0.06, 0.04 and -0.46 points higher in three searches.
    """
    indices = [each.selection.architecture.indices(space) for each in candidates]
    scores = np.array([posterior.score(each) for each in indices])
    capacity = np.array([posterior.capacity_of(each) for each in indices])
    losses = np.array([each.loss for each in candidates], dtype=np.float64) - capacity
    penalties = np.array([_penalty(each) for each in candidates], dtype=np.float64)
    estimates: NDArray[np.float64] = (losses - scores) / 2 + penalties
    return estimates


def _penalty(candidate: Candidate) -> float:
    """At least 0: rounding does not improve a network, so a precision that seems better than float32 does by the noise of the
    images, and gets no credit for it.
    """
    if candidate.penalty is None:
        return 0.0
    return float("inf") if candidate.penalty.mean is None else max(candidate.penalty.mean, 0.0)


def images_of_candidate(data: DataSet, arithmetic: Arithmetic = FP32) -> int:
    """Forward passes of an image that comparing one candidate takes, those in the precision of the board included."""
    calibration, held_out = min(len(data.train), CALIBRATION_IMAGES), min(len(data.validation), HELD_OUT_IMAGES)
    if arithmetic == FP32:
        return calibration + held_out
    return calibration + 2 * held_out + (min(calibration, RANGE_IMAGES) if arithmetic.quantised else 0)

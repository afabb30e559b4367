"""The final choice: a few networks within the budget, compared on held-out images with the supernet's weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from lightnas_edge.data import DataSet, normalise
from lightnas_edge.graph import FP32, Arithmetic
from lightnas_edge.nn import Supernet, folded_path_weights
from lightnas_edge.search.config import SearchConfig
from lightnas_edge.search.constraints import Budget
from lightnas_edge.search.deployed import Penalty, ScoredImages, penalty_of
from lightnas_edge.search.execution import PLAIN, Execution
from lightnas_edge.search.posterior import OperatorPosterior
from lightnas_edge.search.selection import Selection, select
from lightnas_edge.space import Space

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


def shortlist(
    space: Space, posterior: OperatorPosterior, budget: Budget, config: SearchConfig, count: int
) -> list[Selection]:
    """Networks that may be the best within the budget; first the one with the highest posterior mean score.

    The others are exact optima of scores drawn from the posterior: they differ more where the posterior is wide.

    Raises:
        InfeasibleBudgetError: no network keeps the budget.
    """
    min_utilisation = MIN_UTILISATION if config.is_two_sided else None
    found = [select(space, posterior.mean, budget.constraints, config.confidence, min_utilisation=min_utilisation)]
    generator = np.random.default_rng([config.seed, 17])
    for _ in range(2 * (count - 1)):  # draws repeat where the posterior is narrow
        if len(found) >= count or posterior.posterior_std == 0:
            break
        other = select(
            space, posterior.sample(generator), budget.constraints, config.confidence, min_utilisation=min_utilisation
        )
        if all(other.architecture != known.architecture for known in found):
            found.append(other)
    return found


def compare(
    supernet: Supernet,
    data: DataSet,
    selections: Sequence[Selection],
    space: Space,
    config: SearchConfig,
    *,
    arithmetic: Arithmetic = FP32,
    execution: Execution = PLAIN,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[Candidate]:
    """Every network on the same held-out images, normalised by statistics of the same training images.

    The images are the validation images, and the operator scores were fitted to them too: this ranks candidates and is
    no estimate of an accuracy. The losses are of float32 also where the search trained in bfloat16: penalties are differences from them.

    Args:
        arithmetic: of the board. Other than in float32, the network with the supernet's weights is executed in it too.
        execution: of the search; its memory format is used.
    """
    device = next(supernet.parameters()).device
    calibration = []
    with closing(data.train_loader(min(config.batch, CALIBRATION_IMAGES), augment=False)) as loader:
        for pixels, _ in loader.batches(config.epochs):  # an order that no epoch of the search used
            calibration.append(normalise(pixels.to(device)))
            if sum(len(batch) for batch in calibration) >= CALIBRATION_IMAGES:
                break
    images, labels = data.validation_arrays(HELD_OUT_IMAGES)
    found = []
    for done, selection in enumerate(selections):
        path = [int(index) for index in selection.architecture.indices(space)]
        logits = []
        with supernet.calibrated(path, calibration), torch.no_grad():
            for start in range(0, len(images), config.batch):
                some = torch.from_numpy(images[start : start + config.batch]).to(device)
                logits.append(supernet(some.contiguous(memory_format=execution.memory_format), path).float().cpu())
            weights = folded_path_weights(supernet, path)
        scored = ScoredImages.of(torch.cat(logits), torch.from_numpy(labels))
        penalty = None
        if arithmetic != FP32:
            some_images = torch.cat(calibration)[:RANGE_IMAGES].cpu().contiguous().numpy()
            penalty = penalty_of(
                supernet.space, selection.architecture, weights, arithmetic,
                calibration=some_images, images=images, labels=labels, floats=scored,
            )  # fmt: skip
        found.append(Candidate(selection, float(scored.losses.mean()), float(scored.correct.mean()), penalty))
        if on_progress is not None:
            on_progress(done + 1, len(selections))
    return found


def estimated_losses(
    space: Space, posterior: OperatorPosterior, candidates: Sequence[Candidate]
) -> NDArray[np.float64]:
    """(C,) smaller is better: the loss in the network's own precision, up to a constant of the search.

    In float32 there are two estimates of about equal weight: the candidate's own loss contains interactions of its
    operators, the posterior rests on the losses of hundreds of paths. With the first alone, the benchmark with known truth
    ends no better than without any comparison, rather worse (docs/search.md). Their mean is the estimate.

    The posterior knows nothing of the precision, so the penalty is measured alone, and counts in full: within the mean it
    would count by half, and int8 would look half as bad as it is. A network that its precision cannot compute is infinite.

    The candidate's loss is without label smoothing, since it is reported; the paths' losses have it, as in training. Losses
    with smoothing differ 0.75 to 0.81 times as much between networks, at a correlation above 0.995. With smoothing in both,
    choices among 8 networks of that benchmark had an accuracy 0.06, 0.04 and -0.46 points higher in three searches.
    """
    scores = np.array([
        posterior.mean[np.arange(len(space.layers)), each.selection.architecture.indices(space)].sum()
        for each in candidates
    ])  # fmt: skip
    losses = np.array([each.loss for each in candidates], dtype=np.float64)
    penalties = np.array([_penalty(each) for each in candidates], dtype=np.float64)
    estimates: NDArray[np.float64] = (losses - scores) / 2 + penalties
    return estimates


def _penalty(candidate: Candidate) -> float:
    if candidate.penalty is None:
        return 0.0
    return float("inf") if candidate.penalty.mean is None else candidate.penalty.mean


def affordable(
    config: SearchConfig, data: DataSet, warmup_epochs: int, operators: int, share: float, images_each: int
) -> int:
    """How many candidates can be compared for this share of the search's own arithmetic.

    Counted in forward passes of an image: a weight step is three (there and back), a validation path one.

    Args:
        images_each: of one candidate: `images_of_candidate`.
    """
    train, validation = len(data.train), len(data.validation)
    searching = config.epochs - warmup_epochs
    whole = 3 * train * (operators * warmup_epochs + searching) + config.paths * validation * searching
    return min(config.candidates, int(share * whole / images_each))


def images_of_candidate(data: DataSet, arithmetic: Arithmetic = FP32) -> int:
    """Forward passes of an image that comparing one candidate takes, those in the precision of the board included."""
    calibration, held_out = min(len(data.train), CALIBRATION_IMAGES), min(len(data.validation), HELD_OUT_IMAGES)
    if arithmetic == FP32:
        return calibration + held_out
    return calibration + 2 * held_out + (min(calibration, RANGE_IMAGES) if arithmetic.quantised else 0)

"""The final choice: a few networks within the budget, compared on held-out images with the supernet's weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from lightnas_edge.data import DataSet, normalise
from lightnas_edge.nn import Supernet
from lightnas_edge.search.config import SearchConfig
from lightnas_edge.search.constraints import Budget
from lightnas_edge.search.execution import PLAIN, Execution
from lightnas_edge.search.posterior import OperatorPosterior
from lightnas_edge.search.selection import Selection, select
from lightnas_edge.space import Space

# Share of what the budgets allow, with a two-sided budget; the published result may deviate from its target by 0.7 %.
MIN_UTILISATION = 0.995
CALIBRATION_IMAGES = 512  # training images whose statistics normalise a candidate
HELD_OUT_IMAGES = 2000  # at most, evenly spaced


@dataclass(frozen=True)
class Candidate:
    """A network within the budget, and how the supernet scores it on held-out images.

    `loss` and `accuracy` are None when there was nothing to compare it with.
    """

    selection: Selection
    loss: float | None = None
    accuracy: float | None = None


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
    execution: Execution = PLAIN,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[Candidate]:
    """Every network on the same held-out images, normalised by statistics of the same training images.

    The images are the validation images, and the operator scores were fitted to them too: this ranks candidates and is
    no estimate of an accuracy.
    """
    device = next(supernet.parameters()).device
    loader = data.train_loader(min(config.batch, CALIBRATION_IMAGES), augment=False)
    calibration = []
    for pixels, _ in loader.batches(config.epochs):  # an order that no epoch of the search used
        calibration.append(normalise(pixels.to(device)))
        if sum(len(batch) for batch in calibration) >= CALIBRATION_IMAGES:
            break
    images, labels = data.validation_arrays(HELD_OUT_IMAGES)
    found = []
    for done, selection in enumerate(selections):
        path = [int(index) for index in selection.architecture.indices(space)]
        loss = correct = torch.zeros((), device=device)
        with supernet.calibrated(path, calibration), torch.no_grad(), execution.context(device):
            for start in range(0, len(images), config.batch):
                some = torch.from_numpy(images[start : start + config.batch]).to(device)
                truth = torch.from_numpy(labels[start : start + config.batch]).to(device)
                logits = supernet(some.contiguous(memory_format=execution.memory_format), path).float()
                loss = loss + F.cross_entropy(logits, truth, reduction="sum")
                correct = correct + (logits.argmax(-1) == truth).sum()
        found.append(Candidate(selection, float(loss) / len(images), float(correct) / len(images)))
        if on_progress is not None:
            on_progress(done + 1, len(selections))
    return found


def combined_losses(space: Space, posterior: OperatorPosterior, candidates: Sequence[Candidate]) -> NDArray[np.float64]:
    """(C,) smaller is better: a candidate's loss on held-out images minus the sum of its operator scores.

    Two estimates of the same loss with about equal weight: the candidate's own loss contains interactions of its operators,
    the posterior rests on the losses of hundreds of paths. With the first alone, the benchmark with known truth ends no better
    than without any comparison, rather worse (docs/search.md).

    The candidate's loss is without label smoothing, since it is reported; the paths' losses have it, as in training. Losses
    with smoothing differ 0.75 to 0.81 times as much between networks, at a correlation above 0.995. With smoothing in both,
    choices among 8 networks of that benchmark had an accuracy 0.06, 0.04 and -0.46 points higher in three searches.
    """
    score = [
        posterior.mean[np.arange(len(space.layers)), each.selection.architecture.indices(space)].sum()
        for each in candidates
    ]
    scores: NDArray[np.float64] = np.array([each.loss for each in candidates], dtype=np.float64) - np.array(score)
    return scores


def affordable(config: SearchConfig, data: DataSet, warmup_epochs: int, operators: int, share: float) -> int:
    """How many candidates can be compared for this share of the search's own arithmetic.

    Counted in forward passes of an image: a weight step is three (there and back), a validation path one.
    """
    train, validation = len(data.train), len(data.validation)
    searching = config.epochs - warmup_epochs
    whole = 3 * train * (operators * warmup_epochs + searching) + config.paths * validation * searching
    return min(config.candidates, int(share * whole / images_of_candidate(data)))


def images_of_candidate(data: DataSet) -> int:
    """Forward passes of an image that comparing one candidate takes."""
    return min(len(data.train), CALIBRATION_IMAGES) + min(len(data.validation), HELD_OUT_IMAGES)

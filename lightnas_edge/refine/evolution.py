"""Regularised evolution (Real et al., AAAI 2019, arXiv 1802.01548) over choices of channels that keep a budget.

A population is a queue: each step mutates the best of a random handful, adds the child and drops the oldest, so that a
lucky score does not stay for ever. Everything follows from the seed and the scores; given the same ones again, it
proposes the same choices in the same order, which is how an interrupted refinement resumes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator

import numpy as np

from lightnas_edge.refine.channels import Channels, Grid

_TRIES = 1000  # until a child that keeps the budget and is new: then the neighbourhood counts as exhausted
_MOST_CHANGES = 3  # places changed by one mutation: where every growth breaks the budget, another place must shrink too


def evolve(
    grid: Grid,
    keeps_budget: Callable[[Channels], bool],
    score: Callable[[Channels], float],
    *,
    candidates: int,
    population: int,
    tournament: int,
    seed: int,
) -> dict[Channels, float]:
    """The choices that were scored, in order, the unchanged network first; lower scores are better.

    Args:
        keeps_budget: a choice that does not is never scored, but for the unchanged network.
        candidates: how many are scored in addition to the unchanged network; fewer where there are no more.
    """
    generator = np.random.default_rng(seed)
    scored = {grid.unchanged: score(grid.unchanged)}
    parents: deque[Channels] = deque(scored if keeps_budget(grid.unchanged) else (), maxlen=population)
    while len(scored) <= candidates:
        proposals = _random(grid, generator)
        if len(parents) == population:
            chosen = generator.choice(population, size=min(tournament, population), replace=False)
            proposals = _mutations(grid, min((parents[i] for i in chosen), key=scored.__getitem__), generator)
        child = _first_fit(proposals, lambda channels: channels not in scored and keeps_budget(channels))
        if child is None:  # nothing new around this parent
            child = _first_fit(
                _random(grid, generator), lambda channels: channels not in scored and keeps_budget(channels)
            )
        if child is None:
            break
        scored[child] = score(child)
        parents.append(child)
    return scored


def _first_fit(proposals: Iterator[Channels], fits: Callable[[Channels], bool]) -> Channels | None:
    return next((proposal for proposal, _ in zip(proposals, range(_TRIES), strict=False) if fits(proposal)), None)


def _random(grid: Grid, generator: np.random.Generator) -> Iterator[Channels]:
    while True:
        yield grid.channels([choices[generator.integers(len(choices))] for choices in grid.genes])


def _mutations(grid: Grid, parent: Channels, generator: np.random.Generator) -> Iterator[Channels]:
    """Children of one parent: one to three places that may vary get another value."""
    places = [place for place, choices in enumerate(grid.genes) if len(choices) > 1]
    genes = (*parent.widths, *parent.expansions)
    while True:
        child = list(genes)
        changes = min(len(places), int(generator.integers(1, _MOST_CHANGES + 1)))
        for place in generator.choice(places, size=changes, replace=False):
            others = [choice for choice in grid.genes[place] if choice != genes[place]]
            child[place] = others[generator.integers(len(others))]
        yield grid.channels(child)

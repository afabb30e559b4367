"""The choice of a network for every budget, from what a search has learned."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch

from lightnas_edge.data import DataSet
from lightnas_edge.graph import Arithmetic
from lightnas_edge.search.candidates import (
    NOTHING_KNOWN,
    Candidate,
    Known,
    estimated_losses,
    images_of_candidate,
    promising,
    shortlist,
)
from lightnas_edge.search.comparison import Comparison
from lightnas_edge.search.config import LIGHTNAS
from lightnas_edge.search.constraints import Budget
from lightnas_edge.search.results import SearchResult
from lightnas_edge.search.selection import Selection
from lightnas_edge.search.state import SearchState
from lightnas_edge.space import Architecture

Event = dict[str, Any]


@dataclass(frozen=True)
class Choice:
    """By operator scores; candidates are compared on held-out images where the configuration wants it, or precisions compete."""

    state: SearchState
    data: DataSet
    on_event: Callable[[Event], None]

    def compared_images(self, contested: Sequence[bool]) -> int:
        """Forward passes of an image that the comparisons of all budgets take, at most."""
        if self.state.context.config.method == LIGHTNAS:
            return 0
        number = self.state.context.config.candidates
        budgets = self.state.strategy.budgets
        return sum(
            number * images_of_candidate(self.data, budget.arithmetic)
            for budget, compared in zip(budgets, contested, strict=True)
            if number > 1 or compared
        )

    def networks(self, contested: Sequence[bool], elapsed_s: float) -> list[SearchResult]:
        """One of every budget.

        Args:
            contested: of every budget, whether its network is compared with networks of other precisions: they are compared by
                their scores, so that even a single candidate needs one.
            elapsed_s: of the search.
        """
        budgets = self.state.strategy.budgets
        return [
            self.network(index, budget, NOTHING_KNOWN, contested[index], elapsed_s)
            for index, budget in enumerate(budgets)
        ]

    def promising(self, budget: Budget, known: Known, count: int) -> list[Architecture]:
        """Networks of a budget that may be better than what would be handed over, once they are measured: `candidates.promising`."""
        context = self.state.context
        return promising(context.space, self.state.strategy.posterior(), budget, context.config, count, known)

    def network(self, index: int, budget: Budget, known: Known, contested: bool, elapsed_s: float) -> SearchResult:
        """That of one budget.

        Args:
            index: place of the budget among those of the search.
            budget: the search's own, or the same under predictors that have learned since.
            known: networks that were measured.
            contested, elapsed_s: as of `networks`.

        Raises:
            InfeasibleBudgetError: as far as is known, no network keeps it.
        """
        began_s = time.monotonic()
        context, strategy = self.state.context, self.state.strategy
        space, config = context.space, context.config
        count = 1 if config.method == LIGHTNAS else config.candidates
        posterior = strategy.posterior()
        selections = shortlist(space, posterior, budget, config, count, known)
        selections.sort(key=lambda selection: -selection.score)
        candidates = [Candidate(selection) for selection in selections]
        if (count > 1 and len(candidates) > 1) or contested:
            candidates = self._compared(selections, budget.name, budget.arithmetic)
        return SearchResult(
            budget,
            candidates[0],
            tuple(candidates[1:]),
            top_scored=selections[0].architecture,
            derived=Architecture.from_indices(space, strategy.derived()[index]),
            multipliers=strategy.multipliers()[index],
            probabilities=strategy.probabilities(index),
            confidence=config.confidence,
            epochs=config.epochs,
            elapsed_s=elapsed_s,
            choosing_s=time.monotonic() - began_s,
            sampled_paths=self.state.sampled_paths,
        )

    def scored(self, architecture: Architecture, name: str, arithmetic: Arithmetic) -> Candidate:
        """A network that needed no comparison when it was chosen, by the same estimate as those that are compared now.

        Args:
            name: of its budget, for the progress.
        """
        selection = Selection(architecture, (), None, 0.0, exact=False)
        return self._compared([selection], name, arithmetic)[0]

    def _compared(self, selections: Sequence[Selection], name: str, arithmetic: Arithmetic) -> list[Candidate]:
        """All of them, the lowest estimated loss first."""
        context = self.state.context
        candidates = self._comparison.score(
            selections,
            arithmetic,
            on_progress=lambda done, total: self.on_event(
                {"kind": "candidate", "budget": name, "done": done, "total": total}
            ),
        )
        estimates = estimated_losses(context.space, self.state.strategy.posterior(), candidates)
        losses = context.ranks.from_first(torch.from_numpy(estimates))
        return [replace(candidates[int(place)], estimate=float(losses[place])) for place in losses.argsort(stable=True)]

    @cached_property
    def _comparison(self) -> Comparison:
        """Of all budgets, once the search has ended."""
        context = self.state.context
        return Comparison(self.state.supernet, self.data, context.config, context.execution)

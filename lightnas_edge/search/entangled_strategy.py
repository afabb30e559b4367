"""The shared method with entangled weights: every path learns from the largest network of the space."""

from __future__ import annotations

from collections.abc import Sequence

from lightnas_edge.search.constraints import Budget
from lightnas_edge.search.evidence import uniform_path
from lightnas_edge.search.shared_strategy import SharedStrategy
from lightnas_edge.search.steps import Path
from lightnas_edge.search.strategy import SearchContext
from lightnas_edge.space import Space, operator_cost


class EntangledStrategy(SharedStrategy):
    """Each batch trains the largest network on its labels, and one uniform path on the answers of the largest network.

    The warm-up does the same: a batch trains a part of every candidate as it is. Paths on validation images, operator scores and
    multipliers are those of `SharedStrategy`.
    """

    entangled = True

    def __init__(self, context: SearchContext, budgets: Sequence[Budget]) -> None:
        super().__init__(context, budgets)
        self._largest = largest_path(context.space)

    def usual_paths(self) -> list[Path]:
        return [list(self._largest), *super().usual_paths()]

    def warmup_paths(self) -> list[Path]:
        return self.weight_paths()

    def weight_paths(self) -> list[Path]:
        return [list(self._largest), uniform_path(self.context.space, self.context.generator)]

    @property
    def passes_per_step(self) -> tuple[int, int]:
        return 6, 6


def largest_path(space: Space) -> Path:
    """Of every layer the operator with the most arithmetic."""
    macs = [[operator_cost(space.at(layer, each))[0] for each in space.operators] for layer in range(len(space.layers))]
    return [row.index(max(row)) for row in macs]

"""The question of a selection, apart from the scores: which networks are allowed."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from lightnas_edge.search.constraints import Constraint
from lightnas_edge.space import Space

Array = NDArray[np.float64]
Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Problem:
    """A network must keep every constraint, its upper bound with a confidence.

    Args:
        min_utilisation: the share of the highest possible value of the first metric that a network must use.
        banned: (L,) indices of networks that are not chosen.
    """

    space: Space
    constraints: tuple[Constraint, ...]
    confidence: float | None = None
    min_utilisation: float | None = None
    banned: tuple[Indices, ...] = ()

    def under(self, *constraints: Constraint) -> Problem:
        """The same confidence for these constraints alone."""
        return replace(self, constraints=constraints, min_utilisation=None, banned=())

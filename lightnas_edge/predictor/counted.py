"""Metrics that are counted, not measured: parameters and multiply-accumulates of a network, exact for any board."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from lightnas_edge.errors import PredictorError
from lightnas_edge.predictor.base import Array, Origin, Predictor
from lightnas_edge.predictor.bounds import ConvexBound
from lightnas_edge.predictor.metrics import COUNTED
from lightnas_edge.space import Space, operator_cost

if TYPE_CHECKING:
    import torch


class CountedPredictor(Predictor):
    """Millions of parameters, or of multiply-accumulates of one image: a sum over operators, exact.

    Args:
        metric: `params_m` or `macs_m`, counted as in `lightnas_edge.space`.
        classes: of the network that is counted; None: those of the space, which may be of the head that a table was measured with.
    """

    type = "counted"

    def __init__(self, space: Space, metric: str, classes: int | None = None) -> None:
        if metric not in COUNTED:
            raise PredictorError(f"{metric} is measured, not counted; counted metrics: {', '.join(COUNTED)}")
        super().__init__(space, Origin({}, metric=metric))
        which = 1 if metric == "params_m" else 0
        fixed = space.fixed if classes is None else space.with_classes(classes).fixed
        self.constant = sum(operator_cost(shaped)[which] for shaped in fixed) / 1e6
        self.cost = np.array(
            [
                [operator_cost(space.at(layer, operator))[which] / 1e6 for operator in space.operators]
                for layer in range(len(space.layers))
            ]
        )

    def predict(self, one_hot: NDArray[Any]) -> Array:
        counted: Array = self._flat(one_hot) @ self.cost.ravel() + self.constant
        return counted

    def deviation(self, one_hot: NDArray[Any]) -> Array:
        return np.zeros(len(self._flat(one_hot)))

    def torch_module(self) -> torch.nn.Module:
        from lightnas_edge.predictor._torch import additive_module

        return additive_module(self.constant, self.cost)

    def linear_terms(self) -> tuple[float, Array]:
        return self.constant, self.cost

    def convex_bound(self, confidence: float | None) -> ConvexBound:
        """The count itself: it has no uncertainty."""
        return ConvexBound(self.constant, self.cost)

    def parameters(self) -> NoReturn:
        raise PredictorError(f"{self.metric} is counted from the space and needs no file")

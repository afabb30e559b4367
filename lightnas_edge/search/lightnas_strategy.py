"""The published method: alpha by gradients of sampled paths, one multiplier for each constraint of one budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightnas_edge.errors import BudgetError
from lightnas_edge.nn import Supernet
from lightnas_edge.search.config import PUBLISHED
from lightnas_edge.search.constraints import Budget, predicted
from lightnas_edge.search.posterior import OperatorPosterior
from lightnas_edge.search.steps import Multiplier, Outcome, Path, architecture_gradient, sample_path
from lightnas_edge.search.strategy import Array, SearchContext, SearchStrategy


class LightNasStrategy(SearchStrategy):
    """The published rules: alpha by Adam, one multiplier per constraint by gradient ascent; one budget."""

    def __init__(self, context: SearchContext, budgets: Sequence[Budget]) -> None:
        super().__init__(context, budgets)
        (budget,) = budgets
        self.constraints = budget.constraints
        shape = len(context.space.layers), len(context.space.operators)
        self.alpha = PUBLISHED.alpha_init_deviation * torch.randn(shape, generator=context.generator)
        self.optimiser = torch.optim.Adam(
            [self.alpha],
            lr=context.schedule.first_alpha_lr,
            betas=PUBLISHED.alpha_betas,
            weight_decay=PUBLISHED.alpha_weight_decay,
        )
        two_sided = context.config.is_two_sided
        self._multipliers = [
            # Only the first of several constraints is a target to be reached; the others are limits.
            Multiplier(context.schedule.lambda_lr, two_sided=two_sided and index == 0)
            for index in range(len(self.constraints))
        ]
        # The predictors are small: they stay on the CPU with alpha, so that sampling a path never waits for a device.
        self._modules = [
            constraint.predictor.torch_module().float().cpu().requires_grad_(False) for constraint in self.constraints
        ]
        self._derived_values = predicted(self.constraints, self.derived())[0]

    def weight_paths(self) -> list[Path]:
        return [sample_path(self.alpha, self.context.generator)]

    def learn(self, supernet: Supernet, images: Tensor, labels: Tensor, epoch: int) -> tuple[Outcome, list[Path]]:
        costs = [
            (module, multiplier.lam, constraint.target)
            for module, multiplier, constraint in zip(self._modules, self._multipliers, self.constraints, strict=True)
        ]
        with self.context.abandonable():
            gradient, path, outcome = architecture_gradient(
                supernet, self.alpha, images, labels, costs, tau=self.context.schedule.tau(epoch),
                generator=self.context.generator, execution=self.context.execution,
            )  # fmt: skip
        self.context.ranks.average([gradient])
        self.alpha.grad = gradient
        self.optimiser.param_groups[0]["lr"] = self.alpha_lr(epoch)
        self.optimiser.step()
        self._derived_values = predicted(self.constraints, self.derived())[0]
        may_brake = self.context.schedule.may_brake(epoch)
        for multiplier, constraint, value in zip(
            self._multipliers, self.constraints, self._derived_values, strict=True
        ):
            multiplier.update(value, constraint.target, may_brake=may_brake)
        return outcome, [path]

    def alpha_lr(self, epoch: int) -> float:
        scheduled = self.context.schedule.alpha_lr(epoch)
        return self._multipliers[0].alpha_lr(scheduled, self._derived_values[0], self.constraints[0].target)

    def probabilities(self, budget: int = 0) -> Array:
        return np.asarray(torch.softmax(self.alpha.double(), -1).numpy())

    def posterior(self) -> OperatorPosterior:
        logs = torch.log_softmax(self.alpha.double(), -1).numpy()
        return OperatorPosterior(logs, np.zeros((logs.size, 1)))

    def derived(self) -> list[Path]:
        return [[int(index) for index in self.alpha.argmax(-1)]]

    def multipliers(self) -> list[dict[str, float]]:
        return [
            {
                constraint.metric: multiplier.lam
                for constraint, multiplier in zip(self.constraints, self._multipliers, strict=True)
            }
        ]

    def state(self) -> dict[str, Any]:
        return {
            "alpha": self.alpha,
            "alpha_optimiser": self.optimiser.state_dict(),
            "lambda": [multiplier.lam for multiplier in self._multipliers],
            "braking": [multiplier.braking for multiplier in self._multipliers],
        }

    def restore(self, state: dict[str, Any]) -> None:
        self.alpha.copy_(state["alpha"])
        self.optimiser.load_state_dict(state["alpha_optimiser"])
        self._multipliers = [
            replace(multiplier, lam=lam, braking=braking)
            for multiplier, lam, braking in zip(self._multipliers, state["lambda"], state["braking"], strict=True)
        ]
        self._derived_values = predicted(self.constraints, self.derived())[0]

    def load_finished(self, state: dict[str, Any]) -> None:
        raise BudgetError("alpha of the published method contains the cost of one board and target")

"""What a search writes while it runs: a line for every step, and one for every epoch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from lightnas_edge.errors import DivergedError
from lightnas_edge.records.metrics import BudgetProgress, SearchEpoch, SearchStep
from lightnas_edge.search.config import LIGHTNAS
from lightnas_edge.search.constraints import predicted
from lightnas_edge.search.state import SearchState
from lightnas_edge.search.steps import Outcome, Path


class SearchMetrics:
    """Steps that are noted and not yet written, and the sums of the running epoch.

    The loss of a step stays on the device until `step_lines`: reading it earlier would make the device wait.
    """

    def __init__(self, state: SearchState) -> None:
        self._state = state
        self._pending: list[tuple[dict[str, Any], Outcome, list[Path]]] = []
        self.totals = _no_totals()

    def note(self, outcome: Outcome, paths: Sequence[Path], elapsed_s: float) -> None:
        """A step of the state's epoch and phase has ended."""
        state, strategy, schedule = self._state, self._state.strategy, self._state.context.schedule
        first = strategy.multipliers()[0]
        published = state.context.config.method == LIGHTNAS
        learning = state.phase == "architecture"
        line = {
            "phase": state.phase,
            "epoch": state.epoch,
            "step": state.step,
            "tau": schedule.tau(state.epoch) if published else None,
            "multiplier": next(iter(first.values())),
            "alpha_lr": strategy.alpha_lr(state.epoch) if learning else None,
            "weight_lr": None if learning else schedule.weight_lr_at(state.epoch),
            "elapsed_s": elapsed_s,
        }
        self._pending.append((line, outcome, [strategy.derived()[0], *paths]))

    def step_lines(self) -> list[SearchStep]:
        """Of the steps noted since the last call.

        Raises:
            DivergedError: a loss or a probability is not a finite number.
        """
        pending, self._pending = self._pending, []
        if not pending:
            return []
        constraints = self._state.strategy.budgets[0].constraints
        values = [row[0] for row in predicted(constraints, [path for _, _, paths in pending for path in paths])]
        metric = constraints[0].metric
        lines = []
        for line, outcome, paths in pending:
            loss, correct, images = float(outcome.loss), float(outcome.correct), outcome.images
            if not math.isfinite(loss):
                raise self._diverged(line, loss)
            total = self.totals["validation" if line["phase"] == "architecture" else "train"]
            total[0] += loss * images
            total[1] += correct
            total[2] += images
            (derived, *sampled), values = values[: len(paths)], values[len(paths) :]
            line |= {"derived": {metric: derived}, "sampled": {metric: sum(sampled) / len(sampled)}}
            lines.append(SearchStep(**line, loss=loss, accuracy=correct / images, images=images))
        if not np.isfinite(self._state.strategy.probabilities()).all():
            raise self._diverged(pending[-1][0], math.nan)
        return lines

    def epoch_line(self, elapsed_s: float) -> SearchEpoch:
        """Of the state's epoch, all steps of which are written; the sums begin again."""
        state, strategy = self._state, self._state.strategy
        probabilities, posterior = strategy.probabilities(), strategy.posterior()
        entropy = float(-(probabilities * np.log(np.maximum(probabilities, 1e-300))).sum(axis=-1).mean())
        means: dict[str, Any] = {}
        for part, total in self.totals.items():
            summed = torch.tensor(total, dtype=torch.float64)
            state.context.ranks.average([summed])
            loss, correct, images = (float(value) for value in summed)
            means[f"{part}_loss"] = loss / images if images else None
            means[f"{part}_accuracy"] = correct / images if images else None
        self.totals = _no_totals()
        return SearchEpoch(
            phase="warmup" if state.phase == "warmup" else "search",
            epoch=state.epoch,
            probabilities=tuple(tuple(round(value, 6) for value in row) for row in probabilities.tolist()),
            entropy=max(entropy, 0.0),
            score_std=posterior.score_std,
            posterior_std=posterior.posterior_std,
            budgets=tuple(
                BudgetProgress(
                    name=budget.name,
                    multipliers=multipliers,
                    derived=dict(zip(budget.targets, predicted(budget.constraints, [path])[0], strict=True)),
                )
                for budget, multipliers, path in zip(
                    strategy.budgets, strategy.multipliers(), strategy.derived(), strict=True
                )
            ),
            elapsed_s=elapsed_s,
            chance=state.chance,
            **means,
        )

    def _diverged(self, line: dict[str, Any], loss: float) -> DivergedError:
        lr = self._state.context.config.first_weight_lr
        return DivergedError(
            f"the loss became {loss} at epoch {line['epoch']}, step {line['step']} of phase {line['phase']}",
            hint=f"begin again with --fresh and a smaller weight step (--weight-lr, now {lr:g}), or another seed",
        )


def _no_totals() -> dict[str, list[float]]:
    """Of each part: loss * images, correct, images."""
    return {"train": [0.0, 0.0, 0.0], "validation": [0.0, 0.0, 0.0]}

"""Lines of search/metrics.jsonl, train/metrics.jsonl and refine/scores.jsonl: one JSON record per step, epoch or score.

A value stands next to its metric, since the first limit of a search need not be a latency.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter, ValidationError

from lightnas_edge.records.base import (
    Count,
    Integer,
    Name,
    NonNegativeFloat,
    Positive,
    PositiveFloat,
    Record,
    Share,
    describe,
    read_bounded,
)
from lightnas_edge.records.run import Metric

Phase = Literal["warmup", "weights", "architecture"]


class SearchStep(Record):
    """One batch of a search. `derived` and `sampled` are predictions for the first budget, in the metric's unit."""

    kind: Literal["search-step"] = "search-step"
    phase: Phase
    epoch: Count
    step: Count  # of the phase in this epoch
    tau: PositiveFloat | None  # temperature of the published method
    multiplier: float  # of the first constraint
    alpha_lr: NonNegativeFloat | None
    weight_lr: NonNegativeFloat | None
    derived: dict[Metric, float]  # of the most probable network
    sampled: dict[Metric, float]  # mean of the paths of this step
    loss: float
    accuracy: Share
    images: Positive
    elapsed_s: NonNegativeFloat


class BudgetProgress(Record):
    """One budget after an epoch: metric -> multiplier, and metric -> prediction for its most probable network."""

    name: Name
    multipliers: dict[Metric, float]
    derived: dict[Metric, float]


class SearchEpoch(Record):
    """The state after an epoch of a search. `probabilities` are those of the first budget."""

    kind: Literal["search-epoch"] = "search-epoch"
    phase: Literal["warmup", "search"]
    epoch: Count
    probabilities: tuple[tuple[Share, ...], ...]  # (L, K)
    entropy: NonNegativeFloat  # mean over the layers, in nats
    score_std: NonNegativeFloat  # of the operator scores within a layer
    posterior_std: NonNegativeFloat  # of the posterior of an operator score
    budgets: Annotated[tuple[BudgetProgress, ...], Field(min_length=1)]
    train_loss: float | None
    train_accuracy: Share | None
    validation_loss: float | None
    validation_accuracy: Share | None  # mean of the sampled paths
    chance: Share  # accuracy of always answering the most frequent class
    elapsed_s: NonNegativeFloat


class TrainingStep(Record):
    """One batch of a training."""

    kind: Literal["training-step"] = "training-step"
    epoch: Count
    step: Count
    lr: NonNegativeFloat
    loss: float
    accuracy: Share
    images: Positive
    elapsed_s: NonNegativeFloat


class TrainingEpoch(Record):
    """The state after an epoch of a training."""

    kind: Literal["training-epoch"] = "training-epoch"
    epoch: Count
    train_loss: float
    train_accuracy: Share
    validation_loss: float
    validation_accuracy: Share
    best_accuracy: Share
    elapsed_s: NonNegativeFloat


class RefinementScore(Record):
    """One choice of channels, trained on one seed; the score is null where the training diverged."""

    kind: Literal["refinement-score"] = "refinement-score"
    widths: tuple[Positive, ...]
    expansions: tuple[Count, ...]
    seed: Integer
    proxy: Name
    score: float | None
    elapsed_s: NonNegativeFloat


MetricsLine = SearchStep | SearchEpoch | TrainingStep | TrainingEpoch | RefinementScore
_LINE: TypeAdapter[MetricsLine] = TypeAdapter(Annotated[MetricsLine, Field(discriminator="kind")])


def read_metrics(path: Path) -> tuple[list[MetricsLine], list[str]]:
    """The lines of a metrics file, and a message for every damaged one.

    An incomplete last line belongs to a run that was interrupted and is left out without a message.

    Raises:
        RecordError: the file cannot be read.
    """
    lines, faults = [], []
    content = read_bounded(path)
    rows = content.split(b"\n")
    for number, row in enumerate(rows, start=1):
        if not row.strip() or number == len(rows):
            continue
        try:
            lines.append(_LINE.validate_json(row))
        except ValidationError as error:
            faults.append(f"{path} line {number} {describe(error)}")
    return lines, faults

"""run.json, architecture.json and front.json: the question of a search, and what it found."""

from __future__ import annotations

import hashlib
import json
import math
from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from lightnas_edge.records.base import (
    Count,
    Fingerprint,
    FreeForm,
    Integer,
    Name,
    NonNegativeFloat,
    Positive,
    PositiveFloat,
    Record,
    Sha256,
    Share,
    Text,
)
from lightnas_edge.records.quantisation import Dialect

Metric = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,63}$")]
Operators = Annotated[tuple[Name, ...], Field(min_length=1, max_length=10_000)]
PrecisionName = Literal["fp32", "fp16", "int8"]
Confidence = Annotated[float, Field(gt=0, lt=1)]


class Normalisation(Record):
    """Per colour channel, of pixels scaled to 0..1."""

    mean: tuple[float, float, float]
    standard_deviation: tuple[PositiveFloat, PositiveFloat, PositiveFloat]


class DataRecord(Record):
    """A data set and its identity. `source` is the word `digits` or a folder; a folder of that name is `./digits`."""

    name: Text
    source: Name
    classes: Annotated[tuple[Text, ...], Field(min_length=2)]
    train_images: Positive
    validation_images: Positive
    split: Text
    input_size: Positive
    normalisation: Normalisation
    seed: Integer
    sha256: Sha256  # names, sizes and labels of the images of both parts


class BudgetRecord(Record):
    """One of several budgets of a search."""

    name: Name
    targets: dict[Metric, PositiveFloat]
    fingerprint: Fingerprint


class RefinedFrom(Record):
    """The network that was refined."""

    run: Text  # folder, relative to the refined run
    space: Name
    operators: Operators


class RunRecord(Record):
    """run.json: the question. A directory is resumed only under the same question.

    `targets` is empty where the search had several budgets. `search` leads to the search that a network below
    `networks/` belongs to.
    """

    kind: Literal["run"] = "run"
    schema_: Literal[2] = Field(default=2, alias="schema")
    created: Text
    version: Text
    space: FreeForm  # checked by Space.from_json
    data: DataRecord
    config: dict[str, bool | Integer | float | Text | None]  # checked by SearchConfig
    seed: Integer
    targets: dict[Metric, PositiveFloat]
    fingerprint: Fingerprint = Field(default_factory=dict)
    budgets: tuple[BudgetRecord, ...] = ()
    host: Name | None = None  # how the board of the table is reached; null where a file was given
    board: Name | None = None  # the user's name of the board, where one search serves several
    search: Literal["../.."] | None = None
    refined_from: RefinedFrom | None = None

    @property
    def sha256(self) -> str:
        """Identity of the question: equal for runs of the same question, whenever and by whichever version."""
        question = self.model_dump(mode="json", exclude={"created", "version"})
        return hashlib.sha256(json.dumps(question, sort_keys=True).encode()).hexdigest()


class SearchSources(Record):
    """What an architecture was made from."""

    run_sha256: Sha256
    data_sha256: Sha256
    predictor_sha256: dict[Metric, Sha256]  # of the files in the run directory
    table_sha256: Sha256 | None


class MetricPrediction(Record):
    """One limit: the prediction, its upper bound with a confidence, and the share that is over."""

    value: float
    upper: float | None
    target: PositiveFloat
    violation: float  # value / target - 1
    multiplier: float | None = None  # above zero, the constraint shaped the search

    @property
    def used(self) -> float:
        """Share of the target that the upper bound takes, or the prediction where there is none."""
        return (self.value if self.upper is None else self.upper) / self.target


class NetworkPrediction(Record):
    """A network with what is predicted of it, in the unit of each metric."""

    operators: Operators
    metrics: dict[Metric, float]


class PredictedEnergy(Record):
    """Energy of one batch, total of the board, limited or not. A measurement lies within `interval_mj` with probability `confidence`."""

    energy_mj: float
    interval_mj: tuple[float, float]
    confidence: Confidence
    batch: Positive
    extrapolated: bool  # no measured network supports the interval
    simulated: bool


class PredictedRecord(Record):
    """What was predicted of the network that was found."""

    confidence: Confidence | None
    simulated: bool
    metrics: Annotated[dict[Metric, MetricPrediction], Field(min_length=1)]
    binding: Metric  # the metric that leaves the least room
    derived: NetworkPrediction | None = None  # the most probable network, whether or not it keeps the budget
    energy: PredictedEnergy | None = None  # null where the board has neither a predictor nor a complete table of energy

    @property
    def latency(self) -> MetricPrediction | None:
        """None where the latency is not limited."""
        return self.metrics.get("latency_ms")


class DeployedScore(Record):
    """The same images and weights in the network's own precision, executed by ONNX Runtime on this machine.

    Without a loss, `fault` says why the network cannot be computed in that precision.
    """

    precision: Literal["fp16", "int8"]
    dialect: Dialect | None
    loss: float | None
    accuracy: Share | None
    penalty: float | None  # mean over the images of this loss less that in float32
    penalty_error: NonNegativeFloat | None  # standard error of that mean
    fault: Text | None


class SupernetScore(Record):
    """Of a network on held-out images with the supernet's weights, in float32; null where it was not scored."""

    loss: float | None
    accuracy: Share | None
    deployed: DeployedScore | None = None  # null in fp32, and where the network was not scored
    # What the search compares: the loss as the held-out images and the operator scores estimate it, with the penalty of the
    # precision. Up to a constant of the search; lower is better. Null where the network was not scored.
    estimate: float | None = None

    @property
    def deployed_loss(self) -> float | None:
        """In the precision of the network."""
        return self.loss if self.deployed is None else self.deployed.loss

    @property
    def deployed_accuracy(self) -> float | None:
        """Top-1 in the precision of the network."""
        return self.accuracy if self.deployed is None else self.deployed.accuracy


class CandidateRecord(NetworkPrediction):
    """A network that the chosen one was compared with."""

    supernet: SupernetScore


class MeasuredMetric(Record):
    """One limited metric of a measured network, in the metric's unit. The measurement is normalised to the predictor's session
    where the run has a table to compare with.
    """

    target: PositiveFloat
    before: float  # predicted before it was measured
    before_upper: float | None  # bound at the confidence of the search
    measured: float
    standard_error: NonNegativeFloat  # that of the correction of the session's drift included
    after: float  # predicted with everything that was measured
    # Of the network itself, by its own measurement and what all of them say of its costs; None: by a version that did not estimate it.
    estimate: float | None = None
    estimate_std: NonNegativeFloat | None = None


class MeasuredNetwork(Record):
    """A network that was measured before one was handed over. `keeps`: every limit, by its measurement and its estimate."""

    operators: Operators
    round: Positive
    metrics: Annotated[dict[Metric, MeasuredMetric], Field(min_length=1)]
    keeps: bool


class ConfirmationRecord(Record):
    """The networks of one budget that were measured on the board, and what became of the choice.

    `others`: measured for other budgets of the same board; the predictor has learned from them too. `interval_factor`: what the
    measurements made of the width of the predictor's intervals.
    """

    host: Name
    tables: tuple[Text, ...]  # one of each round, relative to the folder of the search
    allowed: Positive  # networks that might be measured for this budget
    networks: tuple[MeasuredNetwork, ...]  # in the order of measuring
    failed: tuple[Operators, ...]  # that the board could not measure
    others: Count
    first: Operators  # chosen before anything was measured
    changed: bool  # another network than `first` is handed over
    measured: bool  # the network that is handed over is one of `networks`
    interval_factor: dict[Metric, PositiveFloat]
    predictor_sha256: dict[Metric, Sha256]  # of the predictors before
    notes: tuple[Text, ...]

    def of(self, operators: Operators) -> MeasuredNetwork | None:
        """What was measured of a network; None where it is not one of `networks`."""
        return next((each for each in self.networks if each.operators == operators), None)


class SampledPaths(Record):
    """How the supernet answers held-out images at the end of the search: the mean accuracy of the sampled paths.

    A supernet at chance ranks nothing. `chance` is the accuracy of always answering the most frequent class.
    """

    accuracy: Share
    chance: Share
    images: Positive

    @property
    def above_chance(self) -> bool:
        """By more than three standard errors of an answer by chance."""
        return self.accuracy > self.chance + 3 * math.sqrt(self.chance * (1 - self.chance) / self.images)

    @property
    def warning(self) -> str | None:
        """What it means for the search and what helps; None above chance."""
        if self.above_chance:
            return None
        return (
            f"the supernet is at chance: its top-1 accuracy on {self.images} held-out images is {100 * self.accuracy:.1f} %, mean of "
            f"the sampled paths; always answering the most frequent class has {100 * self.chance:.1f} %. It cannot rank networks yet: "
            "a network found now keeps the budget; how much its operators compute, or chance, decides the rest. More epochs, a smaller "
            "weight step (--weight-lr) or a larger batch (--batch-size) help; so do more images"
        )


class ChoiceRecord(Record):
    """Why this network."""

    budget: Name
    # The selection of this network is a proven optimum within the budget for the scores that it maximised: the posterior mean
    # for `top_scored`, a draw from the posterior for every other candidate. False where a predictor is not linear.
    exact: bool
    top_scored: Operators  # by the operator scores alone, before candidates were compared
    supernet: SupernetScore
    others: tuple[CandidateRecord, ...]
    sampled_paths: SampledPaths | None = None  # null where the search had no step on held-out images
    confirmation: ConfirmationRecord | None = None  # null where nothing was measured


class ArchitectureRecord(Record):
    """One operator per searchable layer. Users may write such a file by hand; other fields are ignored then."""

    model_config = ConfigDict(extra="ignore")

    kind: Literal["architecture"] = "architecture"
    schema_: Literal[1] = Field(default=1, alias="schema")
    space: Name
    operators: Operators


class FoundNetwork(ArchitectureRecord):
    """architecture.json of a run: the network found, why, and from what."""

    model_config = ConfigDict(extra="forbid")

    predicted: PredictedRecord
    choice: ChoiceRecord | None = None  # null in a refined run
    made_from: SearchSources


class FrontNetwork(Record):
    """One network of a search with several."""

    name: Name
    folder: Text
    board: Text | None
    precision: PrecisionName | None  # null where the board of the predictors names none
    simulated: bool
    operators: Operators
    metrics: dict[Metric, MetricPrediction]
    binding: Metric
    confidence: Confidence | None
    energy: PredictedEnergy | None = None  # null where it is not known
    supernet: SupernetScore | None
    confirmation: ConfirmationRecord | None = None  # null where nothing was measured

    @property
    def targets(self) -> dict[str, float]:
        """Metric -> budget."""
        return {metric: prediction.target for metric, prediction in self.metrics.items()}


class BestNetwork(Record):
    """The network that is handed over for one budget of one board: the best of all precisions, and why."""

    board: Text | None
    targets: dict[Metric, PositiveFloat]
    network: Name  # of the front
    folder: Text
    precision: PrecisionName | None
    compared: Positive  # networks of this budget, in whatever precision
    reason: Text


class FrontRecord(Record):
    """front.json: all networks of a search, in the order of board and target, and the best one of every budget."""

    kind: Literal["front"] = "front"
    schema_: Literal[4] = Field(default=4, alias="schema")
    networks: tuple[FrontNetwork, ...]
    best: tuple[BestNetwork, ...]


class RefinedRecord(Record):
    """refine/result.json: the channels that were chosen, and the evidence. Scores: lower is better."""

    kind: Literal["refined"] = "refined"
    schema_: Literal[2] = Field(default=2, alias="schema")
    run: Text
    widths: tuple[Positive, ...]
    expansions: tuple[Count, ...]  # one per layer; 0 for a skip
    proxy: Name
    scores: tuple[float | None, ...]  # by seed; null where the training diverged
    unrefined_scores: tuple[float | None, ...]
    difference: float | None
    standard_error: NonNegativeFloat | None
    verdict: Literal["better", "worse", "inconclusive"]
    finalists: Positive
    scored: Count
    choices: Positive
    predicted_ms: float
    upper_ms: float | None
    unrefined_predicted_ms: float
    target_ms: PositiveFloat


class RefinementRecord(Record):
    """refine/refinement.json: what the scores depend on. A refinement is resumed only under the same."""

    kind: Literal["refinement"] = "refinement"
    schema_: Literal[2] = Field(default=2, alias="schema")
    version: Text
    space: Sha256
    operators: Operators
    data: Sha256
    data_seed: Integer
    pixels: Text | None = (
        None  # version of the training pixels, and whether they are from copies; null in earlier records
    )
    steps: Positive
    batch: Positive
    device: Name

"""report.json: what the HTML page and the Markdown text of a run, or of a verified model file, show.

A value stands next to its metric and unit, or its name ends in the unit. Parts of the run that are missing, damaged or
made from other files are null here, and `missing` says why and what to do. Parts that only a run has are null in the
report of a model file.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

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
    Share,
    Text,
)
from lightnas_edge.records.deployment import (
    AccuracyRecord,
    EnergyRecord,
    ExportRecord,
    Interval,
    Outcome,
    TrainingRecord,
    Verdict,
    VerificationRecord,
)
from lightnas_edge.records.fleet import FleetGuarantee
from lightnas_edge.records.job import ProtocolRecord
from lightnas_edge.records.model_profile import ModelProfileRecord
from lightnas_edge.records.precision import PrecisionRecord
from lightnas_edge.records.predictor import FitRecord
from lightnas_edge.records.run import (
    ChoiceRecord,
    Confidence,
    DataRecord,
    FrontNetwork,
    Metric,
    PredictedEnergy,
    RefinedRecord,
)


class Target(Record):
    """One budget of the search."""

    metric: Metric
    unit: Name
    value: PositiveFloat


class Budget(Target):
    """One budget of the network found: what is predicted, and the share of the target that it takes."""

    predicted: float
    upper: float | None  # bound at the confidence of the search; null without one
    used: float | None  # of the upper bound, or of the prediction where there is none
    multiplier: float | None  # above zero, the constraint shaped the search
    binding: bool  # leaves the least room


class QuestionReport(Record):
    """The question of the search."""

    targets: tuple[Target, ...]  # empty where the search had several budgets
    budgets: Positive
    space: Text
    layers: Positive
    operators: tuple[Text, ...]  # the choice in every layer
    input_size: Positive
    data: DataRecord
    seed: Integer
    host: Text | None
    refined_from: Text | None  # folder of the run, relative to this one


class BudgetRow(Record):
    """One budget that was asked, and what became of it. `not verified`: the run holds no verification."""

    metric: Metric
    unit: Name  # `share` for accuracies
    description: Text
    bound: Literal["at most", "at least"]
    target: float
    predicted: float | None
    predicted_interval: Interval | None
    value: float | None
    interval: Interval | None
    verdict: Outcome | Literal["not verified"]
    reason: Text
    remedy: Text


class StatisticRow(Record):
    """One statistic of the latency of single inferences, under the name that trtexec prints."""

    name: Name
    metric: Metric | None  # null where it cannot be a budget
    value_ms: NonNegativeFloat
    interval_ms: Interval | None
    budget: BudgetRow | None  # null: no budget was asked


class SummaryReport(Record):
    """The first screen, in sentences."""

    asked: tuple[Text, ...]
    found: tuple[Text, ...]
    holds: Text
    certainty: tuple[Text, ...]
    next: Text


class NetworkRow(Record):
    """One network of a search that found several."""

    name: Text
    folder: Text  # relative to this report
    board: Text
    simulated: bool
    budgets: tuple[BudgetRow, ...]
    statistics: tuple[StatisticRow, ...]  # empty where nothing was measured
    accuracy: AccuracyRecord | None  # on the board
    predicted_energy: PredictedEnergy | None = None
    energy: EnergyRecord | None = None  # measured on the board
    verdict: Verdict | None
    reason: Text  # of the verdict, or why there is none
    report: Text | None  # its page, relative to this report; null where there is none


class BlockReport(Record):
    """One block of the network found, and the table's entry for it; null where the table holds none."""

    place: Name  # stem, first, layer 0, ..., head
    operator: Text
    key: Text
    shape: Text
    stride: Positive
    identity: bool  # adds no node, so it has no entry
    latency_ms: PositiveFloat | None
    spread: NonNegativeFloat | None  # relative, between rounds
    share: Share | None  # of the sum
    unstable: bool


class NetworkReport(Record):
    """The network found, from input to output."""

    operators: tuple[Text, ...]
    macs_m: NonNegativeFloat  # millions of multiply-accumulates per image
    parameters_m: NonNegativeFloat  # millions
    table_sum_ms: PositiveFloat | None  # null unless the table holds every block
    blocks: tuple[BlockReport, ...]


class PredictorReport(Record):
    """The predictor that the network was chosen with, and its errors on networks that were held out."""

    type: Name
    metric: Metric
    unit: Name
    batch: Positive
    fit: FitRecord


class TableReport(Record):
    """The table behind the predictor; `board` and `runtime` are for people."""

    created: Text
    entries: Count
    visits: Count
    board: FreeForm
    runtime: FreeForm
    protocol: ProtocolRecord


class Provenance(Record):
    """What the numbers depend on, and who wrote them."""

    fingerprint: Fingerprint
    table: TableReport | None
    config: dict[str, bool | Integer | float | Text | None] | None  # of the search
    written_by: Text | None  # version
    created: Text | None


class ReportRecord(Record):
    """report.json."""

    kind: Literal["report"] = "report"
    schema_: Literal[3] = Field(default=3, alias="schema")
    version: Text
    run: Text | None  # null in the report of a model file
    title: Text
    verdict: Verdict | None  # null unless the verification belongs to this export, these weights and this network
    line: Text
    simulated: bool
    summary: SummaryReport
    verdicts: tuple[BudgetRow, ...]
    statistics: tuple[StatisticRow, ...]
    networks: tuple[NetworkRow, ...]  # empty unless the search found several
    question: QuestionReport | None
    network: NetworkReport | None
    refined: RefinedRecord | None
    confidence: Confidence | None  # of the upper bounds
    budgets: tuple[Budget, ...]
    predicted_energy: PredictedEnergy | None = None  # limited or not; the measured one is in `verification`
    choice: ChoiceRecord | None
    front: tuple[FrontNetwork, ...]
    predictor: PredictorReport | None
    training: TrainingRecord | None
    export: ExportRecord | None
    verification: VerificationRecord | None
    guarantees: tuple[FleetGuarantee, ...] = ()  # of all units of the model, where several were verified
    precision: PrecisionRecord | None  # the network in every precision of a board, where that was measured
    profile: ModelProfileRecord | None  # layers of the model file
    provenance: Provenance
    warnings: tuple[Text, ...]
    missing: dict[str, Text]

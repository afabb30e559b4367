"""*.adaptive.json: how far an adaptive sampling of networks has come."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from lightnas_edge.records.base import Name, NonNegativeFloat, Positive, PositiveFloat, Record
from lightnas_edge.records.run import Metric, Operators

StoppingReason = Literal["reached", "noise", "discrepancy", "count"]


class FitProgress(Record):
    """A predictor after a number of networks. All but `networks` are relative to the predicted value."""

    networks: Positive
    half_width: NonNegativeFloat  # of the 90 % interval of a measurement, median over the networks of interest
    floor: NonNegativeFloat  # half width with costs known exactly, made of the next two
    discrepancy: NonNegativeFloat  # of the model: what no sum of operators can express
    noise: NonNegativeFloat  # of measuring
    leave_one_out: NonNegativeFloat | None  # RMSE on the measured networks, each predicted by the others
    repeatability: float | None


class SamplingGoal(Record):
    """What an adaptive sampling is for. Another goal starts another curve."""

    metric: Metric
    around: PositiveFloat | None  # a value of the metric; null for the whole space
    until: PositiveFloat  # the half width to reach, relative
    frontier: bool = False  # networks such as a search chooses, within `around` where it is given


class AdaptiveSamplingRecord(Record):
    """Planned networks are written before they are measured, so that an interrupted sampling resumes with them."""

    kind: Literal["adaptive-sampling"] = "adaptive-sampling"
    schema_: Literal[2] = Field(default=2, alias="schema")
    space: Name
    table: Name  # name of the file with the measured networks
    goal: SamplingGoal
    curve: tuple[FitProgress, ...] = ()
    planned: tuple[Operators, ...] = ()
    tried: tuple[Operators, ...] = ()
    stopped: StoppingReason | None = None

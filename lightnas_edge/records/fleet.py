"""What measured units say about all units of their model."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from lightnas_edge.records.base import Count, Fingerprint, PositiveFloat, Record, Sha256
from lightnas_edge.records.deployment import Outcome, VerificationRecord
from lightnas_edge.records.differences import fingerprint_differences
from lightnas_edge.records.plain_text import Line
from lightnas_edge.records.run import Metric

Share = Annotated[float, Field(gt=0, lt=1)]
FLEET_RECORD = "fleet.json"  # file name

FleetOutcome = Literal["kept", "not kept", "undecided", "not available"]


class UnitValue(Record):
    """One unit that was verified. `unit` is null where the board has no identity."""

    host: Line
    unit: Line | None
    value: PositiveFloat
    verdict: Outcome


class FleetGuarantee(Record):
    """Whether a share of all units keeps a budget, at a confidence.

    bound: the share of units stays at or below it; null below three units.
    more_units: how many further units would settle it if they are like the measured ones; 0: it is settled; null: no number would.
    """

    metric: Metric
    unit: Line
    target: PositiveFloat
    share: Share
    confidence: Share
    units: tuple[UnitValue, ...]
    median: PositiveFloat | None
    deviation: Annotated[float, Field(ge=0)] | None  # of the logarithms
    factor: PositiveFloat | None  # k
    bound: PositiveFloat | None
    verdict: FleetOutcome
    more_units: Count | None
    assumption: Line
    reason: Line
    simulated: bool


class FleetRecord(Record):
    """`fleet.json`: one guarantee for every budget with a limit from above that was measured.

    model_sha256: of the file that the units measured. fingerprint: of the units, without the unit. Both are null in records of an
    earlier version: it is not known what they are about.
    """

    kind: Literal["fleet"] = "fleet"
    schema_: Literal[1] = Field(default=1, alias="schema")
    created: Line
    guarantees: tuple[FleetGuarantee, ...]
    lost: dict[Line, Line]  # hosts that were not verified, with the reason
    model_sha256: Sha256 | None = None
    fingerprint: Fingerprint | None = None

    def is_about(self, check: VerificationRecord) -> bool:
        """Whether the units measured the same file in the same state as this verification."""
        return self.model_sha256 == check.model_sha256 and not fingerprint_differences(
            self.fingerprint or {}, check.fingerprint
        )

    def of_budgets(self, check: VerificationRecord) -> tuple[FleetGuarantee, ...]:
        """The guarantees about the budgets of this verification."""
        asked = {(each.metric, each.target) for each in check.budgets}
        return tuple(each for each in self.guarantees if (each.metric, each.target) in asked)

"""*.predictor.json: costs or weights, how they were fitted, and how good they were on networks that were held out."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, Self

from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)

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
from lightnas_edge.records.run import Metric

# Far beyond any metric of any network in any unit; sums and squares of such numbers stay finite.
Quantity = Annotated[float, Field(ge=-1e12, le=1e12)]
Deviation = Annotated[float, Field(ge=0, le=1e12)]
Covariance = Annotated[float, Field(ge=-1e24, le=1e24)]

ComponentName = Literal["fixed_overhead", "block_overhead", "scale_factor", "operators", "unexplained"]
COMPONENTS: dict[ComponentName, str] = {
    "fixed_overhead": "fixed overhead",
    "block_overhead": "per-block overhead",
    "scale_factor": "scale factor",
    "operators": "deviation of operators",
    "unexplained": "unexplained",
}


LEAST_DEGREES = 3  # of freedom: with fewer networks the prior decides more than the networks do


class Calibration(Record):
    """Residuals of held-out networks over the stated deviations: `std_factor` times a Student t."""

    std_factor: PositiveFloat
    degrees_of_freedom: Annotated[float, Field(ge=LEAST_DEGREES, le=1e9)]
    # The residuals showed them, beyond what few networks demand: more networks do not lighten them.
    heavy_tails: bool = False

    @model_serializer(mode="wrap")
    def _without_default(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Heavy tails only where there are any: a predictor without them keeps the hash of its content."""
        found: dict[str, Any] = serialise(self)
        if not self.heavy_tails:
            found.pop("heavy_tails", None)
        return found


class Scores(Record):
    """Errors of predictions against measurements; shares lie between 0 and 1; null is unknown."""

    n: Positive
    rmse: NonNegativeFloat  # in the metric's unit
    mape: NonNegativeFloat | None  # mean absolute relative error
    bias: float | None  # mean relative error, above 0 when predictions are too high
    within_1: Share  # share of networks predicted within 1 % of the measurement
    within_5: Share
    within_10: Share
    kendall_tau: float | None
    coverage_90: Share | None  # share of measurements inside the predictor's 90 % interval
    extrapolated: Share | None  # share of networks outside the predictor's applicability domain
    coverage_90_in_domain: Share | None  # coverage of the other networks
    repeatability: float | None  # relative difference between two measurements of the same networks


class MethodScore(Record):
    """A method, and its scores on networks that were held out in turn."""

    method: Name
    trained_on: Count  # networks per fold
    scores: Scores
    selectable: bool = True  # false for a method that is compared only


class HeldOutPoint(Record):
    """One network while it was held out, in the metric's unit."""

    predicted: float
    measured: float


class CurvePoint(Record):
    """Error of a method fitted to this number of networks, on all the others; means over several draws."""

    method: Name
    networks: Positive
    rmse: NonNegativeFloat
    mape: NonNegativeFloat | None
    coverage_90: Share | None


class ResidualComponent(Record):
    """One part of the difference, in the metric's unit; above zero, networks cost more than the sum."""

    name: ComponentName
    mean: float
    std: NonNegativeFloat | None  # of the mean; null for the unexplained part
    lowest: float  # of any network
    highest: float


class ResidualDecomposition(Record):
    """Measured networks against the sum of one table's entries, on one board with one engine."""

    networks: Positive
    metric: Metric
    unit: Name
    fingerprint: Fingerprint
    measured: float  # mean
    table_sum: float  # mean
    blocks: float  # mean number of operators that are nodes of the graph
    networks_above: Count  # networks that cost more than their sum
    networks_below: Count
    components: tuple[ResidualComponent, ...]  # they add up to measured - table_sum
    unexplained_rms: NonNegativeFloat
    repeatability: float | None  # difference between two measurements of the same networks
    operators: tuple[tuple[Name, float], ...]  # the largest deviations of single operators, highest first

    @property
    def difference(self) -> float:
        return self.measured - self.table_sum

    def __str__(self) -> str:
        parts = ", ".join(
            f"{COMPONENTS[part.name]} {part.mean:+.3g}"
            for part in self.components
            if abs(part.mean) > 0.002 * abs(self.measured)
        )
        relative = f"{100 * self.difference / self.table_sum:+.1f} %" if self.table_sum else "no relative difference"
        return (
            f"sum of the table {self.table_sum:.3g} {self.unit}, measured {self.measured:.3g} {self.unit} "
            f"({relative}; mean of {self.networks}): {parts or 'no difference to explain'}"
        )


class TransferSource(Record):
    """The predictor of another board, power mode or batch size that a fit started from."""

    fingerprint: Fingerprint
    networks: Count  # that it was fitted to
    simulated: bool
    ratio: PositiveFloat  # median cost of a network here over its cost there
    file: Name | None = None


class Publication(Record):
    """Where a predictor comes from that other people published."""

    source: Text
    measured_as: Text | None = None  # board, engine and settings
    fitted_to: Text | None = None
    stated_rmse: NonNegativeFloat | None = None  # by its authors, in the metric's unit
    rmse_to_original: NonNegativeFloat | None = None  # of a fit to the published predictor


class FitRecord(Record):
    """How a predictor was fitted, and what its intervals depend on.

    A fit to measured networks carries its calibration: an interval follows Student's t with these degrees of freedom.
    Without networks an interval is the normal distribution of the prior.
    """

    method: Text
    networks: Count  # measured networks behind it
    calibration: Calibration | None = None
    # Most probable standard deviation of each component of the prior.
    prior_scales: dict[Name, NonNegativeFloat] = Field(default_factory=dict)
    leave_one_out_rmse: NonNegativeFloat | None = None
    alignment: tuple[Text, ...] = ()  # drift between measurement sessions
    held_out: Scores | None = None
    points: tuple[HeldOutPoint, ...] = ()
    chosen: Name | None = None  # the method that was fitted, of those in `comparison`
    protocol: Text | None = None  # of the held-out scores
    comparison: tuple[MethodScore, ...] = ()
    skipped: tuple[Text, ...] = ()  # methods that could not be tried, with the reason
    residuals: ResidualDecomposition | None = None
    curve: tuple[CurvePoint, ...] = ()
    prior: TransferSource | None = None
    lut: Name | None = None  # the table, relative to the predictor's folder
    seed: Integer | None = None
    epochs: Positive | None = None
    publication: Publication | None = None

    @field_validator("calibration")
    @classmethod
    def _is_there_with_networks(cls, calibration: Calibration | None, info: ValidationInfo) -> Calibration | None:
        networks = info.data.get("networks", 0)
        if networks and calibration is None:
            raise ValueError(f"missing; the intervals of a fit to {networks} measured networks need it")
        return calibration

    def changed(self, **fields: Any) -> FitRecord:
        """The same fit with other fields, checked."""
        return FitRecord(**{**dict(self), **fields})


NOT_FITTED = FitRecord(method="not fitted", networks=0)


DomainBasis = Literal["measured", "unmeasured", "unknown"]


class ApplicabilityDomainRecord(Record):
    """The measured networks in outline.

    `unmeasured`: no network was measured, so every network is extrapolated. `unknown`: the measured networks are not
    recorded, so none is. Both are without ranges.
    """

    basis: DomainBasis
    value: tuple[float, float] | None  # lowest and highest measured, in the metric's unit
    blocks: tuple[Count, Count] | None  # fewest and most operators of a network that are nodes of its graph
    model_std: Deviation | None  # usual limit of the measured networks while they were held out
    seen: tuple[tuple[Literal[0, 1], ...], ...] | None  # (layers, operators); null where `model_std` decides

    @field_validator("value", "blocks")
    @classmethod
    def _is_ordered(cls, ends: tuple[float, float] | None) -> tuple[float, float] | None:
        if ends is not None and ends[0] > ends[1]:
            raise ValueError("expected the lower end first")
        return ends

    @model_validator(mode="after")
    def _has_ranges_where_measured(self) -> Self:
        if {self.value is None, self.blocks is None} != {self.basis != "measured"}:
            raise ValueError("expected value and blocks where the basis is `measured`, and neither elsewhere")
        return self


class DistantParameters(Record):
    """Discrepancy of networks far from the measured ones: `step_std` for each usual squared distance beyond the first.

    Each direction has a number for the constant and one for each cost. A network's distance is the length of its sums over
    the D directions; the usual squared distance is sqrt(D * (D + 2)).
    """

    step_std: Deviation
    directions: Annotated[tuple[tuple[Quantity, ...], ...], Field(min_length=1)]


class AdditiveParameters(Record):
    """A joint normal distribution over a constant and one cost per operator at a shape, in the metric's unit."""

    constant: Quantity
    cost: dict[Name, Quantity]
    covariance_lower: tuple[Covariance, ...]  # lower triangle by rows, of the constant and the costs in this order
    noise: Deviation  # of a measurement around the sum of the true costs
    discrepancy: Deviation  # the part of `noise` that is the model's
    distant: DistantParameters | None  # beyond `discrepancy`, of networks far from the measured ones; null: nothing
    applicability_domain: ApplicabilityDomainRecord


class Float32Array(Record):
    """Little-endian, row by row."""

    shape: Annotated[tuple[Annotated[int, Field(ge=1, le=1_000_000)], ...], Field(min_length=1, max_length=2)]
    float32_base64: str


class MlpLayer(Record):
    weight: Float32Array  # (out, in)
    bias: Float32Array  # (out,)


class MlpParameters(Record):
    """value = value_mean + value_std * network(one-hot), with ReLU between the layers; in the metric's unit."""

    value_mean: Quantity
    value_std: Deviation
    residual: Deviation  # standard deviation of measurements around predictions, of networks that were held out
    applicability_domain: ApplicabilityDomainRecord
    layers: Annotated[tuple[MlpLayer, ...], Field(min_length=1, max_length=100)]


class PredictorRecord(Record):
    """A predictor file: one metric of the networks of one space, on one board in one state."""

    kind: Literal["predictor"] = "predictor"
    schema_: Literal[2] = Field(default=2, alias="schema")
    type: Literal["additive", "mlp"]  # decides which parameters these are
    metric: Metric
    unit: Name
    batch: Positive
    space: Name
    space_sha256: Sha256
    space_definition: FreeForm  # checked by Space.from_json
    fingerprint: Fingerprint
    simulated: bool
    fit: FitRecord
    parameters: AdditiveParameters | MlpParameters

    @field_validator("parameters", mode="before")
    @classmethod
    def _of_type(cls, value: Any, info: ValidationInfo) -> Any:
        """Only the faults of the parameters that `type` names are reported, not those of both."""
        kinds: dict[str, type[Record]] = {"additive": AdditiveParameters, "mlp": MlpParameters}
        kind = kinds.get(info.data.get("type", ""))
        if kind is None:
            raise ValueError("not read, since the type is not valid")
        return value if isinstance(value, kind) else kind.model_validate_json(json.dumps(value))

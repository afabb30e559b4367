"""The energy of one measurement as a journal holds it: values, their intervals, and their errors for the combination of several."""

from typing import List, NamedTuple, Optional, Tuple

from profiler.fields import Fields, JsonObject
from profiler.power.interval import CONFIDENCE


class ErrorParts(NamedTuple):
    """The error of one measurement in mJ, as the combination of several needs it."""

    random_mj: float  # a standard error; differs from visit to visit
    freedom: float  # its degrees of freedom
    shared_mj: List[float]  # bounds on errors that all visits of a load have alike, such as rounding

    @classmethod
    def read(cls, fields: Fields) -> "ErrorParts":
        return cls(fields.number("random_mj", 0), fields.number("freedom", 0), fields.numbers("shared_mj"))

    def to_json(self) -> JsonObject:
        return dict(self._asdict())


class Energy(NamedTuple):
    """One measurement. What is not known is None, and then `reason` says why."""

    gross_mj: Optional[float] = None  # of one batch, everything the rails feed
    gross_interval_mj: Optional[Tuple[float, float]] = None
    gross_error: Optional[ErrorParts] = None
    net_mj: Optional[float] = None  # less what the board draws when idle under the same clocks
    net_interval_mj: Optional[Tuple[float, float]] = None
    net_error: Optional[ErrorParts] = None
    batch_ms: Optional[float] = None  # mean over the steady part, gaps between batches included
    runs: Optional[int] = None
    power_mw: Optional[float] = None
    idle_before_mw: Optional[float] = None
    idle_after_mw: Optional[float] = None
    idle_drift_mw: Optional[float] = None  # after minus before
    trend_mw_per_s: Optional[float] = None  # of the power while busy
    resolution_mw: Optional[float] = None  # sum over the rails of the total
    tau_s: Optional[float] = None
    samples: Optional[int] = None
    steady_s: Optional[float] = None
    confidence: float = CONFIDENCE
    reason: Optional[str] = None
    warnings: Tuple[str, ...] = ()

    @classmethod
    def read(cls, fields: Fields) -> "Energy":
        return cls(
            gross_mj=fields.optional_number("gross_mj"),
            gross_interval_mj=_read_interval(fields, "gross_interval_mj"),
            gross_error=_read_error(fields, "gross_error"),
            net_mj=fields.optional_number("net_mj"),
            net_interval_mj=_read_interval(fields, "net_interval_mj"),
            net_error=_read_error(fields, "net_error"),
            batch_ms=fields.optional_number("batch_ms"),
            runs=fields.optional_whole("runs"),
            power_mw=fields.optional_number("power_mw"),
            idle_before_mw=fields.optional_number("idle_before_mw"),
            idle_after_mw=fields.optional_number("idle_after_mw"),
            idle_drift_mw=fields.optional_number("idle_drift_mw"),
            trend_mw_per_s=fields.optional_number("trend_mw_per_s"),
            resolution_mw=fields.optional_number("resolution_mw"),
            tau_s=fields.optional_number("tau_s"),
            samples=fields.optional_whole("samples"),
            steady_s=fields.optional_number("steady_s"),
            confidence=fields.number("confidence", 0, 1),
            reason=fields.optional_text("reason"),
            warnings=tuple(fields.texts("warnings")),
        )

    def to_json(self) -> JsonObject:
        record: JsonObject = dict(self._asdict())
        for name, value in record.items():
            if isinstance(value, ErrorParts):
                record[name] = value.to_json()
            elif isinstance(value, tuple):
                record[name] = list(value)
        return record


def _read_interval(fields: Fields, field: str) -> Optional[Tuple[float, float]]:
    if fields.is_null(field):
        return None
    ends = fields.numbers(field)
    if len(ends) != 2:
        fields.fault(field, "expected two numbers, found {}".format(len(ends)))
        return None
    return (ends[0], ends[1])


def _read_error(fields: Fields, field: str) -> Optional[ErrorParts]:
    child = fields.optional_child(field)
    return None if child is None else ErrorParts.read(child)

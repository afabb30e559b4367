"""What a power sensor is: the one interface that the rest of the agent knows."""

from typing import Dict, List, NamedTuple, Optional, Tuple

from profiler.fields import Fields, JsonObject, read_record

Reading = Dict[str, Optional[float]]  # label -> milliwatts; None: the rail did not answer


class Missing(NamedTuple):
    """Something that cannot be measured, why, and what to do about it."""

    sensor: str
    rail: str  # a label, or "" when it is the sensor as a whole
    reason: str
    remedy: str

    def text(self) -> str:
        what = "{} {}".format(self.sensor, self.rail).strip()
        return "{}: {}{}".format(what, self.reason, "; " + self.remedy if self.remedy else "")


class RailFacts(NamedTuple):
    """A rail of the board's description."""

    label: str
    shunt_mohm: Optional[float]
    optional: bool
    sensor: str = "ina3221"  # the kind of chip that measures it
    where: str = ""  # bus and address


class PowerFacts(NamedTuple):
    """The power rails in a board's description (a file of `devices/catalog`)."""

    sensors: List[str]  # kinds to look for; empty: all
    rails: List[RailFacts]
    total: Optional[List[str]]  # labels to add; None: the rule is not known
    filter_tau_s: Optional[float]

    @classmethod
    def read(cls, fields: Fields) -> "PowerFacts":
        return cls(
            sensors=[] if fields.is_null("sensors") else fields.texts("sensors"),
            rails=[
                RailFacts(
                    rail.text("label"),
                    rail.optional_number("shunt_mohm"),
                    not rail.is_null("optional") and rail.flag("optional"),
                    rail.optional_text("sensor") or "ina3221",
                    rail.optional_text("where") or "",
                )
                for rail in ([] if fields.is_null("rails") else fields.children("rails"))
            ],
            total=None if fields.is_null("total") else fields.texts("total"),
            filter_tau_s=fields.optional_number("filter_tau_s", 0),
        )

    @classmethod
    def of_board(cls, board: Optional[JsonObject]) -> "PowerFacts":
        """Of a board's description, which may be absent or have no `power`. Raises RecordError."""
        return read_record((board or {}).get("power") or {}, cls.read)


class SensorDescription(NamedTuple):
    """How a sensor makes its numbers; part of a journal's header and of a trace."""

    sensor: str
    rails: Tuple[str, ...]
    total: Tuple[str, ...]  # labels to add; empty: not known, and then `total_reason` says why
    total_reason: str
    resolution_mw: Dict[str, Optional[float]]
    tau_s: Optional[float]
    min_period_s: float
    cumulative: bool
    details: JsonObject  # further fields of this kind of sensor, for people

    @classmethod
    def read(cls, fields: Fields) -> "SensorDescription":
        steps = fields.child("resolution_mw")
        return cls(
            sensor=fields.text("sensor"),
            rails=tuple(fields.texts("rails")),
            total=() if fields.is_null("total") else tuple(fields.texts("total")),
            total_reason=fields.optional_text("total_reason") or "",
            resolution_mw={label: steps.optional_number(label) for label in steps.names()},
            tau_s=fields.optional_number("tau_s", 0),
            min_period_s=fields.number("min_period_s", 0),
            cumulative=fields.flag("cumulative"),
            details=fields.others(),
        )

    def to_json(self) -> JsonObject:
        record: JsonObject = {
            "sensor": self.sensor,
            "rails": list(self.rails),
            "total": list(self.total) or None,
            "total_reason": self.total_reason or None,
            "resolution_mw": dict(self.resolution_mw),
            "tau_s": self.tau_s,
            "min_period_s": self.min_period_s,
            "cumulative": self.cumulative,
        }
        record.update(self.details)
        return record


class PowerSensor:
    """A group of rails that are read together.

    Implementers guarantee:

    - `read()` gives one number or None for every label in `rails`, in milliwatts, never a zero in place of a failure,
      and raises nothing because of a rail that cannot be read;
    - `read()` does not sleep, so that the caller decides about time;
    - opening and reading change nothing on the machine and need no right that the user lacks;
    - no two rails of `total` contain each other.
    """

    name = ""  # "ina3221", "ina238", "rapl", "nvml"
    rails: Tuple[str, ...] = ()
    total: Tuple[str, ...] = ()  # labels to add; empty: not known, and then `total_reason` says why
    total_reason = ""
    resolution_mw: Dict[str, Optional[float]] = {}  # label -> quantisation step; None: not known
    tau_s: Optional[float] = None  # time constant of the sensor's own low-pass filter; None: not known
    min_period_s = 0.0  # reading faster than this gives nothing new
    cumulative = False  # True: a reading is the mean since the reading before (an energy counter)

    def read(self) -> Reading:
        raise NotImplementedError

    def describe(self) -> SensorDescription:
        """Where the numbers come from and how they are made."""
        return SensorDescription(
            sensor=self.name,
            rails=self.rails,
            total=self.total,
            total_reason=self.total_reason,
            resolution_mw=dict(self.resolution_mw),
            tau_s=self.tau_s,
            min_period_s=self.min_period_s,
            cumulative=self.cumulative,
            details=self.details(),
        )

    def details(self) -> JsonObject:
        """Further fields of `describe`, for people."""
        return {}

    def close(self) -> None:
        """Close what was opened; reading afterwards is a mistake."""

    def total_mw(self, reading: Reading) -> Optional[float]:
        """The total of one `read()`; None when a rail of it is missing or the rule is not known."""
        return sum_of(reading, self.total)


def sum_of(reading: Reading, labels: Tuple[str, ...]) -> Optional[float]:
    """The sum of these rails; None without labels, or when one of them has no number."""
    values = [reading.get(label) for label in labels]
    known = [value for value in values if value is not None]
    return sum(known) if known and len(known) == len(values) else None

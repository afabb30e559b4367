"""What a power sensor is: the one interface that the rest of the agent knows."""

from typing import NamedTuple


class Missing(NamedTuple):
    """Something that cannot be measured, why, and what to do about it."""

    sensor: str
    rail: str  # a label, or "" when it is the sensor as a whole
    reason: str
    remedy: str

    def text(self):
        what = "{} {}".format(self.sensor, self.rail).strip()
        return "{}: {}{}".format(what, self.reason, "; " + self.remedy if self.remedy else "")


class PowerSensor(object):
    """A group of rails that are read together.

    Whoever implements it guarantees:

    - `read()` gives one number or None for every label in `rails`, in milliwatts, never a zero in place of a failure,
      and raises nothing because of a rail that cannot be read;
    - `read()` does not sleep, so that the caller decides about time;
    - opening and reading change nothing on the machine and need no right that the user lacks;
    - no two rails of `total` contain each other.
    """

    name = ""  # "ina3221", "rapl", "nvml"
    rails = ()  # labels
    total = ()  # labels whose sum is the total; empty when it is not known, and then `total_reason` says why
    total_reason = ""
    resolution_mw = {}  # label -> quantisation step; None where it is not known
    tau_s = None  # time constant of the sensor's own low-pass filter; None when it is not known
    min_period_s = 0.0  # reading faster than this yields nothing new
    cumulative = (
        False  # True: a reading is the mean since the reading before (an energy counter), not a momentary value
    )

    def read(self):
        """{label: milliwatts or None}."""
        raise NotImplementedError

    def describe(self):
        """Plain JSON for the record: where the numbers come from and how they are made."""
        return {
            "sensor": self.name,
            "rails": list(self.rails),
            "total": list(self.total) or None,
            "total_reason": self.total_reason or None,
            "resolution_mw": dict(self.resolution_mw),
            "tau_s": self.tau_s,
            "min_period_s": self.min_period_s,
            "cumulative": self.cumulative,
        }

    def close(self):
        """Let go of what was opened; reading afterwards is a mistake."""

    def total_mw(self, reading):
        """The total of one `read()`; None when a rail of it is missing or the rule is not known."""
        values = [reading.get(label) for label in self.total]
        if not values or None in values:
            return None
        return sum(values)

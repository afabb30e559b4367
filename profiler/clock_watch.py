"""Watches the clock of the processor that engines run on: whether it is steady, and whether it is at its maximum."""

from typing import Callable, List, NamedTuple, Optional

from profiler.clocks import ClockDomain
from profiler.fields import Fields, JsonObject

STEADY_S = 0.2  # a clock that has not moved for this long has arrived
LONGEST_S = 2.0  # waited for that, in one visit
TOLERANCE = 0.05  # relative; one step of a Jetson's GPU is 7 % and more, the boost of a desktop's CPU moves by less
IDLE_S = 0.05  # after a pause this long a governor may have lowered the clock
HOPELESS = 3  # visits in a row for which the clock did not become steady: further ones wait for STEADY_S alone


class ClockOfVisit(NamedTuple):
    """The engine's clock while the samples of a visit were taken."""

    name: str  # GPU or CPU
    is_steady: bool
    start_mhz: float
    end_mhz: float
    most_mhz: Optional[float]  # that the present mode allows

    @classmethod
    def read(cls, fields: Fields) -> "ClockOfVisit":
        return cls(
            name=fields.choice("name", ("CPU", "GPU")),
            is_steady=fields.flag("is_steady"),
            start_mhz=fields.number("start_mhz", 0),
            end_mhz=fields.number("end_mhz", 0),
            most_mhz=fields.optional_number("most_mhz", 0),
        )

    def to_json(self) -> JsonObject:
        return dict(self._asdict())

    def warnings(self) -> List[str]:
        """How the clock may have distorted the visit."""
        found = []
        if not self.is_steady:
            found.append(
                "{} clock was ramping: {:.0f} MHz before the samples, {:.0f} MHz after them; lock the clocks".format(
                    self.name, self.start_mhz, self.end_mhz
                )
            )
        lowest_mhz = min(self.start_mhz, self.end_mhz)
        if self.most_mhz is not None and lowest_mhz < self.most_mhz * (1 - TOLERANCE):
            found.append(
                "{} clock below the mode's maximum: {:.0f} of {:.0f} MHz; lock the clocks or cool the board".format(
                    self.name, lowest_mhz, self.most_mhz
                )
            )
        return found


class ClockWatch:
    """One clock over many visits: it stays steady from one visit to the next as long as no long pause lies between.

    Args:
        domain: the clock; None where it cannot be read, and then it counts as steady.
        clock: seconds.
    """

    def __init__(self, domain: Optional[ClockDomain], clock: Callable[[], float]) -> None:
        self._domain = domain
        self._clock = clock
        self._mhz: Optional[float] = None
        self._since_s = 0.0  # when the clock moved last
        self._seen_s: Optional[float] = None  # when the engine was last known to be busy
        self._start_mhz: Optional[float] = None
        self._was_steady = True
        self._unsettled = 0  # visits in a row
        self._began_s = 0.0  # the visit

    def begin(self) -> None:
        """A visit begins."""
        self._began_s = self._clock()
        if self._seen_s is None or self._clock() - self._seen_s > IDLE_S:
            self._mhz = None
        self.note()

    def note(self) -> None:
        """Read the clock, at a moment when the engine is busy."""
        now_s = self._clock()
        mhz = None if self._domain is None else self._domain.current_mhz()
        if mhz is None or self._mhz is None or abs(mhz - self._mhz) > TOLERANCE * self._mhz:
            self._mhz, self._since_s = mhz, now_s
        self._seen_s = now_s

    def settled(self) -> bool:
        """Whether the samples may begin: the clock is steady, or waiting does not help."""
        self.note()
        self._start_mhz = self._mhz
        self._was_steady = self._is_steady()
        # A clock that has become steady meanwhile is seen so after STEADY_S: waiting helps again from then on.
        hopeless = self._unsettled >= HOPELESS and self._clock() - self._began_s > STEADY_S
        return self._was_steady or hopeless

    def finish(self) -> Optional[ClockOfVisit]:
        """The samples are taken: the clock during them; None where it cannot be read."""
        steady, start_mhz = self._was_steady, self._start_mhz
        self._unsettled = 0 if steady else self._unsettled + 1
        since_s = self._since_s
        self.note()
        if self._domain is None or start_mhz is None or self._mhz is None:
            return None
        return ClockOfVisit(
            name=self._domain.name,
            is_steady=steady and self._since_s == since_s,
            start_mhz=start_mhz,
            end_mhz=self._mhz,
            most_mhz=self._domain.most_mhz(),
        )

    def _is_steady(self) -> bool:
        if self._domain is None or self._mhz is None or self._domain.is_locked():
            return True
        assert self._seen_s is not None
        return self._seen_s - self._since_s >= STEADY_S

"""Samples of the rails over time, and the file that the sampler writes them to.

One JSON line per sample, `[t_s, {"VDD_IN": 5368.0, ...}]`, after a first line that describes the sensor. `t_s` is the
monotonic clock, which all processes of a machine share. A torn last line waits for the next read.
"""

from typing import Any, List, Optional, Sequence, Tuple

from profiler.fields import Fields, RecordError, parse, read_record
from profiler.power.sensor import Reading, SensorDescription, sum_of

Samples = List[Tuple[float, Optional[float]]]  # [(t_s, milliwatts or None)]


class Trace:
    """Samples in order of time."""

    def __init__(self, sensor: Optional[SensorDescription] = None) -> None:
        self.sensor = sensor
        self.t_s: List[float] = []
        self.readings: List[Reading] = []

    def append(self, t_s: float, reading: Reading) -> None:
        self.t_s.append(t_s)
        self.readings.append(reading)

    def total(self, labels: Optional[Sequence[str]] = None) -> Samples:
        """The sum of `labels` over time; without them, of the sensor's own total."""
        chosen = tuple(labels or (self.sensor.total if self.sensor is not None else ()))
        return [(t_s, sum_of(reading, chosen)) for t_s, reading in zip(self.t_s, self.readings)]


class TraceReader:
    """Reads a trace while it is being written."""

    def __init__(self, path: str) -> None:
        self.trace = Trace()
        self.error: Optional[str] = None  # what the sampler wrote when it stopped early
        self._path = path
        self._offset = 0

    def update(self) -> Trace:
        """Read what is new and return the whole trace. Raises RecordError: a line is no sample."""
        with open(self._path, "rb") as file:
            file.seek(self._offset)
            new = file.read()
        whole = new.rfind(b"\n") + 1
        self._offset += whole
        for line in new[:whole].splitlines():
            self._take(parse(line))
        return self.trace

    def _take(self, record: Any) -> None:
        if isinstance(record, list):
            if len(record) != 2 or type(record[0]) not in (int, float):
                raise RecordError(["a line of the trace is no sample"])
            self.trace.append(record[0], read_record(record[1], _read_reading))
        elif isinstance(record, dict) and isinstance(record.get("error"), str):
            self.error = record["error"]
        else:
            self.trace.sensor = read_record(record, SensorDescription.read)


def _read_reading(fields: Fields) -> Reading:
    return {label: fields.optional_number(label) for label in fields.names()}

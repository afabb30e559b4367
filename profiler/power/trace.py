"""Samples of the rails over time, and the file in which the sampler leaves them.

One JSON line per sample, `[t_s, {"VDD_IN": 5368.0, ...}]`, after a first line that describes the sensor. `t_s` is the
monotonic clock, which all processes of a machine share; a torn last line is left for the next look.
"""

import json


class Trace(object):
    """Samples in order of time."""

    def __init__(self, sensor=None):
        self.sensor = sensor  # what `PowerSensor.describe()` said
        self.t_s = []
        self.readings = []  # {label: milliwatts or None}

    def append(self, t_s, reading):
        self.t_s.append(t_s)
        self.readings.append(reading)

    def total(self, labels=None):
        """[(t_s, milliwatts or None)] of the sum of `labels`; without them, of the sensor's own total."""
        labels = labels or (self.sensor or {}).get("total") or ()
        return [(t_s, _sum(reading, labels)) for t_s, reading in zip(self.t_s, self.readings)]


class TraceReader(object):
    """Reads a trace while it is being written."""

    def __init__(self, path):
        self.trace = Trace()
        self.error = None  # what the sampler said when it gave up
        self._path = path
        self._offset = 0

    def update(self):
        """Read what is new and return the whole trace."""
        with open(self._path, "rb") as file:
            file.seek(self._offset)
            new = file.read()
        whole = new.rfind(b"\n") + 1
        self._offset += whole
        for line in new[:whole].splitlines():
            record = json.loads(line.decode("utf-8"))
            if isinstance(record, list):
                self.trace.append(record[0], record[1])
            elif "error" in record:
                self.error = record["error"]
            else:
                self.trace.sensor = record
        return self.trace


def _sum(reading, labels):
    values = [reading.get(label) for label in labels]
    if not values or None in values:
        return None
    return sum(values)

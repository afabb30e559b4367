"""A process of its own that reads a sensor at a steady pace and writes what it reads to a file.

Never a thread in the measuring process: reading takes milliseconds and the interpreter's lock would land them in the
timed loop. The process ends when its standard input closes, so also when its parent is killed.
"""

import json
import os
import select
import subprocess
import sys
import time

from profiler.power.find import find_sensors
from profiler.power.trace import TraceReader

PERIOD_S = 0.1  # energymon's default; shorter gives nothing, as the sensors' own filters take up to 0.44 s
_START_S = 20.0  # loading the interpreter and finding sensors on a busy board
_CODE = "import sys; from profiler.power.sampler import main; sys.exit(main(sys.argv[1:]))"


class SamplerError(Exception):
    """The sampler could not start, or died."""


def sample_to(file, sensor, period_s=PERIOD_S, stop=None, clock=time.monotonic):
    """Write one line per sample until `stop(seconds)`, which waits that long, says so.

    Args:
        file: binary, written line by line and flushed.
        sensor: PowerSensor.
        period_s: raised to the sensor's own update interval where that is longer.
        stop: callable; waits at most the seconds given and returns True when sampling shall end.
    """
    period_s = max(period_s, sensor.min_period_s)
    _write(file, dict(sensor.describe(), period_s=period_s))
    due = clock()
    while True:
        before = clock()
        reading = sensor.read()
        # A momentary value belongs to the middle of its reading; a counter is read at the end of its interval.
        after = clock()
        _write(file, [round(after if sensor.cumulative else (before + after) / 2, 6), reading])
        due = max(due + period_s, clock())
        if stop(max(0.0, due - clock())):
            return


def main(argv):
    """`sampler CONFIG FILE`; CONFIG is JSON: sysfs_root, board, sensor (a name or null for the best), period_s."""
    config = json.loads(argv[0])
    with open(argv[1], "wb") as file:
        found = find_sensors(config["sysfs_root"], config["board"])
        wanted = config["sensor"]
        chosen = [sensor for sensor in found.sensors if sensor.name == wanted] if wanted else [found.best]
        if not chosen or chosen[0] is None:
            _write(file, {"error": found.header()["reason"] or "no sensor named {}".format(wanted)})
            return 1
        try:
            sample_to(file, chosen[0], config["period_s"], _stdin_closes)
        finally:
            found.close()
    return 0


class PowerSampler(object):
    """The sampling process, seen from the measuring one.

        sampler = PowerSampler("power.trace", board=facts)
        sampler.start()
        ...
        trace = sampler.trace()     # so far, at any time
        trace = sampler.stop()      # to the end

    It is also a context manager that starts and stops.
    """

    def __init__(self, path, sysfs_root="/sys", board=None, sensor=None, period_s=PERIOD_S, command=None):
        """`path`: where the trace goes; `command`: how to start it other than with this interpreter and this code."""
        # Works from a folder and from the archive alike: both can stand on the module search path.
        self._code = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
        self._command = list(command or [sys.executable, "-c", _CODE])
        self._config = {"sysfs_root": sysfs_root, "board": board, "sensor": sensor, "period_s": period_s}
        self._path = path
        self._process = None
        self._reader = None
        self._complaint = ""  # what the process left on its standard error

    def start(self):
        """Start, and wait for the first sample. Raises SamplerError."""
        open(self._path, "wb").close()
        self._reader = TraceReader(self._path)
        self._process = subprocess.Popen(
            self._command + [json.dumps(self._config), self._path],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=dict(os.environ, PYTHONPATH=self._code),
        )
        deadline = time.monotonic() + _START_S
        while not self.trace().t_s:
            ended = self._process.poll() is not None
            if ended or time.monotonic() > deadline:
                self._reader.update()
                self._kill()
                said = self._reader.error or self._complaint
                raise SamplerError(said or "no sample within {:.0f} s".format(_START_S))
            time.sleep(0.01)

    def trace(self):
        """Everything sampled so far: a Trace that keeps growing with every call."""
        return self._reader.update()

    def running(self):
        return self._process is not None and self._process.poll() is None

    def stop(self):
        """End the process and return the whole trace. May be called twice."""
        if self._process is not None:
            self._kill()
        return self._reader.update()

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.stop()

    def _kill(self):
        process, self._process = self._process, None
        process.stdin.close()
        try:
            process.wait(timeout=2.0)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self._complaint = process.stderr.read().decode("utf-8", "replace").strip()[-2000:]
        process.stderr.close()


def _stdin_closes(seconds):
    readable, _, _ = select.select([sys.stdin], [], [], seconds)
    return bool(readable) and not os.read(sys.stdin.fileno(), 1)


def _write(file, record):
    file.write(json.dumps(record, separators=(",", ":")).encode("utf-8") + b"\n")
    file.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

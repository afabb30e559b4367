"""A process of its own that reads a sensor at a steady pace and writes what it reads to a file.

Never a thread in the measuring process: reading takes milliseconds, and the interpreter's lock would add them to the
timed loop. The process ends when its standard input closes, so also when its parent is killed.
"""

import json
import os
import select
import subprocess
import sys
import time
from typing import Any, BinaryIO, Callable, List, NamedTuple, Optional, Sequence

from profiler.fields import Fields, JsonObject, RecordError, parse, read_record
from profiler.power.find import find_sensors
from profiler.power.sensor import PowerSensor
from profiler.power.trace import Trace, TraceReader

PERIOD_S = 0.1  # energymon's default; shorter gives nothing, as the sensors' own filters take up to 0.44 s
_START_S = 20.0  # loading the interpreter and finding sensors on a busy board
_CODE = "import sys; from profiler.power.sampler import main; sys.exit(main(sys.argv[1:]))"


class SamplerError(Exception):
    """The sampler could not start, or ended early."""


class SamplerConfig(NamedTuple):
    """What the sampling process reads; its first argument, as JSON."""

    sysfs_root: str
    board: Optional[JsonObject]  # the board's description
    sensor: Optional[str]  # a name; None for the best
    period_s: float

    @classmethod
    def read(cls, fields: Fields) -> "SamplerConfig":
        return cls(
            fields.text("sysfs_root"),
            None if fields.is_null("board") else fields.table("board"),
            fields.optional_text("sensor"),
            fields.number("period_s", 0),
        )

    def to_json(self) -> JsonObject:
        return dict(self._asdict())


def sample_to(
    file: BinaryIO,
    sensor: PowerSensor,
    period_s: float = PERIOD_S,
    *,
    stop: Callable[[float], bool],
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Write one line per sample until `stop(seconds)`, which waits that long, returns True.

    Args:
        file: binary, written line by line and flushed.
        period_s: raised to the sensor's own update interval where that is longer.
        stop: waits at most the seconds given; True ends the sampling.
    """
    period_s = max(period_s, sensor.min_period_s)
    _write(file, dict(sensor.describe().to_json(), period_s=period_s))
    due_s = clock()
    while True:
        before_s = clock()
        reading = sensor.read()
        # A momentary value belongs to the middle of its reading; a counter is read at the end of its interval.
        after_s = clock()
        _write(file, [round(after_s if sensor.cumulative else (before_s + after_s) / 2, 6), reading])
        due_s = max(due_s + period_s, clock())
        if stop(max(0.0, due_s - clock())):
            return


def main(argv: Sequence[str]) -> int:
    """`sampler CONFIG FILE`; CONFIG is a SamplerConfig as JSON."""
    with open(argv[1], "wb") as file:
        try:
            config = read_record(parse(argv[0].encode("utf-8")), SamplerConfig.read)
            found = find_sensors(config.sysfs_root, config.board)
        except RecordError as err:
            _write(file, {"error": str(err)})
            return 1
        if config.sensor is None:
            chosen = found.best
        else:
            chosen = next((sensor for sensor in found.sensors if sensor.name == config.sensor), None)
        if chosen is None:
            _write(file, {"error": found.header()["reason"] or "no sensor named {}".format(config.sensor)})
            return 1
        try:
            sample_to(file, chosen, config.period_s, stop=_stdin_closes)
        finally:
            found.close()
    return 0


class Sampler:
    """Samples the power of the machine while it works: a process of its own, or a virtual board.

    Implementers guarantee: the trace has samples from before the call to `trace`, on the clock of the measurement.
    """

    def start(self) -> None:
        """Start, and wait for the first sample. Raises SamplerError."""
        raise NotImplementedError

    def trace(self) -> Trace:
        """Everything sampled so far."""
        raise NotImplementedError

    def running(self) -> bool:
        """Whether it still samples."""
        return True


class PowerSampler(Sampler):
    """The sampling process, as the measuring one uses it.

        sampler = PowerSampler("power.trace", board=facts)
        sampler.start()
        ...
        trace = sampler.trace()     # so far, at any time
        trace = sampler.stop()      # to the end

    It is also a context manager that starts and stops.
    """

    def __init__(
        self,
        path: str,
        sysfs_root: str = "/sys",
        board: Optional[JsonObject] = None,
        sensor: Optional[str] = None,
        period_s: float = PERIOD_S,
        command: Optional[Sequence[str]] = None,
    ) -> None:
        """`path`: where the trace goes; `command`: how to start it other than with this interpreter and this code."""
        # Works from a folder and from the archive alike: both can be on the module search path.
        self._code = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
        self._command: List[str] = list(command or [sys.executable, "-c", _CODE])
        self._config = SamplerConfig(sysfs_root, board, sensor, period_s)
        self._path = path
        self._reader = TraceReader(path)
        self._process: "Optional[subprocess.Popen[bytes]]" = None
        self._complaint = ""  # what the process left on its standard error

    def start(self) -> None:
        """Start, and wait for the first sample. Raises SamplerError."""
        open(self._path, "wb").close()
        self._reader = TraceReader(self._path)
        process = subprocess.Popen(
            self._command + [json.dumps(self._config.to_json()), self._path],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=dict(os.environ, PYTHONPATH=self._code),
        )
        self._process = process
        deadline_s = time.monotonic() + _START_S
        while not self.trace().t_s:
            ended = process.poll() is not None
            if ended or time.monotonic() > deadline_s:
                self.trace()
                self._kill()
                reason = self._reader.error or self._complaint
                raise SamplerError(reason or "no sample within {:.0f} s".format(_START_S))
            time.sleep(0.01)

    def trace(self) -> Trace:
        """Everything sampled so far: a Trace that grows with every call. Raises SamplerError: it is damaged."""
        try:
            return self._reader.update()
        except RecordError as err:
            self._kill()
            raise SamplerError("{} is damaged: {}".format(self._path, err))

    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def stop(self) -> Trace:
        """End the process and return the whole trace. May be called twice."""
        self._kill()
        return self.trace()

    def __enter__(self) -> "PowerSampler":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _kill(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None and process.stderr is not None
        process.stdin.close()
        try:
            process.wait(timeout=2.0)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self._complaint = process.stderr.read().decode("utf-8", "replace").strip()[-2000:]
        process.stderr.close()


def _stdin_closes(seconds: float) -> bool:
    readable, _, _ = select.select([sys.stdin], [], [], seconds)
    return bool(readable) and not os.read(sys.stdin.fileno(), 1)


def _write(file: BinaryIO, record: Any) -> None:
    file.write(json.dumps(record, separators=(",", ":")).encode("utf-8") + b"\n")
    file.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""TensorRT's logger, progress monitor and profiler, as classes of ours that derive from those of the library.

The bases are known only at run time, so each class is made by a function that gets the library.
"""

import collections
import sys
import time
from typing import Any, Callable, Deque, Dict, List, Optional, Tuple

PROGRESS_INTERVAL_S = 5.0
KEPT_ERRORS = 8


def to_log(line: str) -> None:
    """One line of the agent's log: standard error."""
    print(line, file=sys.stderr, flush=True)


def make_log(trt: Any) -> Any:
    class Log(trt.ILogger):  # type: ignore[misc]  # the base is known only at run time
        """Warnings and errors go to the agent's log; errors are also kept for the message of a failure."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self._errors: Deque[str] = collections.deque(maxlen=KEPT_ERRORS)

        def log(self, severity: Any, msg: str) -> None:
            if severity in (trt.ILogger.Severity.INTERNAL_ERROR, trt.ILogger.Severity.ERROR):
                self._errors.append(msg.strip())
            elif severity != trt.ILogger.Severity.WARNING:
                return
            to_log("TensorRT: " + msg.strip())

        def take(self) -> List[str]:
            """The errors since the last call."""
            errors = list(self._errors)
            self._errors.clear()
            return errors

        def explain(self, err: Exception) -> str:
            """TensorRT's messages about an exception, else the exception: its own text is about C++ types."""
            return "; ".join(self.take()) or "{}: {}".format(type(err).__name__, err)

    return Log()


def make_monitor(trt: Any, subject: str, report: Callable[[str], None]) -> Any:
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]  # the base is known only at run time
        """Reports the outermost phase, every few seconds. Called from TensorRT's threads."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._outermost: Dict[str, int] = {}  # phase -> its number of steps
            self._reported_s = time.monotonic()

        def phase_start(self, phase_name: str, parent_phase: Optional[str], num_steps: int) -> None:
            if parent_phase is None:
                self._outermost[phase_name] = num_steps

        def step_complete(self, phase_name: str, step: int) -> bool:
            now_s = time.monotonic()
            if phase_name in self._outermost and now_s - self._reported_s >= PROGRESS_INTERVAL_S:
                self._reported_s = now_s
                report("{}: {}, step {} of {}".format(subject, phase_name, step + 1, self._outermost[phase_name]))
            return True  # continue

        def phase_finish(self, phase_name: str) -> None:
            self._outermost.pop(phase_name, None)

    return Monitor()


def make_profiler(trt: Any) -> Any:
    class Profiler(trt.IProfiler):  # type: ignore[misc]  # the base is known only at run time
        """Keeps the times of layers in the order in which they are reported."""

        def __init__(self) -> None:
            trt.IProfiler.__init__(self)
            self._reported: List[Tuple[str, float]] = []

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            self._reported.append((layer_name, ms))

        def take(self) -> List[Tuple[str, float]]:
            """Names and times since the last call."""
            reported, self._reported = self._reported, []
            return reported

    return Profiler()

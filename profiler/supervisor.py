"""The agent's side of the measuring process: starts it, asks it, and survives it."""

import json
import os
import select
import signal
import subprocess
import sys
import time
from typing import Any, Dict, List

from profiler.errors import BackendError, Interrupted, MeasureError

START_LIMIT_S = 180.0  # importing a runtime from a board's slow card takes a while


class Stop:
    """SIGINT and SIGTERM, turned into something that a wait can notice and nothing else is disturbed by."""

    def __init__(self) -> None:
        self.fd, self._write = os.pipe()
        self.requested = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._note)

    def _note(self, number: int, frame: Any) -> None:
        if not self.requested:
            self.requested = True
            os.write(self._write, b"!")

    def check(self) -> None:
        if self.requested:
            raise Interrupted("the agent was asked to stop", "run again to go on; everything measured so far is kept")


def command() -> List[str]:
    """How to start the measuring process: the archive that this code runs from."""
    return [sys.executable, os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "worker"]


class Supervisor:
    """One long-lived measuring process, restarted whenever it dies or overruns its time."""

    def __init__(self, configuration: Dict[str, Any], stop: Stop, timeout_s: float) -> None:
        self._configuration = dict(configuration, do="configure")
        self._stop = stop
        self._timeout_s = timeout_s
        self._process = None  # type: Any  # subprocess.Popen, or None while there is none
        self._held = set()  # type: set  # models loaded in the process
        self._pending = b""
        self.load_s = 0.0  # time spent loading engines, all together

    def configure(self) -> Dict[str, Any]:
        """Start the process if none runs; what it says about its backend.

        Raises:
            BackendError: the process cannot start, or has no usable backend.
        """
        self.close()
        self._process = subprocess.Popen(command(), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        try:
            reply = self._exchange(self._configuration, START_LIMIT_S)
        except MeasureError as err:
            raise BackendError("the measuring process did not start: " + err.message, "see agent.log")
        if "error" in reply:
            raise BackendError(reply["error"]["message"], reply["error"]["remedy"])
        return reply

    def load(self, model: str, path: str) -> None:
        """Have the model's engine ready.

        Raises:
            MeasureError: this model failed; the next call finds a working process again.
        """
        if self._process is None:
            self.configure()
        if model not in self._held:
            started_s = time.monotonic()
            reply = self.ask({"do": "load", "model": model, "path": path})
            self._held.difference_update(reply["evicted"])
            self._held.add(model)
            self.load_s += time.monotonic() - started_s

    def ask(self, request: Dict[str, Any], extra_s: float = 0.0) -> Dict[str, Any]:
        """One request, answered within the job's time limit and `extra_s` more, or MeasureError."""
        reply = self._exchange(request, self._timeout_s + extra_s)
        if "error" in reply:
            if reply.get("fatal"):
                self.close()  # the next measurement starts a new process, and is not blamed for this one
            raise MeasureError(**reply["error"])
        return reply

    def close(self) -> None:
        """End the process, whatever it is doing."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
        self._process = None
        self._held.clear()
        self._pending = b""

    def _exchange(self, request: Dict[str, Any], limit_s: float) -> Dict[str, Any]:
        assert self._process is not None
        deadline_s = time.monotonic() + limit_s
        try:
            self._process.stdin.write((json.dumps(request) + "\n").encode("ascii"))
            self._process.stdin.flush()
        except OSError:
            raise self._death()
        while b"\n" not in self._pending:
            left_s = deadline_s - time.monotonic()
            ready, _, _ = select.select([self._process.stdout, self._stop.fd], [], [], max(0.0, left_s))
            if self._stop.requested:
                self.close()
                self._stop.check()
            if not ready:
                self.close()
                raise MeasureError(
                    "timeout",
                    "no answer to `{}` within {:g} s".format(request["do"], limit_s),
                    "if this board needs longer, raise timeout_s in the job's protocol",
                )
            received = os.read(self._process.stdout.fileno(), 65536)
            if not received:
                raise self._death()
            self._pending += received
        line, _, self._pending = self._pending.partition(b"\n")
        return json.loads(line.decode("ascii"))

    def _death(self) -> MeasureError:
        code = self._process.wait()
        self.close()
        if code >= 0:
            return MeasureError("crash", "the measuring process ended with exit code {}".format(code), "see agent.log")
        if code == -signal.SIGKILL:
            return MeasureError(
                "crash",
                "the measuring process was killed (SIGKILL): most likely memory ran out",
                "free memory on the board, or use a smaller batch",
            )
        return MeasureError(
            "crash", "the measuring process died of {}".format(signal.Signals(-code).name), "see agent.log"
        )

"""The agent's side of the measuring process: starts it, sends it requests, and survives its end."""

import json
import os
import signal
import subprocess
import sys
import time
from types import FrameType
from typing import Callable, List, Optional, Set, TypeVar, Union

from profiler import footprint
from profiler.errors import BackendError, Interrupted, MeasureError
from profiler.fields import Fields, RecordError, parse
from profiler.messages import (
    BuildRequest,
    Built,
    CheckRequest,
    Configured,
    ConfigureRequest,
    Done,
    EvaluateRequest,
    Failure,
    IsBuiltRequest,
    Loaded,
    LoadRequest,
    Profiled,
    ProfileLayersRequest,
    ReadBack,
    ReadBackRequest,
    Request,
    RestRequest,
    Visited,
    VisitRequest,
    name_of,
    request_to_json,
)
from profiler.system import readable

Reply = TypeVar("Reply")
START_LIMIT_S = 180.0  # importing a runtime from a board's slow card takes a while
ALIVE_INTERVAL_S = 1.0  # between two signs of life during a request that takes long


class Stop:
    """SIGINT, SIGTERM and SIGHUP as a file descriptor: a wait notices them, and nothing else is interrupted."""

    def __init__(self) -> None:
        self.fd, self._write = os.pipe()
        self.requested = False
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._note)

    def _note(self, number: int, frame: Optional[FrameType]) -> None:
        if not self.requested:
            self.requested = True
            os.write(self._write, b"!")

    def check(self) -> None:
        if self.requested:
            raise Interrupted("the agent was interrupted", "run again to continue; everything measured so far is kept")


def command() -> List[str]:
    """How to start the measuring process: the archive that this code runs from."""
    return [sys.executable, os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "worker"]


class Supervisor:
    """One long-lived measuring process, restarted whenever it dies or exceeds its time limit.

    Args:
        timeout_s: of a request.
        build_timeout_s: of building one engine.
    """

    def __init__(
        self, configuration: ConfigureRequest, stop: Stop, timeout_s: float, build_timeout_s: float = 0.0
    ) -> None:
        self._configuration = configuration
        self._stop = stop
        self._timeout_s = timeout_s
        self._build_timeout_s = build_timeout_s
        self._load_extra_s = 0.0
        self._process: "Optional[subprocess.Popen[bytes]]" = None
        self._loaded: Set[str] = set()  # models loaded in the process
        self._built: Set[str] = set()  # models with an engine on the card
        self._pending = b""
        self.load_s = 0.0  # time spent loading engines, all together
        self.peak_mb: Optional[float] = None  # memory of the largest process that ended here

    def configure(self) -> Configured:
        """Start the process if none runs; its answer about its backend.

        Raises:
            BackendError: the process cannot start, or has no usable backend.
        """
        self.close()
        self._process = subprocess.Popen(command(), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        try:
            reply = self._exchange(self._configuration, START_LIMIT_S)
        except MeasureError as err:
            raise BackendError("the measuring process did not start: " + err.message, "see agent.log")
        if isinstance(reply, Failure):
            raise BackendError(reply.error.message, reply.error.remedy)
        about = Configured.read(reply)
        try:
            reply.check()
        except RecordError as err:
            raise BackendError(self._unreadable(err).message, "see agent.log")
        # An engine that could not be kept, or that the runtime refuses, is built again when it is loaded.
        self._load_extra_s = self._build_timeout_s if about.needs_build else 0.0
        return about

    def is_built(self, model: str, path: str) -> bool:
        """Whether the model's engine was built before. Raises MeasureError."""
        self._start()
        is_built = self._ask(IsBuiltRequest(model, path), Built.read).is_built
        if is_built:
            self._built.add(model)
        return is_built

    def build(self, model: str, path: str, workspace_share: float, alive: Callable[[], None]) -> None:
        """Build the model's engine. `alive` is called every ALIVE_INTERVAL_S. Raises MeasureError."""
        self._start()
        self._ask(BuildRequest(model, path, workspace_share), Done.read, self._build_timeout_s - self._timeout_s, alive)
        self._built.add(model)

    def load(self, model: str, path: str) -> None:
        """Get the model's engine ready.

        Raises:
            MeasureError: this model failed; the next call finds a working process again.
        """
        self._start()
        if model not in self._loaded:
            started_s = time.monotonic()
            try:
                extra_s = 0.0 if model in self._built else self._load_extra_s
                loaded = self._ask(LoadRequest(model, path), Loaded.read, extra_s)
            except MeasureError:
                self._built.discard(model)  # what does not load is built again, which takes its time
                self._loaded.clear()  # room was made for it: which engines are left is not known
                raise
            self._loaded.difference_update(loaded.evicted)
            self._loaded.add(model)
            self.load_s += time.monotonic() - started_s

    def visit(self, visit: VisitRequest, extra_s: float) -> Visited:
        """Measure a loaded model once, within the job's time limit and `extra_s` more. Raises MeasureError."""
        return self._ask(visit, Visited.read, extra_s)

    def read_back(self, model: str, path: str) -> ReadBack:
        """What a loaded model runs in. Raises MeasureError."""
        try:
            found = self._ask(ReadBackRequest(model, path), ReadBack.read)
        except MeasureError:
            self._loaded.clear()  # room was made for it, as for a load
            raise
        self._loaded.difference_update(found.evicted)
        return found

    def rest(self, seconds: float) -> None:
        """Leave the board idle. Raises MeasureError."""
        self._start()
        self._ask(RestRequest(seconds), Done.read, seconds)

    def check(self, path: str, sha256: str) -> None:
        """Check a content-addressed file. Raises MeasureError."""
        self._ask(CheckRequest(path, sha256), Done.read)

    def evaluate(self, evaluation: EvaluateRequest) -> None:
        """Run inputs through a loaded model. Raises MeasureError."""
        self._ask(evaluation, Done.read)

    def profile_layers(self, request: ProfileLayersRequest, alive: Callable[[], None]) -> bool:
        """Time the layers of a model, into a file; False where the runtime cannot.

        Unloads all engines. `alive` is called every ALIVE_INTERVAL_S. Raises MeasureError.
        """
        self._start()
        self._loaded.clear()
        return self._ask(request, Profiled.read, self._load_extra_s, alive).found

    def close(self) -> None:
        """End the process, whatever it is doing."""
        if self._process is not None:
            peak_mb = footprint.peak_mb(self._process.pid)
            self.peak_mb = max(peak_mb or 0.0, self.peak_mb or 0.0) or None
            self._process.kill()
            self._process.communicate()
        self._process = None
        self._loaded.clear()
        self._pending = b""

    def _start(self) -> None:
        if self._process is None:
            self.configure()

    def _ask(
        self,
        request: Request,
        read: Callable[[Fields], Reply],
        extra_s: float = 0.0,
        alive: Optional[Callable[[], None]] = None,
    ) -> Reply:
        reply = self._exchange(request, self._timeout_s + extra_s, alive)
        if isinstance(reply, Failure):
            if reply.fatal:
                self.close()  # the next measurement starts a new process, and is not blamed for this one
            error = MeasureError(*reply.error)
            error.fatal = reply.fatal
            raise error
        answer = read(reply)
        try:
            reply.check()
        except RecordError as err:
            raise self._unreadable(err)
        return answer

    def _exchange(
        self, request: Request, limit_s: float, alive: Optional[Callable[[], None]] = None
    ) -> Union[Fields, Failure]:
        process = self._process
        assert process is not None and process.stdin is not None and process.stdout is not None
        deadline_s = time.monotonic() + limit_s
        try:
            process.stdin.write((json.dumps(request_to_json(request)) + "\n").encode("ascii"))
            process.stdin.flush()
        except OSError:
            raise self._death(process)
        while b"\n" not in self._pending:
            left_s = max(0.0, deadline_s - time.monotonic())
            wait_s = left_s if alive is None else min(left_s, ALIVE_INTERVAL_S)
            ready = readable([process.stdout.fileno(), self._stop.fd], wait_s)
            if self._stop.requested:
                self.close()
                self._stop.check()
            if not ready and wait_s < left_s:
                assert alive is not None
                alive()
                continue
            if not ready:
                self.close()
                raise MeasureError(
                    "timeout",
                    "no answer to `{}` within {:g} s".format(name_of(request), limit_s),
                    "if this board needs longer, give a larger --build-timeout"
                    if isinstance(request, BuildRequest)
                    else "if this board needs longer, raise timeout_s in the job's protocol",
                )
            received = os.read(process.stdout.fileno(), 65536)
            if not received:
                raise self._death(process)
            self._pending += received
        line, _, self._pending = self._pending.partition(b"\n")
        try:
            fields = Fields(parse(line))
            if not fields.has("error"):
                return fields
            failure = Failure.read(fields)
            fields.check()
            return failure
        except RecordError as err:
            raise self._unreadable(err)

    def _unreadable(self, err: RecordError) -> MeasureError:
        """The process wrote something else than an answer: it cannot be trusted with the next request."""
        self.close()
        return MeasureError("crash", "the measuring process gave an unreadable answer: {}".format(err), "see agent.log")

    def _death(self, process: "subprocess.Popen[bytes]") -> MeasureError:
        code = process.wait()
        self.close()
        if code >= 0:
            return MeasureError("crash", "the measuring process ended with exit code {}".format(code), "see agent.log")
        if code == -signal.SIGKILL:
            return MeasureError(
                "memory",
                "the measuring process was killed (SIGKILL): most likely memory ran out",
                "free memory on the board, or use a smaller batch",
            )
        return MeasureError(
            "crash", "the measuring process died of {}".format(signal.Signals(-code).name), "see agent.log"
        )

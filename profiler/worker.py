"""The measuring process: loads engines, times them, answers one JSON line per request. It may crash; the agent may not.

Requests, one JSON object per line on standard input, and what each is answered with:
    configure  backend, precision, batch, threads, home, root, board, warmup_ms, min_sample_ms, samples_per_visit
               -> fingerprint, runtime, runtime_at: the folder of the runtime's library
    load       model (sha256), path                            -> evicted: the models that were given up for it
    visit      model, repeats (or null to calibrate),          -> repeats, warmup_ms, samples_ms, device_ms, timed_s,
               energy_steady_s (or null: latency alone)           peak_memory_mb, before, after, energy if asked for
    rest       seconds                                         -> nothing; leaves the board idle for so long
    check      path, sha256                                    -> nothing
    evaluate   model, inputs, offset, size, batches, output    -> nothing; appends to the file `output`
A request that fails is answered with {"error": {code, message, remedy}, "fatal": whether the process must end}.
"""

import collections
import ctypes
import hashlib
import json
import os
import signal
import sys
from typing import Any, Dict

from profiler import backends, energy, measure, state
from profiler.errors import AgentError, MeasureError
from profiler.system import System

# Engines stay loaded between rounds while they fit in this share of the memory that was available at the start.
MEMORY_SHARE = 0.25
MEMORY_PER_MODEL_BYTE = 3  # weights, their packed copy, activations: an estimate from above
_PR_SET_PDEATHSIG = 1

Request = Dict[str, Any]


def main() -> int:
    """Serve requests until standard input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal reaches us too; the agent decides
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # never outlive the agent, however it ends
    _go_first()
    replies = os.dup(1)
    os.dup2(2, 1)  # whatever a library prints goes to the log
    worker = Worker()
    for line in sys.stdin:
        try:
            reply = worker.answer(json.loads(line))
        except (MeasureError, AgentError) as err:
            reply = {"error": err.to_json(), "fatal": getattr(err, "fatal", False)}
        except MemoryError:
            reply = {"error": MeasureError("run", "not enough memory", "free memory on the board").to_json()}
        except Exception as err:
            text = "{}: {}".format(type(err).__name__, err)
            reply = {"error": MeasureError("run", text).to_json()}
        content = (json.dumps(reply) + "\n").encode("ascii")
        while content:
            content = content[os.write(replies, content) :]
    return 0


def _go_first() -> None:
    """When memory runs out, the kernel shall end this process and not the agent, which tells of it and goes on."""
    try:
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write("500")
    except OSError:
        pass


class Worker:
    """Answers requests; holds the engines."""

    def __init__(self) -> None:
        self._engines = collections.OrderedDict()  # type: Any  # model -> (engine, bytes), least recently used first

    def answer(self, request: Request) -> Dict[str, Any]:
        return getattr(self, "_" + request["do"])(request)

    def _configure(self, request: Request) -> Dict[str, Any]:
        self._protocol = request
        system = System(request["root"])
        self._backend = backends.open_backend(
            request["backend"], request["precision"], request["batch"], request["threads"], request["home"], system
        )
        self._state = state.StateReader(
            [os.getpid(), os.getppid()],
            request["board"]["ignored_thermal_zones"],
            system.proc,
            system.sysfs,
            self._backend.clock,
        )
        self._energy = energy.EnergyMeter(self._backend, system, request["board"], request["home"])
        available_mb = self._state.before()["memory_available_mb"] or 1024.0
        self._room_bytes = available_mb * 2**20 * MEMORY_SHARE / MEMORY_PER_MODEL_BYTE
        library = sys.modules.get(request["backend"].partition("-")[0])
        return {
            "fingerprint": self._backend.fingerprint(),
            "runtime": self._backend.runtime(),
            "runtime_at": os.path.dirname(getattr(library, "__file__", None) or "") or None,
        }

    def _load(self, request: Request) -> Dict[str, Any]:
        content = read_checked(request["path"], request["model"])
        evicted = []
        while self._engines and len(content) + sum(size for _, size in self._engines.values()) > self._room_bytes:
            model, _ = self._engines.popitem(last=False)
            evicted.append(model)
        self._engines[request["model"]] = (self._backend.load(content), len(content))
        return {"evicted": evicted}

    def _visit(self, request: Request) -> Dict[str, Any]:
        engine = self._engine(request)
        reply = {}  # type: Dict[str, Any]

        def take_samples() -> None:
            before = self._state.before()
            started_s = self._backend.clock()
            timings = measure.measure(
                engine,
                self._protocol["warmup_ms"],
                self._protocol["min_sample_ms"],
                self._protocol["samples_per_visit"],
                request["repeats"],
                self._backend.clock,
            )
            reply.update(timings._asdict(), before=before, after=self._state.after(started_s))
            reply["device_ms"] = engine.device_ms(timings.repeats)
            reply["peak_memory_mb"] = engine.peak_memory_mb()

        if request["energy_steady_s"] is None:
            take_samples()
        else:
            reply["energy"] = self._energy.measure(engine, request["energy_steady_s"], take_samples)
        return reply

    def _rest(self, request: Request) -> Dict[str, Any]:
        self._backend.sleep(request["seconds"])
        return {}

    def _check(self, request: Request) -> Dict[str, Any]:
        read_checked(request["path"], request["sha256"])
        return {}

    def _evaluate(self, request: Request) -> Dict[str, Any]:
        engine = self._engine(request)
        with open(request["inputs"], "rb") as inputs, open(request["output"], "ab") as output:
            inputs.seek(request["offset"])
            for _ in range(request["batches"]):
                output.write(engine.evaluate(inputs.read(request["size"])))
        return {}

    def _engine(self, request: Request) -> Any:
        self._engines.move_to_end(request["model"])
        return self._engines[request["model"]][0]


def read_checked(path: str, sha256: str) -> bytes:
    """The bytes of a content-addressed file.

    Raises:
        MeasureError: code `model`: the file is missing or is not what its name says.
    """
    try:
        with open(path, "rb") as file:
            content = file.read()
    except OSError as err:
        raise MeasureError("model", "cannot read {}: {}".format(path, err.strerror), "run again to have it sent anew")
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise MeasureError(
            "model",
            "{} is damaged: its SHA-256 begins with {}".format(path, found[:12]),
            "run again to have it sent anew",
        )
    return content

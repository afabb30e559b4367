"""The measuring process: loads engines, times them, answers requests (profiler/messages.py). It may crash; the agent not."""

import collections
import ctypes
import hashlib
import json
import os
import signal
import sys
from typing import Dict, List, NamedTuple, Optional, Union

from profiler import backends, clock_watch, clocks, cuda, energy, footprint, measure, messages, state
from profiler.errors import AgentError, MeasureError
from profiler.fields import parse
from profiler.messages import Configured, Done, Failure, Loaded, Visited
from profiler.system import System

# Engines stay loaded between rounds while they fit in this share of the memory that was available at the start.
MEMORY_SHARE = 0.25
MEMORY_PER_MODEL_BYTE = 3  # weights, their packed copy, activations: an upper estimate, for engines without a number
HASH_BYTES = 2**20  # of a file, at a time
_PR_SET_PDEATHSIG = 1


def main() -> int:
    """Serve requests until standard input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal reaches this process too; the agent decides
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # never outlive the agent, however it ends
    _prefer_for_the_out_of_memory_killer()
    replies = os.dup(1)
    os.dup2(2, 1)  # whatever a library prints goes to the log
    worker = Worker()
    for line in sys.stdin.buffer:
        content = (json.dumps(_answer(worker, line).to_json()) + "\n").encode("ascii")
        while content:
            content = content[os.write(replies, content) :]
    return 0


def _answer(worker: "Worker", line: bytes) -> Union[messages.Answer, Failure]:
    try:
        return worker.answer(messages.request_from_json(parse(line)))
    except (MeasureError, AgentError) as err:
        return Failure(err.record, isinstance(err, MeasureError) and err.fatal)
    except MemoryError:
        return Failure(MeasureError("memory", "not enough memory", "free memory on the board").record, False)
    except Exception as err:  # a runtime may raise anything; it becomes the error of the visit
        text = "{}: {}".format(type(err).__name__, err)
        return Failure(MeasureError("run", text, "see agent.log").record, cuda.is_sticky(text))


def _prefer_for_the_out_of_memory_killer() -> None:
    """When memory runs out, the kernel must end this process and not the agent, which reports it and continues."""
    try:
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write("500")
    except OSError:
        pass


class _KeptEngine(NamedTuple):
    engine: backends.Engine
    size: int  # bytes of memory that it occupies


class Worker:
    """Answers requests; keeps the engines."""

    def __init__(self) -> None:
        self._bench: Optional[_Bench] = None

    def answer(self, request: messages.Request) -> messages.Answer:
        """Raises MeasureError, AgentError, or whatever the runtime raises."""
        if isinstance(request, messages.ConfigureRequest):
            self._bench = _Bench(request)
            return self._bench.configured()
        if isinstance(request, messages.CheckRequest):
            check(request.path, request.sha256)
            return Done()
        if self._bench is None:
            raise MeasureError("run", "the measuring process has no backend yet")
        if isinstance(request, messages.IsBuiltRequest):
            return self._bench.is_built(request)
        if isinstance(request, messages.BuildRequest):
            return self._bench.build(request)
        if isinstance(request, messages.LoadRequest):
            return self._bench.load(request)
        if isinstance(request, messages.VisitRequest):
            return self._bench.visit(request)
        if isinstance(request, messages.ReadBackRequest):
            return self._bench.read_back(request)
        if isinstance(request, messages.RestRequest):
            return self._bench.rest(request)
        if isinstance(request, messages.ProfileLayersRequest):
            return self._bench.profile_layers(request)
        return self._bench.evaluate(request)


class _Bench:
    """An open backend with its engines and what watches the machine."""

    def __init__(self, configuration: messages.ConfigureRequest) -> None:
        self._configuration = configuration
        system = System(configuration.root)
        before_mb = footprint.resident_mb()
        self._backend = backends.open_backend(
            configuration.backend,
            configuration.precision,
            configuration.batch,
            configuration.threads,
            configuration.home,
            system,
            backends.Conditions(configuration.power_mode, configuration.clocks),
            configuration.cuda_graph,
            configuration.streams,
        )
        opened_mb = footprint.resident_mb()
        self._runtime_mb = None if before_mb is None or opened_mb is None else round(opened_mb - before_mb, 1)
        self._state = state.StateReader(
            [os.getpid(), os.getppid()],
            configuration.board.get("ignored_thermal_zones") or [],
            system.proc,
            system.sysfs,
            self._backend.clock,
        )
        domain = clocks.engine_clock(system.sysfs, self._backend.on_gpu)
        self._watch = clock_watch.ClockWatch(domain, self._backend.clock)
        self._energy = energy.EnergyMeter(self._backend, system, configuration.board, configuration.home)
        available_mb = self._state.before().memory_available_mb or 1024.0
        self._room_bytes = available_mb * 2**20 * MEMORY_SHARE
        self._sizes: Dict[str, int] = {}  # of engines that were loaded once, in bytes
        self._engines: "collections.OrderedDict[str, _KeptEngine]" = (
            collections.OrderedDict()
        )  # least recently used first

    def configured(self) -> Configured:
        library = sys.modules.get(self._configuration.backend.partition("-")[0])
        fingerprint = self._backend.fingerprint()
        if self._configuration.streams > 1:  # tables of one stream, which are older, do not have the field
            fingerprint["streams"] = self._configuration.streams
        return Configured(
            fingerprint=fingerprint,
            runtime=self._backend.runtime(),
            runtime_at=os.path.dirname(getattr(library, "__file__", None) or "") or None,
            needs_build=self._backend.needs_build,
            runtime_mb=self._runtime_mb,
        )

    def is_built(self, request: messages.IsBuiltRequest) -> messages.Built:
        return messages.Built(self._backend.is_built(read_checked(request.path, request.model)))

    def build(self, request: messages.BuildRequest) -> Done:
        self._backend.build(read_checked(request.path, request.model), request.workspace_share)
        return Done()

    def load(self, request: messages.LoadRequest) -> Loaded:
        if request.model in self._engines:
            self._engines.move_to_end(request.model)
            return Loaded([])
        content = read_checked(request.path, request.model)
        estimate = len(content) * MEMORY_PER_MODEL_BYTE
        evicted = self._evict(self._sizes.get(request.model, estimate))
        engine = self._backend.load(content)
        if self._configuration.streams > 1:
            engine = engine.in_streams(self._configuration.streams)
        size = engine.memory_bytes()
        self._sizes[request.model] = estimate if size is None else size
        evicted += self._evict(self._sizes[request.model])  # its true size is known only now
        self._engines[request.model] = _KeptEngine(engine, self._sizes[request.model])
        return Loaded(evicted)

    def _evict(self, size: int) -> List[str]:
        """Unload the engines that were used longest ago, until there is room for `size` bytes more; their models."""
        evicted = []
        while self._engines and size + sum(kept.size for kept in self._engines.values()) > self._room_bytes:
            evicted.append(self._engines.popitem(last=False)[0])
        return evicted

    def visit(self, request: messages.VisitRequest) -> Visited:
        engine, configuration = self._engine(request.model), self._configuration
        taken: List[Visited] = []

        def take_samples() -> None:
            before = self._state.before()
            started_s = self._backend.clock()
            self._watch.begin()
            timings = measure.measure(
                engine,
                request.warmup_ms,
                configuration.min_single_ms if request.one_by_one else configuration.min_sample_ms,
                configuration.inferences_per_visit if request.one_by_one else configuration.samples_per_visit,
                request.repeats,
                measure.SINGLE_WINDOW_MS if request.one_by_one else 0.0,
                self._backend.clock,
                self._watch.settled,
                clock_watch.LONGEST_S * 1e3,
            )
            clock = self._watch.finish()
            after = self._state.after(before, started_s)
            device = engine.device_times(timings.repeats) or backends.DeviceTimes(None, None)
            self._watch.note()
            taken.append(
                Visited(
                    repeats=timings.repeats,
                    warmup_ms=timings.warmup_ms,
                    samples_ms=timings.samples_ms,
                    enqueue_ms=device.enqueue_ms,
                    gpu_ms=device.gpu_ms,
                    timed_s=timings.timed_s,
                    peak_memory_mb=engine.peak_memory_mb(),
                    state=after,
                    clock=clock,
                    energy=None,
                    streams=[messages.StreamOfVisit(len(each.samples_ms), each.span_ms) for each in timings.streams]
                    if engine.streams > 1
                    else None,
                )
            )

        if request.energy_steady_s is None:
            take_samples()
            return taken[0]
        found = self._energy.measure(engine, request.energy_steady_s, take_samples, request.one_by_one)
        return taken[0]._replace(energy=found)

    def read_back(self, request: messages.ReadBackRequest) -> messages.ReadBack:
        """Where it needs a second engine, others make room as when one is loaded."""
        content = read_checked(request.path, request.model)
        kept = self._engines.pop(request.model)
        evicted = self._evict(2 * kept.size) if kept.engine.reads_back_apart else []
        self._engines[request.model] = kept
        found = kept.engine.ran_in(content)
        return messages.ReadBack(
            ran_in=None if found is None else found.counts,
            fell_back=[] if found is None else found.fell_back,
            engine_bytes=kept.engine.engine_bytes(),
            evicted=evicted,
        )

    def rest(self, request: messages.RestRequest) -> Done:
        self._backend.sleep(request.seconds)
        return Done()

    def evaluate(self, request: messages.EvaluateRequest) -> Done:
        engine = self._engine(request.model)
        with open(request.inputs, "rb") as inputs, open(request.output, "ab") as output:
            inputs.seek(request.offset)
            for _ in range(request.batches):
                output.write(engine.evaluate(inputs.read(request.size)))
        return Done()

    def profile_layers(self, request: messages.ProfileLayersRequest) -> messages.Profiled:
        self._engines.clear()  # a profile needs an engine of its own, and a small board has no room for both
        found = self._backend.layer_profile(read_checked(request.path, request.model), request.runs)
        if found is None:
            return messages.Profiled(False)
        part = request.output + ".part"
        with open(part, "w") as file:
            json.dump(found, file, allow_nan=False)
        os.rename(part, request.output)
        return messages.Profiled(True)

    def _engine(self, model: str) -> backends.Engine:
        self._engines.move_to_end(model)
        return self._engines[model].engine


def read_checked(path: str, sha256: str) -> bytes:
    """The bytes of a content-addressed file.

    Raises:
        MeasureError: code `model`: the file is missing or does not match its name.
    """
    try:
        with open(path, "rb") as file:
            content = file.read()
    except OSError as err:
        raise _unreadable(path, err)
    _refuse_damaged(path, sha256, hashlib.sha256(content).hexdigest())
    return content


def check(path: str, sha256: str) -> None:
    """Check a content-addressed file in pieces: the inputs of an evaluation may be larger than the memory.

    Raises:
        MeasureError: as `read_checked`.
    """
    found = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            for piece in iter(lambda: file.read(HASH_BYTES), b""):
                found.update(piece)
    except OSError as err:
        raise _unreadable(path, err)
    _refuse_damaged(path, sha256, found.hexdigest())


def _refuse_damaged(path: str, sha256: str, found: str) -> None:
    if found != sha256:
        raise MeasureError("model", "{} is damaged: its SHA-256 begins with {}".format(path, found[:12]), _SEND_AGAIN)


def _unreadable(path: str, err: OSError) -> MeasureError:
    return MeasureError("model", "cannot read {}: {}".format(path, err.strerror), _SEND_AGAIN)


_SEND_AGAIN = "run again: the file is sent again"

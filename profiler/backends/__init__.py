"""Engines behind one narrow interface. A backend's library is imported when the backend is opened, never before."""

import time
from typing import Callable, List, NamedTuple, Optional

from profiler import power
from profiler.backends.ran_in import RanIn
from profiler.errors import BackendError, MeasureError
from profiler.fields import JsonObject
from profiler.system import THIS_MACHINE, System


class DeviceTimes(NamedTuple):
    """Times of one inference apart from the latency; None: this engine does not have that one."""

    enqueue_ms: Optional[float]  # the host hands it to the device
    gpu_ms: Optional[float]  # the device computes it, many being queued: launching and waiting are hidden


class StreamTimes(NamedTuple):
    """The samples of one stream, in order, and the time from the start of the first to the end of the last."""

    samples_ms: List[float]  # each the mean of the inferences of one sample
    span_ms: float


class Conditions(NamedTuple):
    """The state of the board in which a backend builds and measures, as in a table's fingerprint; None: unknown."""

    power_mode: Optional[str] = None
    clocks: Optional[str] = None  # locked, cpu-gpu-locked or floating


UNKNOWN = Conditions()


class Engine:
    """One model, loaded and ready, with inputs of fixed values in place.

    Implementers guarantee: `run` and `evaluate` raise any exception on failure, and leave the process usable or dead,
    never with a half-finished inference.
    """

    streams = 1  # how many inferences run at the same time; `run` then runs each of its repeats in every one of them
    reads_back_apart = False  # True: `ran_in` loads the model once more, which needs room

    def run(self, repeats: int) -> None:
        """`repeats` inferences of one batch, back to back; returns when the last is complete. Copies nothing."""
        raise NotImplementedError

    def run_queued(self, repeats: int) -> None:
        """The same, handed over one behind the other where the device has a queue: the host waits once, for the last."""
        self.run(repeats)

    def timed(self, repeats: int, samples: int, clock: Callable[[], float]) -> List[StreamTimes]:
        """`samples` samples of `repeats` inferences each, for every stream."""
        taken = []
        begin_s = clock()
        for _ in range(samples):
            start_s = clock()
            self.run(repeats)
            taken.append((clock() - start_s) * 1e3 / repeats)
        return [StreamTimes(taken, (clock() - begin_s) * 1e3)]

    def in_streams(self, count: int) -> "Engine":
        """This model in so many streams: each with inputs, outputs and a queue of its own, on the same weights.

        Raises:
            MeasureError: code `load`: there is no room, or this backend runs one stream.
        """
        raise MeasureError("load", "this backend runs one stream at a time", "measure without --streams")

    def device_times(self, repeats: int) -> Optional[DeviceTimes]:
        """Means over further inferences, measured apart from the latency; None where the device has no clock."""
        return None

    def memory_bytes(self) -> Optional[int]:
        """What the engine occupies as long as it is loaded; None where its runtime has no number."""
        return None

    def peak_memory_mb(self) -> Optional[float]:
        """Memory of the engine while it runs: weights, activations, inputs, outputs; None where its runtime has no number."""
        return None

    def ran_in(self, model: bytes) -> Optional[RanIn]:
        """In what its convolutions and matrix products run, from the runtime itself; None: it does not say. Not timed.

        Args:
            model: that it was loaded from.

        Raises:
            MeasureError: it could not be read.
        """
        return None

    def engine_bytes(self) -> Optional[int]:
        """The size of the engine that was built; None where the runtime builds none."""
        return None

    def evaluate(self, inputs: bytes) -> bytes:
        """All outputs of one inference for all of its inputs, one behind the other in the model's order. Not timed.

        Little-endian and row-major; floating-point numbers of any width as float32, others in their own type.
        """
        raise NotImplementedError


class Backend:
    """One way to execute models.

    Implementers guarantee: `load` works from the bytes given, not from a file that may have changed since it was
    checked; it refuses a model whose batch size is not `batch`, where that is given; inputs are seeded, so that every
    load of a model runs on the same numbers: floating-point numbers and 8-bit ones are normally distributed, wider
    integers are 0 or 1, because an index beyond its table would fail, and bool is true.
    """

    on_gpu = True  # where its engines run: the clock that counts
    needs_build = False  # True: `build` may take minutes, so it happens in a process that ends before anything is timed

    def is_built(self, model: bytes) -> bool:
        """Whether `load` finds what `build` makes."""
        return True

    def build(self, model: bytes, workspace_share: float = 1.0) -> None:
        """Build and keep; `load` then finds it.

        Args:
            workspace_share: of the usual workspace.

        Raises:
            MeasureError: code `load` when the model cannot be used, `memory` when a smaller workspace may help.
        """

    def fingerprint(self) -> JsonObject:
        """Its part of a table's fingerprint: backend, backend_version, provider, precision, batch, threads."""
        raise NotImplementedError

    def runtime(self) -> JsonObject:
        """Versions and settings beyond the fingerprint, for people."""
        raise NotImplementedError

    def clock(self) -> float:
        """Seconds, monotonic: the time in which its engines run."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Leave the machine idle for that time, by `clock`."""
        time.sleep(seconds)

    def power_sampler(self, path: str, system: System, board: JsonObject) -> power.Sampler:
        """A sampler, not yet started, with a trace on `clock`; `path`: where it may keep the trace."""
        return power.PowerSampler(path, sysfs_root=system.sysfs, board=board)

    def layer_profile(self, model: bytes, runs: int) -> Optional[JsonObject]:
        """The time of every layer, as docs/formats.md says under "Layer profiles"; None where the runtime does not time layers.

        Not with the engine that is timed as a whole: a profiler slows it down.

        Raises:
            MeasureError: the model cannot be used.
        """
        return None

    def load(self, model: bytes) -> Engine:
        """An engine for an ONNX model.

        Raises:
            MeasureError: code `load` when the model cannot be used.
        """
        raise NotImplementedError


def names() -> List[str]:
    """The backends this agent has."""
    return ["onnxruntime", "onnxruntime-cuda", "onnxruntime-tensorrt", "simulated", "tensorrt"]


def open_backend(
    name: str,
    precision: str,
    batch: Optional[int],
    threads: int,
    home: str,
    system: System = THIS_MACHINE,
    conditions: Conditions = UNKNOWN,
    cuda_graph: bool = False,
    streams: int = 1,
) -> Backend:
    """Import a backend's library and open it.

    Args:
        batch: first side of every input and output; None: models have their own shapes.
        home: the agent's folder on this machine, for what a backend keeps.
        conditions: in which it builds and measures.
        cuda_graph: an inference is the launch of one CUDA graph.
        streams: in how many its engines will run.

    Raises:
        BackendError: no such backend, its library is missing, it cannot compute in this precision or has no CUDA
            graphs, or it is a real engine on a virtual board: its times would be those of this machine, under the
            board's name.
    """
    if system.is_virtual and name in names() and name != "simulated":
        raise BackendError(
            "the backend {} does not run on a virtual board: it would measure this machine".format(name),
            "a virtual board has the backend simulated alone; --host localhost measures this machine",
        )
    if name == "tensorrt":
        from profiler.backends.tensorrt import TensorRT

        return TensorRT(precision, batch, threads, home, conditions, cuda_graph, streams=streams)
    if cuda_graph and name in names():
        raise BackendError(
            "the backend {} has no CUDA graphs".format(name), "measure without --cuda-graph, or use --backend tensorrt"
        )
    if name == "simulated":
        from profiler.backends.simulated import Simulated

        return Simulated(precision, batch, threads, system)
    if name in names():
        from profiler.backends.onnxruntime import OnnxRuntime

        return OnnxRuntime(precision, batch, threads, name, system)
    raise BackendError("this agent has no backend {!r}".format(name), "it has: " + ", ".join(names()))

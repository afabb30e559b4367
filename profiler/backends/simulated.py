"""A simulated engine on a virtual board: latency and load from the layers of the ONNX model, in simulated time.

    latency = sync + sum over kernels of (launch + max(arithmetic at the clock of the moment, traffic at bandwidth))

The kernels are those of simulated_kernels.py. So a network is faster than the sum of its operators, each of which
includes `sync`, and the kernel before it makes each kernel a little faster or slower. The seed of the noise comes from
the model and the board's time.

Streams share the GPU. What one inference costs beyond its kernels (`sync` and launches) passes while the GPU works for other
streams, until the GPU is always busy:

    latency in N streams = max(sync + launches + kernels, N * kernels)
"""

import hashlib
import math
import random
import zlib
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

from profiler.backends import Backend, DeviceTimes, Engine, StreamTimes, onnx_file, simulated_rules
from profiler.backends.layer_profile import ProfiledLayer, TensorInfo, to_json
from profiler.backends.onnxruntime import run_once
from profiler.backends.onnxruntime_failures import failure
from profiler.backends.ran_in import RanIn, collect, is_heavy
from profiler.backends.simulated_halves import in_half_precision
from profiler.backends.simulated_kernels import Kernel, Kernels, Tensor, read_kernels
from profiler.backends.streams import Streams
from profiler.backends.tensorrt import rules
from profiler.errors import BackendError, MeasureError
from profiler.fields import JsonObject
from profiler.simulation import IDLE, SCHEMA, TICK_S, Utilisation, VirtualMachine, VirtualSampler
from profiler.system import System

VALUE_BYTES = {"fp32": 4, "fp16": 2, "int8": 1}
PROFILE_WARMUP_S = 0.5  # of work before layers are timed: the clock rises
SLOW_SHARE, SLOW_FACTOR = 0.01, 0.2  # of the samples; how much slower they are on average


class Simulated(Backend):
    def __init__(self, precision: str, batch: Optional[int], threads: int, system: System) -> None:
        self._machine = VirtualMachine(system)
        self._precision = precision
        self._batch = batch
        self._threads = threads
        self._known: Dict[str, Kernels] = {}  # by SHA-256
        speeds = self._machine.spec.macs_per_ns
        if precision not in VALUE_BYTES:
            raise BackendError(
                "a virtual board does not know the precision {!r}".format(precision),
                "it knows: " + ", ".join(VALUE_BYTES),
            )
        slow = [name for name in VALUE_BYTES if name not in speeds]
        rules.refuse_unfit(slow, precision, "virtual:" + self._machine.spec.name)

    def fingerprint(self) -> JsonObject:
        found: JsonObject = {
            "board": "virtual:" + self._machine.spec.name,
            "backend": "simulated",
            "backend_version": str(SCHEMA),
            "provider": "simulated GPU",
            "precision": self._precision,
            "batch": self._batch,
            "threads": self._threads,
            "simulated": True,
        }
        if self._precision == "int8":
            found["dialect"] = "tensorrt"  # of the graph
        return found

    def runtime(self) -> JsonObject:
        return {
            "simulated": "every number is invented; the agent and the files it reads are real",
            "facts": self._machine.spec.to_json(),
        }

    def clock(self) -> float:
        return self._machine.now_s

    def sleep(self, seconds: float) -> None:
        self._machine.idle(seconds)

    def power_sampler(self, path: str, system: System, board: JsonObject) -> VirtualSampler:
        return VirtualSampler(self._machine, system, board)

    def load(self, model: bytes) -> "SimulatedEngine":
        sha256 = hashlib.sha256(model).hexdigest()
        return SimulatedEngine(self._machine, self._kernels(model, sha256), self._precision, model, sha256)

    def layer_profile(self, model: bytes, runs: int) -> JsonObject:
        """The kernels that the latency is computed from; the noise of a run is that of each of its kernels."""
        engine = self.load(model)
        engine.run(max(1, math.ceil(PROFILE_WARMUP_S / engine.true_latency_s())))
        times_ms: List[List[float]] = []
        total_ms = []
        for _ in range(runs):
            begin_s, true_s, kernels_s = self._machine.now_s, engine.true_latency_s(), engine.true_kernels_s()
            engine.run(1)
            taken_s = self._machine.now_s - begin_s
            times_ms.append([round(kernel_s * taken_s / true_s * 1e3, 6) for kernel_s in kernels_s])
            total_ms.append(round(taken_s * 1e3, 6))
        layers = [
            ProfiledLayer(
                name=" + ".join(kernel.nodes),
                type=kernel.type,
                precision=engine.precisions[index],
                times_ms=[run[index] for run in times_ms],
                onnx_nodes=list(kernel.nodes),
                is_reformat=False,
                inputs=_tensors(kernel.inputs, engine.precisions[index]),
                outputs=_tensors(kernel.outputs, engine.precisions[index]),
            )
            for index, kernel in enumerate(engine.kernels)
        ]
        return to_json("simulated", runs, layers, total_ms, ["every time is simulated"])

    def _kernels(self, model: bytes, sha256: str) -> Kernels:
        if sha256 not in self._known:  # an unloaded model is soon loaded again
            try:
                self._known[sha256] = self._read(model)
            except ImportError as err:
                raise MeasureError("load", "a virtual board needs onnx: {}".format(err), "pip install onnx")
        return self._known[sha256]

    def _read(self, model: bytes) -> Kernels:
        import onnx

        found = read_kernels(model, self._batch)
        loaded = onnx.load_model_from_string(model)
        simulated_rules.refuse(loaded, found.computes_in, self._precision, self._machine.spec.tensorrt)
        return found


class SimulatedEngine(Engine):
    def __init__(self, machine: VirtualMachine, kernels: Kernels, precision: str, model: bytes, sha256: str) -> None:
        self._machine = machine
        self._model = model
        self._precision = precision
        self.kernels = kernels.kernels
        self.precisions = [_precision_of(kernel, precision, machine) for kernel in self.kernels]
        self._peak_mb = kernels.peak_values * VALUE_BYTES[precision] / 1e6
        self._session: Any = None
        spec = machine.spec
        self._sync_s = spec.sync_us * 1e-6
        self._launch_s = spec.launch_us * 1e-6
        bytes_per_s = spec.bandwidth_gb_s * 1e9
        self._times_s: List[Tuple[float, float]] = []  # (arithmetic at full clock, traffic) of each kernel
        before: Optional[Tuple[float, float]] = None
        for kernel, runs_in in zip(self.kernels, self.precisions):
            work = (kernel.macs, kernel.values)
            # The kernel before has an effect, through caches and formats: the part that no sum of operators contains.
            effect = zlib.crc32(repr((before, work)).encode("ascii")) / 2**31 - 1
            factor = 1 + spec.context * effect
            macs_per_s = spec.macs_per_ns[runs_in] * 1e9
            traffic_s = kernel.values * VALUE_BYTES[runs_in] / bytes_per_s
            self._times_s.append((factor * kernel.macs / macs_per_s, factor * traffic_s))
            before = work
        self._noise = spec.noise
        self._random = random.Random("{}/{}/{}".format(spec.seed, sha256, machine.now_s))
        self._by_clock: Dict[Tuple[float, bool], Tuple[float, Utilisation]] = {}  # MHz, queued -> (seconds, load)

    def true_latency_s(self) -> float:
        """At the present clock, without noise."""
        return self._at(self._machine.gpu_mhz)[0]

    def true_load(self) -> Utilisation:
        return self._at(self._machine.gpu_mhz)[1]

    def run(self, repeats: int) -> None:
        self._run(repeats, queued=False)

    def run_queued(self, repeats: int) -> None:
        self._run(repeats, queued=True)
        self._machine.work(self._sync_s, IDLE)

    def _run(self, repeats: int, queued: bool) -> None:
        noise = self.draw_noise()
        left = repeats
        while left:
            latency_s, load = self._at(self._machine.gpu_mhz, queued)
            count = min(left, max(1, int(TICK_S / latency_s)))
            self._machine.work(count * latency_s * noise, load)
            left -= count
        self._machine.publish()

    def draw_noise(self) -> float:
        """The factor of one sample."""
        noise = math.exp(self._random.gauss(0, self._noise))
        if self._random.random() < SLOW_SHARE:
            noise *= 1 + self._random.expovariate(1 / SLOW_FACTOR)
        return noise

    def in_streams(self, count: int) -> Engine:
        return SimulatedStreams(self._machine, self, count)

    def in_streams_at(self, mhz: float, count: int) -> Tuple[float, Utilisation]:
        """(latency in seconds, load) with so many streams, at a clock of the GPU."""
        slower = self._machine.full_mhz / mhz
        alone_s = self._at(mhz)[0]
        kernels_s = sum(self._kernels_at(slower)) - self._launch_s * len(self._times_s)
        latency_s = max(alone_s, count * kernels_s)
        gpu = count * sum(arithmetic_s * slower for arithmetic_s, _ in self._times_s) / latency_s
        memory = count * sum(traffic_s for _, traffic_s in self._times_s) / latency_s
        return latency_s, Utilisation(gpu, memory) if self._times_s else IDLE

    def device_times(self, repeats: int) -> DeviceTimes:
        begin_s = self._machine.now_s
        self.run(repeats)
        gpu_s = max(0.0, (self._machine.now_s - begin_s) / repeats - self._sync_s)
        return DeviceTimes(round(len(self._times_s) * self._launch_s * 1e3, 6), round(gpu_s * 1e3, 6))

    def peak_memory_mb(self) -> float:
        return round(self._peak_mb, 6)

    def ran_in(self, model: bytes) -> RanIn:
        """By the rule that the latency is computed with: nothing is read back."""
        sent = onnx_file.read_graph(model)
        pairs = zip(self.kernels, self.precisions)
        heavy = [(runs_in, kernel.nodes) for kernel, runs_in in pairs if is_heavy(kernel.type)]
        return collect(heavy, sent, self._precision)

    def evaluate(self, inputs: bytes) -> bytes:
        """Real outputs, by ONNX Runtime on this machine, in the numbers of the precision: docs/virtual-boards.md."""
        try:
            import numpy
            import onnxruntime
        except ImportError as err:
            raise MeasureError("run", "outputs are not available without ONNX Runtime: {}".format(err), "")
        if self._session is None:
            model = in_half_precision(self._model) if self._precision == "fp16" else self._model
            options = onnxruntime.SessionOptions()
            if self._precision == "int8":  # node by node: in a CPU's kernels for 8 bits sums may saturate
                options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
            try:
                self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
            except Exception as err:
                raise failure(onnxruntime.__version__, str(err), self._model, "CPUExecutionProvider")
        return run_once(numpy, self._session, inputs)

    def true_kernels_s(self) -> List[float]:
        """Of each kernel, at the present clock and without noise."""
        return self._kernels_at(self._machine.full_mhz / self._machine.gpu_mhz)

    def _kernels_at(self, slower: float) -> List[float]:
        return [self._launch_s + max(arithmetic_s * slower, traffic_s) for arithmetic_s, traffic_s in self._times_s]

    def _at(self, mhz: float, queued: bool = False) -> Tuple[float, Utilisation]:
        """(latency in seconds, load) at a clock of the GPU; `queued`: without waiting for the end."""
        key = (mhz, queued)
        if key not in self._by_clock:
            slower = self._machine.full_mhz / mhz
            latency_s = (0.0 if queued and self._times_s else self._sync_s) + sum(self._kernels_at(slower))
            gpu = sum(arithmetic_s * slower for arithmetic_s, _ in self._times_s) / latency_s
            memory = sum(traffic_s for _, traffic_s in self._times_s) / latency_s
            self._by_clock[key] = (latency_s, Utilisation(gpu, memory) if self._times_s else IDLE)
        return self._by_clock[key]


class SimulatedStreams(Streams):
    """In simulated time, where no threads run. All streams are alike; each sample has noise of its own."""

    def __init__(self, machine: VirtualMachine, engine: SimulatedEngine, count: int) -> None:
        super().__init__([engine] * count)
        self._machine = machine
        self._engine = engine

    def run(self, repeats: int) -> None:
        self._work(repeats, self._engine.draw_noise())

    def run_queued(self, repeats: int) -> None:
        self.run(repeats)

    def timed(self, repeats: int, samples: int, clock: Callable[[], float]) -> List[StreamTimes]:
        taken: List[List[float]] = [[] for _ in range(self.streams)]
        for _ in range(samples):
            noises = [self._engine.draw_noise() for _ in taken]
            mean = sum(noises) / len(noises)
            begin_s = clock()
            self._work(repeats, mean)
            mean_ms = (clock() - begin_s) * 1e3 / repeats
            for stream, noise in zip(taken, noises):
                stream.append(mean_ms * noise / mean)
        return [StreamTimes(stream, repeats * sum(stream)) for stream in taken]

    def _work(self, repeats: int, noise: float) -> None:
        left = repeats
        while left:
            latency_s, load = self._engine.in_streams_at(self._machine.gpu_mhz, self.streams)
            count = min(left, max(1, int(TICK_S / latency_s)))
            self._machine.work(count * latency_s * noise, load)
            left -= count
        self._machine.publish()

    def peak_memory_mb(self) -> float:
        return round(self.streams * self._engine.peak_memory_mb(), 6)


def _precision_of(kernel: Kernel, precision: str, machine: VirtualMachine) -> str:
    """What is not quantised in an int8 job runs in half precision where a flag permits it, else in float32."""
    if precision != "int8" or kernel.is_quantised:
        return precision
    return "fp16" if machine.spec.tensorrt.by_flag and "fp16" in machine.spec.macs_per_ns else "fp32"


def _tensors(tensors: Sequence[Tensor], precision: str) -> List[TensorInfo]:
    return [TensorInfo(tensor.name, precision if tensor.is_float else None, list(tensor.shape)) for tensor in tensors]

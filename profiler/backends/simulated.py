"""A simulated engine on a virtual board: latency and load from the layers of the ONNX model, in simulated time.

    latency = sync + sum over kernels of (launch + max(arithmetic at the clock of the moment, traffic at bandwidth))

A convolution with its Clip and its Add is one kernel, as in TensorRT; reshapes cost nothing. So a network is faster
than the sum of its operators, each of which includes `sync`, and the kernel before it makes each kernel a little faster
or slower. The seed of the noise comes from the model and the board's time.
"""

import hashlib
import math
import random
import zlib
from typing import Any, Dict, List, NamedTuple, Optional, Tuple, cast

from profiler.backends import Backend, DeviceTimes, Engine, split_inputs
from profiler.backends.onnxruntime import TYPES
from profiler.errors import BackendError, MeasureError
from profiler.fields import JsonObject
from profiler.simulation import IDLE, SCHEMA, TICK_S, Utilisation, VirtualMachine, VirtualSampler
from profiler.system import System

VALUE_BYTES = {"fp32": 4, "fp16": 2, "int8": 1}
FUSED = ("Add", "BatchNormalization", "Clip", "HardSigmoid", "Relu", "Sigmoid")  # into the convolution before them
FREE = (
    "Cast", "Constant", "DequantizeLinear", "Dropout", "Flatten", "Identity", "QuantizeLinear", "Reshape", "Squeeze", "Unsqueeze",
)  # fmt: skip
DEPTHWISE_EFFICIENCY = 0.2  # of the peak
SLOW_SHARE, SLOW_FACTOR = 0.01, 0.2  # of the samples; how much slower they are on average


class Kernel(NamedTuple):
    macs: float  # multiply-accumulates at peak efficiency
    values: float  # read and written
    nodes: Tuple[str, ...] = ()  # of the model
    type: str = ""  # of its first node


class Simulated(Backend):
    def __init__(self, precision: str, batch: Optional[int], threads: int, system: System) -> None:
        self._machine = VirtualMachine(system)
        self._precision = precision
        self._batch = batch
        self._threads = threads
        self._known: Dict[str, Tuple[List[Kernel], int]] = {}  # by SHA-256
        speeds = self._machine.spec.macs_per_ns
        if precision not in speeds:
            raise BackendError(
                "this virtual board computes in {}, not in {}".format(", ".join(sorted(speeds)), precision),
                "use --precision fp16, or another board",
            )

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
        kernels, values, sha256 = self._read(model)
        return SimulatedEngine(self._machine, kernels, values, self._precision, model, sha256)

    def layer_profile(self, model: bytes, runs: int) -> JsonObject:
        """The kernels that the latency is computed from, each with its simulated time."""
        kernels, values, sha256 = self._read(model)
        engine = SimulatedEngine(self._machine, kernels, values, self._precision, model, sha256)
        layers = [
            {
                "name": " + ".join(kernel.nodes), "type": kernel.type, "precision": self._precision,
                "times_ms": [round(ms, 6)] * runs, "onnx_nodes": list(kernel.nodes), "is_reformat": False,
                "inputs": [], "outputs": [],
            }
            for kernel, ms in zip(kernels, engine.kernel_times_ms())
        ]  # fmt: skip
        return {
            "kind": "layer-profile", "schema": 1, "source": "simulated", "runs": runs, "layers": layers,
            "total_ms": [round(engine.true_latency_s() * 1e3, 6)] * runs, "warnings": ["every time is simulated"],
        }  # fmt: skip

    def _read(self, model: bytes) -> Tuple[List[Kernel], int, str]:
        """Kernels, the most values in memory, and the hash of a model."""
        sha256 = hashlib.sha256(model).hexdigest()
        if sha256 not in self._known:  # an unloaded model is soon loaded again
            try:
                self._known[sha256] = read_kernels(model, self._batch), peak_values(model)
            except ImportError as err:
                raise MeasureError("load", "a virtual board needs onnx: {}".format(err), "pip install onnx")
        kernels, values = self._known[sha256]
        return kernels, values, sha256


class SimulatedEngine(Engine):
    def __init__(
        self, machine: VirtualMachine, kernels: List[Kernel], values: int, precision: str, model: bytes, sha256: str
    ) -> None:
        self._machine = machine
        self._model = model
        self._peak_mb = values * VALUE_BYTES[precision] / 2**20
        self._session: Any = None
        spec = machine.spec
        self._sync_s = spec.sync_us * 1e-6
        self._launch_s = spec.launch_us * 1e-6
        macs_per_s = spec.macs_per_ns[precision] * 1e9
        bytes_per_s = spec.bandwidth_gb_s * 1e9
        self._times_s: List[Tuple[float, float]] = []  # (arithmetic at full clock, traffic) of each kernel
        before: Optional[Tuple[float, float]] = None
        for kernel in kernels:
            work = (kernel.macs, kernel.values)
            # The kernel before has an effect, through caches and formats: the part that no sum of operators contains.
            effect = zlib.crc32(repr((before, work)).encode("ascii")) / 2**31 - 1
            factor = 1 + spec.context * effect
            traffic_s = kernel.values * VALUE_BYTES[precision] / bytes_per_s
            self._times_s.append((factor * kernel.macs / macs_per_s, factor * traffic_s))
            before = work
        self._noise = spec.noise
        self._random = random.Random("{}/{}/{}".format(spec.seed, sha256, machine.now_s))
        self._by_clock: Dict[float, Tuple[float, Utilisation]] = {}  # MHz -> (latency in seconds, load)

    def true_latency_s(self) -> float:
        """At the present clock, without noise."""
        return self._at(self._machine.gpu_mhz)[0]

    def true_load(self) -> Utilisation:
        return self._at(self._machine.gpu_mhz)[1]

    def run(self, repeats: int) -> None:
        noise = math.exp(self._random.gauss(0, self._noise))
        if self._random.random() < SLOW_SHARE:
            noise *= 1 + self._random.expovariate(1 / SLOW_FACTOR)
        left = repeats
        while left:
            latency_s, load = self._at(self._machine.gpu_mhz)
            count = min(left, max(1, int(TICK_S / latency_s)))
            self._machine.work(count * latency_s * noise, load)
            left -= count
        self._machine.publish()

    def device_times(self, repeats: int) -> DeviceTimes:
        begin_s = self._machine.now_s
        self.run(repeats)
        gpu_s = max(0.0, (self._machine.now_s - begin_s) / repeats - self._sync_s)
        return DeviceTimes(round(len(self._times_s) * self._launch_s * 1e3, 6), round(gpu_s * 1e3, 6))

    def peak_memory_mb(self) -> float:
        return round(self._peak_mb, 6)

    def evaluate(self, inputs: bytes) -> bytes:
        """Real outputs, by ONNX Runtime in float32 on this machine."""
        try:
            import numpy
            import onnxruntime
        except ImportError as err:
            raise MeasureError("run", "outputs are not available without ONNX Runtime: {}".format(err), "")
        if self._session is None:
            self._session = onnxruntime.InferenceSession(self._model, providers=["CPUExecutionProvider"])
        ports = [(value.name, TYPES.get(value.type, value.type), value.shape) for value in self._session.get_inputs()]
        outputs = self._session.run(None, split_inputs(numpy, ports, inputs))
        return b"".join(
            cast(bytes, numpy.asarray(output, "<f4" if output.dtype.kind == "f" else None).tobytes())
            for output in outputs
        )

    def kernel_times_ms(self) -> List[float]:
        """Of each kernel, at the present clock and without noise."""
        slower = self._machine.full_mhz / self._machine.gpu_mhz
        return [
            1e3 * (self._launch_s + max(arithmetic_s * slower, traffic_s)) for arithmetic_s, traffic_s in self._times_s
        ]

    def _at(self, mhz: float) -> Tuple[float, Utilisation]:
        """(latency in seconds, load) at a clock of the GPU."""
        if mhz not in self._by_clock:
            slower = self._machine.full_mhz / mhz
            latency_s = self._sync_s + sum(
                self._launch_s + max(arithmetic_s * slower, traffic_s) for arithmetic_s, traffic_s in self._times_s
            )
            gpu = sum(arithmetic_s * slower for arithmetic_s, _ in self._times_s) / latency_s
            memory = sum(traffic_s for _, traffic_s in self._times_s) / latency_s
            self._by_clock[mhz] = (latency_s, Utilisation(gpu, memory) if self._times_s else IDLE)
        return self._by_clock[mhz]


def read_kernels(model: bytes, batch: Optional[int]) -> List[Kernel]:
    """The kernels of a model, after fusion.

    Raises:
        MeasureError: this is no model of that batch size.
    """
    import onnx

    try:
        graph = onnx.shape_inference.infer_shapes(onnx.load_model_from_string(model)).graph
    except Exception as err:
        raise MeasureError("load", "this is no ONNX model: {}".format(str(err).splitlines()[0][:200]))
    shapes = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    for info in list(graph.input) + list(graph.value_info) + list(graph.output):
        shapes.setdefault(info.name, [side.dim_value for side in info.type.tensor_type.shape.dim])
    weights = {tensor.name for tensor in graph.initializer}
    first = next((shapes[info.name] for info in graph.input if info.name not in weights), [])
    if batch is not None and first[:1] != [batch]:
        raise MeasureError("load", "the input has shape {}; this job's batch size is {}".format(first, batch))
    readers: Dict[str, int] = {}
    for node in graph.node:
        for name in node.input:
            readers[name] = readers.get(name, 0) + 1

    def size(name: str) -> int:
        return _product(shapes.get(name, []))

    kernels: List[Kernel] = []
    made_by: Dict[str, int] = {}  # tensor -> the convolution that it may still be fused into
    for node in graph.node:
        output = node.output[0]
        if node.op_type in FREE:
            continue
        tail = [name for name in node.input if name in made_by and readers[name] == 1]
        if node.op_type in FUSED and tail:
            index = made_by[tail[-1]]
            more = sum(size(name) for name in node.input if name not in tail[-1:])
            fused = kernels[index]
            kernels[index] = fused._replace(values=fused.values + more, nodes=(*fused.nodes, node.name or output))
            made_by[output] = index
            continue
        macs = 0.0
        if node.op_type == "Conv":
            weight = shapes.get(node.input[1], [])
            macs = float(size(output) * _product(weight[1:]))
            if len(weight) > 2 and weight[1] == 1 and weight[0] > 1 and _product(weight[2:]) > 1:
                macs /= DEPTHWISE_EFFICIENCY
            made_by[output] = len(kernels)
        elif node.op_type in ("Gemm", "MatMul"):
            inner = (shapes.get(node.input[0]) or [1])[-1]
            macs = float(size(output) * inner)
        values = float(size(output) + sum(size(name) for name in node.input))
        kernels.append(Kernel(macs, values, (node.name or output,), node.op_type))
    return kernels


def peak_values(model: bytes) -> int:
    """The number of weights, plus the most values that any operator reads and writes."""
    import onnx

    graph = onnx.shape_inference.infer_shapes(onnx.load_model_from_string(model)).graph
    weights = {tensor.name: _product(list(tensor.dims)) for tensor in graph.initializer}
    sizes = {
        info.name: _product([side.dim_value for side in info.type.tensor_type.shape.dim])
        for info in list(graph.input) + list(graph.value_info) + list(graph.output)
        if info.name not in weights
    }
    moving = [sum(sizes.get(name, 0) for name in set(node.input) | set(node.output)) for node in graph.node]
    return sum(weights.values()) + max(moving, default=0)


def _product(sides: List[int]) -> int:
    """A side that is not known counts as one."""
    result = 1
    for side in sides:
        result *= max(1, side)
    return result

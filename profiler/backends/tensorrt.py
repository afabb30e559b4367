"""TensorRT on an NVIDIA GPU, from 8.0 (JetPack 4.6) to 11: one code path that checks for features, never for versions.

Where the versions differ, one object chooses once, by what it finds:
    _Tensors or _Bindings    inputs and outputs by name (8.5 and later) or by index
    BuilderFlag.FP16         present: the builder may use the precision; absent (11): the graph has the precision
    set_memory_pool_limit    else max_workspace_size (before 8.4)
    IProgressMonitor         present: progress while building goes to the log (10 and later)
    report_to_profiler       present: layer times do not disturb the enqueue (8.2 and later)

Engines are kept in the agent's home, each with metadata of its build; one built elsewhere is never loaded, because an
engine file is code.
"""

import array
import collections
import functools
import hashlib
import json
import os
import platform
import random
import struct
import sys
import time
from typing import Any, Callable, Deque, Dict, List, NamedTuple, Optional, Tuple

from profiler import cuda as cuda_layer
from profiler.backends import Backend, Engine
from profiler.errors import BackendError, MeasureError
from profiler.fields import Fields, JsonObject, RecordError, parse, read_record

INPUT_SEED = 0
INPUT_BLOCK = 65536  # random numbers, repeated: drawing millions in pure Python takes a Nano seconds
WORKSPACE_BYTES = 512 * 2**20  # enough for one block of a mobile network, and small on a board of 4 GB
WORKSPACE_SHARE = 8  # at most 1/8 of the memory; a fixed share, so that equal boards build alike
KEPT_BYTES = 2 * 2**30  # all engines on the board's card; the least recently used are deleted first
PROGRESS_INTERVAL_S = 5.0
PRECISIONS = ("fp32", "fp16", "int8")

LARGEST_METADATA = 2**20  # bytes


class EngineMetadata(NamedTuple):
    """Where, from what and how an engine was built. Every field must agree before it is loaded."""

    model_sha256: str
    engine_sha256: str
    tensorrt: str
    device: str
    compute_capability: str
    cuda_runtime: Optional[str]
    l4t: Optional[str]
    settings: JsonObject

    @classmethod
    def read(cls, fields: Fields) -> "EngineMetadata":
        fields.choice("kind", ("engine",))
        fields.whole("schema", 1, 1)
        return cls(
            model_sha256=fields.text("model_sha256"),
            engine_sha256=fields.text("engine_sha256"),
            tensorrt=fields.text("tensorrt"),
            device=fields.text("device"),
            compute_capability=fields.text("compute_capability"),
            cuda_runtime=fields.optional_text("cuda_runtime"),
            l4t=fields.optional_text("l4t"),
            settings=fields.table("settings"),
        )

    def to_json(self) -> JsonObject:
        record: JsonObject = {"kind": "engine", "schema": 1}
        record.update(self._asdict())
        return record


class Port(NamedTuple):
    """An input or output of an engine."""

    name: str
    is_input: bool
    shape: Tuple[int, ...]
    size: int  # bytes
    is_fp16: bool  # else float32


class TensorRT(Backend):
    """Builds engines and keeps them.

    Args:
        home: the agent's folder on this machine; engines and the timing cache go below it.
        library, cuda: the module `tensorrt` and an open CUDA layer; None for what is installed.
        progress: called with one line about the progress of a build.
        release_file: the L4T release of the board.
    """

    def __init__(
        self,
        precision: str,
        batch: int,
        threads: int,
        home: str,
        library: Any = None,
        cuda: Optional[cuda_layer.Cuda] = None,
        progress: Optional[Callable[[str], None]] = None,
        release_file: str = "/etc/nv_tegra_release",
    ) -> None:
        if precision not in PRECISIONS:
            raise BackendError(
                "the backend tensorrt does not know the precision {!r}".format(precision),
                "it knows: " + ", ".join(PRECISIONS),
            )
        self._trt = trt = library or _import()
        if not hasattr(trt.Builder, "build_serialized_network"):
            raise BackendError(
                "TensorRT {} is too old for this agent".format(trt.__version__),
                "install JetPack 4.6 or later: it brings TensorRT 8.0 or later",
            )
        self._cuda = cuda or cuda_layer.open_cuda()
        self._device = self._cuda.device()
        self._l4t = _first_line_of(release_file)
        self._precision = precision
        self._batch = batch
        self._threads = threads
        self._progress = progress or _to_log
        self._log = _make_log(
            trt
        )  # TensorRT keeps a pointer to the first it is given: it must live as long as the backend
        self._by_flag = hasattr(trt.BuilderFlag, "FP16")
        try:
            builder = trt.Builder(self._log)
            self._runtime = trt.Runtime(self._log)
        except Exception as err:
            raise BackendError(
                "TensorRT {} does not start: {}".format(trt.__version__, self._log.explain(err)),
                "check that its libraries and CUDA belong together: dpkg -l | grep -E 'nvinfer|cudart'",
            )
        self._refuse_unfit(builder)
        self._workspace_bytes = min(WORKSPACE_BYTES, self._device.memory_bytes // WORKSPACE_SHARE)
        place = "{}-sm{}".format(trt.__version__, self._device.compute_capability.replace(".", ""))
        self._folder = os.path.join(home, "tensorrt", place)
        os.makedirs(self._folder, mode=0o700, exist_ok=True)

    def fingerprint(self) -> JsonObject:
        return {
            "backend": "tensorrt",
            "backend_version": self._trt.__version__,
            "provider": "{} sm_{}".format(self._device.name, self._device.compute_capability),
            "precision": self._precision,
            "precision_by": "flag" if self._by_flag else "graph",
            "batch": self._batch,
            "threads": self._threads,
        }

    def runtime(self) -> JsonObject:
        trt = self._trt
        return {
            "python": platform.python_version(),
            "tensorrt": trt.__version__,
            "cuda_layer": self._cuda.layer,
            "cuda_runtime": self._cuda.runtime_version,
            "cuda_driver": self._cuda.driver_version,
            "device": self._device.name,
            "compute_capability": self._device.compute_capability,
            "device_memory_mb": round(self._device.memory_bytes / 2**20, 1),
            "l4t": self._l4t,
            "workspace_mb": self._workspace_bytes / 2**20,
            "inputs_by": "name" if _has_tensors(trt) else "index",
            "progress_monitor": hasattr(trt, "IProgressMonitor"),
            "engine_inspector": hasattr(trt, "EngineInspector"),
            "engines": self._folder,
        }

    def load(self, model: bytes) -> "TensorRTEngine":
        sha256 = hashlib.sha256(model).hexdigest()
        path = os.path.join(self._folder, "{}-{}.engine".format(sha256[:32], self._precision))
        try:
            plan = self.read_engine(path, sha256)
        except MeasureError as err:
            if os.path.exists(path):
                self._progress("building again: " + err.message)
            plan = self._build(model, sha256)
            self._keep(path, plan, sha256)
        return self._open(plan)

    def read_engine(self, path: str, model_sha256: Optional[str] = None) -> bytes:
        """An engine that was built here, checked against its metadata.

        Raises:
            MeasureError: code `load`: it has no metadata, was built elsewhere or otherwise, or is damaged.
        """
        try:
            with open(path + ".json", "rb") as file:
                metadata = read_record(parse(file.read(LARGEST_METADATA)), EngineMetadata.read)
            with open(path, "rb") as file:
                plan = file.read()
        except (OSError, RecordError) as err:
            raise MeasureError("load", "the engine {} has no metadata: {}".format(path, err), _REBUILD)
        here = self._metadata(plan, model_sha256 or metadata.model_sha256)
        different = [
            "{} (file: {!r}, here: {!r})".format(field, recorded, present)
            for field, recorded, present in sorted(zip(here._fields, metadata, here), key=lambda row: row[0])
            if recorded != present
        ]
        if different:
            raise MeasureError(
                "load", "the engine {} was not built here: {}".format(path, ", ".join(different)), _REBUILD
            )
        os.utime(path)  # the latest use counts
        return plan

    def _metadata(self, plan: bytes, model_sha256: str) -> EngineMetadata:
        return EngineMetadata(
            model_sha256=model_sha256,
            engine_sha256=hashlib.sha256(plan).hexdigest(),
            tensorrt=self._trt.__version__,
            device=self._device.name,
            compute_capability=self._device.compute_capability,
            cuda_runtime=self._cuda.runtime_version,
            l4t=self._l4t,
            settings={
                "precision": self._precision,
                "precision_by": "flag" if self._by_flag else "graph",
                "flags": self._flags(),
                "workspace_bytes": self._workspace_bytes,
                "profiling_verbosity": self._verbosity(),
            },
        )

    def _keep(self, path: str, plan: bytes, model_sha256: str) -> None:
        """Keep an engine and its metadata on the card. Without room for them, the engine still works."""
        try:
            self._make_room(len(plan))
            metadata = json.dumps(self._metadata(plan, model_sha256).to_json(), indent=1, sort_keys=True)
            _replace(path, plan)
            _replace(path + ".json", metadata.encode("ascii"))
        except OSError as err:
            self._progress("the engine is not kept: {}".format(err))

    def _make_room(self, size: int) -> None:
        paths = [os.path.join(self._folder, name) for name in os.listdir(self._folder) if name.endswith(".engine")]
        paths.sort(key=os.path.getmtime)
        total = sum(map(os.path.getsize, paths))
        while paths and total + size > KEPT_BYTES:
            oldest = paths.pop(0)
            total -= os.path.getsize(oldest)
            os.remove(oldest)
            if os.path.exists(oldest + ".json"):
                os.remove(oldest + ".json")

    def _build(self, model: bytes, sha256: str) -> bytes:
        """The serialized engine of an ONNX model.

        Raises:
            MeasureError: code `load`: the model cannot be parsed, or not built in this precision.
        """
        trt = self._trt
        started_s = time.monotonic()
        self._log.take()  # earlier messages are not about this model
        builder = trt.Builder(self._log)
        network = builder.create_network(self._network_flags())
        parser = trt.OnnxParser(network, self._log)  # it owns the weights: it must outlive the build
        if not parser.parse(model):
            raise self._failure("cannot parse the model", _parser_errors(parser), "export it with a lower --opset")
        self._refuse_untyped(model, network)
        config = builder.create_builder_config()
        self._limit_workspace(config)
        for name in self._flags():
            config.set_flag(getattr(trt.BuilderFlag, name))
        config.profiling_verbosity = getattr(trt.ProfilingVerbosity, self._verbosity())
        if hasattr(trt, "IProgressMonitor"):
            config.progress_monitor = _make_monitor(trt, "building " + sha256[:12], self._progress)
        self._start_timing_cache(config)
        plan = builder.build_serialized_network(network, config)
        if plan is None:
            raise self._failure("cannot build the model in {}".format(self._precision), [], "")
        self._save_timing_cache(config)
        content = bytes(plan)
        self._progress("built {} in {:.1f} s: {} bytes".format(sha256[:12], time.monotonic() - started_s, len(content)))
        return content

    def _network_flags(self) -> int:
        flag = getattr(
            self._trt.NetworkDefinitionCreationFlag, "EXPLICIT_BATCH", None
        )  # absent in 11, where every network has it
        return 0 if flag is None else 1 << int(flag)

    def _flags(self) -> List[str]:
        """Names of the builder flags that permit the precision; none where the graph has it."""
        if not self._by_flag or self._precision == "fp32":
            return []
        return ["FP16"] if self._precision == "fp16" else ["FP16", "INT8"]  # what has no INT8 kernel may run in FP16

    def _verbosity(self) -> str:
        """The most detail for the inspector; it changes nothing in how an engine runs."""
        return "DETAILED" if hasattr(self._trt.ProfilingVerbosity, "DETAILED") else "VERBOSE"

    def _limit_workspace(self, config: Any) -> None:
        if hasattr(config, "set_memory_pool_limit"):
            config.set_memory_pool_limit(self._trt.MemoryPoolType.WORKSPACE, self._workspace_bytes)
        else:
            config.max_workspace_size = self._workspace_bytes

    def _refuse_unfit(self, builder: Any) -> None:
        """Refuse a board that would compute in another precision than requested, before hours are spent."""
        for precision, fast in (("fp16", "platform_has_fast_fp16"), ("int8", "platform_has_fast_int8")):
            if self._precision == precision and hasattr(builder, fast) and not getattr(builder, fast):
                raise BackendError(
                    "{} (compute capability {}) has no fast {}".format(
                        self._device.name, self._device.compute_capability, precision
                    ),
                    "use --precision fp16" if precision == "int8" else "use --precision fp32",
                )

    def _refuse_untyped(self, model: bytes, network: Any) -> None:
        """Refuse a graph in another precision than requested, where only the graph decides."""
        if self._precision == "int8" and b"QuantizeLinear" not in model:
            raise MeasureError(
                "load",
                "the model has no QuantizeLinear or DequantizeLinear: INT8 needs its scales in the graph",
                "quantize it at export (Q/DQ), or use --precision fp16",
            )
        if self._by_flag:
            return
        is_fp16 = self._trt.DataType.HALF in _data_types(network)
        if is_fp16 != (self._precision == "fp16") and self._precision != "int8":
            raise MeasureError(
                "load",
                "TensorRT {} takes the precision from the model, and this model computes in {}, not in {}".format(
                    self._trt.__version__, "fp16" if is_fp16 else "fp32", self._precision
                ),
                "export it in {0}, or use --precision {1}".format(self._precision, "fp16" if is_fp16 else "fp32"),
            )

    def _timing_cache_path(self) -> str:
        return os.path.join(self._folder, "timing.cache")

    def _start_timing_cache(self, config: Any) -> None:
        """Start from the timings of earlier builds on this device and version; from none if they are unusable."""
        try:
            with open(self._timing_cache_path(), "rb") as file:
                earlier = file.read()
        except OSError:
            earlier = b""
        for content in (earlier, b"") if earlier else (b"",):
            cache = config.create_timing_cache(content)
            if cache is not None and config.set_timing_cache(cache, False):
                return

    def _save_timing_cache(self, config: Any) -> None:
        cache = config.get_timing_cache()
        if cache is None:
            return
        try:
            _replace(self._timing_cache_path(), bytes(cache.serialize()))
        except OSError as err:
            self._progress("the timing cache is not kept: {}".format(err))

    def _open(self, plan: bytes) -> "TensorRTEngine":
        engine = self._runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise self._failure("cannot load the engine it built", [], "")
        try:
            return TensorRTEngine(self._trt, self._cuda, engine, self._batch, len(plan))
        except MeasureError:
            raise
        except Exception as err:
            raise self._failure("cannot make the engine ready", [self._log.explain(err)], "")

    def _failure(self, what: str, reasons: List[str], remedy: str) -> MeasureError:
        messages = "; ".join(reasons + self._log.take())
        if "memory" in messages.lower():
            remedy = "free memory on the board (close the desktop, add swap), or use a smaller batch"
        return MeasureError(
            "load",
            "TensorRT {} {}: {}".format(self._trt.__version__, what, messages or "it gave no reason"),
            remedy or "see agent.log",
        )


class TensorRTEngine(Engine):
    """One engine with its buffers, on a stream of its own."""

    def __init__(self, trt: Any, cuda: cuda_layer.Cuda, engine: Any, batch: int, plan_size: int) -> None:
        self._trt = trt
        self._plan_size = plan_size
        self._cuda = cuda
        self._engine = engine
        self._stream: Optional[int] = None
        self._context: Any = None
        self._attachment: Optional[_Attachment] = None
        self._enqueue: Callable[[], bool] = _closed
        self._pointers: List[int] = []
        self._events: List[Any] = []
        try:
            attachment: _Attachment = (_Tensors if _has_tensors(trt) else _Bindings)(trt, engine)
            self._attachment = attachment
            self.ports = attachment.ports
            _check(self.ports, batch)
            self._context = self._create_context()
            self._stream = stream = cuda.create_stream()
            for port in self.ports:
                self._pointers.append(cuda.malloc(port.size))
            self._enqueue = attachment.attach(self._context, self._pointers, stream)
            self._fill_inputs()
        except Exception:
            self.close()
            raise

    def run(self, repeats: int) -> None:
        enqueue, synchronize, stream = self._enqueue, self._cuda.synchronize, self._open_stream()
        for _ in range(repeats):
            if not enqueue():
                raise _refused()
            synchronize(stream)

    def device_ms(self, repeats: int) -> float:
        if not self._events:
            self._events = [self._cuda.create_event() for _ in range(2)]
        start, end = self._events
        stream = self._open_stream()
        total = 0.0
        for _ in range(repeats):
            self._cuda.record(start, stream)
            if not self._enqueue():
                raise _refused()
            self._cuda.record(end, stream)
            total += self._cuda.elapsed_ms(start, end)
        return total / repeats

    def peak_memory_mb(self) -> Optional[float]:
        """The plan, which is mostly weights, TensorRT's memory for running it, and the inputs and outputs.

        Without the CUDA context and the libraries, which a process loads once for all engines.
        """
        for name in ("device_memory_size_v2", "device_memory_size"):  # the former from 10 on, alone in 11
            if hasattr(self._engine, name):
                ends = sum(port.size for port in self.ports)
                scratch = int(getattr(self._engine, name))
                return round((self._plan_size + scratch + ends) / 2**20, 6)
        return None

    def evaluate(self, inputs: bytes) -> bytes:
        (source,) = [index for index, port in enumerate(self.ports) if port.is_input]
        (target,) = [index for index, port in enumerate(self.ports) if not port.is_input]
        self._cuda.to_device(self._pointers[source], _from_float32(inputs, self.ports[source].is_fp16))
        self.run(1)
        output = self._cuda.from_device(self._pointers[target], self.ports[target].size)
        self._fill_inputs()  # timing continues with the same numbers
        return _to_float32(output, self.ports[target].is_fp16)

    def layer_times_ms(self, runs: int = 10) -> List[Tuple[str, float]]:
        """Mean time of each layer, in order of execution. For people: the sum is not the engine's latency."""
        profiler = _make_profiler(self._trt)
        context = self._create_context()  # a profiler would slow the one that is timed
        context.profiler = profiler
        reports = hasattr(context, "report_to_profiler")
        if reports:
            context.enqueue_emits_profile = False
        stream = self._open_stream()
        assert self._attachment is not None
        enqueue = self._attachment.attach(context, self._pointers, stream)
        for run in range(runs + 1):
            if run == 1:
                profiler.totals.clear()  # the first is the warm-up
            if not enqueue():
                raise _refused()
            self._cuda.synchronize(stream)
            if reports and not context.report_to_profiler():
                raise MeasureError("run", "TensorRT does not report layer times", "see agent.log")
        return [(name, total / runs) for name, total in profiler.totals.items()]

    def inspect(self) -> Optional[Dict[str, Any]]:
        """The parts of the engine: `layers` (name or description) and `tensors`; None before TensorRT 8.2."""
        if not hasattr(self._engine, "create_engine_inspector"):
            return None
        inspector = self._engine.create_engine_inspector()
        text = inspector.get_engine_information(self._trt.LayerInformationFormat.JSON)
        information = json.loads(text)
        tensors = information.get("I/O Tensors", information.get("Bindings", []))  # renamed in 11
        return {"layers": information.get("Layers", []), "tensors": tensors}

    def close(self) -> None:
        """Free everything; in this order, because a context uses the engine and the buffers."""
        self._enqueue = _closed
        self._context = self._attachment = None
        self._engine = None
        cuda, pointers, self._pointers = self._cuda, self._pointers, []
        events, self._events = self._events, []
        stream, self._stream = self._stream, None
        try:
            for pointer in pointers:
                cuda.free(pointer)
            for event in events:
                cuda.destroy_event(event)
            if stream is not None:
                cuda.destroy_stream(stream)
        except cuda_layer.CudaError as err:
            _to_log("clean-up: " + err.message)  # CUDA has failed; that was reported where it happened

    def __del__(self) -> None:
        self.close()

    def _open_stream(self) -> int:
        assert self._stream is not None, "the engine is closed"
        return self._stream

    def _create_context(self) -> Any:
        context = self._engine.create_execution_context()
        if context is None:
            raise MeasureError(
                "load", "TensorRT cannot create an execution context", "free memory on the board; see agent.log"
            )
        return context

    def _fill_inputs(self) -> None:
        for port, pointer in zip(self.ports, self._pointers):
            if port.is_input:
                block = _random_block(port.is_fp16)
                content = (block * (port.size // len(block) + 1))[: port.size]
                self._cuda.to_device(pointer, content)


class _Attachment:
    """How inputs and outputs are attached to a context."""

    ports: List[Port] = []

    def attach(self, context: Any, pointers: List[int], stream: int) -> Callable[[], bool]:
        """Bind the buffers; what to call for one inference on the stream, which returns whether TensorRT took it."""
        raise NotImplementedError


class _Tensors(_Attachment):
    """Inputs and outputs by name: TensorRT 8.5 and later."""

    def __init__(self, trt: Any, engine: Any) -> None:
        self.ports: List[Port] = []
        for index in range(engine.num_io_tensors):
            name = engine.get_tensor_name(index)
            is_input = engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
            shape, data_type = engine.get_tensor_shape(name), engine.get_tensor_dtype(name)
            self.ports.append(_port(trt, name, is_input, shape, data_type))

    def attach(self, context: Any, pointers: List[int], stream: int) -> Callable[[], bool]:
        for port, pointer in zip(self.ports, pointers):
            if not context.set_tensor_address(port.name, pointer):
                raise MeasureError("load", "TensorRT refuses the buffer of {}".format(port.name), "see agent.log")
        return functools.partial(context.execute_async_v3, stream_handle=stream)


class _Bindings(_Attachment):
    """Inputs and outputs by index: before TensorRT 8.5."""

    def __init__(self, trt: Any, engine: Any) -> None:
        self.ports: List[Port] = []
        for index in range(engine.num_bindings):
            name, is_input = engine.get_binding_name(index), engine.binding_is_input(index)
            shape, data_type = engine.get_binding_shape(index), engine.get_binding_dtype(index)
            self.ports.append(_port(trt, name, is_input, shape, data_type))

    def attach(self, context: Any, pointers: List[int], stream: int) -> Callable[[], bool]:
        return functools.partial(context.execute_async_v2, bindings=list(pointers), stream_handle=stream)


def _import() -> Any:
    try:
        import tensorrt  # type: ignore[import-not-found]  # JetPack brings it; it has no types to check against
    except ImportError as err:
        raise BackendError(
            "the backend tensorrt cannot be used by {}: {}".format(sys.executable, err),
            "JetPack brings it for the system's Python only: sudo apt install python3-libnvinfer, "
            "and choose that Python (/usr/bin/python3) for this board",
        )
    return tensorrt


def _has_tensors(trt: Any) -> bool:
    return hasattr(trt.ICudaEngine, "num_io_tensors") and hasattr(trt.IExecutionContext, "execute_async_v3")


def _port(trt: Any, name: str, is_input: bool, shape: Any, data_type: Any) -> Port:
    sides = tuple(int(side) for side in shape)
    is_fp16 = data_type == trt.DataType.HALF
    if not is_fp16 and data_type != trt.DataType.FLOAT:
        raise MeasureError("load", "{} is {}, not float32 or float16".format(name, data_type))
    size = 2 if is_fp16 else 4
    for side in sides:
        size *= side
    return Port(name, is_input, sides, size, is_fp16)


def _check(ports: List[Port], batch: int) -> None:
    for port in ports:
        if any(side < 0 for side in port.shape):
            raise MeasureError("load", "the shape of {} is not fixed: {}".format(port.name, list(port.shape)))
        if port.shape[:1] != (batch,):
            raise MeasureError(
                "load",
                "{} has shape {}; this job's batch size is {}".format(port.name, list(port.shape), batch),
            )


def _data_types(network: Any) -> List[Any]:
    """The data types of the outputs of a network's layers."""
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    return [layer.get_output(index).dtype for layer in layers for index in range(layer.num_outputs)]


def _parser_errors(parser: Any) -> List[str]:
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    return ["node {}: {}".format(error.node(), error.desc()) for error in errors]


def _make_log(trt: Any) -> Any:
    class Log(trt.ILogger):  # type: ignore[misc]  # the base is known only at run time
        """Warnings and errors go to the agent's log; errors are also kept for the message of a failure."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self._errors: Deque[str] = collections.deque(maxlen=4)

        def log(self, severity: Any, msg: str) -> None:
            if severity in (trt.ILogger.Severity.INTERNAL_ERROR, trt.ILogger.Severity.ERROR):
                self._errors.append(msg.strip())
            elif severity != trt.ILogger.Severity.WARNING:
                return
            _to_log("TensorRT: " + msg.strip())

        def take(self) -> List[str]:
            errors, self._errors = list(self._errors), collections.deque(maxlen=4)
            return errors

        def explain(self, err: Exception) -> str:
            """TensorRT's messages about an exception, else the exception: its own text is about C++ types."""
            return "; ".join(self.take()) or "{}: {}".format(type(err).__name__, err)

    return Log()


def _make_monitor(trt: Any, subject: str, report: Callable[[str], None]) -> Any:
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


def _make_profiler(trt: Any) -> Any:
    class Profiler(trt.IProfiler):  # type: ignore[misc]  # the base is known only at run time
        """Adds up the times of each layer."""

        def __init__(self) -> None:
            trt.IProfiler.__init__(self)
            self.totals: "collections.OrderedDict[str, float]" = collections.OrderedDict()

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            self.totals[layer_name] = self.totals.get(layer_name, 0.0) + ms

    return Profiler()


_REBUILD = "delete it: it is built again from its model"


def _closed() -> bool:
    """In place of `enqueue` before an engine is ready and after it is closed."""
    return False


def _refused() -> MeasureError:
    return MeasureError("run", "TensorRT did not accept the inference", "see agent.log")


def _random_block(is_fp16: bool) -> bytes:
    if is_fp16 not in _BLOCKS:
        draw = random.Random(INPUT_SEED)
        _BLOCKS[is_fp16] = _from_float32(_float32([draw.gauss(0.0, 1.0) for _ in range(INPUT_BLOCK)]), is_fp16)
    return _BLOCKS[is_fp16]


_BLOCKS: Dict[bool, bytes] = {}


def _float32(values: List[float]) -> bytes:
    return array.array("f", values).tobytes()


def _from_float32(content: bytes, is_fp16: bool) -> bytes:
    if not is_fp16:
        return content
    count = len(content) // 4
    return struct.pack("<{}e".format(count), *struct.unpack("<{}f".format(count), content))


def _to_float32(content: bytes, is_fp16: bool) -> bytes:
    if not is_fp16:
        return content
    count = len(content) // 2
    return struct.pack("<{}f".format(count), *struct.unpack("<{}e".format(count), content))


def _replace(path: str, content: bytes) -> None:
    """Write a file whole or not at all; for this user only, because an engine is code."""
    part = path + ".part"
    with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)


def _first_line_of(path: str) -> Optional[str]:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.readline().strip() or None
    except OSError:
        return None


def _to_log(line: str) -> None:
    print(line, file=sys.stderr, flush=True)

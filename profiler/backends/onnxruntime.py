"""ONNX Runtime: on the CPU, or on the GPU by its CUDA or TensorRT provider. From 1.10 (the last for Python 3.6) on."""

import collections
import os
import platform
import shutil
import sys
import sysconfig
import tempfile
from typing import Any, DefaultDict, Dict, List, Optional, cast

from profiler import cuda, onnx_nodes
from profiler.backends import Backend, Engine, float_kind, split_inputs
from profiler.errors import BackendError, MeasureError
from profiler.fields import JsonObject, RecordError, parse

# Name of the backend -> its provider, where its tensors live, its precisions, and the dialect of its int8 graphs.
KINDS = {
    "onnxruntime": ("CPUExecutionProvider", "cpu", ("fp32", "int8"), "ort"),
    "onnxruntime-cuda": ("CUDAExecutionProvider", "cuda", ("fp32",), None),
    "onnxruntime-tensorrt": ("TensorrtExecutionProvider", "cuda", ("fp32", "fp16"), None),
}
INPUT_SEED = 0
ARITHMETIC = "lightnas_edge.arithmetic"  # key in a model's metadata
TYPES = {
    "tensor(float)": "float32", "tensor(float16)": "float16", "tensor(double)": "float64", "tensor(uint8)": "uint8",
    "tensor(int8)": "int8", "tensor(int32)": "int32", "tensor(int64)": "int64", "tensor(bool)": "bool",
    "tensor(uint16)": "uint16", "tensor(int16)": "int16", "tensor(uint32)": "uint32", "tensor(uint64)": "uint64",
}  # fmt: skip
_PRECISIONS = {"float": "fp32", "float16": "fp16", "double": "fp64", "uint8": "int8", "int8": "int8"}  # in a trace
_REFORMATS = ("ReorderInput", "ReorderOutput")
WARMUP_RUNS = 5  # of a profile


class OnnxRuntime(Backend):
    def __init__(self, precision: str, batch: Optional[int], threads: int, name: str = "onnxruntime") -> None:
        try:
            import numpy
            import onnxruntime
        except ImportError as err:
            raise BackendError(
                "the backend onnxruntime cannot be used by {}: {}".format(sys.executable, err),
                _how_to_install(),
            )
        self._name = name
        self._provider, self._place, precisions, self._dialect = KINDS[name]
        self.on_gpu = self._place != "cpu"
        if precision not in precisions:
            raise BackendError(
                "the backend {} computes in {}, not in {}".format(name, " or ".join(precisions), precision),
                "use --precision {}, or a backend that has {}".format(precisions[0], precision),
            )
        available = onnxruntime.get_available_providers()
        if self._provider not in available:
            raise BackendError(
                "ONNX Runtime {} has no {}; it has {}".format(
                    onnxruntime.__version__, self._provider, ", ".join(available)
                ),
                "install a build of ONNX Runtime for this GPU (onnxruntime-gpu; on a Jetson the wheel that NVIDIA "
                "provides for its JetPack), or use --backend onnxruntime",
            )
        self._precision = precision
        self._numpy = numpy
        self._runtime = onnxruntime
        self._batch = batch
        self._threads = threads

    def fingerprint(self) -> JsonObject:
        found = {
            "backend": self._name,
            "backend_version": self._runtime.__version__,
            "provider": self._provider,
            "precision": self._precision,
            "batch": self._batch,
            "threads": self._threads,
        }
        if self._precision == "int8":
            found["dialect"] = self._dialect
        return found

    def runtime(self) -> JsonObject:
        return {
            "python": platform.python_version(),
            "numpy": self._numpy.__version__,
            "onnxruntime": self._runtime.__version__,
            "providers": self._runtime.get_available_providers(),
        }

    def load(self, model: bytes) -> "OnnxRuntimeEngine":
        session = self._session(model, self._session_options())
        self._refuse_other_arithmetic(session.get_modelmeta().custom_metadata_map or {})
        for value in session.get_inputs() + session.get_outputs():
            if value.type not in TYPES:
                raise MeasureError("load", "{} is {}, not {}".format(value.name, value.type, " or ".join(TYPES)))
            if self._batch is None and value.name in {output.name for output in session.get_outputs()}:
                continue  # an output may be as long as its content
            if not all(isinstance(side, int) for side in value.shape):
                raise MeasureError("load", "the shape of {} is not fixed: {}".format(value.name, value.shape))
            if self._batch is not None and value.shape[:1] != [self._batch]:
                raise MeasureError(
                    "load", "{} has shape {}; this job's batch size is {}".format(value.name, value.shape, self._batch)
                )
        return OnnxRuntimeEngine(session, self._runtime, self._numpy, self._place)

    def layer_profile(self, model: bytes, runs: int) -> JsonObject:
        """From the runtime's own trace, by a session of its own; what a fused node computes follows from the optimised graph."""
        folder = tempfile.mkdtemp(prefix="lightnas-layers-")
        try:
            options = self._session_options()
            options.enable_profiling = True
            options.profile_file_prefix = os.path.join(folder, "trace")
            options.optimized_model_filepath = os.path.join(folder, "optimised.onnx")
            session = self._session(model, options)
            engine = OnnxRuntimeEngine(session, self._runtime, self._numpy, self._place)
            engine.run(runs + WARMUP_RUNS)
            trace = session.end_profiling()
            with open(trace, "rb") as file:
                events = parse(file.read())
            warnings = []
            try:
                with open(os.path.join(folder, "optimised.onnx"), "rb") as file:
                    origins = onnx_nodes.origins(onnx_nodes.read_nodes(model), onnx_nodes.read_nodes(file.read()))
            except (OSError, RecordError) as err:
                origins = {}
                warnings.append("which nodes a layer comes from is not known: {}".format(err))
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        return layers_of_trace(events, runs, origins, warnings)

    def _session_options(self) -> Any:
        options = self._runtime.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        if self._place != "cpu":
            # What the GPU cannot run must fail, not move to the CPU unnoticed. Versions before 1.15 ignore the entry.
            options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        return options

    def _session(self, model: bytes, options: Any) -> Any:
        self._refuse_untyped(model)
        try:
            session = self._runtime.InferenceSession(model, options, providers=[(self._provider, self._options())])
        except Exception as err:
            refused = MeasureError(
                "load",
                "ONNX Runtime {} cannot load the model: {}".format(self._runtime.__version__, _first_line(err)),
                "export it again with a lower --opset, or update ONNX Runtime on the board",
            )
            refused.fatal = cuda.is_sticky(str(err))
            raise refused
        if session.get_providers()[0] != self._provider:
            raise MeasureError(
                "load",
                "ONNX Runtime does not use {} but {}".format(self._provider, session.get_providers()[0]),
                "its libraries (CUDA, cuDNN, TensorRT) do not load; see agent.log",
            )
        return session

    def _refuse_untyped(self, model: bytes) -> None:
        """The numbers of a model in another precision would bear the wrong name."""
        is_quantised = b"QuantizeLinear" in model
        if is_quantised != (self._precision == "int8"):
            raise MeasureError(
                "load",
                "the model {} QuantizeLinear, and the job measures {}".format(
                    "has" if is_quantised else "has no", self._precision
                ),
                "use --precision int8"
                if is_quantised
                else "use --precision fp32, or a model quantised for ONNX Runtime",
            )

    def _refuse_other_arithmetic(self, metadata: Dict[str, str]) -> None:
        """By what the graph writer says of its graph; a graph of another writer says nothing."""
        wanted = "int8 {}".format(self._dialect) if self._precision == "int8" else self._precision
        found = metadata.get(ARITHMETIC, wanted)
        if found != wanted:
            raise MeasureError(
                "load",
                "the model computes in {}, and the job measures {}".format(found, wanted),
                "write the model again for this backend and precision",
            )

    def _options(self) -> Dict[str, str]:
        """The provider's options. No engine cache: ONNX Runtime does not check where an engine was built."""
        if self._provider != "TensorrtExecutionProvider":
            return {}
        return {"trt_fp16_enable": "1" if self._precision == "fp16" else "0", "trt_engine_cache_enable": "0"}


class OnnxRuntimeEngine(Engine):
    def __init__(self, session: Any, runtime: Any, numpy: Any, place: str) -> None:
        self._session = session
        self._numpy = numpy
        self._binding = session.io_binding()
        self._values: List[Any] = []  # the binding does not keep its tensors alive
        random = numpy.random.RandomState(INPUT_SEED)
        for value in session.get_inputs():
            drawn = random.standard_normal(value.shape)
            kind = TYPES[value.type]
            if kind in ("uint8", "int8"):  # three standard deviations are the range
                drawn = numpy.clip(numpy.rint(drawn * 127 / 3), -127, 127) + (128 if kind == "uint8" else 0)
            elif not float_kind(kind):  # an index beyond its table would fail: only 0 and 1 are safe
                drawn = drawn > 0
            tensor = runtime.OrtValue.ortvalue_from_numpy(drawn.astype(TYPES[value.type]), place, 0)
            self._binding.bind_ortvalue_input(value.name, tensor)
            self._values.append(tensor)
        for value in session.get_outputs():
            if not all(isinstance(side, int) for side in value.shape):
                self._binding.bind_output(value.name, place)  # as long as its content: the runtime allocates it
                continue
            tensor = runtime.OrtValue.ortvalue_from_shape_and_type(
                value.shape, getattr(numpy, TYPES[value.type]), place, 0
            )
            self._binding.bind_ortvalue_output(value.name, tensor)
            self._values.append(tensor)

    def run(self, repeats: int) -> None:
        run, binding = self._session.run_with_iobinding, self._binding
        try:
            for _ in range(repeats):
                run(binding)
        except Exception as err:
            failed = MeasureError("run", "ONNX Runtime cannot run the model: " + _first_line(err), "see agent.log")
            failed.fatal = cuda.is_sticky(str(err))  # CUDA is lost for this process
            raise failed

    def evaluate(self, inputs: bytes) -> bytes:
        ports = [(value.name, TYPES[value.type], value.shape) for value in self._session.get_inputs()]
        outputs = self._session.run(None, split_inputs(self._numpy, ports, inputs))
        return b"".join(
            cast(bytes, self._numpy.asarray(output, "<f4" if output.dtype.kind == "f" else None).tobytes())
            for output in outputs
        )


def layers_of_trace(events: object, runs: int, origins: Dict[str, List[str]], warnings: List[str]) -> JsonObject:
    """The form of a layer profile, from the events of a trace. The last `runs` of each node count: warm-up comes first.

    Args:
        origins: name of a node of the optimised graph -> nodes of the graph that was sent.

    Raises:
        MeasureError: the trace holds no nodes.
    """
    times: DefaultDict[str, List[float]] = collections.defaultdict(list)
    facts: Dict[str, JsonObject] = {}
    totals: List[float] = []
    for event in events if isinstance(events, list) else []:
        name, us = event.get("name"), event.get("dur")
        about = event.get("args")
        if not isinstance(name, str) or type(us) not in (int, float):
            continue
        if name == "model_run":
            totals.append(us / 1e3)
        if name.endswith("_kernel_time") and isinstance(about, dict):
            node = name[: -len("_kernel_time")]
            times[node].append(us / 1e3)
            facts.setdefault(node, about)
    if not times:
        raise MeasureError("run", "the trace of ONNX Runtime holds no nodes", "update ONNX Runtime on the board")
    layers = []
    for node, taken in times.items():
        about = facts[node]
        kind = about.get("op_name")
        layers.append({
            "name": node, "type": kind, "precision": _precision_of(about), "times_ms": [round(ms, 6) for ms in taken[-runs:]],
            "onnx_nodes": origins.get(node, []), "is_reformat": kind in _REFORMATS,
            "inputs": _tensors_of(about.get("input_type_shape")), "outputs": _tensors_of(about.get("output_type_shape")),
        })  # fmt: skip
    return {
        "kind": "layer-profile", "schema": 1, "source": "onnxruntime", "runs": runs, "layers": layers,
        "total_ms": [round(ms, 6) for ms in totals[-runs:]] or None, "warnings": warnings,
    }  # fmt: skip


def _tensors_of(values: object) -> List[JsonObject]:
    """`[{"float": [1, 3, 8, 8]}, ...]` of a trace."""
    found: List[JsonObject] = []
    for value in values if isinstance(values, list) else []:
        for kind, shape in value.items() if isinstance(value, dict) else []:
            found.append({"name": "", "type": str(kind), "shape": shape if isinstance(shape, list) else []})
    return found


def _precision_of(about: JsonObject) -> Optional[str]:
    """The type of the data that the node reads; int8 where it reads both."""
    found = [_PRECISIONS.get(tensor["type"]) for tensor in _tensors_of(about.get("input_type_shape"))]
    known = [precision for precision in found if precision is not None]
    return "int8" if "int8" in known[:1] else (known[0] if known else None)


def _how_to_install() -> str:
    """A system may keep pip away from its own Python: PEP 668."""
    if os.path.exists(os.path.join(sysconfig.get_path("stdlib"), "EXTERNALLY-MANAGED")):
        return (
            "this system keeps pip away from {0}: {0} -m venv ~/lightnas-agent && ~/lightnas-agent/bin/pip install "
            "onnxruntime, then name ~/lightnas-agent/bin/python as the board's python in boards.toml".format(
                sys.executable
            )
        )
    return "install it for that Python: {} -m pip install onnxruntime".format(sys.executable)


def _first_line(err: Exception) -> str:
    return (str(err).strip() or type(err).__name__).splitlines()[0]

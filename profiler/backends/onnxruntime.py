"""ONNX Runtime: on the CPU, or on the GPU by its CUDA or TensorRT provider. From 1.6 on; 1.10 is the last for Python 3.6."""

import os
import platform
import re
import shutil
import sys
import sysconfig
import tempfile
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple, TypeVar

from profiler import board, cuda
from profiler.backends import (
    Backend,
    Engine,
    elements,
    layer_profile,
    onnx_file,
    onnxruntime_failures,
    onnxruntime_graph,
    onnxruntime_trace,
)  # fmt: skip
from profiler.backends.ran_in import RanIn
from profiler.backends.streams import Streams
from profiler.errors import BackendError, MeasureError
from profiler.fields import JsonObject
from profiler.system import THIS_MACHINE, System

# Name of the backend -> its provider, where its tensors live, its precisions, and the dialect of its int8 graphs.
KINDS = {
    "onnxruntime": ("CPUExecutionProvider", "cpu", ("fp32", "int8"), "ort"),
    "onnxruntime-cuda": ("CUDAExecutionProvider", "cuda", ("fp32",), None),
    "onnxruntime-tensorrt": ("TensorrtExecutionProvider", "cuda", ("fp32", "fp16"), None),
}
INPUT_SEED = 0
ARITHMETIC = "lightnas_edge.arithmetic"  # key in a model's metadata
_TYPES = {  # those that numpy has
    "tensor(float)": "float32", "tensor(float16)": "float16", "tensor(double)": "float64", "tensor(bool)": "bool",
    "tensor(uint8)": "uint8", "tensor(uint16)": "uint16", "tensor(uint32)": "uint32", "tensor(uint64)": "uint64",
    "tensor(int8)": "int8", "tensor(int16)": "int16", "tensor(int32)": "int32", "tensor(int64)": "int64",
}  # fmt: skip
_Found = TypeVar("_Found")
OLDEST = (1, 6)  # that was tried; the wheels for JetPack 4.4 begin with 1.4
PROFILE_WARMUP = 3  # inferences before the layers are timed


class OnnxRuntime(Backend):
    def __init__(
        self,
        precision: str,
        batch: Optional[int],
        threads: int,
        name: str = "onnxruntime",
        system: System = THIS_MACHINE,
    ) -> None:
        try:
            import numpy
            import onnxruntime
        except ImportError as err:
            raise BackendError(
                "the backend onnxruntime cannot be used by {}: {}".format(sys.executable, err),
                _how_to_install(),
            )
        self._name = name
        self._system = system
        self._provider, self._place, precisions, self._dialect = KINDS[name]
        self.on_gpu = self._place != "cpu"
        if precision not in precisions:
            raise BackendError(
                "the backend {} computes in {}, not in {}".format(name, " or ".join(precisions), precision),
                "use --precision {}, or a backend that has {}".format(precisions[0], precision),
            )
        _refuse_old(onnxruntime.__version__)
        onnxruntime.disable_telemetry_events()  # versions before ORT_DISABLE_TELEMETRY know this call alone
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
        found: JsonObject = {
            "backend": self._name,
            "backend_version": self._runtime.__version__,
            "provider": self._provider,
            "precision": self._precision,
            "batch": self._batch,
            "threads": self._threads,
        }
        if self._precision == "int8":
            found["dialect"] = self._dialect
            if not self.on_gpu:  # they decide the speed of 8 bits, and on x86 whether sums saturate
                found["int8_instructions"] = board.int8_instructions(self._system.proc)
        return found

    def runtime(self) -> JsonObject:
        return {
            "python": platform.python_version(),
            "numpy": self._numpy.__version__,
            "onnxruntime": self._runtime.__version__,
            "providers": self._runtime.get_available_providers(),
        }

    def load(self, model: bytes) -> "OnnxRuntimeEngine":
        return self._engine(self._session(model, self._session_options()))

    def layer_profile(self, model: bytes, runs: int) -> Optional[JsonObject]:
        """On a GPU the profile has the times of calls, not those of kernels: none."""
        if self.on_gpu:
            return None
        return _in_scratch("the layers cannot be timed", lambda folder: self._profile(model, runs, folder))

    def _profile(self, model: bytes, runs: int, folder: str) -> JsonObject:
        options = self._session_options()
        options.enable_profiling = True
        options.profile_file_prefix = os.path.join(folder, "trace")
        session, graph = self._optimised(model, options, folder)
        self._engine(session).run(PROFILE_WARMUP + runs)
        with open(session.end_profiling(), "rb") as file:
            timed = onnxruntime_trace.read_runs(file.read())[PROFILE_WARMUP:]
        timed, warnings = onnxruntime_trace.equal_runs(timed)
        layers, more = onnxruntime_trace.layers(timed, onnx_file.read_graph(model), graph)
        return layer_profile.to_json("onnxruntime", len(timed), layers, [run.ms for run in timed], warnings + more)

    def read_back(self, model: bytes) -> Optional[RanIn]:
        """From the graph as ONNX Runtime optimised it; of TensorRT's provider it has one node alone.

        Raises:
            MeasureError: the graph cannot be written or read.
        """
        if self._provider == "TensorrtExecutionProvider":
            return None

        def read(folder: str) -> RanIn:
            _, graph = self._optimised(model, self._session_options(), folder)
            return onnxruntime_graph.read_back(onnx_file.read_graph(model), graph, self._precision)

        return _in_scratch("the optimised graph cannot be read", read)

    def _optimised(self, model: bytes, options: Any, folder: str) -> Tuple[Any, onnx_file.Graph]:
        """A session, and the graph that it runs. Not for timing: a session that saves its graph keeps its weights twice."""
        path = os.path.join(folder, "optimised.onnx")
        options.optimized_model_filepath = path
        session = self._session(model, options)
        with open(path, "rb") as file:
            return session, onnx_file.read_graph(file.read())

    def _session_options(self) -> Any:
        options = self._runtime.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        if self.on_gpu:
            # What the GPU cannot run must fail, not move to the CPU unnoticed. Versions before 1.15 ignore the entry.
            options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        return options

    def _session(self, model: bytes, options: Any) -> Any:
        self._refuse_untyped(model)
        try:
            # 1.6 takes names alone; pairs of name and options came with 1.7.
            provider = (self._provider, self._options()) if self._options() else self._provider
            session = self._runtime.InferenceSession(model, options, providers=[provider])
        except TypeError as err:  # the binding, not the model
            raise MeasureError(
                "load",
                "ONNX Runtime {} does not take the agent's call: {}".format(
                    self._runtime.__version__, " ".join(str(err).split())[:200]
                ),
                "install another version of ONNX Runtime on the board",
            )
        except Exception as err:
            raise onnxruntime_failures.failure(self._runtime.__version__, str(err), model, self._provider)
        if session.get_providers()[0] != self._provider:
            raise MeasureError(
                "load",
                "ONNX Runtime does not use {} but {}".format(self._provider, session.get_providers()[0]),
                "its libraries (CUDA, cuDNN, TensorRT) do not load; see agent.log",
            )
        self._refuse_other_arithmetic(session.get_modelmeta().custom_metadata_map or {})
        return session

    def _engine(self, session: Any) -> "OnnxRuntimeEngine":
        for value in session.get_inputs() + session.get_outputs():
            if value.type not in _TYPES:
                raise MeasureError(
                    "load",
                    "{} is {}; this backend has {}".format(value.name, value.type, ", ".join(sorted(_TYPES))),
                    "export the model with another type there",
                )
            if self._batch is not None and value.shape[:1] != [self._batch]:
                raise MeasureError(
                    "load", "{} has shape {}; this job's batch size is {}".format(value.name, value.shape, self._batch)
                )
        for value in session.get_inputs():
            if not _is_fixed(value.shape):
                raise MeasureError(
                    "load",
                    "the shape of the input {} is not fixed: {}".format(value.name, value.shape),
                    "fix it before the model is sent: --shape {}:1x3x224x224, for example".format(value.name),
                )
        return OnnxRuntimeEngine(session, self._runtime, self._numpy, self._place, self.read_back)

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
    reads_back_apart = True

    def __init__(
        self,
        session: Any,
        runtime: Any,
        numpy: Any,
        place: str,
        read_back: Callable[[bytes], Optional[RanIn]],
    ) -> None:
        self._session = session
        self._runtime = runtime
        self._place = place
        self._read_back = read_back
        self._numpy = numpy
        self._binding = session.io_binding()
        self._values: List[Any] = []  # the binding does not keep its tensors alive
        random = numpy.random.RandomState(INPUT_SEED)
        for value in session.get_inputs():
            drawn = _draw(numpy, random, value.shape, _TYPES[value.type])
            tensor = runtime.OrtValue.ortvalue_from_numpy(drawn, place, 0)
            self._binding.bind_ortvalue_input(value.name, tensor)
            self._values.append(tensor)
        for value in session.get_outputs():
            if not _is_fixed(value.shape):  # it depends on the values: ONNX Runtime allocates it in every inference
                self._binding.bind_output(value.name, place)
                continue
            empty = numpy.zeros(value.shape, _TYPES[value.type])  # by shape and type, 1.10 has no int64
            tensor = runtime.OrtValue.ortvalue_from_numpy(empty, place, 0)
            self._binding.bind_ortvalue_output(value.name, tensor)
            self._values.append(tensor)

    def run(self, repeats: int) -> None:
        run, binding = self._session.run_with_iobinding, self._binding
        try:
            for _ in range(repeats):
                run(binding)
        except Exception as err:
            raise _failed(err)

    def in_streams(self, count: int) -> Engine:
        """One session, which takes calls from several threads, with inputs and outputs for each."""
        more = [
            OnnxRuntimeEngine(self._session, self._runtime, self._numpy, self._place, self._read_back)
            for _ in range(count - 1)
        ]
        return Streams([self] + more)

    def ran_in(self, model: bytes) -> Optional[RanIn]:
        return self._read_back(model)

    def evaluate(self, inputs: bytes) -> bytes:
        return run_once(self._numpy, self._session, inputs)


def run_once(numpy: Any, session: Any, inputs: bytes) -> bytes:
    """All outputs of one inference, for all its inputs; both as `Engine.evaluate` says.

    Raises:
        MeasureError: the inputs have another size, or the inference fails.
    """
    sources = session.get_inputs()
    kinds = [_exchanged(numpy, _TYPES[source.type]) for source in sources]
    sizes = [kind.itemsize * elements.count(source.shape) for source, kind in zip(sources, kinds)]
    feeds = {}
    for source, kind, content in zip(
        sources, kinds, elements.split(inputs, [source.name for source in sources], sizes)
    ):
        values = numpy.frombuffer(content, kind).reshape(source.shape)
        feeds[source.name] = values.astype(_TYPES[source.type])
    try:
        outputs = session.run([target.name for target in session.get_outputs()], feeds)
    except Exception as err:
        raise _failed(err)
    return b"".join(output.astype(_exchanged(numpy, output.dtype)).tobytes() for output in outputs)


def shapes_by_running(model: bytes, names: List[str]) -> Dict[str, Sequence[int]]:
    """The shapes of outputs of one inference on the CPU, on the values that an engine is timed on."""
    import numpy
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4  # the caller has an answer for every error
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    random = numpy.random.RandomState(INPUT_SEED)
    inputs = {value.name: _draw(numpy, random, value.shape, _TYPES[value.type]) for value in session.get_inputs()}
    found = zip(names, session.run(names, inputs))
    return {name: output.shape for name, output in found if isinstance(output, numpy.ndarray)}


def _refuse_old(version: str) -> None:
    numbers = tuple(int(number) for number in re.findall(r"\d+", version)[:2])
    if numbers < OLDEST:
        raise BackendError(
            "ONNX Runtime {} is too old: the agent needs {}.{} or later".format(version, *OLDEST), _how_to_install()
        )


def _in_scratch(what: str, work: Callable[[str], _Found]) -> _Found:
    """Give a folder that is gone afterwards. Raises MeasureError: it, or what ONNX Runtime wrote there, cannot be used."""
    folder = ""
    try:
        folder = tempfile.mkdtemp(prefix="lightnas-edge-")
        return work(folder)
    except (OSError, ValueError) as err:
        raise MeasureError("run", "{}: {}: {}".format(what, folder, err), "free space on the board")
    finally:
        if folder:
            shutil.rmtree(folder, ignore_errors=True)


def _exchanged(numpy: Any, kind: Any) -> Any:
    """The type in which values of a type are exchanged: floating-point numbers in four bytes."""
    found = numpy.dtype(kind)
    return numpy.dtype("<f4") if found.kind == "f" else found.newbyteorder("<")


def _draw(numpy: Any, random: Any, shape: List[int], kind: str) -> Any:
    """Seeded values of one input, as `Backend` says."""
    if kind == "bool":
        return numpy.ones(shape, kind)
    if kind in elements.INDICES:
        return random.randint(0, 2, shape).astype(kind)
    drawn = numpy.asarray(random.standard_normal(shape))
    if kind in ("uint8", "int8"):  # three standard deviations are the range
        drawn = numpy.clip(numpy.rint(drawn * 127 / 3), -127, 127) + (128 if kind == "uint8" else 0)
    return drawn.astype(kind)


def _is_fixed(shape: List[Any]) -> bool:
    return all(isinstance(side, int) for side in shape)


def _failed(err: Exception) -> MeasureError:
    failed = MeasureError("run", "ONNX Runtime cannot run the model: " + _first_line(err), "see agent.log")
    failed.fatal = cuda.is_sticky(str(err))  # CUDA is lost for this process
    return failed


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

"""ONNX Runtime: on the CPU, or on the GPU by its CUDA or TensorRT provider. From 1.10 (the last for Python 3.6) on."""

import os
import platform
import sys
import sysconfig
from typing import Any, Dict, List, cast

from profiler import cuda
from profiler.backends import Backend, Engine
from profiler.errors import BackendError, MeasureError
from profiler.fields import JsonObject

# Name of the backend -> its provider, where its tensors live, its precisions, and the dialect of its int8 graphs.
KINDS = {
    "onnxruntime": ("CPUExecutionProvider", "cpu", ("fp32", "int8"), "ort"),
    "onnxruntime-cuda": ("CUDAExecutionProvider", "cuda", ("fp32",), None),
    "onnxruntime-tensorrt": ("TensorrtExecutionProvider", "cuda", ("fp32", "fp16"), None),
}
INPUT_SEED = 0
ARITHMETIC = "lightnas_edge.arithmetic"  # key in a model's metadata
_TYPES = {"tensor(float)": "float32", "tensor(float16)": "float16", "tensor(uint8)": "uint8", "tensor(int8)": "int8"}


class OnnxRuntime(Backend):
    def __init__(self, precision: str, batch: int, threads: int, name: str = "onnxruntime") -> None:
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
        self._refuse_untyped(model)
        options = self._runtime.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        if self._place != "cpu":
            # What the GPU cannot run must fail, not move to the CPU unnoticed. Versions before 1.15 ignore the entry.
            options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
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
        self._refuse_other_arithmetic(session.get_modelmeta().custom_metadata_map or {})
        for value in session.get_inputs() + session.get_outputs():
            if value.type not in _TYPES:
                raise MeasureError("load", "{} is {}, not {}".format(value.name, value.type, " or ".join(_TYPES)))
            if not all(isinstance(side, int) for side in value.shape):
                raise MeasureError("load", "the shape of {} is not fixed: {}".format(value.name, value.shape))
            if value.shape[:1] != [self._batch]:
                raise MeasureError(
                    "load", "{} has shape {}; this job's batch size is {}".format(value.name, value.shape, self._batch)
                )
        return OnnxRuntimeEngine(session, self._runtime, self._numpy, self._place)

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
            if _TYPES[value.type] in ("uint8", "int8"):  # three standard deviations are the range
                drawn = numpy.clip(numpy.rint(drawn * 127 / 3), -127, 127) + (
                    128 if _TYPES[value.type] == "uint8" else 0
                )
            tensor = runtime.OrtValue.ortvalue_from_numpy(drawn.astype(_TYPES[value.type]), place, 0)
            self._binding.bind_ortvalue_input(value.name, tensor)
            self._values.append(tensor)
        for value in session.get_outputs():
            tensor = runtime.OrtValue.ortvalue_from_shape_and_type(
                value.shape, getattr(numpy, _TYPES[value.type]), place, 0
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
        (source,), (target,) = self._session.get_inputs(), self._session.get_outputs()
        tensor = self._numpy.frombuffer(inputs, dtype="<f4").reshape(source.shape).astype(_TYPES[source.type])
        (output,) = self._session.run([target.name], {source.name: tensor})
        return cast(bytes, output.astype("<f4").tobytes())


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

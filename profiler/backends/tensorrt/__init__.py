"""TensorRT on an NVIDIA GPU, from 8.0 (JetPack 4.6) to 11: one code path that checks for features, never for versions.

builder.py     from an ONNX model to a serialized engine
rules.py       what it refuses, for virtual boards too
network.py     what a parsed network computes in, and the formats of its edges
cache.py       engines on the board's card
engine.py      a loaded engine: latency, enqueue time, GPU time, CUDA graph
bindings.py    its inputs and outputs, by name or by index
values.py      element types and seeded inputs
layers.py      what the inspector and the profiler say of each layer
adaptors.py    logger, progress monitor and profiler
failures.py    what TensorRT says about a failure, as an error with a remedy
"""

import hashlib
import os
import platform
import re
import sys
from typing import Any, Callable, Optional

from profiler import cuda as cuda_layer
from profiler.backends import UNKNOWN, Backend, Conditions, onnx_file
from profiler.backends.tensorrt import adaptors, bindings, builder, cache, layers
from profiler.backends.tensorrt.engine import TensorRTEngine
from profiler.backends.tensorrt.failures import failure
from profiler.errors import BackendError, MeasureError
from profiler.fields import JsonObject


class TensorRT(Backend):
    """Builds engines and keeps them.

    Args:
        home: the agent's folder on this machine; engines and the timing cache go below it.
        conditions: power mode and clocks, by which kernels are chosen; engines of others are not loaded.
        cuda_graph: an inference is one launch of a CUDA graph.
        library, cuda: the module `tensorrt` and an open CUDA layer; None for what is installed.
        progress: called with one line about the progress of a build.
        streams: in how many its engines will run.
        release_file: the L4T release of the board.
    """

    needs_build = True

    def __init__(
        self,
        precision: str,
        batch: Optional[int],
        threads: int,
        home: str,
        conditions: Conditions = UNKNOWN,
        cuda_graph: bool = False,
        library: Any = None,
        cuda: Optional[cuda_layer.Cuda] = None,
        progress: Optional[Callable[[str], None]] = None,
        release_file: str = "/etc/nv_tegra_release",
        streams: int = 1,
    ) -> None:
        _refuse_unknown(precision)
        self._trt = trt = library or _import()
        _refuse_old(trt)
        self._cuda = cuda or cuda_layer.open_cuda(with_graphs=cuda_graph, with_threads=streams > 1)
        if cuda_graph and not self._cuda.captures_graphs:
            raise BackendError("CUDA ({}) has no CUDA graphs".format(self._cuda.layer), "measure without --cuda-graph")
        self._device = self._cuda.device()
        self._l4t = _first_line_of(release_file)
        self._batch = batch
        self._threads = threads
        self._cuda_graph = cuda_graph
        self._progress = progress or adaptors.to_log
        self._log = adaptors.make_log(trt)  # TensorRT keeps a pointer to it: it must live as long as the backend
        try:
            fitness = trt.Builder(self._log)
            self._runtime = trt.Runtime(self._log)
        except Exception as err:
            raise BackendError(
                "TensorRT {} does not start: {}".format(trt.__version__, self._log.explain(err)),
                "check that its libraries and CUDA belong together: dpkg -l | grep -E 'nvinfer|cudart'",
            )
        name = "{} (compute capability {})".format(self._device.name, self._device.compute_capability)
        builder.refuse_unfit(trt, fitness, precision, name)
        workspace_bytes = builder.usual_workspace_bytes(self._device.memory_bytes, any_model=batch is None)
        self._settings = builder.BuildSettings.choose(trt, precision, workspace_bytes)
        self._conditions = conditions
        self._cache = self._open_cache(home)

    def _open_cache(self, home: str) -> cache.EngineCache:
        trt = self._trt
        here = cache.EngineMetadata(
            model_sha256="",
            engine_sha256="",
            tensorrt=trt.__version__,
            device=self._device.name,
            compute_capability=self._device.compute_capability,
            cuda_runtime=self._cuda.runtime_version,
            l4t=self._l4t,
            power_mode=self._conditions.power_mode,
            clocks=self._conditions.clocks,
            settings=self._settings.to_json(),
        )
        place = "{}-sm{}".format(trt.__version__, self._device.compute_capability.replace(".", ""))
        folder = os.path.join(home, "tensorrt", place)
        return cache.EngineCache(folder, self._settings.precision + self._conditions_suffix(), here, self._progress)

    def _conditions_suffix(self) -> str:
        """Power mode and clocks for the name of a file; nothing where neither is known."""
        known = [text for text in self._conditions if text]
        return "".join("-" + re.sub("[^A-Za-z0-9]+", "_", text) for text in known)

    def fingerprint(self) -> JsonObject:
        found: JsonObject = {
            "backend": "tensorrt",
            "backend_version": self._trt.__version__,
            "provider": "{} sm_{}".format(self._device.name, self._device.compute_capability),
            "precision": self._settings.precision,
            "precision_by": self._settings.precision_by,
            "batch": self._batch,
            "threads": self._threads,
            "cuda_layer": self._cuda.kind,
            "cuda_graph": self._cuda_graph,
        }
        if self._settings.precision == "int8":
            found["dialect"] = "tensorrt"  # of the graph
        return found

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
            "workspace_mb": self._settings.workspace_bytes / 2**20,
            "inputs_by": "name" if bindings.has_tensors(trt) else "index",
            "progress_monitor": hasattr(trt, "IProgressMonitor"),
            "engine_inspector": hasattr(trt, "EngineInspector"),
            "profiling_verbosity": self._settings.profiling_verbosity,
            "engines": self._cache.folder,
        }

    def is_built(self, model: bytes) -> bool:
        return self._cache.find(_sha256(model)) is not None

    def build(self, model: bytes, workspace_share: float = 1.0) -> None:
        self._cache.keep(_sha256(model), self.build_plan(model, workspace_share), workspace_share)

    def build_plan(self, model: bytes, workspace_share: float = 1.0) -> bytes:
        """The serialized engine of an ONNX model; nothing is kept but the timings of kernels.

        Raises:
            MeasureError: as `build`.
        """
        settings = self._settings._replace(workspace_bytes=int(self._settings.workspace_bytes * workspace_share))
        timings = os.path.join(self._cache.folder, "timing{}.cache".format(self._conditions_suffix()))
        subject = _sha256(model)[:12]
        return builder.build(self._trt, self._log, model, settings, timings, self._progress, subject)

    def load(self, model: bytes) -> TensorRTEngine:
        sha256 = _sha256(model)
        plan = self._cache.find(sha256)
        if plan is not None:
            try:
                return self._open(self._deserialize(plan), len(plan), model)
            except _NotLoadedError as err:
                self._progress("building again: " + err.message)
                self._cache.discard(sha256)
        plan = self.build_plan(model)
        self._cache.keep(sha256, plan)
        return self._open(self._deserialize(plan), len(plan), model)

    def read_engine(self, path: str) -> bytes:
        """An engine file that was built here.

        Raises:
            MeasureError: code `load`: it has no metadata, was built elsewhere or otherwise, or is damaged.
        """
        return self._cache.read(path)

    def _deserialize(self, plan: bytes) -> Any:
        """Raises MeasureError; `_NotLoadedError` where neither memory nor a lost device is the reason."""
        self._log.take()
        engine = self._runtime.deserialize_cuda_engine(plan)
        if engine is None:
            err = failure(self._trt.__version__, "cannot load the engine it built", self._log.take())
            if err.fatal or err.code == "memory":
                raise err
            raise _NotLoadedError(err.code, err.message, err.remedy)
        return engine

    def layer_profile(self, model: bytes, runs: int) -> JsonObject:
        engine = self.load(model)
        try:
            runs_ms, total_ms = engine.layer_runs_ms(runs)
            return layers.profile(engine.inspect(), runs_ms, total_ms, _graph(model))
        finally:
            engine.close()

    def _open(self, engine: Any, plan_size: int, model: bytes) -> TensorRTEngine:
        types = {name: value.element for name, value in _graph(model).values.items()}
        try:
            return TensorRTEngine(
                self._trt, self._log, self._cuda, engine, self._settings.precision, self._batch, plan_size,
                self._cuda_graph, types,
            )  # fmt: skip
        except MeasureError:
            raise
        except Exception as err:
            raise failure(self._trt.__version__, "cannot make the engine ready", [self._log.explain(err)])


class _NotLoadedError(MeasureError):
    """TensorRT does not deserialise an engine."""


def _graph(model: bytes) -> onnx_file.Graph:
    try:
        return onnx_file.read_graph(model)
    except ValueError as err:
        raise MeasureError("load", "the model cannot be read: {}".format(err), "export it again")


def _sha256(model: bytes) -> str:
    return hashlib.sha256(model).hexdigest()


def _refuse_unknown(precision: str) -> None:
    if precision not in builder.PRECISIONS:
        raise BackendError(
            "the backend tensorrt does not know the precision {!r}".format(precision),
            "it knows: " + ", ".join(builder.PRECISIONS),
        )


def _refuse_old(trt: Any) -> None:
    if not hasattr(trt.Builder, "build_serialized_network"):
        raise BackendError(
            "TensorRT {} is too old for this agent".format(trt.__version__),
            "install JetPack 4.6 or later: it brings TensorRT 8.0 or later",
        )


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


def _first_line_of(path: str) -> Optional[str]:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.readline().strip() or None
    except OSError:
        return None

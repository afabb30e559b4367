"""One engine on the GPU: host latency, enqueue time and GPU time, each measured on its own."""

import struct
import time
from typing import Any, Callable, Dict, List, Mapping, Optional, Tuple

from profiler import cuda as cuda_layer
from profiler.backends import DeviceTimes, Engine, elements, onnx_file
from profiler.backends.ran_in import RanIn
from profiler.backends.streams import Streams
from profiler.backends.tensorrt import adaptors, bindings, layers, values
from profiler.backends.tensorrt.failures import failure
from profiler.errors import MeasureError

QUEUED = 64  # inferences between two events: enough to hide the first launch and the last wait
QUEUED_MS = 200.0  # at most this much GPU time is queued, by the latency of one inference
TIMED = 8  # enqueue calls at least, where they take less than QUEUED_MS
LEAD = 2  # inferences in front of the first event: the GPU works through them while the others are queued


class TensorRTEngine(Engine):
    """One engine with its buffers, on a stream of its own.

    Args:
        engine: what TensorRT deserialised.
        precision: that the engine was built for.
        plan_size: bytes of the serialized engine; 0 where another one on the same plan counts them.
        cuda_graph: inferences are launches of one CUDA graph.
        types: of inputs and outputs in the model sent, where they are known: values are exchanged in them.
    """

    def __init__(
        self,
        trt: Any,
        log: Any,
        cuda: cuda_layer.Cuda,
        engine: Any,
        precision: str,
        batch: Optional[int],
        plan_size: int,
        cuda_graph: bool,
        types: Mapping[str, Optional[str]],
    ) -> None:
        self._trt = trt
        self._log = log
        self._precision = precision
        self._plan_size = plan_size
        self._types = types
        self._cuda = cuda
        self._engine = engine
        self._batch = batch
        self._cuda_graph = cuda_graph
        self._stream: Optional[int] = None
        self._context: Any = None
        self._graph: Any = None
        self._attachment: Optional[bindings.Attachment] = None
        self._enqueue: Callable[[], bool] = _closed
        self._pointers: List[int] = []
        self._events: List[Any] = []
        try:
            self._attachment = bindings.attachment_of(trt, engine, batch)
            self.ports = self._attachment.ports
            self._context = self._create_context()
            if hasattr(trt.IExecutionContext, "nvtx_verbosity"):
                self._context.nvtx_verbosity = trt.ProfilingVerbosity.NONE  # detailed ranges make every enqueue slower
            self._stream = stream = cuda.create_stream()
            for port in self.ports:
                self._pointers.append(cuda.malloc(port.size))
            self._enqueue = self._attachment.attach(self._context, self._pointers, stream)
            self._fill_inputs()
            if cuda_graph:
                self._capture()
        except Exception:
            self.close()
            raise

    def run(self, repeats: int) -> None:
        enqueue, synchronize, stream = self._enqueue, self._cuda.synchronize, self._open_stream()
        for _ in range(repeats):
            if not enqueue():
                raise self._refused()
            synchronize(stream)

    def in_streams(self, count: int) -> Engine:
        """An execution context, buffers and a CUDA stream for each, on the weights of one engine; a host thread for each.

        TensorRT's Python binding and ctypes leave Python's lock while they enqueue and wait.
        """
        more = [
            TensorRTEngine(
                self._trt, self._log, self._cuda, self._engine, self._precision, self._batch, 0, self._cuda_graph,
                self._types,
            )
            for _ in range(count - 1)
        ]  # fmt: skip
        return Streams([self] + more)

    def run_queued(self, repeats: int) -> None:
        """The host waits after every QUEUED inferences: a full queue makes it spin, which costs power.

        All of them use the same buffers, which a stream's order permits: `execute_async_v3` asks that none is freed or
        changed before the stream is synchronised, and nothing is.
        """
        synchronize, stream = self._cuda.synchronize, self._open_stream()
        for done in range(0, repeats, QUEUED):
            self._enqueue_many(min(QUEUED, repeats - done))
            synchronize(stream)

    def device_times(self, repeats: int) -> DeviceTimes:
        """Enqueue time into an empty queue, then GPU time of inferences that are queued one behind the other.

        Where enqueuing takes as long as the GPU computes, the queue runs empty and `gpu_ms` is the enqueue time: the
        engine is bound by its launches, and a CUDA graph may help.
        """
        enqueue_ms, latency_ms = self._enqueue_ms(max(TIMED, min(repeats, QUEUED)))
        queued = max(1, min(QUEUED, int(QUEUED_MS / latency_ms) if latency_ms > 0 else QUEUED))
        if not self._events:
            self._events = [self._cuda.create_event() for _ in range(2)]
        start, end = self._events
        stream = self._open_stream()
        self._enqueue_many(min(LEAD, queued))
        self._cuda.record(start, stream)
        self._enqueue_many(queued)
        self._cuda.record(end, stream)
        gpu_ms = self._cuda.elapsed_ms(start, end) / queued
        return DeviceTimes(round(enqueue_ms, 6), round(gpu_ms, 6))

    def _enqueue_ms(self, repeats: int) -> Tuple[float, float]:
        """Mean host time of an enqueue call, and of an inference. The queue is empty before each: a full one blocks."""
        stream = self._open_stream()
        enqueue_s = total_s = 0.0
        done = 0
        while done < repeats and total_s * 1e3 < QUEUED_MS:
            begin_s = time.perf_counter()
            taken = self._enqueue()
            enqueue_s += time.perf_counter() - begin_s
            if not taken:
                raise self._refused()
            self._cuda.synchronize(stream)
            total_s += time.perf_counter() - begin_s
            done += 1
        return enqueue_s / done * 1e3, total_s / done * 1e3

    def _enqueue_many(self, count: int) -> None:
        """Without waiting. Of a refused one, those in front of it still use the buffers, so that they are waited for."""
        for _ in range(count):
            if not self._enqueue():
                refused = self._refused()
                if not refused.fatal:
                    self._cuda.synchronize(self._open_stream())
                raise refused

    def memory_bytes(self) -> Optional[int]:
        """The plan, which is mostly weights, TensorRT's memory for running it, and the inputs and outputs.

        Without the CUDA context and the libraries, which a process loads once for all engines.
        """
        for name in ("device_memory_size_v2", "device_memory_size"):  # the former from 10 on, alone in 11
            if hasattr(self._engine, name):
                ends = sum(port.size for port in self.ports)
                return self._plan_size + int(getattr(self._engine, name)) + ends
        return None

    def peak_memory_mb(self) -> Optional[float]:
        """As `memory_bytes`: everything is allocated when the engine is loaded."""
        size = self.memory_bytes()
        return None if size is None else round(size / 1e6, 6)

    def engine_bytes(self) -> int:
        """Of the plan."""
        return self._plan_size

    def ran_in(self, model: bytes) -> Optional[RanIn]:
        """From the inspector."""
        return layers.read_back(self.inspect(), onnx_file.read_graph(model), self._precision)

    def evaluate(self, inputs: bytes) -> bytes:
        if not all(port.is_linear for port in self.ports):
            raise MeasureError(
                "run", "an evaluation needs inputs and outputs in linear format", "evaluate a whole network"
            )
        kinds = [values.exchanged(port.element, self._types.get(port.name)) for port in self.ports]
        ports = list(zip(self.ports, self._pointers, kinds))
        sources = [each for each in ports if each[0].is_input]
        sizes = [values.exchanged_bytes(port.size, port.element, kind) for port, _, kind in sources]
        parts = elements.split(inputs, [port.name for port, _, _ in sources], sizes)
        try:
            for (port, pointer, kind), content in zip(sources, parts):
                self._cuda.to_device(pointer, values.to_port(content, port.element, kind))
        except (OverflowError, struct.error) as err:
            raise MeasureError(
                "run", "an input has a value that TensorRT's type cannot hold: {}".format(err), "check the data"
            )
        self.run(1)
        outputs = [
            values.from_port(self._cuda.from_device(pointer, port.size), port.element, kind)
            for port, pointer, kind in ports
            if not port.is_input
        ]
        self._fill_inputs()  # timing continues with the same numbers
        return b"".join(outputs)

    def layer_runs_ms(self, runs: int) -> Tuple[List[List[Tuple[str, float]]], List[float]]:
        """For each inference the name and time of each layer in order of execution, and the time of the whole."""
        profiler = adaptors.make_profiler(self._trt)
        context = self._create_context()  # a profiler would slow the one that is timed
        context.profiler = profiler
        reports = hasattr(context, "report_to_profiler")
        if reports:
            context.enqueue_emits_profile = False
        stream = self._open_stream()
        assert self._attachment is not None
        enqueue = self._attachment.attach(context, self._pointers, stream)
        layers_ms, total_ms = [], []
        for run in range(runs + 1):
            begin_s = time.perf_counter()
            if not enqueue():
                raise self._refused()
            self._cuda.synchronize(stream)
            taken_ms = (time.perf_counter() - begin_s) * 1e3
            if reports and not context.report_to_profiler():
                raise MeasureError("run", "TensorRT does not report layer times", "see agent.log")
            reported = profiler.take()
            if run > 0:  # the first is the warm-up
                layers_ms.append(reported)
                total_ms.append(taken_ms)
        return layers_ms, total_ms

    def layer_times_ms(self, runs: int = 10) -> List[Tuple[str, float]]:
        """Mean time of each layer, in order of execution. For people: the sum is not the engine's latency."""
        layers_ms, _ = self.layer_runs_ms(runs)
        return [(steps[0][0], sum(ms for _, ms in steps) / runs) for steps in zip(*layers_ms)]

    def inspect(self) -> Optional[Dict[str, Any]]:
        """What the inspector says of the engine, as TensorRT writes it; None before 8.2."""
        if not hasattr(self._engine, "create_engine_inspector"):
            return None
        inspector = self._engine.create_engine_inspector()
        text = inspector.get_engine_information(self._trt.LayerInformationFormat.JSON)
        return layers.parse(text)

    def layers(self, runs: int = 10) -> List[layers.Layer]:
        """What each layer is, the precision it runs in, and its time."""
        return layers.read(self.inspect(), self.layer_times_ms(runs))

    def close(self) -> None:
        """Free everything; in this order, because a graph uses the context, and that the engine and the buffers."""
        self._enqueue = _closed
        graph, self._graph = self._graph, None
        cuda, pointers, self._pointers = self._cuda, self._pointers, []
        events, self._events = self._events, []
        stream, self._stream = self._stream, None
        try:
            if graph is not None:
                cuda.destroy_graph(graph)
            self._context = self._attachment = self._engine = None
            for pointer in pointers:
                cuda.free(pointer)
            for event in events:
                cuda.destroy_event(event)
            if stream is not None:
                cuda.destroy_stream(stream)
        except cuda_layer.CudaError as err:
            adaptors.to_log("clean-up: " + err.message)  # CUDA has failed; that was reported where it happened
        finally:
            self._context = self._attachment = self._engine = None

    def __del__(self) -> None:
        self.close()

    def _open_stream(self) -> int:
        assert self._stream is not None, "the engine is closed"
        return self._stream

    def _create_context(self) -> Any:
        context = self._engine.create_execution_context()
        if context is None:
            raise failure(
                self._trt.__version__,
                "cannot create an execution context",
                self._log.take(),
                "free memory on the board",
            )
        return context

    def _capture(self) -> None:
        """From here on, an inference is one launch of a CUDA graph."""
        stream, enqueue = self._open_stream(), self._enqueue
        self.run(1)  # TensorRT prepares itself in the first inference, which cannot be captured

        def enqueue_once() -> None:
            if not enqueue():
                raise self._refused()

        try:
            self._graph = graph = self._cuda.capture(stream, enqueue_once)
        except MeasureError as err:
            if err.fatal:
                raise
            raise MeasureError(
                "load",
                "the engine cannot be captured as a CUDA graph: " + err.message,
                "measure it without --cuda-graph",
            )
        launch = self._cuda.launch

        def launch_once() -> bool:
            launch(graph, stream)
            return True

        self._enqueue = launch_once

    def _refused(self) -> MeasureError:
        return failure(self._trt.__version__, "did not accept the inference", self._log.take(), code="run")

    def _fill_inputs(self) -> None:
        for port, pointer in zip(self.ports, self._pointers):
            if port.is_input:
                self._cuda.to_device(pointer, values.seeded(port.element, port.size))


def _closed() -> bool:
    """In place of `enqueue` before an engine is ready and after it is closed."""
    return False

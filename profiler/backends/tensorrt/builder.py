"""From an ONNX model to a serialized engine. Nothing here loads or runs one.

Where the versions differ, the attributes that exist decide:
    BuilderFlag.FP16         present: the builder may use the precision; absent (11): the graph has the precision
    set_memory_pool_limit    else max_workspace_size (before 8.4)
    nvtx_verbosity           present: built in detail, and silent while it is timed (8.5.2 and later)
    IProgressMonitor         present: progress while building goes to the log (10 and later)
"""

import re
import time
from typing import Any, Callable, List, NamedTuple, Optional

from profiler.backends import onnx_file
from profiler.backends.tensorrt import adaptors, cache, network, rules
from profiler.backends.tensorrt.failures import failure
from profiler.fields import JsonObject

WORKSPACE_BYTES = 512 * 2**20  # enough for one block of a mobile network, and small on a board of 4 GB
WORKSPACE_SHARE = 8  # at most 1/8 of the memory; a fixed share, so that equal boards build alike
ANY_MODEL_SHARE = 4  # 1/4 of the memory: VGG-19 needs more than 512 MiB
_NO_OPERATOR = re.compile("No importer registered|Plugin not found")  # the latter from 10 on
PRECISIONS = ("fp32", "fp16", "int8")


def usual_workspace_bytes(memory_bytes: int, any_model: bool) -> int:
    """The workspace of a build on a board with this much memory.

    Args:
        any_model: not only operators and networks of a space for mobile devices.
    """
    if any_model:
        return memory_bytes // ANY_MODEL_SHARE
    return min(WORKSPACE_BYTES, memory_bytes // WORKSPACE_SHARE)


def by_flag(trt: Any) -> bool:
    """Whether a builder flag permits a precision; else the graph alone decides."""
    return hasattr(trt.BuilderFlag, "FP16")


class BuildSettings(NamedTuple):
    """What decides how an engine is built, besides the model and the machine."""

    precision: str
    flags: List[str]  # names of the builder flags that permit the precision; none where the graph has it
    precision_by: str  # flag or graph
    workspace_bytes: int
    profiling_verbosity: str

    @classmethod
    def choose(cls, trt: Any, precision: str, workspace_bytes: int) -> "BuildSettings":
        permitted = {"fp32": [], "fp16": ["FP16"], "int8": ["FP16", "INT8"]}  # what has no INT8 kernel may run in FP16
        return cls(
            precision=precision,
            flags=permitted[precision] if by_flag(trt) else [],
            precision_by="flag" if by_flag(trt) else "graph",
            workspace_bytes=workspace_bytes,
            profiling_verbosity=_verbosity(trt),
        )

    def to_json(self) -> JsonObject:
        return dict(self._asdict())


def _verbosity(trt: Any) -> str:
    """In detail only where the timed context can be silenced: detailed NVTX ranges make every enqueue slower."""
    if hasattr(trt.IExecutionContext, "nvtx_verbosity"):
        return "DETAILED"
    return "LAYER_NAMES_ONLY" if hasattr(trt.ProfilingVerbosity, "LAYER_NAMES_ONLY") else "DEFAULT"


def refuse_unfit(trt: Any, builder: Any, precision: str, device: str) -> None:
    """Refuse a board that would compute in another precision than requested, before hours are spent."""
    flags = (("fp16", "platform_has_fast_fp16"), ("int8", "platform_has_fast_int8"))
    slow = [name for name, fast in flags if hasattr(builder, fast) and not getattr(builder, fast)]
    rules.refuse_unfit(slow, precision, device)


def build(
    trt: Any,
    log: Any,
    model: bytes,
    settings: BuildSettings,
    timing_cache: Optional[str],
    progress: Callable[[str], None],
    subject: str = "model",
) -> bytes:
    """The serialized engine of an ONNX model.

    Args:
        log: of `adaptors.make_log`; TensorRT keeps a pointer to the first it is given.
        timing_cache: path of the file to start from and to extend; None for none.
        progress: called with one line about the progress of the build; `subject` names the model in it.

    Raises:
        MeasureError: code `load`: the model cannot be parsed, or not built in this precision; `memory`: no room.
    """
    started_s = time.monotonic()
    log.take()  # earlier messages are not about this model
    builder = trt.Builder(log)
    definition = builder.create_network(_network_flags(trt))
    parser = trt.OnnxParser(definition, log)  # it owns the weights: it must outlive the build
    if not parser.parse(model):
        messages = _parser_errors(parser, model) or log.take()
        raise failure(
            trt.__version__, "cannot parse the model", messages,
            "export the model without this operator, or with an opset that this TensorRT reads (a lower --opset)",
        )  # fmt: skip
    network.refuse_other_precision(trt, definition, settings.precision)
    network.free_inner_edges(trt, definition, model)
    config = builder.create_builder_config()
    _configure(trt, config, settings)
    if hasattr(trt, "IProgressMonitor"):
        config.progress_monitor = adaptors.make_monitor(trt, "building " + subject, progress)
    if timing_cache is not None:
        _start_timing_cache(config, timing_cache)
    what = "cannot build the model in {}".format(settings.precision)
    try:
        plan = builder.build_serialized_network(definition, config)
    except Exception as err:
        raise failure(trt.__version__, what, [log.explain(err)])
    finally:  # after a failure too: the next try need not time the same kernels
        if timing_cache is not None:
            _save_timing_cache(config, timing_cache, progress)
    if plan is None:
        raise failure(trt.__version__, what, log.take())
    content = bytes(plan)
    progress("built {} in {:.1f} s: {} bytes".format(subject, time.monotonic() - started_s, len(content)))
    return content


def _network_flags(trt: Any) -> int:
    flag = getattr(
        trt.NetworkDefinitionCreationFlag, "EXPLICIT_BATCH", None
    )  # absent in 11, where every network has it
    return 0 if flag is None else 1 << int(flag)


def _configure(trt: Any, config: Any, settings: BuildSettings) -> None:
    if hasattr(config, "set_memory_pool_limit"):
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, settings.workspace_bytes)
    else:
        config.max_workspace_size = settings.workspace_bytes
    for name in settings.flags:
        config.set_flag(getattr(trt.BuilderFlag, name))
    config.profiling_verbosity = getattr(trt.ProfilingVerbosity, settings.profiling_verbosity)


def _start_timing_cache(config: Any, path: str) -> None:
    """Start from the timings of earlier builds on this device and version; from none if they are unusable."""
    try:
        with open(path, "rb") as file:
            earlier = file.read()
    except OSError:
        earlier = b""
    for content in (earlier, b"") if earlier else (b"",):
        timings = config.create_timing_cache(content)
        if timings is not None and config.set_timing_cache(timings, False):
            return


def _save_timing_cache(config: Any, path: str, progress: Callable[[str], None]) -> None:
    timings = config.get_timing_cache()
    content = None if timings is None else timings.serialize()
    if content is None:
        return
    try:
        cache.replace(path, bytes(content))
    except OSError as err:
        progress("the timing cache is not kept: {}".format(err))


def _parser_errors(parser: Any, model: bytes) -> List[str]:
    """What the parser says, with the node, its operator and its opset; TensorRT names them from 10 on, if at all."""
    try:
        graph: Optional[onnx_file.Graph] = onnx_file.read_graph(model)
    except ValueError:
        graph = None  # the parser says so
    return [_parser_error(parser.get_error(index), graph) for index in range(parser.num_errors)]


def _parser_error(error: Any, graph: Optional[onnx_file.Graph]) -> str:
    index, said = error.node(), error.desc()
    if _NO_OPERATOR.search(said):
        said = "it has no such operator ({})".format(said)
    if graph is None or not 0 <= index < len(graph.nodes):
        return "node {}: {}".format(index, said)
    node = graph.nodes[index]
    opset = graph.opsets.get(node.domain)
    operator = "{} of {}".format(node.op_type, node.domain or "ai.onnx")
    return "node {} ({}{}): {}".format(node.label, operator, "" if opset is None else " opset {}".format(opset), said)

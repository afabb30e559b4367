"""The layers of a model from ONNX Runtime's own profile, from 1.10 on: times in microseconds, a kernel at a time.

The trace is a list of events. In each run (`model_run`) the kernels (`..._kernel_time`) follow one another; those of a
subgraph lie within the kernel of the node that has it, and are part of its time. 1.10 writes no types and shapes into the
trace: then those of weights, inputs and outputs are known from the optimised model, which lists the nodes in order.
"""

import bisect
import collections
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

from profiler.backends import fusion, onnxruntime_graph
from profiler.backends.layer_profile import ProfiledLayer, distinct
from profiler.backends.onnx_file import Graph, Node
from profiler.errors import MeasureError
from profiler.fields import parse

KERNEL = "_kernel_time"
_RUN = "model_run"
_TYPES = {"float": "float32", "double": "float64"}  # other types have numpy's names


class Kernel(NamedTuple):
    name: str
    op_type: str
    ms: float
    inputs: Optional[List[Tuple[str, List[int]]]]  # (element type, shape); None in 1.10
    outputs: Optional[List[Tuple[str, List[int]]]]


class Run(NamedTuple):
    ms: float
    kernels: List[Kernel]


def read_runs(content: bytes) -> List[Run]:
    """The runs of a trace, in order, with the kernels of the outermost graph.

    Raises:
        MeasureError: this is no trace.
    """
    try:
        return _runs(parse(content))
    except (AttributeError, KeyError, TypeError, ValueError) as err:
        raise MeasureError("run", "ONNX Runtime wrote a profile that cannot be read: {}".format(err), "see agent.log")


def _runs(events: Any) -> List[Run]:
    if not isinstance(events, list):
        raise ValueError("it is no list of events")
    whole = [_span(event) for event in events if event.get("name") == _RUN]
    nodes = [_span(event) for event in events if str(event.get("name")).endswith(KERNEL)]
    nodes.sort(key=lambda span: (span[0], -span[1]))
    begins = [span[0] for span in nodes]
    runs = []
    for begin, end, _ in sorted(whole, key=lambda span: span[0]):
        kernels: List[Kernel] = []
        after = begin
        for start, stop, node in nodes[bisect.bisect_left(begins, begin) : bisect.bisect_right(begins, end)]:
            if start >= after and stop <= end:  # else of a subgraph
                kernels.append(_kernel(node))
                after = stop
        runs.append(Run((end - begin) / 1e3, kernels))
    return runs


def equal_runs(runs: Sequence[Run]) -> Tuple[List[Run], List[str]]:
    """The runs of the same kernels as most, and what was left out.

    Raises:
        MeasureError: there is none.
    """
    sequences = [tuple(kernel.name for kernel in run.kernels) for run in runs]
    if not any(sequences):
        raise MeasureError("run", "ONNX Runtime's profile has no kernels", "see agent.log")
    usual = collections.Counter(sequences).most_common(1)[0][0]
    kept = [run for run, sequence in zip(runs, sequences) if sequence == usual]
    left = len(runs) - len(kept)
    return kept, ["{} of {} runs executed other nodes and were left out".format(left, len(runs))] if left else []


def _span(event: Dict[str, Any]) -> Tuple[int, int, Dict[str, Any]]:
    return int(event["ts"]), int(event["ts"]) + int(event["dur"]), event


def _kernel(event: Dict[str, Any]) -> Kernel:
    args = event.get("args", {})
    name = str(event["name"])[: -len(KERNEL)]
    inputs, outputs = _tensors(args.get("input_type_shape")), _tensors(args.get("output_type_shape"))
    return Kernel(name, str(args.get("op_name", "")), int(event["dur"]) / 1e3, inputs, outputs)


def _tensors(found: object) -> Optional[List[Tuple[str, List[int]]]]:
    if not isinstance(found, list):
        return None
    return [(_TYPES.get(kind, kind), shape) for tensor in found for kind, shape in tensor.items()]


def layers(runs: Sequence[Run], sent: Graph, optimised: Graph) -> Tuple[List[ProfiledLayer], List[str]]:
    """The layers of a model, and what a reader must know of them.

    Args:
        sent: the model as it was sent. optimised: as ONNX Runtime runs it.
    """
    first = runs[0].kernels
    typed = onnxruntime_graph.with_types(optimised)
    nodes = _nodes_of(first, optimised)
    warnings = ["some layers could not be traced back to nodes of the model"] if None in nodes else []
    sources = dict(zip(map(id, optimised.nodes), fusion.origins(sent, optimised)))
    names = distinct([kernel.name if node is None else node.label for kernel, node in zip(first, nodes)])
    found = []
    for at, (kernel, node) in enumerate(zip(first, nodes)):
        inputs = onnxruntime_graph.edges(kernel.inputs, node, typed, 0)
        outputs = onnxruntime_graph.edges(kernel.outputs, node, typed, 1)
        found.append(
            ProfiledLayer(
                name=names[at],
                type=kernel.op_type,
                precision=onnxruntime_graph.precision_of(kernel.op_type, inputs, outputs),
                times_ms=[run.kernels[at].ms for run in runs],
                onnx_nodes=[] if node is None else sources[id(node)],
                is_reformat=None if node is None else fusion.is_move(node, sent),
                inputs=inputs,
                outputs=outputs,
            )
        )
    return found, warnings


def _nodes_of(kernels: Sequence[Kernel], optimised: Graph) -> List[Optional[Node]]:
    """The node of each kernel: by its name, or where it has none, by its place among the nodes of its type."""
    named = {node.name: node for node in optimised.nodes if node.name}
    unnamed: Dict[str, List[Node]] = {}
    for node in optimised.nodes:
        if not node.name:
            unnamed.setdefault(node.op_type, []).append(node)
    left = collections.Counter(kernel.op_type for kernel in kernels if kernel.name not in named)
    places = {op_type: iter(nodes) for op_type, nodes in unnamed.items()}
    found: List[Optional[Node]] = []
    for kernel in kernels:
        candidates = unnamed.get(kernel.op_type, [])
        if kernel.name in named:
            found.append(named[kernel.name])
        elif len(candidates) == left[kernel.op_type] > 0:
            found.append(next(places[kernel.op_type]))
        else:
            found.append(None)
    return found

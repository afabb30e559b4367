"""What the nodes of a graph that ONNX Runtime optimised compute in. It lists no types between nodes."""

from typing import List, Optional, Sequence, Tuple

from profiler.backends import fusion, ran_in
from profiler.backends.layer_profile import TensorInfo, precision_name
from profiler.backends.onnx_file import Graph, Node, Value

_CONVERSIONS = ("Cast", "DequantizeLinear", "DynamicQuantizeLinear", "QuantizeLinear")  # in no one precision
_WEIGHTS_ONLY = ("MatMulNBits",)  # weights are packed in 8 bits, and computed with in the type of the data
_EIGHT_BITS = ("int8", "uint8")
_IN_EIGHT_BITS = ("QAttention", "QGemm", "QLinear")  # how the names of operators begin that compute in them
# How names of values begin that ONNX Runtime computes in float32 instead of float16; the second in 1.10.
_IN_FLOAT = ("InsertedPrecisionFreeCast_", "InsertedCast_")


def read_back(sent: Graph, optimised: Graph, precision: str) -> ran_in.RanIn:
    """In what the convolutions and matrix products of a model run.

    Args:
        sent: the model as it was sent. optimised: as ONNX Runtime runs it. precision: of the job.
    """
    typed = with_types(optimised)
    return ran_in.collect(
        [
            (precision_of(node.op_type, edges(None, node, typed, 0), edges(None, node, typed, 1)), labels)
            for node, labels in zip(optimised.nodes, fusion.origins(sent, optimised))
            if ran_in.is_heavy(node.op_type)
        ],
        sent,
        precision,
    )


def with_types(graph: Graph) -> Graph:
    """The graph with the types of its dequantised values: those of their scales."""
    found = {
        node.outputs[0]: Value(graph.values[node.inputs[1]].element, None)
        for node in graph.nodes
        if node.op_type == "DequantizeLinear" and len(node.inputs) > 1 and node.inputs[1] in graph.values
    }
    return graph._replace(values=dict(found, **graph.values))


def edges(
    seen: Optional[List[Tuple[str, List[int]]]], node: Optional[Node], graph: Graph, side: int
) -> List[TensorInfo]:
    """Name, type and shape of what a kernel reads or writes; the trace leaves out what a node leaves out."""
    names = [] if node is None else [name for name in (node.inputs, node.outputs)[side] if name]
    values = [graph.values.get(name, Value("float32" if name.startswith(_IN_FLOAT) else None, None)) for name in names]
    if seen is None:
        return [
            TensorInfo(name, precision_name(value.element), _whole(value.shape)) for name, value in zip(names, values)
        ]
    found, at = [], 0
    for kind, shape in seen:  # weights that a kernel has packed are missing
        while at < len(names) and _whole(values[at].shape) not in (shape, None):
            at += 1
        found.append(TensorInfo(names[at] if at < len(names) else "", precision_name(kind), shape))
        at += 1
    return found


def _whole(shape: Optional[Sequence[Optional[int]]]) -> Optional[List[int]]:
    """A shape of which every side is known."""
    sides = [side for side in shape or () if side is not None]
    return None if shape is None or len(sides) != len(shape) else sides


def precision_of(op_type: str, inputs: Sequence[TensorInfo], outputs: Sequence[TensorInfo]) -> Optional[str]:
    """What a kernel computes in: 8 bits where its data or its weights have them, else the type of its data."""
    if op_type in _CONVERSIONS:
        return None
    types = [tensor.type for tensor in inputs[:2] if tensor.type is not None]
    if op_type.startswith(_IN_EIGHT_BITS):
        return "int8"
    if op_type not in _WEIGHTS_ONLY and any(kind in _EIGHT_BITS for kind in types):
        return "int8"
    return next(iter(types + [tensor.type for tensor in outputs]), None)

"""In what the convolutions and matrix products of an engine run, against what its model asks for.

A node asks for 8 bits where its data and its weights come from DequantizeLinear, or where its operator computes in 8 bits.
The others of a quantised model (squeeze-and-excitation, for example) are in float by design: they are counted, and are
no fall-backs. A job of fp16 asks for it of every node, and of a model in half precision of the nodes with such weights.
"""

import re
from typing import Dict, Iterable, List, NamedTuple, Optional, Sequence, Set, Tuple

from profiler.backends.onnx_file import Graph, Node

UNKNOWN = "unknown"
_HEAVY = re.compile("Conv|MatMul|Gemm")
_IN_EIGHT_BITS = re.compile("QLinear|QGemm|Integer$")
_BITS = {"fp64": 64, "fp32": 32, "bf16": 16, "fp16": 16, "fp8": 8, "int8": 8, "uint8": 8, "int4": 4, "uint4": 4}


class RanIn(NamedTuple):
    counts: Dict[str, int]  # fp32, fp16, int8, ... or unknown -> convolutions and matrix products of the engine
    fell_back: List[str]  # labels of the model's nodes that run in more bits than they ask for, in the model's order


def is_heavy(op_type: str) -> bool:
    """Whether an operator of ONNX or of ONNX Runtime is a convolution or a matrix product."""
    return _HEAVY.search(op_type) is not None


def asking(sent: Graph, precision: str) -> Set[str]:
    """The labels of the convolutions and matrix products of a model that ask for the precision of a job."""
    heavy = [node for node in sent.nodes if is_heavy(node.op_type)]
    if precision == "int8":
        dequantised = {name for node in sent.nodes if node.op_type == "DequantizeLinear" for name in node.outputs}
        return {
            node.label
            for node in heavy
            if _IN_EIGHT_BITS.search(node.op_type) or (len(node.inputs) > 1 and dequantised.issuperset(node.inputs[:2]))
        }
    if precision == "fp16":
        halves = {node.label for node in heavy if _has_half_weights(node, sent)}
        return halves or {node.label for node in heavy}
    return set()


def collect(kernels: Iterable[Tuple[Optional[str], Sequence[str]]], sent: Graph, precision: str) -> RanIn:
    """What the kernels of an engine amount to.

    Args:
        kernels: of each convolution and matrix product, what it computes in (None: not known) and the labels of the
            nodes of `sent` that it computes.
        precision: of the job.
    """
    asked = asking(sent, precision)
    counts: Dict[str, int] = {}
    fell_back: Set[str] = set()
    for found, labels in kernels:
        counts[found or UNKNOWN] = counts.get(found or UNKNOWN, 0) + 1
        if _BITS.get(found or "", 0) > _BITS.get(precision, 64):
            fell_back.update(asked.intersection(labels))
    return RanIn(counts, [node.label for node in sent.nodes if node.label in fell_back])


def _has_half_weights(node: Node, sent: Graph) -> bool:
    return any(name in sent.values and sent.values[name].element == "float16" for name in node.inputs[1:2])

"""A graph as a GPU computes it in half precision: every value rounded to half between nodes, sums within a node in float32.

ONNX Runtime on a CPU computes a graph of float16 in float32 and rounds only where types force it to, so that overflow
(above 65504) and rounding between nodes do not show. The agent has the same for any model; it imports nothing of ours.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def rounded_to_half(floats: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with its weights, inputs and all values between nodes rounded to half; types stay float32.

    Args:
        floats: as `graph.network_model` writes it in float32: every value that a node computes is float32.
    """
    rounded = onnx.ModelProto()
    rounded.CopyFrom(floats)
    graph = rounded.graph
    for tensor in graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            with np.errstate(over="ignore"):  # becomes infinite, as on the GPU
                values = numpy_helper.to_array(tensor).astype(np.float16).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    inputs = {info.name: f"{info.name}.rounded" for info in graph.input}
    nodes = [node for name, target in inputs.items() for node in _rounding(name, target)]
    for node in floats.graph.node:
        exact = onnx.NodeProto()
        exact.CopyFrom(node)
        exact.input[:] = [inputs.get(name, name) for name in node.input]
        exact.output[:] = [f"{name}.exact" for name in node.output]
        nodes.append(exact)
        for name in node.output:
            nodes += _rounding(f"{name}.exact", name)
    del graph.node[:]
    graph.node.extend(nodes)
    return rounded


def _rounding(source: str, target: str) -> list[onnx.NodeProto]:
    half = f"{target}.half"
    return [
        helper.make_node("Cast", [source], [half], to=TensorProto.FLOAT16),
        helper.make_node("Cast", [half], [target], to=TensorProto.FLOAT),
    ]

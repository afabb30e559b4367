"""A model as a GPU computes it in half precision: every value rounded to half between nodes, sums within a node in float32.

ONNX Runtime on a CPU computes a graph of float16 in float32 and rounds between its kernels only where types force it to, so
that neither the loss of digits nor an overflow (above 65504) shows. Here each value is converted to half and back.
"""

from typing import Any, Dict, List, Set

from profiler.errors import MeasureError

# Inputs that are settings and no data: rounding them would change shapes.
_SETTINGS = ("NonMaxSuppression", "Range", "Resize", "Upsample")


def in_half_precision(model: bytes) -> bytes:
    """The model in float32 with its values rounded to half; its inputs and outputs of float16 become float32.

    Raises:
        MeasureError: it has branches or loops, in which values are not rounded.
    """
    import onnx

    loaded = onnx.load_model_from_string(model)
    if any(attribute.HasField("g") or attribute.graphs for node in loaded.graph.node for attribute in node.attribute):
        raise MeasureError(
            "run",
            "a virtual board does not evaluate a model with branches or loops in half precision",
            "evaluate it with --precision fp32",
        )
    _widen(onnx, loaded.graph)
    floats = _float_tensors(onnx, loaded)
    _round_values(onnx, loaded.graph, floats)
    return bytes(loaded.SerializeToString())


def _widen(onnx: Any, graph: Any) -> None:
    """Every float16 becomes float32; constants keep the value that half precision has of them."""
    half, single = onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT
    settings = {name for node in graph.node if node.op_type in _SETTINGS for name in node.input[1:]}
    for tensor in graph.initializer:
        if tensor.name not in settings:
            _round_constant(onnx, tensor)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.TENSOR and not settings.intersection(node.output):
                _round_constant(onnx, attribute.t)
            elif attribute.name in ("dtype", "to") and attribute.i == half:
                attribute.i = single
    for info in list(graph.input) + list(graph.output):
        if info.type.tensor_type.elem_type == half:
            info.type.tensor_type.elem_type = single
    del graph.value_info[:]


def _round_constant(onnx: Any, tensor: Any) -> None:
    if tensor.data_type in (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16):
        import numpy

        with numpy.errstate(over="ignore"):
            rounded = onnx.numpy_helper.to_array(tensor).astype(numpy.float16).astype(numpy.float32)
        tensor.CopyFrom(onnx.numpy_helper.from_array(rounded, tensor.name))


def _float_tensors(onnx: Any, loaded: Any) -> Set[str]:
    graph = onnx.shape_inference.infer_shapes(loaded).graph
    infos = list(graph.input) + list(graph.value_info) + list(graph.output)
    return {info.name for info in infos if info.type.tensor_type.elem_type == onnx.TensorProto.FLOAT}


def _round_values(onnx: Any, graph: Any, floats: Set[str]) -> None:
    constants = {tensor.name for tensor in graph.initializer}
    nodes: List[Any] = []
    renamed: Dict[str, str] = {}  # an input of the model -> the same, rounded

    def rounded(source: str, target: str) -> None:
        half = target + ".half"
        nodes.append(onnx.helper.make_node("Cast", [source], [half], to=onnx.TensorProto.FLOAT16))
        nodes.append(onnx.helper.make_node("Cast", [half], [target], to=onnx.TensorProto.FLOAT))

    for info in graph.input:
        if info.name in floats - constants:
            renamed[info.name] = info.name + ".rounded"
            rounded(info.name, renamed[info.name])
    for node in graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        outputs = [name for name in node.output if name in floats]
        node.output[:] = [name + ".exact" if name in outputs else name for name in node.output]
        nodes.append(node)
        for name in outputs:
            rounded(name + ".exact", name)
    # A copy: the nodes above are the graph's own.
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)

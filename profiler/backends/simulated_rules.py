"""What TensorRT on a board refuses of a model, for its virtual twin.

Two rules are the parser's own. Its messages in 8.5, 10 and TensorRT for RTX 1.7.1: "Non-zero zero point is not supported",
and of a DequantizeLinear of int32, as ONNX Runtime quantises a bias, "only activation types allowed as input to this layer".
"""

from typing import Any, FrozenSet

from profiler.backends.tensorrt import rules
from profiler.errors import MeasureError
from profiler.simulation import TensorRTSpec

_SYMMETRIC = (
    "quantise it for TensorRT: symmetric int8 with zero points 0 and biases in float32 (the dialect tensorrt); graphs "
    "quantised for ONNX Runtime run on a CPU alone"
)


def refuse(loaded: Any, computes_in: FrozenSet[str], precision: str, tensorrt: TensorRTSpec) -> None:
    """Refuse what this TensorRT does not read, or would not compute in the job's precision.

    Args:
        loaded: onnx.ModelProto. computes_in: as in `rules.refuse_other_precision`.

    Raises:
        MeasureError: code `load`.
    """
    opset = max([each.version for each in loaded.opset_import if each.domain in ("", "ai.onnx")] or [0])
    rules.refuse_other_opset(tensorrt.version, tensorrt.opset, opset)
    conversions = [node for node in loaded.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    _refuse_conversions(loaded.graph, conversions, opset, tensorrt.version)
    rules.refuse_other_precision(bool(conversions), set(computes_in), precision, tensorrt.version, tensorrt.by_flag)


def _refuse_conversions(graph: Any, conversions: Any, opset: int, version: str) -> None:
    import onnx

    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in conversions:
        zero = constants.get(node.input[2]) if len(node.input) > 2 else None
        if zero is not None and onnx.numpy_helper.to_array(zero).any():
            said = "non-zero zero points are not supported"
        elif node.input[0] in constants and constants[node.input[0]].data_type == onnx.TensorProto.INT32:
            said = "an input of type int32 is not supported"
        else:
            continue
        raise MeasureError(
            "load",
            "TensorRT {} cannot parse the model: node {} ({} of ai.onnx opset {}): {}".format(
                version, node.name or node.output[0], node.op_type, opset, said
            ),
            _SYMMETRIC,
        )

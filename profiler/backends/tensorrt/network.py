"""What a parsed network computes in, and the formats of its edges."""

from typing import Any, List, Set

from profiler.backends import onnx_file
from profiler.backends.tensorrt import rules

# Key in an ONNX model's metadata. Its value: the names, separated by spaces, of inputs and outputs that are activations
# inside a network, in whatever format suits its kernels.
INNER_EDGES = "lightnas_edge.inner_edges"


def refuse_other_precision(trt: Any, network: Any, precision: str) -> None:
    """Refuse a graph in another precision than requested.

    Raises:
        MeasureError: code `load`; the remedy names the precision that fits.
    """
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    quantised = any(layer.type in (trt.LayerType.QUANTIZE, trt.LayerType.DEQUANTIZE) for layer in layers)
    by_flag = hasattr(trt.BuilderFlag, "FP16")
    rules.refuse_other_precision(quantised, _precisions(trt, layers), precision, trt.__version__, by_flag)


def _precisions(trt: Any, layers: List[Any]) -> Set[str]:
    """fp16, fp32 or both: what the convolutions compute in.

    A network in half precision has Cast nodes and float32 at its edges, so other layers say nothing about it. Where
    there is no convolution and no matrix product, every layer counts.
    """
    heavy = (trt.LayerType.CONVOLUTION, trt.LayerType.DECONVOLUTION, trt.LayerType.MATRIX_MULTIPLY)
    chosen = [layer for layer in layers if layer.type in heavy] or layers
    types = [layer.get_output(index).dtype for layer in chosen for index in range(layer.num_outputs)]
    names = {trt.DataType.HALF: "fp16", trt.DataType.FLOAT: "fp32"}
    return {names[kind] for kind in types if kind in names}


def free_inner_edges(trt: Any, network: Any, model: bytes) -> None:
    """Let TensorRT choose the formats of inputs and outputs that are activations inside a network.

    Such an operator pays for no reformatting, as inside a network. The model names them in its metadata (INNER_EDGES);
    the others stay linear, which is the default.
    """
    inner = onnx_file.read_metadata(model).get(INNER_EDGES, "").split()
    edges = [network.get_input(index) for index in range(network.num_inputs)]
    edges += [network.get_output(index) for index in range(network.num_outputs)]
    for edge in edges:
        if edge.name in inner:
            edge.allowed_formats = sum(1 << int(kind) for kind in _formats(trt, edge.dtype))


def _formats(trt: Any, data_type: Any) -> List[Any]:
    """The formats that every version has for a type, by NVIDIA's documentation of TensorFormat: one more fails a build."""
    by_flag = hasattr(trt.BuilderFlag, "FP16")
    return {
        trt.DataType.HALF: [trt.TensorFormat.LINEAR, trt.TensorFormat.CHW2, trt.TensorFormat.HWC8],
        trt.DataType.FLOAT: [trt.TensorFormat.LINEAR, trt.TensorFormat.HWC],
        # HWC16 in 8 bits came within 10; from 11 on it is the one that convolutions use.
        trt.DataType.INT8: [trt.TensorFormat.LINEAR, trt.TensorFormat.CHW4, trt.TensorFormat.CHW32]
        + ([] if by_flag else [trt.TensorFormat.HWC16]),
    }.get(data_type, [trt.TensorFormat.LINEAR])

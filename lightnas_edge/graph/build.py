"""Builds ONNX models node by node with `onnx.helper`; no torch, no exporter.

Why not `torch.onnx`: the graph of an operator that goes into the LUT and the graph of the network that is deployed
come from the same lines below, so the table measures exactly what will run. The opset is ours to choose as well:
JetPack 4.6 parses 13, the current exporter of PyTorch starts at 18.

Batch norm never appears: it is folded into the convolution before it, as every runtime would do. Batch and image
size are fixed in the graph, because engines are built and measured for one shape.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from lightnas_edge.errors import ExportError
from lightnas_edge.space import SE_REDUCTION, Architecture, Operator, ShapedOperator, Space

DEFAULT_OPSET = 13  # read by every runtime of lightnas_edge/deploy/targets.py, JetPack 4.6 included
MIN_OPSET = 11  # Clip takes its bounds as inputs since 11; before, the graph would need other nodes
MAX_OPSET = 21  # none of our nodes changes meaning up to here
MAX_IR_VERSION = 7  # what onnxruntime 1.10 documents; newer IR versions add only features that these graphs do not use

_WEIGHT_SOURCE = Callable[[str, tuple[int, ...], float], np.ndarray]


def operator_model(
    shaped: ShapedOperator, *, batch: int = 1, opset: int = DEFAULT_OPSET, seed: int = 0
) -> onnx.ModelProto:
    """An operator at a shape as a model of its own, to be measured; its weights are random.

    Input `input` (batch, in_channels, input_size, input_size), output `output`; float32.

    Raises:
        ExportError: an identity has no graph, or the opset or batch is out of range.
    """
    if shaped.is_identity:
        raise ExportError(f"{shaped.key} is the identity: it adds no node to a network, so there is nothing to measure")
    graph = _Graph(_random_weights(shaped.key, seed))
    last = _add_block(graph, "operator", shaped, "input")
    return graph.model(shaped.key, _image_shape(shaped, batch), last, _output_shape(shaped, batch), opset)


def network_model(
    space: Space,
    architecture: Architecture,
    *,
    batch: int = 1,
    opset: int = DEFAULT_OPSET,
    weights: Mapping[str, np.ndarray] | None = None,
    seed: int = 0,
) -> onnx.ModelProto:
    """A whole network: images (batch, 3, size, size) to logits (batch, classes), float32.

    Args:
        weights: arrays by the names of `weight_shapes`, batch norm folded in. None draws random ones from `seed`,
            scaled so that activations neither die nor grow, and the network can be measured before it is trained.

    Raises:
        ArchitectureError: the architecture is not of this space.
        ExportError: weights are missing, unknown, of another shape or not finite: all of them in one message.
    """
    if weights is None:
        graph = _Graph(_random_weights(str(architecture), seed))
    else:
        graph = _Graph(_given_weights(space, architecture, weights))
    last = "input"
    for name, shaped in _named_chain(space, architecture):
        last = _add_block(graph, name, shaped, last)
    return graph.model(space.name, _image_shape(space.stem, batch), last, _output_shape(space.head, batch), opset)


def weight_shapes(space: Space, architecture: Architecture) -> dict[str, tuple[int, ...]]:
    """Names and shapes of all weights of a network, in graph order, batch norm folded in.

    `stem.conv.weight`, `layers.3.expand.bias`, `layers.3.squeeze.reduce.weight`, `head.classifier.weight`, ...
    """
    shapes: dict[str, tuple[int, ...]] = {}

    def note(name: str, shape: tuple[int, ...], gain: float) -> np.ndarray:
        shapes[name] = shape
        return np.zeros(0, np.float32)

    graph = _Graph(note)
    for name, shaped in _named_chain(space, architecture):
        _add_block(graph, name, shaped, name)
    return shapes


def model_bytes(model: onnx.ModelProto) -> bytes:
    """The file's content: the same bytes, so the same SHA-256, for the same model."""
    return bytes(model.SerializeToString(deterministic=True))


# -- blocks --------------------------------------------------------------------------------------------------


def _named_chain(space: Space, architecture: Architecture) -> list[tuple[str, ShapedOperator]]:
    chain = list(space.chain(architecture))
    names = ["stem", "first", *(f"layers.{layer}" for layer in range(len(space.layers))), "head"]
    return list(zip(names, chain, strict=True))


def _add_block(graph: _Graph, name: str, shaped: ShapedOperator, x: str) -> str:
    """Append the nodes of one block that reads tensor `x`; returns the name of the tensor it writes."""
    c_in, c_out = shaped.in_channels, shaped.out_channels
    if shaped.is_identity:
        return x
    if shaped.block in ("stem", "skip"):
        kernel = 3 if shaped.block == "stem" else 1
        x = graph.conv(f"{name}.conv", x, c_in, c_out, kernel=kernel, stride=shaped.stride)
        return graph.clip(f"{name}.conv", x)
    if shaped.block == "head":
        wide, features = shaped.hidden_channels
        x = graph.clip(f"{name}.conv", graph.conv(f"{name}.conv", x, c_in, wide))
        x = graph.node("GlobalAveragePool", f"{name}.pool", [x])
        x = graph.node("Flatten", f"{name}.flatten", [x], axis=1)
        x = graph.clip(f"{name}.linear", graph.linear(f"{name}.linear", x, wide, features))
        return graph.linear(f"{name}.classifier", x, features, c_out)
    operator = Operator.parse(shaped.block)
    hidden = c_in * operator.expansion
    block_input = x
    if operator.expansion > 1:
        x = graph.clip(f"{name}.expand", graph.conv(f"{name}.expand", x, c_in, hidden))
    x = graph.conv(f"{name}.depthwise", x, hidden, hidden, kernel=operator.kernel, stride=shaped.stride, groups=hidden)
    if operator.squeeze_excite:
        x = _add_squeeze_excite(graph, f"{name}.squeeze", x, hidden)
    x = graph.clip(f"{name}.depthwise", x)
    x = graph.conv(f"{name}.project", x, hidden, c_out, gain=1.0)  # no clip after it
    return graph.node("Add", f"{name}.add", [x, block_input]) if shaped.keeps_shape else x


def _add_squeeze_excite(graph: _Graph, name: str, x: str, channels: int) -> str:
    reduced = channels // SE_REDUCTION
    scale = graph.node("GlobalAveragePool", f"{name}.pool", [x])
    scale = graph.conv(f"{name}.reduce", scale, channels, reduced, bias=False)
    scale = graph.node("Relu", f"{name}.relu", [scale])
    scale = graph.conv(f"{name}.expand", scale, reduced, channels, bias=False, gain=1.0)
    scale = graph.node("Sigmoid", f"{name}.sigmoid", [scale])
    return graph.node("Mul", f"{name}.scale", [x, scale])


class _Graph:
    """Collects nodes and weights. Every method appends and returns the name of the tensor it writes.

    A tensor is named after the node that writes it; a weight after its convolution: `layers.3.expand.weight`.
    """

    def __init__(self, weights: _WEIGHT_SOURCE) -> None:
        self._weights = weights
        self._nodes: list[onnx.NodeProto] = []
        self._initializers: list[onnx.TensorProto] = [
            numpy_helper.from_array(np.array(bound, np.float32), name) for name, bound in (("zero", 0), ("six", 6))
        ]

    def node(self, kind: str, name: str, inputs: list[str], **attributes: object) -> str:
        self._nodes.append(helper.make_node(kind, inputs, [f"{name}.out"], name=name, **attributes))
        return f"{name}.out"

    def clip(self, name: str, x: str) -> str:
        """ReLU6, in the spelling that all runtimes fuse into the convolution before it."""
        return self.node("Clip", f"{name}.relu6", [x, "zero", "six"])

    def conv(
        self,
        name: str,
        x: str,
        c_in: int,
        c_out: int,
        *,
        kernel: int = 1,
        stride: int = 1,
        groups: int = 1,
        bias: bool = True,
        gain: float = 2.0,
    ) -> str:
        weight = self._weight(f"{name}.weight", (c_out, c_in // groups, kernel, kernel), gain)
        biases = [self._weight(f"{name}.bias", (c_out,), 0.0)] if bias else []
        pad = kernel // 2  # as PyTorch: output side = ceil(input side / stride)
        return self.node(
            "Conv", name, [x, weight, *biases], kernel_shape=[kernel, kernel], strides=[stride, stride],
            pads=[pad] * 4, dilations=[1, 1], group=groups,
        )  # fmt: skip

    def linear(self, name: str, x: str, c_in: int, c_out: int) -> str:
        weight = self._weight(f"{name}.weight", (c_out, c_in), 2.0)
        bias = self._weight(f"{name}.bias", (c_out,), 0.0)
        return self.node("Gemm", name, [x, weight, bias], transB=1)

    def model(
        self, name: str, input_shape: tuple[int, ...], last: str, output_shape: tuple[int, ...], opset: int
    ) -> onnx.ModelProto:
        if not MIN_OPSET <= opset <= MAX_OPSET:
            raise ExportError(
                f"opset {opset} is out of range: these graphs are written for {MIN_OPSET} to {MAX_OPSET}",
                hint=f"opset {DEFAULT_OPSET} is read by every supported runtime",
            )
        if input_shape[0] < 1:
            raise ExportError(f"a batch has at least one image, found {input_shape[0]}")
        self._nodes[-1].output[0] = "output"
        assert self._nodes[-1].name + ".out" == last
        graph = helper.make_graph(
            self._nodes,
            name,
            [helper.make_tensor_value_info("input", TensorProto.FLOAT, input_shape)],
            [helper.make_tensor_value_info("output", TensorProto.FLOAT, output_shape)],
            self._initializers,
        )
        opset_id = helper.make_opsetid("", opset)
        ir_version = min(MAX_IR_VERSION, helper.find_min_ir_version_for([opset_id]))
        # No producer version: a new release must not change the SHA-256 of an unchanged operator.
        return helper.make_model(graph, opset_imports=[opset_id], ir_version=ir_version, producer_name="lightnas-edge")

    def _weight(self, name: str, shape: tuple[int, ...], gain: float) -> str:
        array = np.ascontiguousarray(self._weights(name, shape, gain), dtype=np.float32)
        self._initializers.append(numpy_helper.from_array(array, name))
        return name


# -- weights -------------------------------------------------------------------------------------------------


def _random_weights(owner: str, seed: int) -> _WEIGHT_SOURCE:
    """He-scaled normal weights, a stream of its own for every name, so no weight depends on the order of others.

    `gain` is the variance gained over the fan-in: 2 before a ReLU6, 1 elsewhere, 0 for a bias. Biases are small but
    not zero: activations must not die, since zeros and denormal numbers run at another speed.
    """

    def draw(name: str, shape: tuple[int, ...], gain: float) -> np.ndarray:
        stream = np.random.default_rng([seed, zlib.crc32(f"{owner}/{name}".encode())])
        deviation = 0.1 if len(shape) == 1 else (gain / float(np.prod(shape[1:]))) ** 0.5
        return stream.standard_normal(shape, dtype=np.float32) * np.float32(deviation)

    return draw


def _given_weights(space: Space, architecture: Architecture, weights: Mapping[str, np.ndarray]) -> _WEIGHT_SOURCE:
    expected = weight_shapes(space, architecture)
    faults = [f"{name}: unknown" for name in sorted(set(weights) - set(expected))]
    for name, shape in expected.items():
        if name not in weights:
            faults.append(f"{name}: it is missing")
        elif tuple(weights[name].shape) != shape:
            faults.append(f"{name}: expected shape {shape}, found {tuple(weights[name].shape)}")
        elif not np.isfinite(weights[name]).all():
            faults.append(f"{name}: has numbers that are not finite")
    if faults:
        listed = "\n".join(f"  {fault}" for fault in faults)
        raise ExportError(f"the weights do not fit the architecture: {len(faults)} faults\n{listed}")
    return lambda name, shape, gain: weights[name]


def _image_shape(shaped: ShapedOperator, batch: int) -> tuple[int, ...]:
    return (batch, shaped.in_channels, shaped.input_size, shaped.input_size)


def _output_shape(shaped: ShapedOperator, batch: int) -> tuple[int, ...]:
    if shaped.block == "head":
        return (batch, shaped.out_channels)
    return (batch, shaped.out_channels, shaped.output_size, shaped.output_size)

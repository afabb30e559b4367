"""Builds ONNX models node by node with `onnx.helper`; no torch, no exporter.

Why not `torch.onnx`: the graph of an operator that goes into the LUT and the graph of the network that is deployed
come from the same lines (blocks.py), so the table measures exactly what will run. The opset is ours to choose as well:
JetPack 4.6 parses 13, the current exporter of PyTorch starts at 18.

Batch norm never appears: it is folded into the convolution before it, as every runtime would do. Batch and image
size are fixed in the graph, because engines are built and measured for one shape.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping

import numpy as np
import onnx

from lightnas_edge.errors import ExportError
from lightnas_edge.graph.arithmetic import Arithmetic, Range
from lightnas_edge.graph.blocks import add_block, named_chain
from lightnas_edge.graph.ranges import activation_ranges
from lightnas_edge.graph.writer import DEFAULT_OPSET, GraphWriter, WeightSource, add_property
from lightnas_edge.space import Architecture, ShapedOperator, Space

FP32 = Arithmetic()
# Key in a model's metadata (separated by spaces): its inputs and outputs that are activations inside a network, in whatever format suits kernels.
INNER_EDGES = "lightnas_edge.inner_edges"


def operator_model(
    shaped: ShapedOperator,
    *,
    batch: int = 1,
    opset: int = DEFAULT_OPSET,
    seed: int = 0,
    arithmetic: Arithmetic = FP32,
    ranges: Mapping[str, Range] | None = None,
) -> onnx.ModelProto:
    """An operator at a shape as a model of its own, to be measured; its weights are random.

    Input `input` (batch, in_channels, input_size, input_size), output `output`; both as they are inside a network: half
    in fp16, quantised in int8. The images that the stem reads and the logits that the head writes are float32.

    Args:
        ranges: of its activations, for int8; those of seeded normal inputs when None.

    Raises:
        ExportError: an identity has no graph, or the opset or batch is out of range.
    """
    if shaped.is_identity:
        raise ExportError(f"{shaped.key} is the identity: it adds no node to a network, so there is nothing to measure")
    if arithmetic.quantised and ranges is None:
        floats = operator_model(shaped, batch=1, opset=opset, seed=seed)
        ranges = activation_ranges(floats, _seeded_inputs(_image_shape(shaped, 1), seed))
    inner_input, inner_output = shaped.block != "stem", shaped.block != "head"
    graph = GraphWriter(_random_weights(shaped.key, seed), arithmetic, ranges)
    last = add_block(graph, "operator", shaped, graph.begin(inner=inner_input))
    last = graph.end(last, inner=inner_output)
    shapes = _image_shape(shaped, batch), _output_shape(shaped, batch)
    model = graph.model(shaped.key, shapes[0], last, shapes[1], opset, inner=inner_output)
    edges = [name for name, inner in (("input", inner_input), ("output", inner_output)) if inner]
    add_property(model, INNER_EDGES, " ".join(edges))
    return model


def network_model(
    space: Space,
    architecture: Architecture,
    *,
    batch: int = 1,
    opset: int = DEFAULT_OPSET,
    weights: Mapping[str, np.ndarray] | None = None,
    seed: int = 0,
    arithmetic: Arithmetic = FP32,
    ranges: Mapping[str, Range] | None = None,
) -> onnx.ModelProto:
    """A whole network: images (batch, 3, size, size) to logits (batch, classes), float32 at both ends.

    Args:
        weights: arrays by the names of `weight_shapes`, batch norm folded in. None draws random ones from `seed`,
            scaled so that activations neither die nor grow, and the network can be measured before it is trained.
        ranges: of its activations, for int8; those of seeded normal images when None, which are no calibration.

    Raises:
        ArchitectureError: the architecture is not of this space.
        ExportError: weights are missing, unknown, of another shape or not finite: all of them in one message.
    """
    if arithmetic.quantised and ranges is None:
        floats = network_model(space, architecture, opset=opset, weights=weights, seed=seed)
        ranges = activation_ranges(floats, _seeded_inputs(_image_shape(space.stem, 1), seed))
    source = (
        _random_weights(str(architecture), seed) if weights is None else _given_weights(space, architecture, weights)
    )
    graph = GraphWriter(source, arithmetic, ranges)
    last = graph.begin(inner=False)
    for name, shaped in named_chain(space, architecture):
        last = add_block(graph, name, shaped, last)
    last = graph.end(last, inner=False)
    shapes = _image_shape(space.stem, batch), _output_shape(space.head, batch)
    return graph.model(space.name, shapes[0], last, shapes[1], opset, inner=False)


def weight_shapes(space: Space, architecture: Architecture) -> dict[str, tuple[int, ...]]:
    """Names and shapes of all weights of a network, in graph order, batch norm folded in.

    `stem.conv.weight`, `layers.3.expand.bias`, `layers.3.squeeze.reduce.weight`, `head.classifier.weight`, ...
    """
    shapes: dict[str, tuple[int, ...]] = {}

    def note(name: str, shape: tuple[int, ...], gain: float) -> np.ndarray:
        shapes[name] = shape
        return np.zeros(0, np.float32)

    graph = GraphWriter(note, FP32)
    for name, shaped in named_chain(space, architecture):
        add_block(graph, name, shaped, name)
    return shapes


def model_bytes(model: onnx.ModelProto) -> bytes:
    """The file's content: the same bytes, so the same SHA-256, for the same model."""
    return bytes(model.SerializeToString(deterministic=True))


# -- weights and inputs ---------------------------------------------------------------------------------------


def _random_weights(owner: str, seed: int) -> WeightSource:
    """He-scaled normal weights, a stream of its own for every name, so no weight depends on the order of others.

    `gain` is the variance gained over the fan-in: 2 before a ReLU6, 1 elsewhere, 0 for a bias. Biases are small but
    not zero: activations must not die, since zeros and denormal numbers run at another speed.
    """

    def draw(name: str, shape: tuple[int, ...], gain: float) -> np.ndarray:
        stream = np.random.default_rng([seed, zlib.crc32(f"{owner}/{name}".encode())])
        deviation = 0.1 if len(shape) == 1 else (gain / float(np.prod(shape[1:]))) ** 0.5
        return stream.standard_normal(shape, dtype=np.float32) * np.float32(deviation)

    return draw


def _given_weights(space: Space, architecture: Architecture, weights: Mapping[str, np.ndarray]) -> WeightSource:
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


def _seeded_inputs(shape: tuple[int, ...], seed: int) -> np.ndarray:
    return np.random.default_rng([seed, 6]).standard_normal(shape, dtype=np.float32)


def _image_shape(shaped: ShapedOperator, batch: int) -> tuple[int, ...]:
    return (batch, shaped.in_channels, shaped.input_size, shaped.input_size)


def _output_shape(shaped: ShapedOperator, batch: int) -> tuple[int, ...]:
    if shaped.block == "head":
        return (batch, shaped.out_channels)
    return (batch, shaped.out_channels, shaped.output_size, shaped.output_size)

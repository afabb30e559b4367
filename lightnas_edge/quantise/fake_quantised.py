"""The int8 graph of a network in torch: the same rounding, with gradients."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from onnx import numpy_helper
from torch import Tensor, nn

from lightnas_edge.graph import Arithmetic, Dialect, Range, network_model, weight_shapes
from lightnas_edge.graph.arithmetic import LARGEST_WEIGHT, SMALLEST_SCALE, Scale
from lightnas_edge.graph.writer import LARGEST_BIAS
from lightnas_edge.nn.interruption import interruptible_backward
from lightnas_edge.space import Architecture, Space

Parameters = Mapping[str, Tensor]
Scales = Sequence[Scale]  # of the activations, in the order in which they are rounded

LEAST_NEWS = 0.01  # of a pass in the moving average of a range; the constant of PyTorch's observers


class FakeQuantised(nn.Module):
    """A network that rounds weights and activations where its int8 graph rounds them; gradients pass straight through.

    It executes the nodes of `graph.network_model`, so the rounding stands where the graph has it. Parameters are float32
    and have the names of the graph's weights. Each pass computes the scales of the weights from the present weights, as the
    graph writer does. The scales of the activations follow from their ranges.

    Ranges may follow the weights, as PyTorch's quantisation-aware training does it: each of the first `observed_passes` passes in
    training mode moves the range of every activation towards that of its images, and rounds with the result. A range is the mean
    of what the passes saw, of more than 100 passes a moving average. The ranges at the start do not count. Then they are frozen.

    Input (N, 3, S, S) normalised images, S = `space.input_size`; output (N, classes) logits.

    Args:
        weights: by the names of `graph.weight_shapes`, batch norm folded in.
        ranges: of activations at the start, as for `graph.network_model`.
        observed_passes: 0: the ranges stay as they are.
        cut: share of an activation's values that the range of a pass leaves out at each end.

    Raises:
        ExportError: weights or ranges do not fit the architecture.
    """

    def __init__(
        self,
        space: Space,
        architecture: Architecture,
        weights: Mapping[str, np.ndarray[Any, Any]],
        ranges: Mapping[str, Range],
        dialect: Dialect,
        *,
        observed_passes: int = 0,
        cut: float = 0.0,
    ) -> None:
        super().__init__()
        arithmetic = Arithmetic("int8", dialect)
        model = network_model(space, architecture, weights=weights, arithmetic=arithmetic, ranges=ranges)
        floats = network_model(space, architecture, weights=weights)
        for name in weight_shapes(space, architecture):
            _add_parameter(self, name, torch.tensor(weights[name], dtype=torch.float32))
        self.steps = _steps_of(model, dialect, _left_out(floats, model))
        self.observed_passes, self._cut, self._dialect = observed_passes, cut, dialect
        self._last_reads = _last_reads(self.steps)
        self._roundings = [step for step in self.steps if isinstance(step, _Rounding)]
        found = [ranges[step.range_name] for step in self._roundings]
        # Buffers, so that a checkpoint has them: (activations, 2) lowest and highest value, and how many passes they are from.
        self.register_buffer("_extremes", torch.tensor(found, dtype=torch.float64))
        self.register_buffer("_observed", torch.zeros((), dtype=torch.int64))
        self._extremes: Tensor
        self._observed: Tensor

    def forward(self, images: Tensor) -> Tensor:
        parameters, scales = dict(self.named_parameters()), self.scales()
        observing = self.training and self.observed < self.observed_passes
        if observing:
            self._observed += 1
            share = max(LEAST_NEWS, 1 / self.observed)
        values = {"input": images}
        for step, done_with in zip(self.steps, self._last_reads, strict=True):
            inputs = [values[name] for name in step.inputs]
            if observing and isinstance(step, _Rounding):
                scales[step.index] = self._observe(step, inputs[0].detach(), share)
            values[step.output] = step(parameters, scales, *inputs)
            for name in done_with:
                del values[name]
        return values["output"]

    @property
    def observed(self) -> int:
        """Passes that the ranges are from; 0: they are those of the start."""
        return int(self._observed)

    @property
    def ranges(self) -> dict[str, Range]:
        """Of the activations that are rounded: what `graph.network_model` takes."""
        found = self._extremes.tolist()
        return {step.range_name: (found[step.index][0], found[step.index][1]) for step in self._roundings}

    def scales(self) -> list[Scale]:
        """That follow from the present ranges."""
        return [Scale.of((low, high), self._dialect) for low, high in self._extremes.tolist()]

    def weights(self) -> dict[str, np.ndarray[Any, np.dtype[np.float32]]]:
        """What `graph.network_model` takes."""
        return {name: value.detach().cpu().contiguous().numpy().copy() for name, value in self.named_parameters()}

    def _observe(self, step: _Rounding, x: Tensor, share: float) -> Scale:
        """Move the range of an activation by a share of the way to that of `x`."""
        kept = self._extremes[step.index]
        found = step.range_of(x, self._cut)
        # Of a network that diverges: the loss says so, and a range must stay one.
        kept.lerp_(torch.where(found.isfinite(), found, kept), share)
        low, high = kept.tolist()
        return Scale.of((low, high), self._dialect)


# -- what a pass computes -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Step(ABC):
    """One tensor that a pass computes from others. Called with all parameters, all scales, and the tensors of `inputs`."""

    inputs: tuple[str, ...]
    output: str

    @abstractmethod
    def __call__(self, parameters: Parameters, scales: Scales, *inputs: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class _Rounding(_Step):
    """QuantizeLinear and DequantizeLinear of an activation.

    Args:
        index: of its scale and range.
        range_name: of the tensor that the range belongs to: what is rounded, or the activation function after it where the graph
            has no node for it.
        bounds: of that activation function.
        ends: of the integers.
    """

    index: int
    range_name: str
    bounds: tuple[float, float]
    ends: tuple[int, int]

    def __call__(self, parameters: Parameters, scales: Scales, *inputs: Tensor) -> Tensor:
        scale = scales[self.index]
        return torch.fake_quantize_per_tensor_affine(inputs[0], scale.scale, scale.zero_point, *self.ends)

    def range_of(self, x: Tensor, cut: float) -> Tensor:
        """(2,) float64: lowest and highest value after the activation function, without the share `cut` at each end."""
        rank = int(cut * x.numel()) + 1
        found = torch.stack([_extreme(x, rank, largest=False), _extreme(x, rank, largest=True)])
        return found.double().clamp(*self.bounds)


@dataclass(frozen=True)
class _Weighted(_Step):
    """A convolution or linear layer.

    Args:
        largest_weight: of the rounded weights; None in squeeze-and-excitation, which stays in float.
        bias_unit: index of the scale of what the layer reads, where the bias is rounded.
    """

    weight: str
    bias: str | None
    largest_weight: int | None
    bias_unit: int | None

    def __call__(self, parameters: Parameters, scales: Scales, *inputs: Tensor) -> Tensor:
        weight, bias = parameters[self.weight], None if self.bias is None else parameters[self.bias]
        if self.largest_weight is not None:
            most = self.largest_weight
            steps = weight.detach().abs().flatten(1).amax(1).clamp(min=SMALLEST_SCALE) / most  # as graph.weight_scales
            if bias is not None and self.bias_unit is not None:
                unit = scales[self.bias_unit].scale
                steps = torch.maximum(steps, bias.detach().abs() / unit / LARGEST_BIAS)  # as the writer
                bias = _rounded_bias(bias, steps * unit)
            zeros = torch.zeros_like(steps, dtype=torch.int32)
            weight = torch.fake_quantize_per_channel_affine(weight, steps, zeros, 0, -most, most)
        return self.apply(inputs[0], weight, bias)

    def apply(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.linear(x, weight, bias)


@dataclass(frozen=True)
class _Convolution(_Weighted):
    stride: int
    padding: int
    groups: int

    def apply(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        stride = self.stride
        if weight.shape[2] == 1 and stride > 1:  # as in nn/blocks.py: the strided gradient crashes in oneDNN
            x, stride = x[:, :, ::stride, ::stride], 1
        return interruptible_backward(F.conv2d(x, weight, bias, stride, self.padding, groups=self.groups))


@dataclass(frozen=True)
class _Plain(_Step):
    """A node without weights."""

    kind: str

    def __call__(self, parameters: Parameters, scales: Scales, *inputs: Tensor) -> Tensor:
        return _OPERATIONS[self.kind](*inputs)


_BOUNDS = {"Clip": (0.0, 6.0), "Relu": (0.0, math.inf)}
_OPERATIONS: dict[str, Callable[..., Tensor]] = {
    "Add": torch.add,
    "Clip": F.relu6,  # its bounds are 0 and 6 everywhere
    "Flatten": lambda x: x.flatten(1),
    "GlobalAveragePool": lambda x: x.mean((2, 3), keepdim=True),
    "Mul": torch.mul,
    "Relu": F.relu,
    "Sigmoid": torch.sigmoid,
}


def _rounded_bias(bias: Tensor, units: Tensor) -> Tensor:
    """To whole units, as the writer does it in double precision. PyTorch has no fake quantisation to 32 bits."""
    exact, wide = bias.detach(), units.double()
    whole = (exact.double() / wide).round().clamp(-LARGEST_BIAS, LARGEST_BIAS)
    return bias + ((whole * wide).float() - exact)


def _extreme(x: Tensor, rank: int, *, largest: bool) -> Tensor:
    """The value of this rank, 1 for the largest or the smallest one. Of maps (N, C, H, W) those with the most extreme values
    are sorted alone: each of the first `rank` values is in one of the first `rank` maps.
    """
    if x.dim() == 4:
        of_maps = x.amax((2, 3)) if largest else x.amin((2, 3))
        maps = of_maps.flatten().topk(min(rank, of_maps.numel()), largest=largest).indices
        x = x[maps // x.shape[1], maps % x.shape[1]]
    return x.flatten().topk(rank, largest=largest).values[-1]


# -- from a graph ---------------------------------------------------------------------------------------------


def _left_out(floats: onnx.ModelProto, model: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    """Activation functions that have no node in the int8 graph, by the tensors that they read: see `GraphWriter.activate`."""
    names = {node.name for node in model.graph.node}
    return {node.input[0]: node for node in floats.graph.node if node.name not in names}


def _steps_of(model: onnx.ModelProto, dialect: Dialect, left_out: Mapping[str, onnx.NodeProto]) -> tuple[_Step, ...]:
    """In the order of the graph."""
    constants = {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}
    stored: dict[str, str] = {}  # tensor -> the weight or bias whose rounded values it holds
    quantised: dict[str, str] = {}  # what QuantizeLinear writes -> what it reads
    roundings: dict[str, int] = {}  # what DequantizeLinear writes -> its index
    steps: list[_Step] = []
    for node in model.graph.node:
        first, output = node.input[0], node.output[0]
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            if first in constants or first in stored:
                stored[output] = stored.get(first, first)
            elif node.op_type == "QuantizeLinear":
                quantised[output] = first
            else:
                x, ends = quantised[first], np.iinfo(constants[node.input[2]].dtype)
                name, bounds = x, (-math.inf, math.inf)
                if x in left_out:
                    name, bounds = left_out[x].output[0], _BOUNDS[left_out[x].op_type]
                roundings[output] = len(roundings)
                steps.append(_Rounding((x,), output, roundings[output], name, bounds, (int(ends.min), int(ends.max))))
        elif node.op_type in ("Conv", "Gemm"):
            weight, *biases = node.input[1:]
            bias = biases[0] if biases else None
            names = stored.get(weight, weight), None if bias is None else stored.get(bias, bias)
            unit = roundings[first] if bias in stored else None
            most = LARGEST_WEIGHT[dialect] if weight in stored else None
            if node.op_type == "Gemm":
                steps.append(_Weighted((first,), output, *names, most, unit))
                continue
            given = {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
            steps.append(
                _Convolution(
                    (first,), output, *names, most, unit,
                    stride=given["strides"][0], padding=given["pads"][0], groups=given["group"],
                )
            )  # fmt: skip
        else:
            steps.append(_Plain(tuple(name for name in node.input if name not in constants), output, node.op_type))
    return tuple(steps)


def _last_reads(steps: tuple[_Step, ...]) -> list[list[str]]:
    """For each step the tensors that no later step reads: they need no more memory."""
    last = {name: index for index, step in enumerate(steps) for name in step.inputs}
    return [[name for name, at in last.items() if at == index] for index in range(len(steps))]


def _add_parameter(module: nn.Module, name: str, value: Tensor) -> None:
    """Below modules of the name's parts, since no parameter has a dot in its name."""
    *path, last = name.split(".")
    for part in path:
        if part not in module._modules:
            module.add_module(part, nn.Module())
        module = module.get_submodule(part)
    module.register_parameter(last, nn.Parameter(value))

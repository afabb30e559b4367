"""The int8 graph of a network in torch: the same rounding, with gradients."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from onnx import numpy_helper
from torch import Tensor, nn

from lightnas_edge.graph import Arithmetic, Dialect, Range, network_model, weight_shapes
from lightnas_edge.graph.arithmetic import LARGEST_WEIGHT, SMALLEST_SCALE
from lightnas_edge.graph.writer import LARGEST_BIAS
from lightnas_edge.nn.interruption import interruptible_backward
from lightnas_edge.space import Architecture, Space

Parameters = Mapping[str, Tensor]


class FakeQuantised(nn.Module):
    """A network that rounds weights and activations where its int8 graph rounds them; gradients pass straight through.

    It executes the nodes of `graph.network_model`, so the rounding stands where the graph has it. Parameters are float32
    and have the names of the graph's weights. Each pass computes the scales of the weights from the present weights, as the
    graph writer does. The scales of the activations follow from `ranges`, which stay as they are.

    Input (N, 3, S, S) normalised images, S = `space.input_size`; output (N, classes) logits.

    Args:
        weights: by the names of `graph.weight_shapes`, batch norm folded in.
        ranges: of activations, as for `graph.network_model`.

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
    ) -> None:
        super().__init__()
        arithmetic = Arithmetic("int8", dialect)
        model = network_model(space, architecture, weights=weights, arithmetic=arithmetic, ranges=ranges)
        self.ranges = dict(ranges)
        for name in weight_shapes(space, architecture):
            _add_parameter(self, name, torch.tensor(weights[name], dtype=torch.float32))
        self.steps = _steps_of(model, dialect)
        self._last_reads = _last_reads(self.steps)

    def forward(self, images: Tensor) -> Tensor:
        parameters = dict(self.named_parameters())
        values = {"input": images}
        for step, done_with in zip(self.steps, self._last_reads, strict=True):
            values[step.output] = step(parameters, *(values[name] for name in step.inputs))
            for name in done_with:
                del values[name]
        return values["output"]

    def weights(self) -> dict[str, np.ndarray[Any, np.dtype[np.float32]]]:
        """What `graph.network_model` takes."""
        return {name: value.detach().cpu().contiguous().numpy().copy() for name, value in self.named_parameters()}


# -- what a pass computes -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Step(ABC):
    """One tensor that a pass computes from others. Called with all parameters and the tensors of `inputs`."""

    inputs: tuple[str, ...]
    output: str

    @abstractmethod
    def __call__(self, parameters: Parameters, *inputs: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class _Rounding(_Step):
    """QuantizeLinear and DequantizeLinear of an activation."""

    scale: float
    zero_point: int
    ends: tuple[int, int]

    def __call__(self, parameters: Parameters, *inputs: Tensor) -> Tensor:
        return torch.fake_quantize_per_tensor_affine(inputs[0], self.scale, self.zero_point, *self.ends)


@dataclass(frozen=True)
class _Weighted(_Step):
    """A convolution or linear layer.

    Args:
        largest_weight: of the rounded weights; None in squeeze-and-excitation, which stays in float.
        bias_unit: the scale of what the layer reads, where the bias is rounded.
    """

    weight: str
    bias: str | None
    largest_weight: int | None
    bias_unit: float | None

    def __call__(self, parameters: Parameters, *inputs: Tensor) -> Tensor:
        weight, bias = parameters[self.weight], None if self.bias is None else parameters[self.bias]
        if self.largest_weight is not None:
            most = self.largest_weight
            scales = self._scales(weight.detach(), bias, most)
            zeros = torch.zeros_like(scales, dtype=torch.int32)
            if bias is not None and self.bias_unit is not None:
                bias = _rounded_bias(bias, scales * self.bias_unit)
            weight = torch.fake_quantize_per_channel_affine(weight, scales, zeros, 0, -most, most)
        return self.apply(inputs[0], weight, bias)

    def apply(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.linear(x, weight, bias)

    def _scales(self, weight: Tensor, bias: Tensor | None, most: int) -> Tensor:
        """(C,): as `graph.arithmetic.weight_scales`, and the writer where it rounds the bias."""
        scales = weight.abs().flatten(1).amax(1).clamp(min=SMALLEST_SCALE) / most
        if bias is None or self.bias_unit is None:
            return scales
        return torch.maximum(scales, bias.detach().abs() / self.bias_unit / LARGEST_BIAS)


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

    def __call__(self, parameters: Parameters, *inputs: Tensor) -> Tensor:
        return _OPERATIONS[self.kind](*inputs)


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


# -- from a graph ---------------------------------------------------------------------------------------------


def _steps_of(model: onnx.ModelProto, dialect: Dialect) -> tuple[_Step, ...]:
    """In the order of the graph."""
    constants = {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}
    stored: dict[str, str] = {}  # tensor -> the weight or bias whose rounded values it holds
    quantised: dict[str, str] = {}  # what QuantizeLinear writes -> what it reads
    scales: dict[str, float] = {}  # of the activations that were rounded
    steps: list[_Step] = []
    for node in model.graph.node:
        first, output = node.input[0], node.output[0]
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            if first in constants or first in stored:
                stored[output] = stored.get(first, first)
            elif node.op_type == "QuantizeLinear":
                quantised[output] = first
            else:
                scales[output], zero = float(constants[node.input[1]]), constants[node.input[2]]
                ends = np.iinfo(zero.dtype)
                steps.append(
                    _Rounding((quantised[first],), output, scales[output], int(zero), (int(ends.min), int(ends.max)))
                )
        elif node.op_type in ("Conv", "Gemm"):
            weight, *biases = node.input[1:]
            bias = biases[0] if biases else None
            names = stored.get(weight, weight), None if bias is None else stored.get(bias, bias)
            unit = scales[first] if bias in stored else None
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

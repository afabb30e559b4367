"""Convolution, with a gradient of its own where oneDNN has none: depthwise kernels larger than the map, on the CPU.

oneDNN 3.12 (torch 2.13) computes the weight gradient of such a kernel by its reference code. One thread of an AMD EPYC, batch 32, channels
last: 64 ms for a 7x7 kernel over 1,152 channels of 2x2 pixels, where the forward pass takes 0.3 ms. Position by position it is 0.8 ms.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn


class Conv2d(nn.Conv2d):
    """`nn.Conv2d`. Depthwise ones are as `blocks.conv` makes them: square, padded by half of the kernel, without a bias."""

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        depthwise = self.groups == self.in_channels == self.out_channels
        single = x.device.type == "cpu" and x.dtype == weight.dtype and not torch.is_autocast_enabled("cpu")
        if depthwise and single and weight.requires_grad and self.kernel_size[0] > min(x.shape[2:]):
            result = _Depthwise.apply(x, weight, self.stride[0])  # type: ignore[no-untyped-call]  # torch has no type for it
            return cast(Tensor, result)
        return cast(Tensor, super()._conv_forward(x, weight, bias))


class _Depthwise(torch.autograd.Function):
    """A square kernel, padded by half of it. x (N, C, H, W), weight (C, 1, K, K)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride = stride
        return torch.conv2d(x, weight, None, stride, weight.shape[-1] // 2, groups=len(weight))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor, None]:
        (gradient,), (x, weight), stride = gradients, ctx.saved_tensors, ctx.stride
        of_input = None
        if ctx.needs_input_grad[0]:
            of_input, _, _ = torch.ops.aten.convolution_backward(
                gradient, x, weight, None, [stride] * 2, [weight.shape[-1] // 2] * 2, [1, 1], False, [0, 0], len(weight),
                [True, False, False],
            )  # fmt: skip
        return of_input, _of_kernel(x, gradient, weight.shape[-1], stride), None


def _of_kernel(x: Tensor, gradient: Tensor, kernel: int, stride: int) -> Tensor:
    """(C, 1, K, K): of each position of the kernel, the sum over images and pixels of what it was multiplied with."""
    # (N, H, W, C), without a copy in channels last
    inputs, outputs = x.permute(0, 2, 3, 1), gradient.permute(0, 2, 3, 1)
    found = x.new_zeros(kernel, kernel, x.shape[1])
    for row, (seen_rows, rows) in enumerate(_overlaps(kernel, stride, inputs.shape[1], outputs.shape[1])):
        for column, (seen, columns) in enumerate(_overlaps(kernel, stride, inputs.shape[2], outputs.shape[2])):
            found[row, column] = (inputs[:, seen_rows, seen] * outputs[:, rows, columns]).sum((0, 1, 2))
    return found.permute(2, 0, 1).unsqueeze(1)


def _overlaps(kernel: int, stride: int, inputs: int, outputs: int) -> list[tuple[slice, slice]]:
    """Of each position of the kernel along one side, the pixels that it reads, and those that it writes; none in the padding."""
    found = []
    for position in range(kernel):
        offset = position - kernel // 2
        first = max(0, -(offset // stride))
        last = min(outputs - 1, (inputs - 1 - offset) // stride)
        begin = first * stride + offset
        found.append((slice(begin, max(begin, last * stride + offset + 1), stride), slice(first, max(first, last + 1))))
    return found

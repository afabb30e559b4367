"""The blocks of a network at a shape: convolution, batch norm, ReLU6, in the published order.

Source of structure: LightNAS models/operations.py and models/network.py (commit 2f0e1d1).
Submodules bear the names that weights have in exported files: `expand`, `depthwise`, `project` and so on.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightnas_edge.nn.convolution import Conv2d
from lightnas_edge.space import SE_REDUCTION, Activation, Operator, ShapedOperator


@dataclass(frozen=True)
class Norms:
    """How batch norm behaves: that of a network to be deployed, or that of a supernet."""

    affine: bool
    running_statistics: bool
    eps: float
    after_features: bool  # a batch norm after the head's first linear layer
    residual_start: float | None = None  # the norm that ends a residual branch has a learned scale that starts here

    def over(self, channels: int) -> nn.BatchNorm2d:
        return nn.BatchNorm2d(
            channels, eps=self.eps, momentum=0.1, affine=self.affine, track_running_stats=self.running_statistics
        )


STAND_ALONE = Norms(affine=True, running_statistics=True, eps=1e-3, after_features=True)

# Of a supernet that holds a trained network: norms as that one has them, with the statistics of the batch.
AFFINE_SUPERNET = Norms(affine=True, running_statistics=False, eps=1e-3, after_features=True)

# Published: affine=False, no norm after the features. There running statistics are kept but never read, since the
# supernet only ever runs in training mode; here they do not exist, so no validation image can leak into them.
# Not published: the learned scale of residual branches. With scale-free norms a candidate adds as much to its input as
# the input itself, so every path looks foreign to the next one, and a short search learns little. `tiny` on digits,
# random paths, steps 201 to 250, one seed: accuracy 0.24 without, 0.59 with it (benchmarks/supernet_learning.py).
SUPERNET = Norms(affine=False, running_statistics=False, eps=1e-5, after_features=False, residual_start=0.2)


def conv(in_channels: int, out_channels: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> Conv2d:
    return Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False)


def relu6(x: Tensor) -> Tensor:
    """In place: what comes before it, a batch norm, needs its input for the gradient and not its output."""
    if torch.is_grad_enabled() and x.requires_grad:
        return cast(Tensor, _ReLU6.apply(x))  # type: ignore[no-untyped-call]  # torch has no type for it
    return F.relu6(x, inplace=True)


class _ReLU6(torch.autograd.Function):
    """PyTorch's own in-place ReLU6 keeps a copy of its input; its result is enough, and saves a tenth of a step."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x.clamp_(0.0, 6.0)
        ctx.mark_dirty(x)
        ctx.save_for_backward(x)
        return x

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (result,) = ctx.saved_tensors
        return cast(Tensor, torch.ops.aten.hardtanh_backward(gradients[0], result, 0.0, 6.0))


def activate(x: Tensor, activation: Activation) -> Tensor:
    """In place, as `relu6`."""
    if activation == "linear":
        return x
    return relu6(x) if activation == "relu6" else F.relu(x, inplace=True)


class ConvBlock(nn.Module):
    """Convolution, batch norm, activation: the stem, and the skip where the shape changes."""

    def __init__(self, shaped: ShapedOperator, norms: Norms) -> None:
        super().__init__()
        stem = shaped.block == "stem"
        self.activation = shaped.activation
        # A 1x1 convolution with a stride is one without on every second pixel. Written so because oneDNN 3.12 (torch
        # 2.13, CPU) writes beyond its buffers in the gradient of the strided one in channels-last: 4 to 8 channels on
        # 8 pixels crash.
        self.step = 1 if stem else shaped.stride
        self.conv = conv(shaped.in_channels, shaped.out_channels, 3 if stem else 1, shaped.stride if stem else 1)
        self.conv_norm = norms.over(shaped.out_channels)

    def forward(self, x: Tensor) -> Tensor:
        if self.step > 1:
            x = x[:, :, :: self.step, :: self.step]
        return activate(self.conv_norm(self.conv(x)), self.activation)


class SqueezeExcite(nn.Module):
    """Rescales channels by what the whole image shows: no bias, ReLU, sigmoid."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduce = conv(channels, channels // SE_REDUCTION)
        self.expand = conv(channels // SE_REDUCTION, channels)

    def forward(self, x: Tensor) -> Tensor:
        pooled = x.mean((2, 3), keepdim=True)
        weight: Tensor = torch.sigmoid(self.expand(F.relu(self.reduce(pooled))))
        return x * weight


class MBConv(nn.Module):
    """MobileNetV2's inverted residual. Squeeze-and-excitation stands after the depthwise batch norm, before its
    activation.
    """

    def __init__(self, shaped: ShapedOperator, norms: Norms) -> None:
        super().__init__()
        operator = Operator.parse(shaped.block)
        hidden = shaped.in_channels * operator.expansion
        self.residual, self.activation = shaped.keeps_shape, shaped.activation
        self.expand: nn.Conv2d | None = None
        if operator.expansion > 1:
            self.expand = conv(shaped.in_channels, hidden)
            self.expand_norm = norms.over(hidden)
        self.depthwise = conv(hidden, hidden, operator.kernel, shaped.stride, groups=hidden)
        self.depthwise_norm = norms.over(hidden)
        self.squeeze = SqueezeExcite(hidden) if operator.squeeze_excite else None
        self.project = conv(hidden, shaped.out_channels)
        self.project_norm = norms.over(shaped.out_channels)
        if self.residual and norms.residual_start is not None:
            self.project_norm = replace(norms, affine=True).over(shaped.out_channels)
            nn.init.constant_(self.project_norm.weight, norms.residual_start)

    def forward(self, x: Tensor) -> Tensor:
        y = x
        if self.expand is not None:
            y = activate(self.expand_norm(self.expand(y)), self.activation)
        y = self.depthwise_norm(self.depthwise(y))
        if self.squeeze is not None:
            y = self.squeeze(y)
        y = cast(Tensor, self.project_norm(self.project(activate(y, self.activation))))
        return x + y if self.residual else y


class Head(nn.Module):
    """1x1 convolution, global average, linear without bias, activation, dropout, linear to the classes; or only the last."""

    def __init__(self, shaped: ShapedOperator, norms: Norms, dropout: float) -> None:
        super().__init__()
        self.activation = shaped.activation
        wide, *features = shaped.hidden_channels
        self.conv = conv(shaped.in_channels, wide)
        self.conv_norm = norms.over(wide)
        self.linear: nn.Linear | None = None
        self.linear_norm: nn.BatchNorm1d | None = None
        if features:
            self.linear = nn.Linear(wide, features[0], bias=False)
            # Published: PyTorch's own eps (1e-5) here; only the two-dimensional norms are set to 1e-3.
            if norms.after_features:
                self.linear_norm = nn.BatchNorm1d(features[0], track_running_stats=norms.running_statistics)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear((wide, *features)[-1], shaped.out_channels)

    def forward(self, x: Tensor) -> Tensor:
        x = activate(self.conv_norm(self.conv(x)), self.activation).mean((2, 3))
        if self.linear is not None:
            x = self.linear(x)
            if self.linear_norm is not None:
                x = self.linear_norm(x)
            x = activate(x, self.activation)
        return cast(Tensor, self.classifier(self.dropout(x)))


def build_block(shaped: ShapedOperator | None, norms: Norms, *, dropout: float = 0.0) -> nn.Module:
    """The module of an operator at a shape; `dropout` is for the head. None, a first block that is not there, is the identity."""
    if shaped is None or shaped.is_identity:
        return nn.Identity()
    if shaped.block in ("stem", "skip"):
        return ConvBlock(shaped, norms)
    if shaped.block == "head":
        return Head(shaped, norms, dropout)
    return MBConv(shaped, norms)

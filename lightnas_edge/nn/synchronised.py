"""Batch norm over the images of all ranks."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def with_synchronised_norms(network: nn.Module, device: torch.device) -> nn.Module:
    """The same network, its batch norms with the statistics of all ranks while it trains; names and parameters stay.

    On CUDA with PyTorch's own SyncBatchNorm, which knows no CPU; there with the one of this module.
    """
    if device.type == "cuda":
        converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]  # torch has no type for it
        return converted
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, _BatchNorm):
                setattr(parent, name, _OverRanks(child))
    return network


class _OverRanks(_BatchNorm):
    """In training, mean and variance of all ranks' images, each image counted once; else as the norm that it replaces.

    Input (N, C) or (N, C, H, W); N may differ between ranks.
    """

    def __init__(self, norm: _BatchNorm) -> None:
        super().__init__(
            norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats,
            device=norm.weight.device if norm.affine else None,
        )  # fmt: skip
        self._parameters, self._buffers = norm._parameters, norm._buffers

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"expected (N, C) or (N, C, H, W), found {tuple(input.shape)}")

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        self._check_input_dim(input)
        x = input.float()
        others = [dimension for dimension in range(x.dim()) if dimension != 1]
        over = (1, -1) + (1,) * (x.dim() - 2)
        local = x.new_full((1,), x.numel() / x.shape[1])
        sums: Tensor = _summed(torch.cat([x.sum(others), local]))
        count = sums[-1].detach()
        mean = sums[:-1] / count
        centred = x - mean.view(over)
        variance: Tensor = (
            _summed(centred.square().sum(others)) / count
        )  # of what is centred: small ones lose no digits
        self._keep(mean.detach(), variance.detach() * count / (count - 1).clamp_min(1))
        y = centred * torch.rsqrt(variance + self.eps).view(over)
        if self.affine:
            y = y * self.weight.view(over) + self.bias.view(over)
        return y.to(input.dtype)

    @torch.no_grad()
    def _keep(self, mean: Tensor, variance: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
        self.running_var.lerp_(variance.to(self.running_var.dtype), share)


class _SumOverRanks(torch.autograd.Function):
    """The loss is the sum of all ranks' losses: so is what reaches a rank's part of the sum."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        total = values.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone()
        dist.all_reduce(total)
        return total


def _summed(values: Tensor) -> Any:
    return _SumOverRanks.apply(values)  # type: ignore[no-untyped-call]  # torch has no type for it

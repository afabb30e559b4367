"""Predictors as torch modules. Only this file and the fitting of the MLP import torch."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn


class _Additive(nn.Module):
    cost: Tensor
    constant: Tensor

    def __init__(self, constant: float, cost: NDArray[np.float64], least: float) -> None:
        super().__init__()
        self.least = least
        self.register_buffer("cost", torch.tensor(cost.ravel(), dtype=torch.float32))
        self.register_buffer("constant", torch.tensor(float(constant), dtype=torch.float32))

    def forward(self, one_hot: Tensor) -> Tensor:
        total = one_hot.flatten(1) @ self.cost.to(one_hot.dtype) + self.constant.to(one_hot.dtype)
        return total + (total.detach().clamp(min=self.least) - total.detach())


class _Mlp(nn.Module):
    def __init__(
        self, layers: Sequence[tuple[NDArray[np.float32], NDArray[np.float32]]], value_mean: float, value_std: float
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList()
        for weight, bias in layers:
            linear = nn.Linear(weight.shape[1], weight.shape[0])
            linear.weight = nn.Parameter(torch.from_numpy(weight.copy()), requires_grad=False)
            linear.bias = nn.Parameter(torch.from_numpy(bias.copy()), requires_grad=False)
            self.layers.append(linear)
        self.value_mean = value_mean
        self.value_std = value_std

    def forward(self, one_hot: Tensor) -> Tensor:
        values = one_hot.flatten(1)
        for position, layer in enumerate(self.layers):
            values = layer(values)
            if position + 1 < len(self.layers):
                values = torch.relu(values)
        return self.value_mean + self.value_std * values[:, 0]


def additive_module(constant: float, cost: NDArray[np.float64], least: float = -math.inf) -> nn.Module:
    """(B, L, K) -> (B,) in the metric's unit: the sum, or `least` where that is more. The gradient is the sum's everywhere."""
    return _Additive(constant, cost, least)


def mlp_module(
    layers: Sequence[tuple[NDArray[np.float32], NDArray[np.float32]]], value_mean: float, value_std: float
) -> nn.Module:
    """(B, L, K) -> (B,) in the metric's unit."""
    return _Mlp(layers, value_mean, value_std)


def train_mlp(
    inputs: NDArray[np.float32],
    targets: NDArray[np.float32],
    held_out: tuple[NDArray[np.float32], NDArray[np.float32]],
    hidden: Sequence[int],
    *,
    seed: int,
    epochs: int,
    patience: int,
) -> tuple[list[tuple[NDArray[np.float32], NDArray[np.float32]]], int]:
    """Adam on the squared error; the weights of the epoch with the lowest held-out error.

    Args:
        inputs: (n, L*K) one-hots. targets: (n,) standardised.

    Returns:
        [(weight (out, in), bias (out,))] and the number of epochs run.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # more threads make layers this small slower
    try:
        return _train_mlp(inputs, targets, held_out, hidden, seed=seed, epochs=epochs, patience=patience)
    finally:
        torch.set_num_threads(threads)


def _train_mlp(
    inputs: NDArray[np.float32],
    targets: NDArray[np.float32],
    held_out: tuple[NDArray[np.float32], NDArray[np.float32]],
    hidden: Sequence[int],
    *,
    seed: int,
    epochs: int,
    patience: int,
) -> tuple[list[tuple[NDArray[np.float32], NDArray[np.float32]]], int]:
    generator = torch.Generator().manual_seed(seed)
    sizes = [inputs.shape[1], *hidden, 1]
    linears = []
    for fan_in, fan_out in itertools.pairwise(sizes):
        linear = nn.Linear(fan_in, fan_out)
        nn.init.kaiming_normal_(linear.weight, nonlinearity="relu", generator=generator)
        nn.init.zeros_(linear.bias)
        linears.append(linear)
    blocks: list[nn.Module] = []
    for linear in linears:
        blocks += [linear, nn.ReLU()]
    network = nn.Sequential(*blocks[:-1])
    optimiser = torch.optim.Adam(network.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, epochs)
    x, y = torch.from_numpy(inputs), torch.from_numpy(targets)[:, None]
    held_x, held_y = torch.from_numpy(held_out[0]), torch.from_numpy(held_out[1])[:, None]
    batch = max(8, min(128, len(x) // 8))
    best, best_error, best_epoch, epoch = _weights(linears), float("inf"), 0, 0
    for epoch in range(epochs):
        order = torch.randperm(len(x), generator=generator)
        for start in range(0, len(order), batch):
            rows = order[start : start + batch]
            optimiser.zero_grad()
            loss: Tensor = nn.functional.mse_loss(network(x[rows]), y[rows])
            loss.backward()  # type: ignore[no-untyped-call]  # torch does not annotate it
            optimiser.step()
        schedule.step()
        with torch.no_grad():
            error = float(nn.functional.mse_loss(network(held_x), held_y))
        if error < best_error:
            best, best_error, best_epoch = _weights(linears), error, epoch
        elif epoch - best_epoch >= patience:
            break
    return best, epoch + 1


def _weights(linears: Sequence[nn.Linear]) -> list[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    return [(linear.weight.detach().numpy().copy(), linear.bias.detach().numpy().copy()) for linear in linears]

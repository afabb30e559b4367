"""Batch norm folded into the layer before it: the weights of the network that is deployed."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from lightnas_edge.nn.network import Network

_NORMED = ("conv", "expand", "depthwise", "project", "linear")  # each followed by `<name>_norm`, where there is one


def folded_weights(network: Network) -> dict[str, np.ndarray[Any, np.dtype[np.float32]]]:
    """What `graph.network_model` takes: float32 arrays by name, in the order of the network.

    Blocks are `stem`, `first`, `layers.{l}`, `head`; parts `conv`, `expand`, `depthwise`, `squeeze.reduce`,
    `squeeze.expand`, `project`, `linear`, `classifier`; then `.weight` and `.bias` (squeeze has none).
    The arithmetic is done in double precision.
    """
    weights: dict[str, np.ndarray[Any, np.dtype[np.float32]]] = {}
    blocks = {"stem": network.stem, "first": network.first}
    blocks |= {f"layers.{layer}": block for layer, block in enumerate(network.layers)}
    blocks["head"] = network.head
    for block_name, block in blocks.items():
        for part, module in block.named_modules():
            if not isinstance(module, (nn.Conv2d, nn.Linear)):
                continue
            name = f"{block_name}.{part}"
            norm = getattr(block, f"{part}_norm", None) if part in _NORMED else None
            weight = module.weight.detach().cpu().double()
            bias = None if module.bias is None else module.bias.detach().cpu().double()
            if isinstance(norm, (nn.BatchNorm1d, nn.BatchNorm2d)):
                weight, bias = _fold(weight, norm)
            weights[f"{name}.weight"] = weight.float().numpy()
            if bias is not None:
                weights[f"{name}.bias"] = bias.float().numpy()
    return weights


def _fold(weight: torch.Tensor, norm: nn.BatchNorm1d | nn.BatchNorm2d) -> tuple[torch.Tensor, torch.Tensor]:
    assert norm.running_mean is not None and norm.running_var is not None
    scale = norm.weight.detach().cpu().double() / (norm.running_var.cpu().double() + norm.eps).sqrt()
    bias = norm.bias.detach().cpu().double() - norm.running_mean.cpu().double() * scale
    return weight * scale.reshape(-1, *[1] * (weight.dim() - 1)), bias

"""Batch norm folded into the layer before it: the weights of the network that is deployed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from lightnas_edge.nn.network import Network
from lightnas_edge.nn.supernet import Supernet

FoldedWeights = dict[str, np.ndarray[Any, np.dtype[np.float32]]]
_NORMED = ("conv", "expand", "depthwise", "project", "linear")  # each followed by `<name>_norm`, where there is one


def folded_weights(network: Network) -> FoldedWeights:
    """What `graph.network_model` takes: float32 arrays by name, in the order of the network.

    Blocks are `stem`, `first`, `layers.{l}`, `head`; parts `conv`, `expand`, `depthwise`, `squeeze.reduce`,
    `squeeze.expand`, `project`, `linear`, `classifier`; then `.weight` and `.bias` (squeeze has none).
    The arithmetic is done in double precision.
    """
    return _folded_blocks(network.stem, network.first, list(network.layers), network.head)


def folded_path_weights(supernet: Supernet, indices: Sequence[int]) -> FoldedWeights:
    """The same of one path of a supernet, within `supernet.calibrated`: only there its norms have statistics to fold.

    Args:
        indices: L positions in `space.operators`.
    """
    chosen = [cast(nn.ModuleList, supernet.layers[layer])[index] for layer, index in enumerate(indices)]
    return _folded_blocks(supernet.stem, supernet.first, chosen, supernet.head)


def _folded_blocks(stem: nn.Module, first: nn.Module, layers: Sequence[nn.Module], head: nn.Module) -> FoldedWeights:
    blocks: Mapping[str, nn.Module] = {
        "stem": stem, "first": first, **{f"layers.{layer}": block for layer, block in enumerate(layers)}, "head": head,
    }  # fmt: skip
    weights: FoldedWeights = {}
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
            elif bias is None and part in _NORMED:  # the graph has a bias there: a supernet's head has no norm
                bias = torch.zeros(len(weight), dtype=torch.float64)
            weights[f"{name}.weight"] = weight.float().numpy()
            if bias is not None:
                weights[f"{name}.bias"] = bias.float().numpy()
    return weights


def _fold(weight: torch.Tensor, norm: nn.BatchNorm1d | nn.BatchNorm2d) -> tuple[torch.Tensor, torch.Tensor]:
    assert norm.running_mean is not None and norm.running_var is not None
    deviation = (norm.running_var.cpu().double() + norm.eps).sqrt()
    scale = (torch.ones_like(deviation) if norm.weight is None else norm.weight.detach().cpu().double()) / deviation
    start = torch.zeros_like(deviation) if norm.bias is None else norm.bias.detach().cpu().double()
    bias = start - norm.running_mean.cpu().double() * scale
    return weight * scale.reshape(-1, *[1] * (weight.dim() - 1)), bias

"""One architecture as a network to train from scratch and to deploy."""

from __future__ import annotations

import math
from typing import cast

from torch import Tensor, nn

from lightnas_edge.nn.blocks import STAND_ALONE, build_block
from lightnas_edge.nn.interruption import interruptible_backward
from lightnas_edge.space import Architecture, Space


class Network(nn.Module):
    """The stand-alone network exactly as published (LightNAS models/network.py).

    Input (N, 3, S, S) normalised images, S = `space.input_size`; output (N, classes) logits.
    """

    def __init__(self, space: Space, architecture: Architecture) -> None:
        super().__init__()
        architecture.indices(space)
        self.space = space
        self.architecture = architecture
        self.stem = build_block(space.stem, STAND_ALONE)
        self.first = build_block(space.first, STAND_ALONE)
        self.layers = nn.Sequential(
            *(
                build_block(space.at(layer, operator), STAND_ALONE)
                for layer, operator in enumerate(architecture.operators)
            )
        )
        self.head = build_block(space.head, STAND_ALONE, dropout=space.dropout)
        self._initialise()

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(self.stem(x))
        for layer in self.layers:
            x = interruptible_backward(layer(x))
        return cast(Tensor, self.head(x))

    def _initialise(self) -> None:
        """He over the outputs of a group for convolutions, zero biases, else the default (as published)."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels / module.groups
                nn.init.normal_(module.weight, 0.0, math.sqrt(2.0 / fan_out))
            elif isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)

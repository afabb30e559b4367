"""All architectures of a space in one network with shared weights; one path runs at a time."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from lightnas_edge.nn.blocks import AFFINE_SUPERNET, SUPERNET, MBConv, build_block
from lightnas_edge.nn.entangled import CutConv2d, entangle, whole_block
from lightnas_edge.nn.interruption import interruptible_backward
from lightnas_edge.space import Space


class Supernet(nn.Module):
    """Weights for every candidate of every layer (LightNAS models/supernet.py).

    Batch norm keeps no running statistics: it always normalises with the current batch, as in the published search, where
    the supernet never leaves training mode. It has no parameters but a scale where a residual branch ends.

    Args:
        entangled: the candidates of a layer are cuts of one block, which is in `wholes`; else each has weights of its own.
        affine: norms have parameters, as those of a trained network, whose weights it is to hold.
    """

    def __init__(self, space: Space, *, entangled: bool = False, affine: bool = False) -> None:
        super().__init__()
        norms = AFFINE_SUPERNET if affine else SUPERNET
        self.space = space
        self.stem = build_block(space.stem, norms)
        self.first = build_block(space.first, norms)
        self.layers = nn.ModuleList(
            nn.ModuleList(build_block(space.at(layer, operator), norms) for operator in space.operators)
            for layer in range(len(space.layers))
        )
        self.head = build_block(space.head, norms, dropout=space.dropout)
        self.wholes = nn.ModuleList()
        if entangled:
            for layer, candidates in enumerate(self.layers):
                if (whole := whole_block(space, layer)) is not None:
                    self.wholes.append(whole)
                    entangle(cast(nn.ModuleList, candidates), whole)
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and not isinstance(module, CutConv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
            elif isinstance(module, nn.Linear):
                # Published: deviation 0.01 in both. With no norm between them the logits then start near zero. One
                # fixed path of `tiny` on digits, batch 32, one seed, mean loss of steps 36 to 40: 2.14 as published,
                # 1.41 with this.
                gain = 2.0 if module.bias is None else 1.0  # ReLU6 follows the first
                nn.init.normal_(module.weight, 0.0, math.sqrt(gain / module.in_features))
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for candidates in () if entangled else self.layers:
            _start_alike([block for block in cast(nn.ModuleList, candidates) if isinstance(block, MBConv)])

    def forward(self, x: Tensor, indices: Sequence[int], gates: Tensor | None = None) -> Tensor:
        """Run the path that `indices` names; nothing else is computed or held in memory.

        Args:
            x: (N, 3, S, S) normalised images.
            indices: L positions in `space.operators`, plain numbers (a tensor would force a wait for the device).
            gates: (L,) ones, one per layer. They leave the output as it is; their gradient is that of the loss with
                respect to a factor on the layer's output, which is what straight-through sampling needs.

        Returns:
            (N, classes) logits.
        """
        x = self.first(self.stem(x))
        for layer, index in enumerate(indices):
            x = interruptible_backward(cast(nn.ModuleList, self.layers[layer])[index](x))
            if gates is not None:
                x = cast(Tensor, _Gate.apply(x, gates[layer]))  # type: ignore[no-untyped-call]  # torch has no type for it
        return cast(Tensor, self.head(x))

    def features(self, x: Tensor, indices: Sequence[int]) -> tuple[list[Tensor], Tensor]:
        """The input of every layer on a path with the output of the last one, L + 1 in all, and the (N, classes) logits."""
        found = [self.first(self.stem(x))]
        for layer, index in enumerate(indices):
            found.append(cast(nn.ModuleList, self.layers[layer])[index](found[-1]))
        return found, cast(Tensor, self.head(found[-1]))

    def forward_pairs(self, x: Tensor, pairs: Sequence[tuple[int, int]], gates: Tensor) -> Tensor:
        """Run two operators in every layer and mix their outputs; the memory of two paths.

        Args:
            x: (N, 3, S, S) normalised images.
            pairs: (L, 2) positions in `space.operators`, the two of a layer different.
            gates: (L, 2) factors of the two outputs of every layer.

        Returns:
            (N, classes) logits.
        """
        x = self.first(self.stem(x))
        for layer, (one, other) in enumerate(pairs):
            candidates = cast(nn.ModuleList, self.layers[layer])
            mixed = gates[layer, 0] * candidates[one](x) + gates[layer, 1] * candidates[other](x)
            x = interruptible_backward(mixed)
        return cast(Tensor, self.head(x))

    @contextmanager
    def calibrated(self, indices: Sequence[int], batches: Iterable[Tensor]) -> Iterator[None]:
        """Within it the path normalises with the statistics of `batches` (training images) instead of those of the
        batch at hand, and drops nothing out: how the network would score images one at a time.
        """
        chosen = [cast(nn.ModuleList, self.layers[layer])[index] for layer, index in enumerate(indices)]
        norms = [
            module
            for block in (self.stem, self.first, *chosen, self.head)
            for module in block.modules()
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)
        ]
        training = self.training
        try:
            for norm in norms:
                norm.running_mean = torch.zeros(norm.num_features, device=self._device)
                norm.running_var = torch.ones(norm.num_features, device=self._device)
                norm.num_batches_tracked = torch.zeros((), dtype=torch.long, device=self._device)
                norm.track_running_stats, norm.momentum = True, None  # None: the mean over all batches
            self.eval()
            for norm in norms:
                norm.train()
            with torch.no_grad():
                for batch in batches:
                    self(batch, indices)
            self.eval()
            yield
        finally:
            for norm in norms:
                norm.running_mean = norm.running_var = norm.num_batches_tracked = None
                norm.track_running_stats, norm.momentum = False, 0.1
            self.train(training)

    @torch.no_grad()
    def start_as_cuts(self, indices: Sequence[int]) -> None:
        """Give the other candidates of every layer what fits of the one on the path: the first channels, the middle of the kernel."""
        for layer, index in enumerate(indices):
            candidates = cast(nn.ModuleList, self.layers[layer])
            if isinstance(source := candidates[index], MBConv):
                for place, block in enumerate(candidates):
                    if place != index and isinstance(block, MBConv):
                        _cut(block, source)

    @property
    def _device(self) -> torch.device:
        return next(self.parameters()).device


@torch.no_grad()
def _start_alike(candidates: list[MBConv]) -> None:
    """Let the candidates of a layer start as cuts of one block: the first channels, the middle of the kernel.

    Ours, not published, so that the layers after it need not learn one language for each. The evidence is thin, one
    seed each on `tiny` and digits, batch 32, random paths: two candidates, accuracy 0.21 instead of 0.13 over steps
    41 to 60; all five, 0.15 instead of 0.09 over steps 46 to 90. Afterwards each candidate goes its own way.
    """
    if not candidates:
        return
    widest = max(candidates, key=lambda block: block.depthwise.out_channels)
    side = max(block.depthwise.kernel_size[0] for block in candidates)
    depthwise = torch.empty(widest.depthwise.out_channels, 1, side, side)
    nn.init.kaiming_normal_(depthwise, mode="fan_out")
    for block in candidates:
        hidden, kernel = block.depthwise.out_channels, block.depthwise.kernel_size[0]
        rim = (side - kernel) // 2
        if block.expand is not None and widest.expand is not None:
            block.expand.weight.copy_(widest.expand.weight[:hidden].clone())
        block.depthwise.weight.copy_(depthwise[:hidden, :, rim : rim + kernel, rim : rim + kernel])
        block.project.weight.copy_(widest.project.weight[:, :hidden].clone())


def _cut(block: MBConv, source: MBConv) -> None:
    of_source = dict(source.named_parameters())
    for name, parameter in block.named_parameters():
        if name in of_source:
            theirs = of_source[name]
            places = [
                _middle(mine, its) if parameter.dim() == 4 and axis >= 2 else (slice(min(mine, its)),) * 2
                for axis, (mine, its) in enumerate(zip(parameter.shape, theirs.shape, strict=True))
            ]
            parameter[tuple(mine for mine, _ in places)] = theirs[tuple(its for _, its in places)]


def _middle(mine: int, its: int) -> tuple[slice, slice]:
    both = min(mine, its)
    return slice((mine - both) // 2, (mine + both) // 2), slice((its - both) // 2, (its + both) // 2)


class _Gate(torch.autograd.Function):
    """`x * gate` for a gate that is known to be one: forward costs nothing, backward one dot product."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gate: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor]:
        (x,) = ctx.saved_tensors
        gradient = gradients[0]
        gate_gradient = torch.dot(_flat(gradient), _flat(x))
        return (gradient if ctx.needs_input_grad[0] else None), gate_gradient


def _flat(x: Tensor) -> Tensor:
    """(N * H * W * C,) in one order for any memory format; a view where the format is channels-last."""
    return x.permute(0, 2, 3, 1).reshape(-1)

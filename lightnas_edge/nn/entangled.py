"""Candidates of a layer that share their weights: each is a cut of one block, its first channels and the middle of its kernel.

As in once-for-all networks (Cai et al., arXiv 1908.09791) and AttentiveNAS (Wang et al., arXiv 2011.09011): whatever path a batch
takes, it trains a part of every candidate of the layer.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

from torch import Tensor, nn

from lightnas_edge.nn.blocks import SUPERNET, MBConv, build_block
from lightnas_edge.nn.convolution import Conv2d
from lightnas_edge.space import Operator, Space


class CutConv2d(Conv2d):
    """A convolution without weights of its own: a part of those of another, with at least as many channels and as large a kernel."""

    _whole: tuple[nn.Conv2d]  # in a tuple, so that it is registered in one place only: where it belongs

    @classmethod
    def of(cls, conv: nn.Conv2d, whole: nn.Conv2d) -> CutConv2d:
        """In the shape of `conv`, the weights of which are given up."""
        cut = cls.__new__(cls)
        cut.__dict__.update(conv.__dict__)
        cut.__dict__["_parameters"] = {"bias": None}
        cut.__dict__["_whole"] = (whole,)
        return cut

    @property
    def weight(self) -> Tensor:  # type: ignore[override]  # a part of a parameter
        whole = self._whole[0].weight
        inputs, side = self.in_channels // self.groups, self.kernel_size[0]
        rim = (whole.shape[-1] - side) // 2
        return whole[: self.out_channels, :inputs, rim : rim + side, rim : rim + side]


def whole_block(space: Space, layer: int) -> MBConv | None:
    """The block that all candidates of a layer are cuts of; None where there is none but skips."""
    blocks = [operator for operator in space.operators if operator.kind == "mbconv"]
    if not blocks:
        return None
    largest = Operator("mbconv", max(each.kernel for each in blocks), max(each.expansion for each in blocks))
    return cast(MBConv, build_block(space.at(layer, largest), SUPERNET))


def entangle(candidates: Iterable[nn.Module], whole: MBConv) -> None:
    """Let the convolutions of every block be cuts of the whole one. Squeeze-and-excitation and the learned scale stay its own."""
    for block in candidates:
        if isinstance(block, MBConv):
            if block.expand is not None and whole.expand is not None:
                block.expand = CutConv2d.of(block.expand, whole.expand)
            block.depthwise = CutConv2d.of(block.depthwise, whole.depthwise)
            block.project = CutConv2d.of(block.project, whole.project)

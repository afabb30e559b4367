"""Candidate operators and the shapes at which they are measured: plain data, no torch."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from lightnas_edge.errors import SpaceError

_NAME = re.compile(r"mbconv_k(\d+)_e(\d+)(_se)?")
_PAPER_NAME = re.compile(r"MBK(\d+)E(\d+)(SE)?")
Activation = Literal["relu6", "relu", "linear"]  # linear: none
SE_REDUCTION = 4  # of the expanded width: LightNAS evaluation/evaluate.py


@dataclass(frozen=True)
class Operator:
    """One candidate block: a MobileNetV2 inverted residual, or the skip.

    The name says everything: `mbconv_k5_e6`, `mbconv_k5_e6_se`, `skip`. The paper's spelling
    (`MBK5E6`, `SkipConnect`) is read by `parse` and printed by `paper_name`.
    """

    kind: str  # "mbconv" or "skip"
    kernel: int = 0  # of the depthwise convolution; odd; 0 for skip
    expansion: int = 0  # 0 for skip
    squeeze_excite: bool = False

    def __post_init__(self) -> None:
        if self.kind == "skip":
            valid = not (self.kernel or self.expansion or self.squeeze_excite)
        else:
            valid = self.kind == "mbconv" and self.kernel % 2 == 1 and self.expansion >= 1
        if not valid:
            raise SpaceError(f"no such operator: {self!r}", hint=_NAMES_HINT)

    @property
    def name(self) -> str:
        if self.kind == "skip":
            return "skip"
        return f"mbconv_k{self.kernel}_e{self.expansion}{'_se' if self.squeeze_excite else ''}"

    @property
    def paper_name(self) -> str:
        if self.kind == "skip":
            return "SkipConnect"
        return f"MBK{self.kernel}E{self.expansion}{'SE' if self.squeeze_excite else ''}"

    @classmethod
    def parse(cls, name: str) -> Operator:
        """Read `mbconv_k5_e6`, `MBK5E6`, `skip` or `SkipConnect`.

        Raises:
            SpaceError: the name is none of these.
        """
        if name in ("skip", "SkipConnect"):
            return SKIP
        match = _NAME.fullmatch(name) or _PAPER_NAME.fullmatch(name)
        if match is None:
            raise SpaceError(f"unknown operator name: {name!r}", hint=_NAMES_HINT)
        return cls("mbconv", int(match[1]), int(match[2]), bool(match[3]))

    def __str__(self) -> str:
        return self.name


_NAMES_HINT = "operators are named mbconv_k{odd kernel}_e{expansion}, with _se for squeeze-and-excitation, or skip"
SKIP = Operator("skip")


@dataclass(frozen=True)
class ShapedOperator:
    """An operator at a shape: what is measured, once per distinct shape.

    `block` is an `Operator` name, or `stem`, `head` for the fixed ends of a network.
    Equal shaped operators are equal objects; `key` names them in LUTs and jobs.
    """

    block: str
    in_channels: int
    out_channels: int
    stride: int
    input_size: int  # side of the square input, pixels
    hidden_channels: tuple[
        int, ...
    ] = ()  # head only: of the 1x1 convolution; of the first linear layer where there are two
    activation: Activation = "relu6"

    @property
    def key(self) -> str:
        """For example `mbconv_k5_e6@16x112-24s2`: input channels x side - output channels, stride; another activation than
        ReLU6 follows, `-relu`.
        """
        hidden = "".join(f"-{channels}" for channels in self.hidden_channels)
        activation = "" if self.activation == "relu6" else f"-{self.activation}"
        return (
            f"{self.block}@{self.in_channels}x{self.input_size}{hidden}-{self.out_channels}s{self.stride}{activation}"
        )

    @property
    def output_size(self) -> int:
        return 1 if self.block == "head" else -(-self.input_size // self.stride)

    @property
    def keeps_shape(self) -> bool:
        return self.stride == 1 and self.in_channels == self.out_channels

    @property
    def is_identity(self) -> bool:
        """True for a skip that keeps its shape: no node in any graph, so nothing to measure."""
        return self.block == "skip" and self.keeps_shape

    def to_json(self) -> dict[str, object]:
        record: dict[str, object] = {
            "key": self.key,
            "block": self.block,
            "in_channels": self.in_channels,
            "out_channels": self.out_channels,
            "stride": self.stride,
            "input_size": self.input_size,
        }
        if self.hidden_channels:
            record["hidden_channels"] = list(self.hidden_channels)
        if self.activation != "relu6":
            record["activation"] = self.activation
        return record

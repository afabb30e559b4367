"""In what numbers a graph computes: float32, float16, or int8 in one of two dialects.

Why two dialects of int8. ONNX Runtime's CPU kernels take unsigned activations with a zero point, an int32 bias, and
quantised tensors on both sides of every operator; NVIDIA's builder refuses the int32 bias and the zero point, and wants
float tensors wherever it may fuse. One graph for both is either refused by the one or several times slower in the other.
Rules and sources: docs/graphs.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from onnx import TensorProto

from lightnas_edge.errors import ExportError

Precision = Literal["fp32", "fp16", "int8"]
Dialect = Literal["tensorrt", "ort"]
Range = tuple[float, float]

QUANTISED_OPSET = 13  # QuantizeLinear takes an axis since then: per-channel weights
# Largest quantised weight. On x86 CPUs without VNNI, ONNX Runtime adds two products of 8-bit numbers in 16 bits: with weights of
# 7 bits their sum fits (2 * 255 * 63 < 2^15), with 8 bits it saturates and the network computes something else.
LARGEST_WEIGHT: dict[Dialect, int] = {"tensorrt": 127, "ort": 63}
SMALLEST_SCALE = 1e-12  # of a tensor that is zero everywhere


@dataclass(frozen=True)
class Arithmetic:
    """`dialect`: of int8, and of nothing else.

    Raises:
        ExportError: an unknown precision or dialect, or a dialect that does not belong.
    """

    precision: Precision = "fp32"
    dialect: Dialect | None = None

    def __post_init__(self) -> None:
        if self.precision not in get_args(Precision):
            raise ExportError(
                f"unknown precision {self.precision!r}", hint=f"choose one of {', '.join(get_args(Precision))}"
            )
        if self.precision == "int8" and self.dialect not in get_args(Dialect):
            raise ExportError(
                f"an int8 graph is written for one kind of runtime: {' or '.join(get_args(Dialect))}, not {self.dialect!r}"
            )
        if self.precision != "int8" and self.dialect is not None:
            raise ExportError(f"{self.precision} has no dialects; found {self.dialect!r}")

    def __str__(self) -> str:
        """`fp16`, `int8 ort`."""
        return self.precision if self.dialect is None else f"{self.precision} {self.dialect}"

    @classmethod
    def for_backend(cls, backend: str, precision: str) -> Arithmetic:
        """What an engine of this backend is given: the virtual boards follow TensorRT."""
        if precision not in get_args(Precision):
            raise ExportError(
                f"unknown precision {precision!r}", hint=f"choose one of {', '.join(get_args(Precision))}"
            )
        known: Precision = precision  # type: ignore[assignment]  # checked in the line above
        if known != "int8":
            return cls(known)
        return cls(known, "ort" if backend in ("onnxruntime", "onnxruntime-cuda") else "tensorrt")

    @property
    def quantised(self) -> bool:
        return self.precision == "int8"

    @property
    def float_type(self) -> int:
        """ONNX type of what is not quantised."""
        return int(TensorProto.FLOAT16 if self.precision == "fp16" else TensorProto.FLOAT)

    @property
    def activation_type(self) -> int:
        """ONNX type of a tensor between two blocks."""
        if not self.quantised:
            return self.float_type
        return int(TensorProto.UINT8 if self.dialect == "ort" else TensorProto.INT8)

    @property
    def everywhere(self) -> bool:
        """Every activation is quantised, and not only what convolutions, linear layers and poolings read."""
        return self.dialect == "ort"


@dataclass(frozen=True)
class Scale:
    """real = scale * (quantised - zero_point)"""

    scale: float
    zero_point: int

    @classmethod
    def of(cls, found: Range, dialect: Dialect | None) -> Scale:
        """Of an activation with these extremes.

        Raises:
            ExportError: no range: not finite, or upside down.
        """
        low, high = (float(end) for end in found)
        if not (np.isfinite(low) and np.isfinite(high) and low <= high):
            raise ExportError(f"an activation's range is [low, high] with finite ends, found {found}")
        low, high = min(low, 0.0), max(high, 0.0)  # zero must be exact: padding is zero
        if dialect == "tensorrt":
            return cls(_float32(max(-low, high, SMALLEST_SCALE) / 127), 0)
        scale = _float32(max(high - low, SMALLEST_SCALE) / 255)
        return cls(scale, int(np.clip(round(-low / scale), 0, 255)))


def weight_scales(weight: np.ndarray, dialect: Dialect) -> np.ndarray:
    """(C,) float32: symmetric, one for each output channel (axis 0)."""
    largest = np.abs(weight.reshape(len(weight), -1)).max(axis=1)
    scales: np.ndarray = (np.maximum(largest, SMALLEST_SCALE) / LARGEST_WEIGHT[dialect]).astype(np.float32)
    return scales


def quantise_weight(weight: np.ndarray, scales: np.ndarray, dialect: Dialect) -> np.ndarray:
    """int8, of the weight's shape; to nearest, ties to even, as QuantizeLinear does."""
    shape, most = (-1, *[1] * (weight.ndim - 1)), LARGEST_WEIGHT[dialect]
    found: np.ndarray = np.clip(np.rint(weight / scales.reshape(shape)), -most, most).astype(np.int8)
    return found


def _float32(value: float) -> float:
    """Rounded down to float32, so that the largest quantised value does not exceed what it stands for (a ReLU6's 6)."""
    rounded = np.float32(value)
    return float(np.nextafter(rounded, np.float32(0)) if float(rounded) > value else rounded)

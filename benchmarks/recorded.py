"""Measurements that other people published, from a folder: `../shared/data`, or DATA, or LIGHTNAS_EDGE_DATA.

They are not part of the project. Each reader names its files, and a benchmark reports what it skipped without them.
"""

from __future__ import annotations

import csv
import math
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lightnas_edge.predictor.features import Features
from lightnas_edge.predictor.layers import Layer, Layers

ROOT = Path(__file__).parent.parent
_KERNELS = range(1, 8)
_LAYERS = [*(f"conv{k}" for k in _KERNELS), *(f"depthwise{k}" for k in _KERNELS), "first", "linear"]


def folder() -> Path:
    named = os.environ.get("DATA") or os.environ.get("LIGHTNAS_EDGE_DATA")
    return Path(named) if named else ROOT.parent / "shared" / "data"


def missing(*names: str) -> str | None:
    """Why a benchmark cannot run here; None when all of its files exist."""
    absent = [name for name in names if not (folder() / name).is_file()]
    return f"skipped: no {', '.join(absent)} in {folder()}; DATA=FOLDER points elsewhere" if absent else None


@dataclass(frozen=True, eq=False)
class Convnets:
    """Plain, depthwise-separable and mixed-kernel networks on a Jetson Nano.

    Args:
        latency_ms, energy_mj, again_ms: (n,); the last is the latency of a second process, for the repeatability; nan
            where there was none.
        macs, width, kernel: (n,); the kernel of the first layer.
    """

    features: Features
    latency_ms: NDArray[np.float64]
    energy_mj: NDArray[np.float64]
    again_ms: NDArray[np.float64]
    macs: NDArray[np.float64]
    width: NDArray[np.int64]
    kernel: NDArray[np.int64]


def convnets() -> Convnets:
    with (folder() / "nano_convnets" / "measurements.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["latency_60s_ms"] and row["energy_in_mj"]]
    described = [_convnet(row) for row in rows]
    columns = {
        name: np.array([float(row[name] or "nan") for row in rows])
        for name in ("latency_60s_ms", "energy_in_mj", "latency_100run_ms", "macs")
    }
    return Convnets(
        Features(
            np.array([work for work, _, _ in described]),
            np.array([traits for _, traits, _ in described]),
            Layers.of([layers for _, _, layers in described]),
        ),
        *(columns[name] for name in ("latency_60s_ms", "energy_in_mj", "latency_100run_ms", "macs")),
        *(np.array([int(row[name]) for row in rows]) for name in ("width", "k1")),
    )


def _convnet(row: dict[str, str]) -> tuple[list[float], list[float], list[Layer]]:
    """(work, traits, layers) of a network, from its layers as the data's description builds them."""
    depth, width, side, first = (int(row[name]) for name in ("depth", "width", "input_hw", "k1"))
    kernels = [first, int(float(row["k2"] or first))]
    macs, moved, weights, launches = ({name: 0.0 for name in _LAYERS} for _ in range(4))
    layers = list[Layer]()

    def add(name: str, entering: int, leaving: int, kernel: int, before: int, after: int) -> None:
        depthwise = name.startswith("depthwise")
        each = kernel**2 * (1 if depthwise else entering) * leaving
        macs[name] += each * after**2
        moved[name] += entering * before**2 + leaving * after**2
        weights[name] += each
        launches[name] += 1
        layers.append(
            Layer(name.rstrip("1234567"), entering, leaving, kernel, before, after, entering if depthwise else 1)
        )

    channels, here, padding = 3, side, 2
    sides, of_layer = list[int](), list[int]()
    for position in range(depth):
        kernel = kernels[position % 2] if row["kind"] == "mixed" else first
        if row["kind"] == "mixed":
            padding = 1 if kernel % 2 else padding  # stays for all further layers, as in the authors' generator
            pad = padding
        elif row["kind"] == "plain":
            pad = 1 if kernel in (1, 3) else 2
        else:
            pad = 1 if kernel == 3 else 2
        after = here - kernel + 2 * pad + 1
        if row["kind"] == "dws":
            add(f"depthwise{kernel}", channels, channels, kernel, here, after)
            add("conv1", channels, width, 1, after, after)
        else:
            add("first" if position == 0 else f"conv{kernel}", channels, width, kernel, here, after)
        sides.append(after)
        of_layer.append(kernel**2 * channels * after**2)
        here, channels = after, width
    add("linear", channels * here**2, 10, 1, 1, 1)
    kinds = ("conv", "depthwise", "linear")
    work = list(macs.values())
    for amounts in (moved, weights, launches):
        joined = {kind: sum(value for name, value in amounts.items() if name.startswith(kind)) for kind in kinds}
        joined["conv"] += amounts["first"]
        work += joined.values()
    sizes = [math.log(value) for value in (sum(macs.values()), width, depth, here)]
    tiles = [*(_padding(width, tile) for tile in (32, 64, 128)), *(_padding(here, tile) for tile in (8, 16))]
    tiles += [_padding(here**2, tile) for tile in (64, 128)]
    share = np.array(of_layer) / sum(of_layer)
    # Kernels work in tiles of rows, columns or pixels: the mean over layers, by their multiplications.
    tiles += [float(share @ [_padding(each, tile) for each in sides]) for tile in (2, 4, 8, 16, 32)]
    tiles += [float(share @ [_padding(each**2, tile) for each in sides]) for tile in (32, 64, 128)]
    tiles += [float(share @ [each % step == 0 for each in sides]) for step in (2, 4, 8)]
    sizes += [float(here), float(sides[0]), float(share @ sides), float(sides[-1] - side), float(np.mean(kernels))]
    sizes += [math.log(sum(macs.values()) / depth), math.log(width * here**2)]
    shape = [float(value) for kernel in kernels for value in (kernel, kernel % 2, kernel == 3)]
    kind_of = [float(row["kind"] == kind) for kind in ("plain", "dws", "mixed")]
    return work, [*sizes, side / 100, *tiles, *shape, *kind_of], layers


def _padding(amount: int, tile: int) -> float:
    """Logarithm of how much more is computed in whole tiles."""
    return math.log(math.ceil(amount / tile) * tile / amount)

"""Small spaces and boards with known costs: tables and networks measured on them, without noise by default."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

import luts
from lightnas_edge.measuring.jobs import network_key
from lightnas_edge.predictor import Observations
from lightnas_edge.space import Architecture, Space
from tests.luts.journals import FINGERPRINT, write_measured


def small_space(layers: int = 4, operators: Sequence[str] = ("mbconv_k3_e3", "mbconv_k5_e6", "skip")) -> Space:
    """By default 4 layers, 3 operators: 81 networks. Layers 1 and 3 keep their shape, so skip is an identity there."""
    channels = [16, 16, 24, 24, 32, 32, 40, 40][:layers]
    strides = [2, 1, 2, 1, 2, 1, 1, 1][:layers]
    return Space.from_json(
        {
            "schema": 1, "name": "small", "input_size": 32, "classes": 10,
            "stem": {"channels": 8, "stride": 1}, "first": {"operator": "mbconv_k3_e1", "channels": 8},
            "operators": list(operators),
            "layers": [{"channels": c, "stride": s} for c, s in zip(channels, strides, strict=True)],
            "head": {"channels": 64, "features": 32}, "dropout": 0.1,
        }
    )  # fmt: skip


def table_truth_ms(space: Space) -> dict[str, float]:
    """0.10, 0.11, 0.12, ... ms in the order of the space's operators."""
    return {shaped.key: 0.10 + 0.01 * index for index, shaped in enumerate(space.shaped_operators())}


def sum_ms(space: Space, table: dict[str, float], architecture: Architecture) -> float:
    return sum(table[shaped.key] for shaped in space.chain(architecture) if not shaped.is_identity)


def profile(path: Path, space: Space, table: dict[str, float] | None = None, **how: object) -> luts.Lut:
    """A table of every operator of the space."""
    return luts.read(write_measured(path, table or table_truth_ms(space), **{**_of(space), **how}))


def sample(
    path: Path,
    space: Space,
    architectures: Sequence[Architecture],
    truth: Callable[[Architecture], float],
    sentinels: dict[str, float] | None = None,
    **how: object,
) -> luts.Lut:
    """Whole networks and sentinel operators."""
    networks = {network_key(architecture): architecture for architecture in architectures}
    truth_ms = dict(sentinels or {}) | {key: truth(architecture) for key, architecture in networks.items()}
    records = {key: architecture.to_json() for key, architecture in networks.items()}
    return luts.read(write_measured(path, truth_ms, networks=records, **{**_of(space), **how}))


def _of(space: Space) -> dict[str, object]:
    return {"space": space.name, "space_sha256": space.sha256, "classes": space.classes}


def observed(space: Space, indices: np.ndarray, latency_ms: np.ndarray, error_ms: float = 1e-3) -> Observations:
    """Measured networks without a file."""
    errors = np.full(len(indices), error_ms)
    return Observations(space, indices, np.asarray(latency_ms, dtype=float), errors, dict(FINGERPRINT), True)


def random_architectures(space: Space, count: int, seed: int = 0) -> list[Architecture]:
    """Distinct ones."""
    generator = np.random.default_rng(seed)
    found: dict[Architecture, None] = {}
    while len(found) < count:
        found[Architecture.random(space, generator)] = None
    return list(found)

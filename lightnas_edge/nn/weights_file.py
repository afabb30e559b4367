"""Weights in a file of safetensors. Loading it runs no code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from lightnas_edge.errors import LightnasEdgeError
from lightnas_edge.files import sha256_of
from lightnas_edge.records.base import read_bounded
from lightnas_edge.records.plain_text import first_line

_MAX_BYTES = 4 * 2**30


@dataclass(frozen=True, eq=False)
class WeightsFile:
    """Tensors by name.

    Args:
        description: JSON of the network, as `lightnas-edge train` writes it: its space, operators and classes; else `{}`.
    """

    weights: Mapping[str, Tensor]
    description: str
    sha256: str


def read_weights(path: Path, *, error: type[LightnasEdgeError], remedy: str) -> WeightsFile:
    """Read all tensors, on the CPU.

    Args:
        error: the type that is raised.
        remedy: its hint.

    Raises:
        error: no such file, or it is not in the form of safetensors.
    """
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import load

    content = read_bounded(path, error=error, remedy=remedy, max_bytes=_MAX_BYTES)
    try:
        weights = load(content)
        with safe_open(str(path), "pt") as file:
            description = (file.metadata() or {}).get("network", "{}")
    except (SafetensorError, OSError, ValueError) as cause:
        raise error(f"{path} cannot be read as safetensors: {first_line(cause)}", hint=remedy) from cause
    return WeightsFile(weights, description, sha256_of(content))

"""torchvision's transforms for recipes that ask for them: imported then, and drawn from seeds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from PIL import Image

from lightnas_edge.data.colour import Pixels
from lightnas_edge.errors import RunError
from lightnas_edge.records.plain_text import first_line


def torchvision_transforms() -> Any:
    """The module `torchvision.transforms.v2`.

    Raises:
        RunError: it is not installed, or it was built for another PyTorch.
    """
    try:
        from torchvision.transforms import v2
    except ImportError as error:
        raise RunError(
            "mixup, CutMix and RandAugment need the package torchvision", hint="pip install 'lightnas-edge[recipes]'"
        ) from error
    except Exception as error:  # torch raises several types where operators are missing
        raise RunError(
            f"mixup, CutMix and RandAugment need torchvision, which does not work with PyTorch {torch.__version__}: {first_line(error)}",
            hint="install the torchvision of this version and build of PyTorch, from where PyTorch came from",
        ) from error
    return v2


@contextmanager
def drawn_from(*seed: int) -> Iterator[None]:
    """Inside, PyTorch's random numbers on the CPU are a function of the seed; afterwards they are as before.

    Args:
        seed: whole numbers from zero on.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(int(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0]))
        yield


@dataclass(frozen=True)
class RandAugment:
    """Operations drawn from torchvision's fourteen (Cubuk et al. 2020), on one image.

    Args:
        operations: for an image, one after the other.
        magnitude: of all of them, 0 to 30.
    """

    operations: int = 2
    magnitude: int = 9

    def __call__(self, pixels: Pixels, generator: np.random.Generator) -> Pixels:
        """(S, S, 3) to (S, S, 3)."""
        with drawn_from(int(generator.integers(2**63))):
            changed = _policy(self.operations, self.magnitude)(Image.fromarray(pixels))
        return np.asarray(changed)


@cache
def _policy(operations: int, magnitude: int) -> Any:
    return torchvision_transforms().RandAugment(operations, magnitude)

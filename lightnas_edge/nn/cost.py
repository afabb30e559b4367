"""What a few steps cost, from which the cost of a whole run is estimated."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor

from lightnas_edge.data import Loader


def seconds_of(work: Callable[[], object], device: torch.device) -> float:
    """Until the device has finished it."""
    _wait_for(device)
    started_s = time.monotonic()
    work()
    _wait_for(device)
    return time.monotonic() - started_s


def trial_batch(loader: Loader) -> tuple[Tensor, Tensor, float]:
    """The first batch, and the seconds that a second one takes to load: decoding processes have begun it already."""
    batches = loader.batches(0)
    pixels, labels = next(batches)
    started_s = time.monotonic()
    next(batches, None)
    return pixels, labels, time.monotonic() - started_s


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)

"""How the arithmetic of a step is carried out, and a short trial of which way is quickest on this machine."""

from __future__ import annotations

import copy
import statistics
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F

from lightnas_edge.nn import Supernet

_TRIALS = 3  # steps of each way, after one that is not counted
_GAIN = 0.95  # another way must take less than this share of the plain one's time


@dataclass(frozen=True)
class Execution:
    """`half`: matrix arithmetic in bfloat16 under autocast, whose range is that of float32, so losses need no scaling.
    `channels_last`: the order of a tensor's elements in memory.
    """

    half: bool = False
    channels_last: bool = True

    def context(self, device: torch.device) -> AbstractContextManager[Any]:
        if not self.half:
            return nullcontext()
        return torch.autocast(device.type, dtype=torch.bfloat16)

    @property
    def memory_format(self) -> torch.memory_format:
        return torch.channels_last if self.channels_last else torch.contiguous_format

    def to_json(self) -> dict[str, bool]:
        return asdict(self)

    def __str__(self) -> str:
        return f"{'bfloat16' if self.half else 'float32'}, channels {'last' if self.channels_last else 'first'}"


PLAIN = Execution()


def quickest_execution(
    supernet: Supernet, images: torch.Tensor, labels: torch.Tensor
) -> tuple[Execution, dict[str, float]]:
    """Runs a few weight steps of the first path each way, on a copy; the plain way unless another one is clearly quicker.

    Returns:
        The choice, and the median time of a step by way, in ms.
    """
    device = images.device
    ways = [Execution(half, last) for half in _halves(device) for last in (True, False)]
    times = {way: _time_ms(copy.deepcopy(supernet), images, labels, way) for way in ways}
    best = min(times, key=lambda way: times[way])
    chosen = best if times[best] < _GAIN * times[PLAIN] else PLAIN
    return chosen, {str(way): round(value, 3) for way, value in times.items()}


def _halves(device: torch.device) -> tuple[bool, ...]:
    if device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        return (False,)
    return (False, True)


def _time_ms(supernet: Supernet, images: torch.Tensor, labels: torch.Tensor, way: Execution) -> float:
    supernet.to(memory_format=way.memory_format)  # type: ignore[call-overload]  # missing in torch's types
    images = images.contiguous(memory_format=way.memory_format)
    path = [0] * len(supernet.space.layers)
    times = []
    for _ in range(1 + _TRIALS):
        if images.is_cuda:
            torch.cuda.synchronize()
        started_s = time.perf_counter()
        with way.context(images.device):
            loss = F.cross_entropy(supernet(images, path), labels)
        torch.autograd.backward(loss)
        if images.is_cuda:
            torch.cuda.synchronize()
        times.append(1000 * (time.perf_counter() - started_s))
    return statistics.median(times[1:])

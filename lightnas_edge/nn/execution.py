"""Precision and memory format of a step, and a short trial of the fastest combination on this machine."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightnas_edge.nn.ranks import Ranks

PRECISIONS = ("fp32", "bf16", "auto")  # that a user may ask for
_TRIALS = 3  # timed steps of each combination, after one for warm-up
_GAIN = 0.95  # a combination must take less than this share of the default's time to be chosen


@dataclass(frozen=True)
class Execution:
    """`bf16`: matrix arithmetic in bfloat16 under autocast. Its range is that of float32, so losses need no scaling.
    `channels_last`: the order of a tensor's elements in memory.
    """

    bf16: bool = False
    channels_last: bool = True

    def context(self, device: torch.device) -> AbstractContextManager[Any]:
        if not self.bf16:
            return nullcontext()
        return torch.autocast(device.type, dtype=torch.bfloat16)

    @property
    def memory_format(self) -> torch.memory_format:
        return torch.channels_last if self.channels_last else torch.contiguous_format

    def to_json(self) -> dict[str, bool]:
        return asdict(self)

    def __str__(self) -> str:
        return f"{'bfloat16' if self.bf16 else 'float32'}, channels {'last' if self.channels_last else 'first'}"


PLAIN = Execution()


def fastest_execution(
    network: nn.Module, forward: Callable[[Any, Tensor], Tensor], images: Tensor, labels: Tensor
) -> tuple[Execution, dict[str, float]]:
    """Run a few weight steps in each combination, on a copy; the default unless another is clearly faster.

    Args:
        forward: (the copy, images) to logits.

    Returns:
        The choice, and the median time of a step per combination, in ms.
    """
    device = images.device
    executions = [Execution(bf16, last) for bf16 in _bf16_choices(device) for last in (True, False)]
    times = {each: _time_ms(copy.deepcopy(network), forward, images, labels, each) for each in executions}
    best = min(times, key=lambda execution: times[execution])
    chosen = best if times[best] < _GAIN * times[PLAIN] else PLAIN
    return chosen, {str(execution): round(value, 3) for execution, value in times.items()}


def agreed_execution(
    network: nn.Module, forward: Callable[[Any, Tensor], Tensor], images: Tensor, labels: Tensor, ranks: Ranks
) -> tuple[Execution, dict[str, float]]:
    """As `fastest_execution`, decided by rank 0 for all; random numbers are as before."""
    with torch.random.fork_rng():
        chosen, times_ms = fastest_execution(network, forward, images, labels)
    flags = ranks.from_first(torch.tensor([chosen.bf16, chosen.channels_last], dtype=torch.int64))
    return Execution(bool(flags[0]), bool(flags[1])), times_ms


def _bf16_choices(device: torch.device) -> tuple[bool, ...]:
    if device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        return (False,)
    return (False, True)


def _time_ms(
    network: nn.Module, forward: Callable[[Any, Tensor], Tensor], images: Tensor, labels: Tensor, execution: Execution
) -> float:
    network.to(memory_format=execution.memory_format)  # type: ignore[call-overload]  # missing in torch's types
    images = images.contiguous(memory_format=execution.memory_format)
    times = []
    for _ in range(1 + _TRIALS):
        if images.is_cuda:
            torch.cuda.synchronize()
        started_s = time.perf_counter()
        with execution.context(images.device):
            loss = F.cross_entropy(forward(network, images), labels)
        torch.autograd.backward(loss)
        if images.is_cuda:
            torch.cuda.synchronize()
        times.append(1000 * (time.perf_counter() - started_s))
    return statistics.median(times[1:])

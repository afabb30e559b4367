"""Several processes that train one network: `torchrun` starts them, one process is the case without it.

Every rank draws the same paths (their random numbers come from one seed), sees its share of each batch, and adds its
gradients to the others'. Only rank 0 writes.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from lightnas_edge.errors import RunError

_PATIENCE = timedelta(minutes=10)  # for a rank that does not answer: it may be reading a slow disk
_LONG_PATIENCE = timedelta(days=14)  # for a rank that measures on a board


class Ranks:
    """This process among its peers; alone unless torch's process group is up."""

    def __init__(self) -> None:
        up = dist.is_available() and dist.is_initialized()
        self.world = dist.get_world_size() if up else 1
        self.rank = dist.get_rank() if up else 0

    @property
    def first(self) -> bool:
        return self.rank == 0

    def average(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor by its mean over the ranks, all in one message."""
        if self.world == 1:
            return
        tensors = list(tensors)
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        dist.all_reduce(flat)
        flat /= self.world
        parts = torch.split(flat, [tensor.numel() for tensor in tensors])
        for tensor, mean in zip(tensors, parts, strict=True):
            tensor.copy_(mean.view_as(tensor))

    def average_step(self, network: nn.Module, *figures: Tensor) -> None:
        """Gradients and running statistics of a network, and some figures, in one message."""
        gradients = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
        statistics = [buffer for buffer in network.buffers() if buffer.is_floating_point()]
        self.average([*gradients, *statistics, *figures])

    def from_first(self, tensor: Tensor) -> Tensor:
        """Rank 0's values, in place on every rank."""
        if self.world > 1:
            dist.broadcast(tensor, 0)
        return tensor

    def gather(self, value: Tensor) -> list[Tensor]:
        """The tensor of every rank, in their order."""
        if self.world == 1:
            return [value]
        found = [torch.empty_like(value) for _ in range(self.world)]
        dist.all_gather(found, value)
        return found

    def wait(self) -> None:
        if self.world > 1:
            dist.barrier()

    def wait_long(self) -> None:
        """For a rank that works for hours alone, on a board; the time limit of messages does not hold."""
        if self.world > 1:
            dist.barrier(dist.new_group(backend="gloo", timeout=_LONG_PATIENCE))


@contextmanager
def joined_ranks(device: str = "auto") -> Iterator[Ranks]:
    """Join the processes that `torchrun` started; alone where there is no torchrun.

    Raises:
        RunError: a peer ended while this process waited for it.
    """
    if not dist.is_available() or not dist.is_torchelastic_launched():
        yield Ranks()
        return
    cuda = torch.cuda.is_available() and device != "cpu"
    if cuda:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    arguments: dict[str, Any] = {"backend": "cpu:gloo,cuda:nccl" if cuda else "gloo", "timeout": _PATIENCE}
    dist.init_process_group(**arguments)
    try:
        yield Ranks()
    except RuntimeError as error:  # gloo has no type of its own
        if "Connection closed by peer" not in str(error) and "Connection reset by peer" not in str(error):
            raise
        raise RunError(
            "another process of this run has ended", hint="its own message is in the output as well"
        ) from error
    finally:
        dist.destroy_process_group()

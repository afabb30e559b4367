"""The device that computes: which one, its memory, and its random numbers."""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable, Sequence

import torch
from torch import nn

from lightnas_edge.errors import RunError


def choose_device(name: str) -> torch.device:
    """`auto` is a CUDA device where there is one, else the CPU.

    Raises:
        RunError: PyTorch knows no such device, or finds none on this machine.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    remedy = "repeat the command with --device cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise RunError(f"PyTorch knows no device {name!r}", hint=remedy) from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        why = "this build of PyTorch has no CUDA" if torch.version.cuda is None else "PyTorch finds no such CUDA device"
        raise RunError(f"cannot compute on {name}: {why}", hint=remedy)
    return device


def random_state(device: torch.device) -> dict[str, torch.Tensor]:
    """Of PyTorch's own generators."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def restore_random_state(state: dict[str, torch.Tensor], device: torch.device) -> None:
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)


def undo_of_forward(
    module: nn.Module, device: torch.device, generators: Sequence[torch.Generator] = ()
) -> Callable[[], None]:
    """A function that restores what passes change without a step of the weights: random states and running statistics."""
    random = random_state(device)
    states = [generator.get_state() for generator in generators]
    buffers = [(buffer, buffer.clone()) for buffer in module.buffers()]

    def undo() -> None:
        restore_random_state(random, device)
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)
        for buffer, before in buffers:
            buffer.copy_(before)

    return undo


def peak_memory_mb(device: torch.device) -> float:
    """The most memory that this process has used so far: of the GPU, else of the machine. 1 MB = 10^6 bytes."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6  # Linux counts in KiB, macOS in bytes

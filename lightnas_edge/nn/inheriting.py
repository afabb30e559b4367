"""Weights of one network from elsewhere: by name and shape from a file, or from the path of a supernet."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from lightnas_edge.nn.network import Network
from lightnas_edge.nn.supernet import Supernet

_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")  # of a norm; the rest of a network is learned


@dataclass(frozen=True)
class Fitted:
    """What became of the names of a network and of those of the source."""

    taken: tuple[str, ...]
    missing: tuple[str, ...]  # of the network; the source does not have them
    other_shape: tuple[str, ...]  # of the network; the source has them in another shape
    unused: tuple[str, ...]  # of the source; the network has no such name

    @property
    def statistics(self) -> bool:
        """Whether the source had the running statistics of every norm. Converters drop its counter of batches, which nothing needs."""
        without = (*self.missing, *self.other_shape)
        return not any(_is_statistic(name) and not name.endswith("num_batches_tracked") for name in without)

    @property
    def learned(self) -> Fitted:
        """Without running statistics."""
        groups = (self.taken, self.missing, self.other_shape, self.unused)
        return Fitted(*(tuple(name for name in group if not _is_statistic(name)) for group in groups))


@torch.no_grad()
def fit_weights(network: nn.Module, source: Mapping[str, Tensor]) -> Fitted:
    """Copy every tensor whose name and shape the network has; what does not fit stays as it is in the network."""
    own = network.state_dict()
    taken, missing, other_shape = [], [], []
    for name, tensor in own.items():
        if name not in source:
            missing.append(name)
        elif source[name].shape != tensor.shape:
            other_shape.append(name)
        else:
            tensor.copy_(source[name])
            taken.append(name)
    return Fitted(tuple(taken), tuple(missing), tuple(other_shape), tuple(name for name in source if name not in own))


def path_weights(supernet: Supernet, indices: Sequence[int]) -> dict[str, Tensor]:
    """The weights of one path under the names that they have in a `Network`; of an entangled supernet, the cuts.

    A supernet's norms have no running statistics, and only the norm that ends a residual branch has a scale.

    Args:
        indices: L positions in `space.operators`.
    """
    blocks: dict[str, nn.Module] = {"stem": supernet.stem, "first": supernet.first, "head": supernet.head}
    for layer, index in enumerate(indices):
        blocks[f"layers.{layer}"] = cast(nn.ModuleList, supernet.layers[layer])[index]
    found: dict[str, Tensor] = {}
    for block_name, block in blocks.items():
        for part, module in block.named_modules():
            for kind in ("weight", "bias"):
                value = getattr(module, kind, None)
                if isinstance(value, Tensor):
                    found[f"{block_name}.{part}.{kind}"] = value.detach().cpu()
    return found


@torch.no_grad()
def estimate_statistics(network: nn.Module, batches: Iterable[Tensor]) -> None:
    """Replace the running statistics of every norm by their means over these batches; nothing is dropped out.

    Args:
        batches: (N, 3, S, S) normalised images.
    """
    norms = [module for module in network.modules() if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d))]
    momenta, training = [norm.momentum for norm in norms], network.training
    network.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean over all batches
        norm.train()
    for batch in batches:
        network(batch)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    network.train(training)


@torch.no_grad()
def pass_features_on(network: Network) -> None:
    """Let the norm after the head's features begin as the identity, on average: the supernet of a search has no norm there.

    Call it when the running statistics are known.
    """
    norm = getattr(network.head, "linear_norm", None)
    if isinstance(norm, nn.BatchNorm1d):
        assert norm.running_mean is not None and norm.running_var is not None
        norm.weight.copy_((norm.running_var + norm.eps).sqrt())
        norm.bias.copy_(norm.running_mean)


def _is_statistic(name: str) -> bool:
    return name.rpartition(".")[2] in _STATISTICS

"""Weights that a training begins with: the network's path in the supernet of its search, or a file of safetensors."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from lightnas_edge.errors import RunError
from lightnas_edge.files import sha256_of_file
from lightnas_edge.nn import Fitted, Network, Supernet, estimate_statistics, fit_weights, pass_features_on, path_weights
from lightnas_edge.nn.weights_file import read_weights
from lightnas_edge.records.deployment import InitialWeights
from lightnas_edge.runs import Run
from lightnas_edge.search import load_supernet

_NORM_OF_FEATURES = "head.linear_norm.weight"
_FORMAT = "other forms run code when they are loaded and are not read; convert the weights first"
STATISTICS_IMAGES = (
    512  # training images that the running statistics are estimated on, as the search does for candidates
)


@dataclass(frozen=True)
class Begun:
    """Which tensors fitted, and where the running statistics came from."""

    fitted: Fitted
    statistics: Literal["source", "training images"]


@dataclass(frozen=True)
class Initial:
    """Initial weights: what they are called, and how a network gets them.

    Args:
        load_into: copies weights into a network. Where the source has no running statistics of batch norm, they are estimated on the
            batches, normalised training images.
    """

    source: Literal["supernet", "file"]
    name: str
    sha256: str
    load_into: Callable[[Network, Iterable[Tensor]], Begun]

    @property
    def identity(self) -> dict[str, str]:
        """What a checkpoint belongs to."""
        return {"source": self.source, "sha256": self.sha256}

    def record(self, begun: Begun, accuracy: float) -> InitialWeights:
        learned = begun.fitted.learned
        return InitialWeights(
            source=self.source,
            name=self.name,
            sha256=self.sha256,
            taken=len(learned.taken),
            missing=learned.missing,
            other_shape=learned.other_shape,
            unused=len(learned.unused),
            statistics=begun.statistics,
            accuracy=accuracy,
        )


def from_supernet(run: Run) -> Initial:
    """The path of a run's network in the supernet of its search; of entangled weights, cuts of the largest operators.

    Raises:
        RunError: the run has no checkpoint of its search, or a damaged one.
    """
    return path_of_supernet(run, [int(index) for index in run.architecture.indices(run.space)])


def default_initial(run: Run) -> Initial | None:
    """`from_supernet` where the run has the checkpoint of its search; None, random numbers, where it has none."""
    return None if run.search_checkpoint is None else from_supernet(run)


def from_file(path: Path) -> Initial:
    """Tensors of a safetensors file, by name and shape; what does not fit is reported and keeps its random numbers.

    Raises:
        RunError: no such file, or it is not in the form of safetensors.
    """
    if not path.is_file():
        raise RunError(f"{path} does not exist, or is no file", hint="--init takes a file of safetensors")

    def load_into(network: Network, batches: Iterable[Tensor]) -> Begun:
        fitted = fit_weights(network, read_weights(path, error=RunError, remedy=_FORMAT).weights)
        if not fitted.learned.taken:
            raise RunError(
                f"no tensor of {path} fits the network by name and shape: {len(fitted.missing)} names are missing, "
                f"{len(fitted.other_shape)} have another shape",
                hint="the names are those of train/weights.safetensors, for example layers.0.depthwise.weight",
            )
        if fitted.statistics:
            return Begun(fitted, "source")
        estimate_statistics(network, batches)
        return Begun(fitted, "training images")

    return Initial("file", str(path), sha256_of_file(path), load_into)


def path_of_supernet(run: Run, indices: Sequence[int]) -> Initial:
    """As `from_supernet`, of any network of the space.

    Args:
        indices: L positions in `space.operators`.
    """
    path = run.search_checkpoint
    if path is None:
        raise RunError(
            f"{run.folder} has no supernet: there is no checkpoint of its search",
            hint="train with --from-scratch, or with --init FILE",
        )

    def load_into(network: Network, batches: Iterable[Tensor]) -> Begun:
        fitted = fit_weights(network, path_weights(_supernet_of(run, path), indices))
        estimate_statistics(network, batches)
        if _NORM_OF_FEATURES in fitted.missing:
            pass_features_on(network)
        return Begun(fitted, "training images")

    return Initial("supernet", _name_in(run), sha256_of_file(path), load_into)


def _supernet_of(run: Run, path: Path) -> Supernet:
    try:
        with torch.random.fork_rng():
            return load_supernet(path, run.space.with_classes(len(run.data.classes)))
    except RunError as error:
        again = f"`lightnas-edge train {shlex.quote(str(run.folder))} --from-scratch` trains without the supernet"
        raise RunError(f"the weights of the supernet cannot be used: {error}", hint=again) from error


def _name_in(run: Run) -> str:
    """Of the checkpoint, from the folder of the run."""
    return "search/checkpoint.pt" if run.record.search is None else f"{run.record.search}/search/checkpoint.pt"

"""Batches whose order and augmentation are functions of (seed, epoch, index) alone.

So a run that is resumed in the middle of an epoch sees the images it would have seen, with any number of workers.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import data

from lightnas_edge.data.colour import Pixels
from lightnas_edge.data.decoding import UnreadableImageError
from lightnas_edge.data.images import Images
from lightnas_edge.errors import DataError

MEAN = (0.485, 0.456, 0.406)  # ImageNet, of pixels from 0 to 1
STANDARD_DEVIATION = (0.229, 0.224, 0.225)
_ORDER, _AUGMENTATION = 0, 1  # streams of randomness


def normalise(pixels: Tensor) -> Tensor:
    """(N, S, S, 3) uint8 to (N, 3, S, S) float32 with ImageNet's mean and deviation, channels last in memory."""
    width = pixels.shape[2]
    rows = pixels.flatten(2).float()  # a loop over the three channels of each pixel would take four times as long
    mean, deviation = (
        255 * torch.tensor(each, device=rows.device).repeat(width) for each in (MEAN, STANDARD_DEVIATION)
    )
    return rows.sub_(mean).div_(deviation).reshape(pixels.shape).permute(0, 3, 1, 2)


class Loader:
    """Batches of one set of images, epoch by epoch.

    Args:
        shuffle: a new order in every epoch; without it images come as they are listed.
        augment: augmentation as in training; without it images come as for validation.
        drop_last: leave out an incomplete last batch when there is another one: batch norm in training mode is
            unsteady on a few images and impossible on one.
        workers: decoding processes; 0 decodes here.
        share: (rank, world): every world-th image of each batch, from rank on; (0, 1) is all of them.
        pin: batches come in pinned memory, from which a GPU copies while the program runs on.
    """

    def __init__(
        self,
        images: Images,
        *,
        batch: int,
        seed: int,
        shuffle: bool,
        augment: bool,
        drop_last: bool = False,
        workers: int = 0,
        share: tuple[int, int] = (0, 1),
        pin: bool = False,
    ) -> None:
        if batch < share[1]:
            raise ValueError(f"a batch of {batch} images for {share[1]} processes")
        self._share = share
        self._images, self._batch, self._seed, self._shuffle = images, batch, seed, shuffle
        self._drop_last = drop_last and len(images) > batch
        self._plan = _Plan()
        self._loader: data.DataLoader[Any] | None = data.DataLoader(
            _Decoder(images, seed if augment else None),
            batch_sampler=self._plan,
            num_workers=workers,
            collate_fn=_collate,
            persistent_workers=workers > 0,
            pin_memory=pin,
            worker_init_fn=_ignore_interrupts,
            # Its own, since a loader draws from its generator whenever it starts: a resumed run starts one more.
            generator=torch.Generator(),
        )

    def __len__(self) -> int:
        """Batches of an epoch."""
        full, rest = divmod(len(self._images), self._batch)
        return full + (1 if rest and not self._drop_last else 0)

    def images_of(self, step: int) -> int:
        """Images of a batch, all shares together."""
        return min(self._batch, len(self._images) - step * self._batch)

    def order(self, epoch: int) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Indices of the images in the order of an epoch."""
        if not self._shuffle:
            return np.arange(len(self._images))
        return np.random.default_rng([self._seed, _ORDER, epoch]).permutation(len(self._images))

    def close(self) -> None:
        """End the processes that decode; there are no batches after it.

        Without it the garbage collector may close their queues before they are asked to end: PyTorch then waits 5 s for each.
        """
        self._loader = None

    def batches(self, epoch: int, *, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """(images uint8 (N, S, S, 3), labels int64 (N,)) of an epoch, from batch `start` on.

        Raises:
            DataError: images that cannot be read, by name; or a decoding process that died.
        """
        if self._loader is None:
            raise ValueError("the loader is closed")
        order = self.order(epoch)
        rank, world = self._share
        shares = [
            [(epoch, int(index)) for index in order[step * self._batch : (step + 1) * self._batch][rank::world]]
            for step in range(start, len(self))
        ]
        self._plan.batches = [share for share in shares if share]  # a last batch may have fewer images than processes
        try:
            for pixels, labels, faults in self._loader:
                if faults:
                    raise DataError(
                        "cannot read " + "\n  ".join(faults),
                        hint="repair or remove it, then run the same command again; a search or a training adds --fresh, since its images are others",
                    )
                yield pixels, labels
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            raise DataError(
                f"a process that decodes images ended: {error}",
                hint="often memory: try fewer workers or a smaller batch",
            ) from error


class _Plan(data.Sampler[list[tuple[int, int]]]):
    """What the loader is to fetch next: changed between epochs while its workers stay alive."""

    def __init__(self) -> None:
        self.batches: list[list[tuple[int, int]]] = []

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


def _ignore_interrupts(worker: int) -> None:
    """Ctrl-C in a terminal reaches every process of the group; the training process decides when decoding ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


class _Decoder(data.Dataset[tuple[Pixels | str, int]]):
    """(epoch, index) to (pixels, label), or to (fault, label): an exception would lose its text between processes."""

    def __init__(self, images: Images, augmentation_seed: int | None) -> None:
        self._images, self._seed = images, augmentation_seed

    def __getitem__(self, key: tuple[int, int]) -> tuple[Pixels | str, int]:
        epoch, index = key
        seed = self._seed
        generator = None if seed is None else np.random.default_rng([seed, _AUGMENTATION, epoch, index])
        label = int(self._images.labels[index])
        try:
            return self._images.image(index, generator), label
        except UnreadableImageError as fault:
            return str(fault), label


def _collate(samples: list[tuple[Pixels | str, int]]) -> tuple[Tensor, Tensor, list[str]]:
    faults = [image for image, _ in samples if isinstance(image, str)]
    images = [image for image, _ in samples if not isinstance(image, str)]
    labels = torch.tensor([label for _, label in samples])
    pixels = torch.empty(0) if faults else torch.from_numpy(np.stack(images))
    return pixels, labels, faults

"""One process of the loading benchmark: loads images on one core as often as it is asked, and says what that took.

    python benchmarks/loading.py FOLDER       a line `KIND ROUND` on standard input is answered with `CPU_S WALL_S` of an image
    python benchmarks/loading.py FOLDER FILE  (N, 224, 224, 3) training images of four epochs go to the file, for comparison

Kinds of this package, whichever is found first on the path: `train`, `train-pillow` (simplejpeg not used), `val`, and of large photographs
`large` and `copies`. Of torchvision: `torchvision-train`, `torchvision-val`, of the same recipe. `workers` loads with a process for each
core, and its CPU time is that of the process that trains, normalisation included.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

SIZE, BATCH = 224, 16
PASSES = 2  # over the images, in a round


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    kinds: dict[str, Callable[[int], Iterator[Any]]] = {}
    for line in sys.stdin:
        kind, turn = line.split()
        if kind not in kinds:
            kinds[kind] = _batches(kind, folder)
        batches = kinds[kind]
        cpu_s, wall_s = time.process_time(), time.perf_counter()
        count = sum(len(images) for each in range(PASSES) for images, *_ in batches(PASSES * int(turn) + each))
        cpu_s, wall_s = time.process_time() - cpu_s, time.perf_counter() - wall_s
        print(cpu_s / count, wall_s / count, flush=True)


def save(folder: Path, file: Path) -> None:
    batches = _batches("train", folder)
    np.save(file, torch.cat([pixels for epoch in range(4) for pixels, *_ in batches(epoch)]).numpy())


def _batches(kind: str, folder: Path) -> Callable[[int], Iterator[Any]]:
    """A number of an epoch to its batches."""
    if kind.startswith("torchvision"):
        return _of_torchvision(folder / "usual", training=kind.endswith("train"))
    from lightnas_edge.data.images import FileImages
    from lightnas_edge.data.loader import Loader, normalise

    paths = sorted((folder / ("large" if kind in ("large", "copies") else "usual")).rglob("*.jpg"))
    images = FileImages(paths, np.zeros(len(paths), np.int64), SIZE)
    if kind == "copies":
        from lightnas_edge.data.copies import Copies

        images.copies = Copies.in_folder(folder / "copies", SIZE)
    loader = Loader(
        images, batch=BATCH, seed=0, shuffle=False, augment=kind != "val",
        workers=len(os.sched_getaffinity(0)) if kind == "workers" else 0,
    )  # fmt: skip
    if kind == "workers":
        return lambda epoch: ((normalise(pixels),) for pixels, _ in loader.batches(epoch))
    return partial(_by_pillow, loader.batches) if kind == "train-pillow" else loader.batches


def _by_pillow(batches: Callable[[int], Iterator[Any]], epoch: int) -> Iterator[Any]:
    from lightnas_edge.data import direct_jpeg

    usual = direct_jpeg.simplejpeg
    direct_jpeg.simplejpeg = lambda: None
    try:
        yield from batches(epoch)
    finally:
        direct_jpeg.simplejpeg = usual


def _of_torchvision(folder: Path, *, training: bool) -> Callable[[int], Iterator[Any]]:
    from tests.torchvision_operators import declare_missing

    declare_missing()
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import v2

    recipe = (
        [v2.RandomResizedCrop(SIZE), v2.RandomHorizontalFlip(), v2.ColorJitter(0.4, 0.4, 0.4, 0.1)]
        if training
        else [v2.Resize(256), v2.CenterCrop(SIZE)]
    )
    images = ImageFolder(str(folder), v2.Compose([*recipe, v2.PILToTensor()]))
    loader = torch.utils.data.DataLoader(images, batch_size=BATCH)
    return lambda epoch: iter(loader)


if __name__ == "__main__":
    (save if len(sys.argv) > 2 else main)(*map(Path, sys.argv[1:]))

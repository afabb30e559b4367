"""Whether a search can learn from a set of images at all."""

from __future__ import annotations

import numpy as np

from lightnas_edge.data import DataSet
from lightnas_edge.errors import DataError
from lightnas_edge.nn import Ranks
from lightnas_edge.search.config import SearchConfig


def check_images(data: DataSet, config: SearchConfig) -> None:
    """Before anything is written: two classes, and at least two images for every process in each batch.

    Batch norm in training mode needs two images. A set smaller than a batch is one batch.

    Raises:
        DataError: with every fault in one message.
    """
    world = Ranks().world
    batches = {"training": config.batch, "validation": config.architecture_batch or config.batch}
    faults = []
    for part, images in (("training", data.train), ("validation", data.validation)):
        present = np.unique(images.labels)
        if len(images) and len(present) < 2:
            faults.append(f"all {len(images)} {part} images are of one class, {data.classes[int(present[0])]!r}")
        share = min(len(images), batches[part]) // world
        if share < 2:
            processes = "" if world == 1 else f" for {world} processes"
            faults.append(
                f"{len(images)} {part} images in batches of {batches[part]}{processes}: every process needs two in a batch"
            )
    if faults:
        listed = "\n".join(f"  {fault}" for fault in faults)
        raise DataError(
            f"a search cannot learn from the images of {data.source}\n{listed}",
            hint="add images of at least two classes to both parts"
            + ("" if world == 1 else ", or use fewer processes"),
        )

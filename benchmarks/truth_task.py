"""The task of the search benchmark: a space of 256 networks, and digits at random places, on which they differ.

The images are the handwritten digits of scikit-learn (UCI, 1,797 images of 8x8 pixels), each put at a random place of a
12x12 canvas ("translated digits", as Mnih et al., arXiv 1406.6247, did with MNIST). Digits in the middle are too easy:
nearly every network of the space classifies all of them correctly. No digit is in two splits; the search sees `train` and
`validation`, the truth is accuracy on `test`.
"""

from __future__ import annotations

import csv
import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lightnas_edge.data import DataSet
from lightnas_edge.data.images import ArrayImages
from lightnas_edge.space import Space, load_space

FOLDER = Path(__file__).parent / "truth"
CANVAS, DIGIT = 12, 8
PARTS = {"train": (800, 6), "validation": (300, 2), "test": (697, 4)}  # digits, and the places each is put at


@dataclass(frozen=True)
class Task:
    space: Space
    data: DataSet  # what a search may see
    test: ArrayImages  # what it may not


def load_task() -> Task:
    from sklearn.datasets import load_digits

    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.target))
    parts, begin = {}, 0
    for stream, (name, (count, places)) in enumerate(PARTS.items()):
        chosen = order[begin : begin + count]
        parts[name] = _translated(digits.images[chosen], digits.target[chosen], places, stream)
        begin += count
    digest = hashlib.sha256(b"".join(part.pixels.tobytes() + part.labels.tobytes() for part in parts.values()))
    data = DataSet(
        "translated digits", "benchmarks.truth_task", tuple(str(digit) for digit in range(10)),
        parts["train"], parts["validation"], "other digits in each part", digest.hexdigest(), seed=0, workers=0,
    )  # fmt: skip
    return Task(load_space(str(FOLDER / "small.toml")), data, parts["test"])


def read(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV, none where there is no file; lines that begin with # describe how it was made."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(line for line in file if not line.startswith("#")))


def _translated(digits: np.ndarray, labels: np.ndarray, places: int, stream: int) -> ArrayImages:
    generator = np.random.default_rng([1, stream])
    images = np.zeros((len(digits) * places, CANVAS, CANVAS))
    for index, image in enumerate(images):
        top, left = generator.integers(CANVAS - DIGIT + 1, size=2)
        image[top : top + DIGIT, left : left + DIGIT] = digits[index // places]
    pixels = np.repeat(np.clip(images * (255 / 16), 0, 255).astype(np.uint8)[..., None], 3, axis=-1)
    return ArrayImages(pixels, np.repeat(labels, places).astype(np.int64), shift=0)

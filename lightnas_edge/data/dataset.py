"""Data sets: what the classes are, which images train and which validate."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lightnas_edge.data.images import ArrayImages, FileImages, Images, smaller_than
from lightnas_edge.data.loader import MEAN, STANDARD_DEVIATION, Loader, normalise
from lightnas_edge.errors import DataError
from lightnas_edge.records.run import DataRecord, Normalisation
from lightnas_edge.space import Space

DIGITS = "digits"
IMAGE_SUFFIXES = {".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"}
_LAYOUT = "expected train/CLASS/*.jpg and val/CLASS/*.jpg, or CLASS/*.jpg alone, which is split; or the word 'digits'"
_Labels = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True)
class DataSet:
    """Images of two or more classes in a training and a validation part."""

    name: str
    source: str  # the word `digits`, or the folder as the user named it; a folder of that name is `./digits`
    classes: tuple[str, ...]  # a label is a position in this
    train: Images
    validation: Images
    split: str  # how the two parts were made, as a phrase
    sha256: str  # identity: names, sizes and labels of both parts
    seed: int
    workers: int
    notes: tuple[str, ...] = ()  # what a user should know about it, in sentences

    def train_loader(self, batch: int, *, augment: bool = True, share: tuple[int, int] = (0, 1)) -> Loader:
        """Shuffled, augmented; an incomplete last batch is left out."""
        return Loader(
            self.train,
            batch=batch,
            seed=self.seed,
            shuffle=True,
            augment=augment,
            drop_last=True,
            workers=self.workers,
            share=share,
        )

    def validation_loader(self, batch: int, *, shuffle: bool = False, share: tuple[int, int] = (0, 1)) -> Loader:
        """As they are: in order and complete for scoring; shuffled and without an incomplete last batch for the
        search.
        """
        return Loader(
            self.validation,
            batch=batch,
            seed=self.seed,
            shuffle=shuffle,
            augment=False,
            drop_last=shuffle,
            workers=self.workers,
            share=share,
        )

    def validation_arrays(self, limit: int | None = None) -> tuple[np.ndarray[Any, np.dtype[np.float32]], _Labels]:
        """(N, 3, S, S) float32 as a network takes them, and (N,) labels; `limit` takes evenly spaced ones."""
        return _arrays(self.validation, limit)

    def training_arrays(self, limit: int | None = None) -> np.ndarray[Any, np.dtype[np.float32]]:
        """(N, 3, S, S) as `validation_arrays`, of training images without augmentation."""
        return _arrays(self.train, limit)[0]

    @property
    def record(self) -> DataRecord:
        """The record of the data in a run."""
        return DataRecord(
            name=self.name,
            source=self.source,
            classes=self.classes,
            train_images=len(self.train),
            validation_images=len(self.validation),
            split=self.split,
            input_size=self.train.size,
            normalisation=Normalisation(mean=MEAN, standard_deviation=STANDARD_DEVIATION),
            seed=self.seed,
            sha256=self.sha256,
        )


class _Subset(Images):
    def __init__(self, images: Images, chosen: np.ndarray[Any, Any]) -> None:
        self._images, self._chosen = images, chosen
        self.labels, self.size = images.labels[chosen], images.size

    def image(self, index: int, generator: np.random.Generator | None) -> Any:
        return self._images.image(int(self._chosen[index]), generator)


def _arrays(images: Images, limit: int | None) -> tuple[np.ndarray[Any, np.dtype[np.float32]], _Labels]:
    count = len(images)
    chosen = np.arange(count) if limit is None or limit >= count else np.linspace(0, count - 1, limit).astype(int)
    loader = Loader(_Subset(images, chosen), batch=64, seed=0, shuffle=False, augment=False)
    parts = [normalise(pixels).contiguous().numpy() for pixels, _ in loader.batches(0)]
    return np.ascontiguousarray(np.concatenate(parts)), images.labels[chosen]


def load_images(
    folder: str | Path, size: int, limit: int | None = None
) -> tuple[np.ndarray[Any, np.dtype[np.float32]], int]:
    """(N, 3, S, S) normalised pixels of the images below a folder, without labels, and how many of them were enlarged.

    Raises:
        DataError: no such folder, or an image that cannot be read.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(
            f"the folder {folder} {'is not a folder' if folder.exists() else 'does not exist'}",
            hint="name a folder with images",
        )
    paths = sorted(
        path for path in folder.rglob("*")
        if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file() and not path.name.startswith(".")
    )  # fmt: skip
    if not paths:
        return np.empty((0, 3, size, size), np.float32), 0
    if limit is not None and limit < len(paths):
        paths = [paths[index] for index in np.linspace(0, len(paths) - 1, limit).astype(int)]
    images = FileImages(paths, np.zeros(len(paths), np.int64), size)
    pixels, _ = _arrays(images, None)
    return pixels, sum(smaller_than(path, size) for path in paths)


def load_data(
    source: str | Path, *, space: Space, seed: int = 0, workers: int | None = None, validation_share: float = 0.2
) -> DataSet:
    """The digits of scikit-learn (`digits`), or a folder of images, at the input size of a space.

    Args:
        source: the word `digits`, or a folder with train/CLASS/* and val/CLASS/*, or CLASS/* alone. A folder that is
            called digits is given as `./digits` or as a Path.
        seed: of the split, where there is one, and of order and augmentation.
        workers: processes that decode; by default one for each core, at most 8. Digits are in memory and need none.
        validation_share: of each class, where the folder has no val/.

    Raises:
        DataError: with every fault of the folder in one message. Images are decoded when they are needed: one that
            cannot be read is named then.
    """
    if not 0 < validation_share < 1:
        raise DataError(f"a validation share of {validation_share}: expected a number between 0 and 1")
    if source == DIGITS:  # a Path is never equal to the word
        return _digits(space.input_size, seed, validation_share)
    if workers is None:
        workers = min(8, len(os.sched_getaffinity(0)))
    return _folder(Path(source), space.input_size, seed, workers, validation_share)


def load_validation_images(
    source: str | Path, input_size: int, limit: int
) -> tuple[np.ndarray[Any, np.dtype[np.float32]], _Labels, tuple[str, ...]]:
    """(N, 3, S, S) normalised pixels, (N,) labels and the classes, in their order: to score a network that is no run's.

    Args:
        source: as in `load_data`; a folder without val/ is used whole.
        limit: evenly spaced images are taken beyond it.

    Raises:
        DataError: as `load_data`; an image cannot be read.
    """
    if source == DIGITS:
        data = _digits(input_size, 0, 0.2)
        return (*data.validation_arrays(limit), data.classes)
    folder, faults = Path(source), list[str]()
    if not folder.is_dir():
        raise DataError(
            f"the data folder {folder} {'is not a folder' if folder.exists() else 'does not exist'}", hint=_LAYOUT
        )
    part = folder / "val" if (folder / "val").is_dir() else folder
    by_class = _scan(part, faults)
    if faults or not by_class:
        raise DataError(f"{part}: {'; '.join(faults) or 'no class folders in it'}", hint=_LAYOUT)
    images = _images(by_class, tuple(by_class), input_size)
    data = DataSet(
        folder.resolve().name,
        _source_of(folder),
        tuple(by_class),
        images,
        images,
        "all",
        _identity(folder, images),
        0,
        0,
    )
    return (*data.validation_arrays(limit), data.classes)


def _digits(size: int, seed: int, share: float) -> DataSet:
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    labels = digits.target.astype(np.int64)
    grey = np.clip(digits.images * (255 / 16), 0, 255).astype(np.uint8)  # 8x8, levels 0 to 16
    scaled = [np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC)) for image in grey]
    pixels = np.repeat(np.stack(scaled)[..., None], 3, axis=-1)
    train, validation = _split(labels, seed, share)
    shift = max(1, size // 16)  # half a pixel of the original
    return DataSet(
        DIGITS,
        DIGITS,
        tuple(str(digit) for digit in range(10)),
        ArrayImages(pixels[train], labels[train], shift),
        ArrayImages(pixels[validation], labels[validation], shift),
        _describe_split(share, seed),
        hashlib.sha256(pixels.tobytes() + validation.tobytes()).hexdigest(),
        seed,
        0,
        ("'digits' means scikit-learn's digits; the folder is given as ./digits",) if Path(DIGITS).is_dir() else (),
    )


def _folder(folder: Path, size: int, seed: int, workers: int, share: float) -> DataSet:
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        raise DataError(f"the data folder {folder} {what}", hint=_LAYOUT)
    faults: list[str] = []
    parts = {name: folder / name for name in ("train", "val") if (folder / name).is_dir()}
    if "val" in parts and "train" not in parts:
        raise DataError(f"{folder} has val/ and no train/", hint=_LAYOUT)
    train = _scan(parts.get("train", folder), faults)
    classes = tuple(train)
    if not classes and not faults:
        faults.append(f"{parts.get('train', folder)}: no class folders in it")
    elif len(classes) == 1:
        faults.append(f"only one class, {classes[0]!r}: there is nothing to tell apart")
    validation = _scan(parts["val"], faults) if "val" in parts else {}
    if validation:
        faults += [f"class {name!r} is in train/ and not in val/" for name in classes if name not in validation]
        faults += [f"class {name!r} is in val/ and not in train/" for name in validation if name not in train]
    elif "val" in parts:
        faults.append(f"{parts['val']}: no class folders in it")
    else:
        faults += [f"class {name!r} has one image: it cannot be split" for name in classes if len(train[name]) == 1]
    if faults:
        listed = "\n".join(f"  {fault}" for fault in faults)
        raise DataError(f"{folder}: {len(faults)} fault{'s' if len(faults) > 1 else ''}\n{listed}", hint=_LAYOUT)
    if validation:
        train_images, validation_images = _images(train, classes, size), _images(validation, classes, size)
        split = "train/ and val/ as given"
    else:
        whole = _images(train, classes, size)
        chosen_train, chosen_validation = _split(whole.labels, seed, share)
        train_images, validation_images = _take(whole, chosen_train), _take(whole, chosen_validation)
        split = _describe_split(share, seed)
    return DataSet(
        folder.resolve().name, _source_of(folder), classes, train_images, validation_images, split,
        _identity(folder, train_images, validation_images), seed, workers,
    )  # fmt: skip


def _source_of(folder: Path) -> str:
    """The folder as text that `load_data` reads as a folder again."""
    return f"./{folder}" if str(folder) == DIGITS else str(folder)


def _scan(folder: Path, faults: list[str]) -> dict[str, list[Path]]:
    """Image files by class, both sorted; nested folders count for their class, hidden files are ignored."""
    found: dict[str, list[Path]] = {}
    for class_folder in sorted(
        entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith(".")
    ):
        files = [path for path in class_folder.rglob("*") if path.is_file() and not path.name.startswith(".")]
        images = sorted(path for path in files if path.suffix.lower() in IMAGE_SUFFIXES)
        if not images:
            others = f" ({len(files)} other files)" if files else ""
            faults.append(f"class {class_folder.name!r} has no images in {class_folder}{others}")
        found[class_folder.name] = images
    return found


def _images(by_class: dict[str, list[Path]], classes: tuple[str, ...], size: int) -> FileImages:
    paths = [path for name in classes for path in by_class[name]]
    labels = [label for label, name in enumerate(classes) for _ in by_class[name]]
    return FileImages(paths, np.array(labels, dtype=np.int64), size)


def _take(images: FileImages, chosen: np.ndarray[Any, Any]) -> FileImages:
    return FileImages([images.paths[index] for index in chosen], images.labels[chosen], images.size)


def _split(labels: _Labels, seed: int, share: float) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """(train, validation) positions, sorted; the share is taken of every class, at least one image on either side."""
    validation = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        count = min(max(1, round(share * len(members))), len(members) - 1)
        validation.append(np.random.default_rng([seed, int(label)]).permutation(members)[:count])
    chosen = np.sort(np.concatenate(validation))
    return np.setdiff1d(np.arange(len(labels)), chosen), chosen


def _describe_split(share: float, seed: int) -> str:
    return f"{share:.0%} of every class for validation, seed {seed}"


def _identity(folder: Path, *parts: FileImages) -> str:
    digest = hashlib.sha256()
    for part in parts:
        for path, label in zip(part.paths, part.labels, strict=True):
            digest.update(f"{path.relative_to(folder)}\0{path.stat().st_size}\0{label}\n".encode())
        digest.update(b"\n")
    return digest.hexdigest()

"""Data sets: what the classes are, which images train and which validate."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from lightnas_edge.data.copies import Copies
from lightnas_edge.data.decoding import printable
from lightnas_edge.data.folders import (
    LAYOUT,
    Classes,
    Findings,
    ImageFile,
    Role,
    Tree,
    scan_classes,
    scan_images,
    shared_folders,
    shared_images,
)
from lightnas_edge.data.images import PIXELS, ArrayImages, FileImages, Images, Policy, smaller_than
from lightnas_edge.data.loader import MEAN, STANDARD_DEVIATION, Loader, normalise
from lightnas_edge.errors import DataError
from lightnas_edge.records.run import DataRecord, Normalisation
from lightnas_edge.space import Space

DIGITS = "digits"
_JUDGES: tuple[Role | None, ...] = ("val", "test", "train", None)  # the first part that there is judges the accuracy
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

    def train_loader(
        self,
        batch: int,
        *,
        augment: bool = True,
        policy: Policy | None = None,
        share: tuple[int, int] = (0, 1),
        pin: bool = False,
    ) -> Loader:
        """Shuffled, augmented; an incomplete last batch is left out.

        Args:
            policy: of augmentation, in place of colour jitter.
            pin: in memory that a GPU copies from directly.
        """
        return Loader(
            self.train.with_policy(policy),
            batch=batch,
            seed=self.seed,
            shuffle=True,
            augment=augment,
            drop_last=True,
            workers=self.workers,
            share=share,
            pin=pin,
        )

    def validation_loader(
        self, batch: int, *, shuffle: bool = False, share: tuple[int, int] = (0, 1), pin: bool = False
    ) -> Loader:
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
            pin=pin,
        )

    def validation_arrays(self, limit: int | None = None) -> tuple[np.ndarray[Any, np.dtype[np.float32]], _Labels]:
        """(N, 3, S, S) float32 as a network takes them, and (N,) labels; `limit` takes evenly spaced ones."""
        return _arrays(self.validation, limit)

    def training_arrays(self, limit: int | None = None) -> np.ndarray[Any, np.dtype[np.float32]]:
        """(N, 3, S, S) as `validation_arrays`, of training images without augmentation."""
        return _arrays(self.train, limit)[0]

    @property
    def identity(self) -> dict[str, str | int]:
        """What a checkpoint of a search or a training depends on."""
        pixels = f"{PIXELS}, from copies" if self.has_copies else PIXELS
        return {"data": self.sha256, "data_seed": self.seed, "pixels": pixels}

    @property
    def has_copies(self) -> bool:
        """Whether crops are taken from smaller copies of large images: their pixels differ a little."""
        return isinstance(self.train, FileImages) and self.train.copies is not None

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
    paths = [image.path for image in scan_images(Path(folder))]
    if not paths:
        return np.empty((0, 3, size, size), np.float32), 0
    if limit is not None and limit < len(paths):
        paths = [paths[index] for index in np.linspace(0, len(paths) - 1, limit).astype(int)]
    images = FileImages(paths, np.zeros(len(paths), np.int64), size)
    pixels, _ = _arrays(images, None)
    return pixels, sum(smaller_than(path, size) for path in paths)


def load_data(
    source: str | Path,
    *,
    space: Space,
    seed: int = 0,
    workers: int | None = None,
    validation_share: float = 0.2,
    copies: Path | None = None,
) -> DataSet:
    """The digits of scikit-learn (`digits`), or a folder of images, at the input size of a space.

    Args:
        source: the word `digits`, or a folder with train/CLASS/* and val/CLASS/*, or CLASS/* alone. A folder that is
            called digits is given as `./digits` or as a Path.
        seed: of the split, where there is one, and of order and augmentation.
        workers: processes that decode; by default one for each core, which the processes of `torchrun` on this machine share.
            Digits are in memory and need none.
        validation_share: of each class, where the folder has no val/.
        copies: a folder for smaller copies of large images.

    Raises:
        DataError: with every fault of the folder in one message. Images are decoded when they are needed: one that
            cannot be read is named then.
    """
    if not 0 < validation_share < 1:
        raise DataError(f"a validation share of {validation_share}: expected a number between 0 and 1")
    if source == DIGITS:  # a Path is never equal to the word
        return _digits(space.input_size, seed, validation_share)
    if workers is not None and workers < 0:
        raise DataError(f"{workers} processes that decode: expected 0 or more")
    if workers is None:
        processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        workers = max(1, len(os.sched_getaffinity(0)) // max(1, processes))
    data = _folder(Path(source), space.input_size, seed, workers, validation_share)
    if copies is not None:
        assert isinstance(data.train, FileImages)
        data = replace(data, train=replace(data.train, copies=Copies.in_folder(copies, space.input_size)))
    return data


def load_validation_images(
    source: str | Path, input_size: int, limit: int
) -> tuple[np.ndarray[Any, np.dtype[np.float32]], _Labels, tuple[str, ...]]:
    """(N, 3, S, S) normalised pixels, (N,) labels and the classes, in their order: to score a network that is no run's.

    Args:
        source: as in `load_data`; of the parts val/, test/ and train/ the first one that there is.
        limit: evenly spaced images are taken beyond it.

    Raises:
        DataError: as `load_data`; an image cannot be read.
    """
    if source == DIGITS:
        data = _digits(input_size, 0, 0.2)
        return (*data.validation_arrays(limit), data.classes)
    folder, findings = Path(source), Findings()
    part = _judging_part(Tree.of(folder, findings))
    by_class = scan_classes(part, folder, findings)
    if findings.faults or not by_class:
        raise DataError(f"{part}: {'; '.join(findings.faults) or 'no class folders in it'}", hint=LAYOUT)
    images, _ = _images(by_class, input_size)
    return (*_arrays(images, limit), tuple(by_class))


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
    findings = Findings()
    parts = Tree.of(folder, findings).parts
    train_part = parts.get("train", parts.get(None))
    if train_part is None or ("test" in parts and "val" not in parts):
        _refuse_parts(folder, parts.values(), train_part)
    train = scan_classes(train_part, folder, findings)
    validation = scan_classes(parts["val"], folder, findings) if "val" in parts else None
    faults = findings.faults + _faults_of_classes(train, train_part, validation, parts.get("val"))
    if faults:
        listed = "\n".join(f"  {fault}" for fault in faults)
        raise DataError(f"{folder}: {len(faults)} fault{'s' if len(faults) > 1 else ''}\n{listed}", hint=LAYOUT)
    if "test" in parts:
        findings.leave_aside("a part that neither trains nor validates", f"{printable(parts['test'].name)}/")
    images, files = _images(train, size)
    if validation is not None:
        validation_images, validation_files = _images(validation, size)
        identity = _identity((images, files), (validation_images, validation_files))
        split = "train/ and val/ as given"
    else:
        chosen, kept = _split(images.labels, seed, share)
        both = [(_take(images, places), [files[place] for place in places]) for places in (chosen, kept)]
        identity = _identity(*both)
        images, validation_images = both[0][0], both[1][0]
        split = _describe_split(share, seed)
    return DataSet(
        printable(folder.resolve().name), _source_of(folder), tuple(train), images, validation_images, split, identity,
        seed, workers, findings.notes,
    )  # fmt: skip


def training_part(folder: Path) -> Path | None:
    """The part of a folder that trains and does not judge, see `load_validation_images`; None where there is none.

    Raises:
        DataError: no such folder, or it cannot be said which folders are parts.
    """
    tree = Tree.of(folder, Findings())
    part = tree.parts.get("train")
    return None if part is None or part == _judging_part(tree) else part


def _judging_part(tree: Tree) -> Path:
    return next(tree.parts[role] for role in _JUDGES if role in tree.parts)


def _refuse_parts(folder: Path, parts: Iterable[Path], train: Path | None) -> NoReturn:
    names = " and ".join(f"{printable(part.name)}/" for part in parts)
    if train is None:
        raise DataError(f"{folder} has {names} and no train/", hint=LAYOUT)
    raise DataError(
        f"{folder} has {names}: they look like parts and not like classes, and none of them is val/",
        hint=f"name the part that chooses between networks val/; or split the training part: --data {train}",
    )


def _faults_of_classes(train: Classes, train_part: Path, validation: Classes | None, part: Path | None) -> list[str]:
    """What stops a training on these classes."""
    faults = []
    if not train:
        faults.append(f"{train_part}: no class folders in it")
    elif len(train) == 1:
        (only,) = train
        faults.append(f"only one class, {only!r}: there is nothing to tell apart{_inner_folders(train_part / only)}")
    if validation is None:
        return [
            *faults,
            *(f"class {name!r} has one image: it cannot be split" for name in train if len(train[name]) == 1),
        ]
    if not validation:
        return [*faults, f"{part}: no class folders in it"]
    faults += [f"class {name!r} is in train/ and not in val/" for name in train if name not in validation]
    faults += [f"class {name!r} is in val/ and not in train/" for name in validation if name not in train]
    faults += [f"{name} is in both parts" for name in shared_folders(validation, train)]
    linked = shared_images(validation, train)
    if linked:
        what = f"{linked[0]} is" if len(linked) == 1 else f"{len(linked)} images (for example {linked[0]}) are"
        faults.append(f"{what} in both parts, by a link: remove it from one of them")
    return faults


def _inner_folders(folder: Path) -> str:
    """What to try where a folder wraps the classes."""
    inner = [each for each in folder.iterdir() if each.is_dir()] if folder.is_dir() else []
    return f"; the classes may be one level deeper: --data {folder}" if len(inner) > 1 else ""


def _source_of(folder: Path) -> str:
    """The folder as text that `load_data` reads as a folder again."""
    return f"./{folder}" if str(folder) == DIGITS else str(folder)


def _images(by_class: Classes, size: int) -> tuple[FileImages, list[ImageFile]]:
    files = [file for files in by_class.values() for file in files]
    labels = [label for label, files in enumerate(by_class.values()) for _ in files]
    return FileImages([file.path for file in files], np.array(labels, dtype=np.int64), size), files


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


def _identity(*parts: tuple[FileImages, list[ImageFile]]) -> str:
    """Of names, sizes and labels; the Unicode form of a name does not matter."""
    digest = hashlib.sha256()
    for images, files in parts:
        for file, label in zip(files, images.labels, strict=True):
            digest.update(f"{file.name}\0{file.size_bytes}\0{label}\n".encode())
        digest.update(b"\n")
    return digest.hexdigest()

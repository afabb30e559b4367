"""Folders of images: which folders are parts, which are classes, which files count, and what is left aside.

    PART/CLASS/**/image     parts by their names: train, training, val, valid, validation, eval, dev, test, testing, ...
    CLASS/**/image          one part

Links to folders are followed. Hidden files and folders, and those that file managers and servers write, do not count. Names
are compared in Unicode's composed form (NFC): macOS writes the other one.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from lightnas_edge.data.decoding import image_suffixes, printable
from lightnas_edge.errors import DataError

Role = Literal["train", "val", "test"]
LAYOUT = "expected train/CLASS/*.jpg and val/CLASS/*.jpg, or CLASS/*.jpg alone, which is split; or the word 'digits'"
_ROLES: dict[str, Role] = {
    **dict.fromkeys(("train", "training", "trn"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "validate", "validating", "eval", "evaluation", "dev"), "val"),
    **dict.fromkeys(("test", "testing", "tst", "holdout"), "test"),
}  # fmt: skip
# What is written next to such a word: `train2017`, `seg_test`, `validation-images`, `TrainSet`.
_WORDS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+")
_SUFFIX = re.compile(r"(set|data|images|imgs|split)$")
# Written into folders of images by Synology, QNAP, macOS archives, Windows and Python.
_FOREIGN = {
    "@eadir", "@recycle", "#recycle", "#snapshot", "$recycle.bin", "__macosx", "__pycache__", "desktop.ini", "lost+found",
    "system volume information", "thumbs.db",
}  # fmt: skip
_SHOWN = 3  # examples of files left aside


@dataclass(frozen=True)
class ImageFile:
    """A file that counts as an image."""

    path: Path
    name: str  # below the data folder, composed and in UTF-8, with / between the parts
    size_bytes: int
    inode: int  # of the file, or of what a link leads to


@dataclass
class Findings:
    """What a user should know about a folder: `faults` that stop, and files that are `left_aside` by reason."""

    faults: list[str] = field(default_factory=list)
    left_aside: dict[str, list[str]] = field(default_factory=dict)

    def leave_aside(self, reason: str, name: str) -> None:
        self.left_aside.setdefault(reason, []).append(name)

    @property
    def notes(self) -> tuple[str, ...]:
        """One sentence for everything that is left aside."""
        parts = []
        for reason, names in self.left_aside.items():
            more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
            parts.append(f"{', '.join(sorted(names)[:_SHOWN])}{more} ({reason})")
        return (f"left aside: {'; '.join(parts)}",) if parts else ()


Classes = dict[str, list[ImageFile]]  # by name, both sorted


@dataclass(frozen=True)
class Tree:
    """Folders of classes by part. One part, of no role, where the folder holds classes alone."""

    folder: Path
    parts: dict[Role | None, Path]

    @classmethod
    def of(cls, folder: Path, findings: Findings) -> Tree:
        """Which folders are parts.

        Raises:
            DataError: no such folder, or it cannot be said which folders are parts and which are classes.
        """
        require_folder(folder)
        folders = list(_folders_of(folder))
        named = [(entry, role) for entry in folders if (role := _role_of(entry.name)) is not None]
        others = [entry for entry in folders if entry not in [each for each, _ in named]]
        if any(map(_holds_images, others)):  # others are classes; then a class may be called `train`, too
            named = [(entry, role) for entry, role in named if not _holds_images(entry)]
        if not named:
            _refuse_unnamed_parts(folder, folders)
            return cls(folder, {None: folder})
        parts: dict[Role | None, Path] = {}
        for entry, role in named:
            if role in parts:
                raise DataError(
                    f"{printable(folder)}: both {printable(parts[role].name)}/ and {printable(entry.name)}/ look like the "
                    f"part {role}/",
                    hint=f"keep one of them, or name another folder that holds {LAYOUT.removeprefix('expected ')}",
                )
            parts[role] = entry
        others = [entry for entry in folders if entry not in parts.values()]
        if others and "train" not in parts:
            listed = ", ".join(f"{printable(entry.name)}/" for entry, _ in named)
            raise DataError(
                f"{printable(folder)}: {listed} looks like a part, next to folders that look like classes",
                hint=f"move the classes into {printable(folder)}/train, or the part elsewhere",
            )
        for entry in others:
            findings.leave_aside("next to the parts", f"{printable(entry.name)}/")
        return cls(folder, parts)


def require_folder(folder: Path, what: str = "data folder", hint: str = LAYOUT) -> None:
    """Raises DataError: no folder, or its path is not in UTF-8, so that no record can hold it."""
    if not folder.is_dir():
        missing = "is not a folder" if folder.exists() else "does not exist"
        raise DataError(f"the {what} {printable(folder)} {missing}", hint=hint)
    if printable(folder) != str(folder):
        raise DataError(
            f"the path of the {what} {printable(folder)} is not in UTF-8",
            hint="rename it; names of classes and files may stay",
        )


def scan_classes(part: Path, root: Path, findings: Findings) -> Classes:
    """Images of every class folder in a part; nested folders count for their class."""
    found: Classes = {}
    folders: dict[str, Path] = {}
    below = "" if part == root else f"{composed(part.name)}/"
    for entry in _entries(part, below, findings):
        name = composed(entry.name)
        if not _is_folder(entry):
            findings.leave_aside("outside class folders", below + name)
            continue
        if name in folders:
            findings.faults.append(
                f"class {name!r} has two folders with names that differ in their Unicode form alone: merge them"
            )
            continue
        folders[name] = Path(entry.path)
        images, others = list[ImageFile](), 0
        for file in _walk(Path(entry.path), f"{below}{name}/", findings, (os.path.realpath(part),)):
            suffix = _suffix_of(file.name)
            if suffix in image_suffixes():
                images.append(file)
            else:
                others += 1
                findings.leave_aside(f"{suffix} is not read" if suffix else "no suffix", file.name)
        if not images:
            findings.faults.append(
                f"class {name!r} has no images in {printable(entry.path)}"
                + (f" ({others} other files)" if others else "")
            )
        found[name] = sorted(images, key=_order)
    return dict(sorted(found.items()))


def scan_images(folder: Path) -> list[ImageFile]:
    """All images below a folder, sorted.

    Raises:
        DataError: no such folder, or one that cannot be read.
    """
    require_folder(folder, "folder", "name a folder with images")
    findings = Findings()
    found = [each for each in _walk(folder, "", findings, ()) if _suffix_of(each.name) in image_suffixes()]
    if findings.faults:
        raise DataError("\n  ".join(findings.faults), hint="name a folder with images")
    return sorted(found, key=_order)


def composed(name: str) -> str:
    """In Unicode's composed form; bytes that are no UTF-8 as `\\xfc`."""
    return name if name.isascii() else unicodedata.normalize("NFC", printable(name))


def shared_folders(first: Classes, second: Classes) -> list[str]:
    """Names of images in the first that lie in a folder of the second, too: one per folder."""
    known = {os.path.realpath(folder) for folder in _folders_with(second)}
    return sorted(composed(str(folder)) for folder in _folders_with(first) if os.path.realpath(folder) in known)


def shared_images(first: Classes, second: Classes) -> list[str]:
    """Names of images in the first that are files of the second, too, by a link; folders that both share are left to `shared_folders`."""
    known = {image.inode: image.path for images in second.values() for image in images}
    shared = {os.path.realpath(folder) for folder in _folders_with(second)}
    found = []
    for image in (image for images in first.values() for image in images if image.inode in known):
        if os.path.samefile(image.path, known[image.inode]) and os.path.realpath(image.path.parent) not in shared:
            found.append(image.name)
    return found


def _folders_with(classes: Classes) -> set[Path]:
    return {image.path.parent for images in classes.values() for image in images}


def _order(image: ImageFile) -> list[str]:
    return image.name.split("/")


def _suffix_of(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def _role_of(name: str) -> Role | None:
    """Of a folder with that name: `Train`, `valid`, `seg_test`, `train2017`, `ValidationSet`."""
    words = [word.lower() for word in _WORDS.findall(name)]
    for word in words:
        role = _ROLES.get(word) or _ROLES.get(_SUFFIX.sub("", word))
        if role is not None:
            return role
    return None


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name.lower() in _FOREIGN


def _folders_of(folder: Path) -> Iterator[Path]:
    for entry in sorted(_scanned(folder), key=lambda each: composed(each.name)):
        if not _is_hidden(entry.name) and _is_folder(entry):
            yield Path(entry.path)


def _holds_images(folder: Path) -> bool:
    """Directly in it."""
    return any(
        _suffix_of(entry.name) in image_suffixes() and not _is_hidden(entry.name) and not _is_folder(entry)
        for entry in _scanned(folder)
    )


def _scanned(folder: Path) -> list[os.DirEntry[str]]:
    """Raises DataError: it cannot be read."""
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        raise DataError(f"cannot read the folder {printable(folder)}: {error.strerror}", hint=LAYOUT) from error


def _refuse_unnamed_parts(folder: Path, folders: Sequence[Path]) -> None:
    """Raises DataError: all folders have folders in common and none holds images, so the common ones are the classes."""
    inner = [{composed(each.name) for each in _folders_of(entry)} for entry in folders]
    common = set.intersection(*inner) if len(inner) > 1 else set()
    if len(common) < 2 or any(map(_holds_images, folders)):
        return
    listed = " and ".join(f"{printable(entry.name)}/" for entry in folders[:3])
    raise DataError(
        f"{printable(folder)}: {listed} look like parts and not like classes: each holds the folders "
        f"{', '.join(sorted(common)[:3])}{', ...' if len(common) > 3 else ''}",
        hint=f"if they are parts, rename them to train/ and val/, or give one of them alone: --data {printable(folders[0])}; "
        "if they are classes, move the images of each out of its folders",
    )


def _entries(folder: Path, below: str, findings: Findings) -> list[os.DirEntry[str]]:
    """Those that are not hidden, sorted by their composed names; hidden images and folders are left aside."""
    try:
        found = sorted(_scanned(folder), key=lambda entry: composed(entry.name))
    except DataError as error:
        findings.faults.append(str(error))
        return []
    kept = []
    for entry in found:
        if not _is_hidden(entry.name):
            kept.append(entry)
        elif _is_folder(entry) or _suffix_of(entry.name) in image_suffixes():
            findings.leave_aside("hidden, or written by other programs", below + composed(entry.name))
    return kept


def _walk(folder: Path, below: str, findings: Findings, above: tuple[str, ...]) -> Iterator[ImageFile]:
    """Files below a folder. Links are followed; one to a folder that it lies in is a fault.

    Args:
        below: the folder's name below the data folder, with a / at its end; empty of the data folder itself.
        above: real paths of folders between the data folder and this one.
    """
    real = os.path.realpath(folder)
    if any(os.path.commonpath((real, each)) == real for each in above):
        findings.faults.append(f"{printable(folder)} is a link to a folder that it lies in: remove the link")
        return
    for entry in _entries(folder, below, findings):
        name = below + composed(entry.name)
        if _is_folder(entry):
            yield from _walk(Path(entry.path), f"{name}/", findings, (*above, real))
            continue
        try:
            if entry.is_file():
                found = entry.stat()
                yield ImageFile(Path(entry.path), name, found.st_size, found.st_ino)
                continue
        except OSError:  # gone by now, or a link to itself
            pass
        findings.leave_aside("a link to nothing" if entry.is_symlink() else "no regular file", name)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Also of a link to one."""
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False

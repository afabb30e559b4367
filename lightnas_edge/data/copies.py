"""Smaller copies of large image files on disk: decoding a photograph of 12 megapixels for a crop of 224 pixels wastes most of its time.

A copy is a JPEG file in a folder, named after what the original holds: its size, its time of change, and the beginning and the end of its content.
An original that changes has another name, and the copy of the earlier one is no longer found. The folder never grows beyond its limit;
nothing is removed from it, since every epoch reads every image once and no copy is worth more than another.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from PIL import Image

from lightnas_edge.errors import DataError
from lightnas_edge.files import write_atomic

# Shorter side of a copy over that of the crops. A crop that would have to be enlarged from it is taken from the original.
RATIO = 3
DEFAULT_LIMIT_GB = 20.0
_WORTHWHILE = 2  # shorter side of an original over that of its copy, from which a copy is made
_QUALITY = 95
_PART_BYTES = 65_536  # of the beginning and of the end


@dataclass(frozen=True)
class Copies:
    """A folder of copies for crops of one size. Any number of processes may use it at the same time.

    Args:
        size: side of the crops in pixels.
        limit_bytes: of all copies in the folder together, of other sizes too.
    """

    folder: Path
    size: int
    limit_bytes: int

    @classmethod
    def in_folder(cls, folder: Path, size: int, limit_gb: float = DEFAULT_LIMIT_GB) -> Copies:
        """The folder, made where it does not exist. 1 GB = 10^9 bytes.

        Raises:
            DataError: it cannot be written.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with (folder / "used").open("a"):
                pass
        except OSError as error:
            raise DataError(
                f"cannot keep copies of images in {folder}: {error.strerror}",
                hint="name another folder, or none",
            ) from error
        return cls(folder, size, round(limit_gb * 1e9))

    @property
    def side(self) -> int:
        """Shorter side of a copy, in pixels."""
        return RATIO * self.size

    def is_worthwhile(self, size: tuple[int, int]) -> bool:
        """Whether an image of this (width, height) has a copy."""
        return min(size) >= _WORTHWHILE * self.side

    @property
    def has_room(self) -> bool:
        """Whether a copy of usual size fits below the limit."""
        try:
            text = (self.folder / "used").read_text()
        except OSError:
            return False
        return not text.isdecimal() or int(text) + self.side**2 // 2 <= self.limit_bytes

    def place(self, original: Path) -> Path:
        """Where the copy of a file lies, or would lie. Raises OSError where the original cannot be read."""
        with original.open("rb") as file:
            status = os.fstat(file.fileno())
            digest = hashlib.blake2b(f"{self.side} {status.st_size} {status.st_mtime_ns} ".encode(), digest_size=20)
            digest.update(file.read(_PART_BYTES))
            file.seek(max(0, status.st_size - _PART_BYTES))
            digest.update(file.read(_PART_BYTES))
        name = digest.hexdigest()
        return self.folder / name[:2] / f"{name}.jpg"

    def keep(self, place: Path, image: Image.Image) -> None:
        """Write the copy of a whole image, upright and in RGB, unless the folder is full. A disk that refuses it changes nothing."""
        scale = self.side / min(image.size)
        small = image.resize(
            (max(self.side, round(image.width * scale)), max(self.side, round(image.height * scale))),
            Image.Resampling.BILINEAR,
            reducing_gap=3.0,
        )
        content = BytesIO()
        small.save(content, "JPEG", quality=_QUALITY, subsampling=0)
        try:
            if self._reserve(len(content.getvalue())):
                place.parent.mkdir(exist_ok=True)
                write_atomic(place, content.getvalue())
        except OSError:
            return

    def _reserve(self, size_bytes: int) -> bool:
        """Count a copy in, if it fits below the limit."""
        with (self.folder / "used").open("r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            text = file.read()
            used = (int(text) if text.isdecimal() else _bytes_in(self.folder)) + size_bytes
            if used > self.limit_bytes:
                return False
            file.seek(0)
            file.write(str(used))
            file.truncate()
        return True


def _bytes_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*/*.jpg"))

"""Image files as viewers show them: upright, 8 bits per channel, RGB. Training, validation and bundles all decode here."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

DECODING = "the first frame, turned upright by its EXIF orientation; 16-bit grey divided by 257; converted to 8-bit RGB"
# Photographs and data sets. Pillow reads more; some of it by starting other programs.
_FORMATS = (
    "AVIF", "BMP", "DIB", "GIF", "JPEG", "JPEG2000", "PCX", "PNG", "PPM", "QOI", "TGA", "TIFF", "WEBP",
)  # fmt: skip
_REDUCED = ("JPEG", "MPO")  # decoded at a lower resolution where that is enough
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # fmt: skip
_FIRST_SIDEWAYS = 5  # orientations from here on swap width and height
_BITS_PER_SAMPLE, _PHOTOMETRIC, _WHITE_IS_ZERO = 258, 262, 0  # of TIFF


class UnreadableImageError(Exception):
    """An image file that cannot be decoded; carries its path and the reason."""


class ShownImage:
    """An open image file as viewers show it. `size` is (width, height) after the EXIF orientation."""

    def __init__(self, image: Image.Image) -> None:
        if image.format not in _REDUCED:
            image.load()  # TIFF files turn themselves here
        self._image = image
        orientation = _orientation(image)
        self._turn = _TURNS.get(orientation)
        self._sideways = orientation >= _FIRST_SIDEWAYS and self._turn is not None
        self.size = self._as_shown(image.size)

    def rgb(self, least: tuple[int, int] | None = None) -> Image.Image:
        """The pixels; JPEG files in a lower resolution that has at least `least` (width, height), where that is given.

        Raises:
            ValueError: the levels of this mode have no defined white.
        """
        if least is not None and self._image.format in _REDUCED:
            self._image.draft("RGB", self._as_shown(least))
        rgb = _rgb(self._image)
        return rgb if self._turn is None else rgb.transpose(self._turn)

    def _as_shown(self, size: tuple[int, int]) -> tuple[int, int]:
        return (size[1], size[0]) if self._sideways else size


@contextmanager
def open_image(path: Path) -> Iterator[ShownImage]:
    """An image file, to be decoded inside the block.

    Raises:
        UnreadableImageError: the file cannot be decoded, also later inside the block.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Pillow, about one file; what matters is whether it is decoded
            with Image.open(path, formats=_formats()) as image:
                yield ShownImage(image)
    except Exception as error:  # decoders raise errors of many types for damaged files
        known = not isinstance(error, UnidentifiedImageError)
        reason = (str(error) or type(error).__name__) if known else "damaged, or in a format that is not read"
        raise UnreadableImageError(f"{printable(path)}: {reason}") from error


@cache
def image_suffixes() -> frozenset[str]:
    """Of the formats that the installed Pillow reads, in lower case."""
    known = {*_formats(), *_REDUCED}
    return frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in known)


@cache
def _formats() -> tuple[str, ...]:
    """Those that the installed Pillow reads: AVIF is optional."""
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def printable(path: Path | str) -> str:
    """The name in UTF-8; bytes that are none as `\\xfc`."""
    return str(path).encode(errors="surrogateescape").decode(errors="backslashreplace")


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # damaged EXIF raises errors of many types; viewers ignore it, too
        return 1
    return value if isinstance(value, int) else 1


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):  # both hold 16 bits
        return _from_16_bits(image).convert("RGB")
    if image.mode in ("I", "F"):
        kind = "32-bit integers" if image.mode == "I" else "floating-point numbers"
        raise ValueError(
            f"its pixels are {kind} (mode {image.mode}), which have no defined white; save it with 8 or 16 bits per channel"
        )
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # a palette with transparency loses it silently otherwise, with a warning
    return image.convert("RGB")


def _from_16_bits(image: Image.Image) -> Image.Image:
    """Grey in 8 bits. Pillow's own conversion cuts off at 255."""
    tags = getattr(image, "tag_v2", {})  # of TIFF: 12 bits are not scaled, and white may be 0
    (bits,) = tags.get(_BITS_PER_SAMPLE, (16,))
    levels = np.rint(np.asarray(image).astype(np.float32) * (255 / (2**bits - 1))).clip(0, 255).astype(np.uint8)
    return Image.fromarray(255 - levels if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO else levels)

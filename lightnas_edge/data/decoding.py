"""Image files as viewers show them: upright, 8 bits per channel, RGB. Training, validation and bundles all decode here."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, cached_property
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from lightnas_edge.data import direct_jpeg
from lightnas_edge.data.direct_jpeg import Levels

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
_KEPT_BYTES = 2**25  # of memory for pixels that is used again

Box = tuple[float, float, float, float]  # left, top, width, height


class UnreadableImageError(Exception):
    """An image file that cannot be decoded; carries its path and the reason."""


class _Memory(threading.local):
    """Of decoded pixels, used again for every image: the kernel would map and unmap fresh memory of this size each time."""

    levels: Levels = np.empty(0, np.uint8)

    def of(self, size_bytes: int) -> Levels:
        if size_bytes > _KEPT_BYTES:
            return np.empty(size_bytes, np.uint8)
        if len(self.levels) < size_bytes:
            self.levels = np.empty(size_bytes, np.uint8)
        return self.levels[:size_bytes]


_memory = _Memory()


class ShownImage:
    """An image file as viewers show it. `size` is (width, height) after the EXIF orientation."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._stored_size = direct_jpeg.size_as_stored(content)  # then Pillow is not needed for levels
        self.size = self._stored_size or self._as_shown(self._image.size)

    @cached_property
    def _image(self) -> Image.Image:
        image = Image.open(BytesIO(self._content), formats=_formats())
        if image.format not in _REDUCED:
            image.load()  # TIFF files turn themselves here
        return image

    @cached_property
    def _orientation(self) -> int:
        return _orientation(self._image)

    @property
    def _turn(self) -> Image.Transpose | None:
        return _TURNS.get(self._orientation)

    def rgb(self, least: tuple[int, int] | None = None) -> Image.Image:
        """The pixels; JPEG files in a lower resolution that has at least `least` (width, height), where that is given.

        Raises:
            ValueError: the levels of this mode have no defined white.
        """
        if least is not None and self._image.format in _REDUCED:
            self._image.draft("RGB", self._as_shown(least))
        rgb = _rgb(self._image)
        return rgb if self._turn is None else rgb.transpose(self._turn)

    def levels(self, box: Box, least: tuple[int, int]) -> Levels:
        """(H, W, 3 or 4), of which the fourth is undefined: a box of the image, at the resolution that `rgb` takes for `least`.

        Its edges are whole pixels of that resolution. The memory is that of the next call in this thread.

        Raises:
            ValueError: as `rgb`.
        """
        whole = self._decoded_directly(least)
        if whole is not None:
            left, top, right, bottom = _edges(box, self.size, (whole.shape[1], whole.shape[0]))
            return whole[top:bottom, left:right]
        rgb = self.rgb(least)
        part = rgb.crop(_edges(box, self.size, rgb.size))
        content = np.frombuffer(part.tobytes("raw", "RGBX"), np.uint8)  # as Pillow keeps it
        levels = _memory.of(len(content))
        np.copyto(levels, content)
        return levels.reshape(part.height, part.width, 4)

    def _decoded_directly(self, least: tuple[int, int]) -> Levels | None:
        if self._stored_size is None and not (
            direct_jpeg.simplejpeg()
            and self._image.format == "JPEG"
            and self._image.mode == "RGB"
            and self._turn is None
        ):
            return None
        width, height = direct_jpeg.decoded_size(self.size, least)
        return direct_jpeg.decode(self._content, self.size, least, _memory.of(3 * width * height))

    def _as_shown(self, size: tuple[int, int]) -> tuple[int, int]:
        sideways = self._turn is not None and self._orientation >= _FIRST_SIDEWAYS
        return (size[1], size[0]) if sideways else size


def _edges(box: Box, size: tuple[int, int], decoded: tuple[int, int]) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of a box in an image that was decoded at another resolution; at least a pixel."""
    across, down = decoded[0] / size[0], decoded[1] / size[1]
    left, top = int(box[0] * across), int(box[1] * down)
    right, bottom = round((box[0] + box[2]) * across), round((box[1] + box[3]) * down)
    return left, top, max(left + 1, min(right, decoded[0])), max(top + 1, min(bottom, decoded[1]))


@contextmanager
def open_image(path: Path) -> Iterator[ShownImage]:
    """An image file, to be decoded inside the block.

    Raises:
        UnreadableImageError: the file cannot be decoded, also later inside the block.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Pillow, about one file; what matters is whether it is decoded
            yield ShownImage(path.read_bytes())
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
    if image.mode == "RGB":
        image.load()  # `convert` would copy it
        return image
    return image.convert("RGB")


def _from_16_bits(image: Image.Image) -> Image.Image:
    """Grey in 8 bits. Pillow's own conversion cuts off at 255."""
    tags = getattr(image, "tag_v2", {})  # of TIFF: 12 bits are not scaled, and white may be 0
    (bits,) = tags.get(_BITS_PER_SAMPLE, (16,))
    levels = np.rint(np.asarray(image).astype(np.float32) * (255 / (2**bits - 1))).clip(0, 255).astype(np.uint8)
    return Image.fromarray(255 - levels if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO else levels)

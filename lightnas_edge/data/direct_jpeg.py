"""JPEG files decoded by simplejpeg: by the same library as in Pillow and to the same pixels, without a detour. All of it is optional."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
from PIL import Image

Levels = np.ndarray[Any, np.dtype[np.uint8]]

_START = b"\xff\xd8"
_MARKER, _SCAN, _APP1 = 0xFF, 0xDA, 0xE1  # EXIF and XMP, which can turn an image, are in APP1
_SEVERAL_IMAGES = b"MPF\0"


def size_as_stored(content: bytes) -> tuple[int, int] | None:
    """(width, height) of a JPEG file in YCbCr that holds one image and nothing that could turn it; None for other files."""
    if simplejpeg() is None or not content.startswith(_START) or not _is_plain(content):
        return None
    try:
        height, width, colours, _ = simplejpeg().decode_jpeg_header(content)
    except ValueError:
        return None
    return (width, height) if colours == "YCbCr" and width * height <= (Image.MAX_IMAGE_PIXELS or math.inf) else None


def _is_plain(content: bytes) -> bool:
    place = len(_START)
    while place + 8 <= len(content) and content[place] == _MARKER:
        kind = content[place + 1]
        if kind == _SCAN:
            return True
        if kind in (_APP1, _MARKER) or content[place + 4 : place + 8] == _SEVERAL_IMAGES:
            return False
        place += 2 + int.from_bytes(content[place + 2 : place + 4])
    return False


def decode(content: bytes, size: tuple[int, int], least: tuple[int, int], memory: Levels) -> Levels | None:
    """(H, W, 3) of a JPEG file that Pillow opens as RGB; None where it is damaged.

    Args:
        size: (width, height) of the file.
        least: (width, height) that the pixels must have.
        memory: at least three bytes for each pixel of `decoded_size`; the pixels lie in it.
    """
    width, height = decoded_size(size, least)
    try:
        levels: Levels = simplejpeg().decode_jpeg(content, "RGB", min_height=height, min_width=width, buffer=memory)
    except ValueError:
        return None
    return levels


def decoded_size(size: tuple[int, int], least: tuple[int, int]) -> tuple[int, int]:
    """(width, height) at the whole, a half, a quarter or an eighth of the resolution, as Pillow's `draft` chooses it."""
    fits = min(size[0] // least[0], size[1] // least[1])
    part = next(each for each in (8, 4, 2, 1) if each <= max(fits, 1))
    return math.ceil(size[0] / part), math.ceil(size[1] / part)


@cache
def simplejpeg() -> Any:
    """The module; None where it is not installed."""
    try:
        import simplejpeg
    except ImportError:
        return None
    return simplejpeg

"""Colour jitter on the pixels of one image: brightness, contrast, saturation and hue, in random order.

The formulas are those of torchvision's ColorJitter for Pillow images. Between the steps pixels keep fractions of a level, where Pillow rounds to
8 bits after each one and keeps hue and saturation in 8 bits. Factors multiply in float32; the hue turns in 16-bit integers, 32 to a level,
which are half the memory and hence take half the time.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

Pixels = np.ndarray[Any, np.dtype[np.uint8]]  # (S, S, 3)
_Planes = np.ndarray[Any, np.dtype[np.float32]]  # (3, S, S), from 0 to TOP
_Plane = np.ndarray[Any, np.dtype[np.float32]]  # (S, S)
_Fine = np.ndarray[Any, np.dtype[np.int16]]  # (3, S, S), from 0 to TOP

JITTER = 0.4  # brightness, contrast, saturation: factor from 0.6 to 1.4
JITTER_HUE = 0.1  # of the full circle
PARTS = 32  # of a level; what the hue's formula adds up stays below three times the top, and fits into 16 bits
TOP = 255 * PARTS
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R 601, as Pillow converts to grey
_SEXTANTS = 6  # of the circle of hues


class _Scratch(threading.local):
    """Memory of the steps: fresh arrays of this size would be mapped and unmapped by the kernel at every operation.

    Little of it, so that it stays in the processor's cache: while the hue turns, nothing else needs the memory of the other steps.
    """

    def __init__(self) -> None:
        self.fit(0, 0)

    def fit(self, height: int, width: int) -> None:
        self.shape = height, width
        self.fine = np.empty((3, *self.shape), np.int16)
        memory = np.empty((4, *self.shape), np.float32)
        self.image, self.grey = memory[:3], memory[3]
        self.hue = memory.reshape(-1).view(np.int16).reshape(8, *self.shape)[:7]
        self.levels = memory.reshape(-1).view(np.uint8).reshape(16, *self.shape)[:3]


_scratch = _Scratch()


def jitter_colours(pixels: Pixels, generator: np.random.Generator) -> Pixels:
    """The same image with other brightness, contrast, saturation and hue: (S, S, 3)."""
    factors = generator.uniform(1 - JITTER, 1 + JITTER, size=3).astype(np.float32)
    turn = float(generator.uniform(-JITTER_HUE, JITTER_HUE))
    if _scratch.shape != pixels.shape[:2]:
        _scratch.fit(*pixels.shape[:2])
    image, fine = _scratch.image, _scratch.fine
    _separate(pixels, fine)
    np.copyto(image, fine)
    for change in generator.permutation(4):
        if change == 0:
            _scale(image, factors[0])
        elif change == 1:
            change_contrast(image, factors[1])
        elif change == 2:
            change_saturation(image, factors[2], _scratch.grey)
        else:
            np.copyto(fine, image, casting="unsafe")
            turn_hue(fine, turn, _scratch.hue)
            np.copyto(image, fine)
    np.copyto(fine, image, casting="unsafe")
    return _joined(fine)


def _separate(pixels: Pixels, fine: _Fine) -> None:
    """(S, S, 3) levels to planes."""
    np.copyto(_scratch.levels, pixels.transpose(2, 0, 1))
    np.multiply(_scratch.levels, np.int16(PARTS), out=fine)


def _joined(fine: _Fine) -> Pixels:
    """Planes to (S, S, 3) levels, rounded."""
    fine += np.int16(PARTS // 2)
    fine >>= np.int16(PARTS.bit_length() - 1)
    np.copyto(_scratch.levels, fine, casting="unsafe")
    pixels = np.empty((*fine.shape[1:], 3), np.uint8)
    for channel in range(3):  # one after the other: NumPy's loop over three values is slow
        pixels[..., channel] = _scratch.levels[channel]
    return pixels


def _scale(image: _Planes, factor: np.float32) -> None:
    image *= factor
    _clip(image, factor)


def _clip(image: _Planes, factor: np.float32) -> None:
    if factor > 1:  # below it, a change mixes two images that are in the range
        np.clip(image, 0, TOP, out=image)


def change_contrast(image: _Planes, factor: np.float32) -> None:
    """Away from the mean grey, a whole level as in Pillow."""
    totals = np.einsum("cn->c", image.reshape(3, -1))
    level = round(float(_LUMA @ totals) / image[0].size / PARTS)
    image *= factor
    image += np.float32(level * PARTS) * (1 - factor)
    _clip(image, factor)


def change_saturation(image: _Planes, factor: np.float32, grey: _Plane) -> None:
    """Away from the grey of each pixel."""
    np.einsum("c,cn->n", _LUMA * (1 - factor), image.reshape(3, -1), out=grey.reshape(-1))
    image *= factor
    image += grey
    _clip(image, factor)


def turn_hue(image: _Fine, turn: float, scratch: _Fine) -> None:
    """Turn the hue of every pixel, with its value and chroma as they are (HSV).

    With the largest, middle and smallest channel of a pixel, any of its channels becomes `2 channel - middle -+ chroma * turn`, kept between the
    smallest and the largest; the turn is in sextants and subtracted where the next channel is above the one before. The middle
    channel moves, until it reaches one of the others and that one moves on. So no pixel has to be asked which of its channels is the largest.

    Args:
        turn: of the full circle; less than a sextant.
    """
    top, middle, low, *shifts = scratch
    red, green, blue = image
    np.minimum(red, green, out=low)
    np.maximum(red, green, out=top)
    np.minimum(top, blue, out=middle)
    np.maximum(middle, low, out=middle)
    np.minimum(low, blue, out=low)
    np.maximum(top, blue, out=top)
    chroma = shifts.pop()
    np.subtract(top, low, out=chroma)
    np.multiply(chroma, np.float32(turn * _SEXTANTS), out=chroma, casting="unsafe")
    for shift, (after, before) in zip(shifts, ((green, blue), (blue, red), (red, green)), strict=True):
        np.subtract(after, before, out=shift)
        np.sign(shift, out=shift)
        shift *= chroma
    for channel, shift in zip(image, shifts, strict=True):
        channel += channel
        channel -= middle
        channel -= shift
        np.maximum(channel, low, out=channel)
        np.minimum(channel, top, out=channel)

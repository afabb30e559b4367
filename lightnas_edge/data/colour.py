"""Colour jitter on the pixels of one image: brightness, contrast, saturation and hue, in random order.

The formulas are those of torchvision's ColorJitter for Pillow images. Arithmetic is in float32 without rounding between the steps, where
Pillow rounds to 8 bits after each one and keeps hue and saturation in 8 bits.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

Pixels = np.ndarray[Any, np.dtype[np.uint8]]  # (S, S, 3)
_Plane = np.ndarray[Any, np.dtype[np.float32]]

JITTER = 0.4  # brightness, contrast, saturation: factor from 0.6 to 1.4
JITTER_HUE = 0.1  # of the full circle
_LUMA = np.array([[0.299, 0.587, 0.114]], np.float32)  # ITU-R 601, as Pillow converts to grey
_SEXTANTS = 6  # of the circle of hues
_PLANES = 8  # that the steps need in addition to the image


class _Scratch(threading.local):
    """Memory of the steps: fresh arrays of this size would be mapped and unmapped by the kernel at every operation."""

    planes: _Plane = np.empty((0, 0, 0), np.float32)

    def of(self, height: int, width: int) -> _Plane:
        if self.planes.shape[1:] != (height, width):
            self.planes = np.empty((3 + _PLANES, height, width), np.float32)
        return self.planes


_scratch = _Scratch()


def jitter_colours(pixels: Pixels, generator: np.random.Generator) -> Pixels:
    """The same image with other brightness, contrast, saturation and hue: (S, S, 3)."""
    factors = generator.uniform(1 - JITTER, 1 + JITTER, size=3).astype(np.float32)
    turn = float(generator.uniform(-JITTER_HUE, JITTER_HUE))
    planes = _scratch.of(*pixels.shape[:2])
    image, rest = planes[:3], planes[3:]
    np.copyto(image, pixels.transpose(2, 0, 1))
    for change in generator.permutation(4):
        if change == 0:
            _scale(image, factors[0])
        elif change == 1:
            change_contrast(image, factors[1])
        elif change == 2:
            change_saturation(image, factors[2], rest)
        else:
            turn_hue(image, turn, rest)
    image += np.float32(0.5)
    jittered = np.empty(pixels.shape, np.uint8)
    for channel in range(3):
        jittered[..., channel] = image[channel]
    return jittered


def _scale(image: _Plane, factor: np.float32) -> None:
    image *= factor
    np.clip(image, 0, 255, out=image)


def change_contrast(image: _Plane, factor: np.float32) -> None:
    """Away from the mean grey, a whole number as in Pillow."""
    flat = image.reshape(3, -1)
    mean = np.float32(round(float(_LUMA[0] @ flat.mean(axis=1))))
    image *= factor
    image += mean * (1 - factor)
    np.clip(image, 0, 255, out=image)


def change_saturation(image: _Plane, factor: np.float32, scratch: _Plane) -> None:
    """Away from the grey of each pixel."""
    grey = scratch[0]
    np.matmul(_LUMA * (1 - factor), image.reshape(3, -1), out=grey.reshape(1, -1))
    image *= factor
    image += grey
    np.clip(image, 0, 255, out=image)


def turn_hue(image: _Plane, turn: float, scratch: _Plane) -> None:
    """Turn the hue of every pixel, with its value and chroma as they are (HSV).

    A channel is `low + clip(2 C - |C x|, 0, C)`, with C the chroma and x the distance of the hue from that of the channel in sextants.
    In terms of the pixel itself `|C x|` is `sum + top - 2 low - 2 channel`, and x is above zero where the next channel is above
    the one before. So no pixel has to be asked which of its channels is the largest.

    Args:
        turn: of the full circle; less than a sextant.
    """
    top, low, base, ceiling, shift, *signs = scratch
    red, green, blue = image
    np.maximum(red, green, out=top)
    np.maximum(top, blue, out=top)
    np.minimum(red, green, out=low)
    np.minimum(low, blue, out=low)
    np.subtract(top, low, out=shift)
    np.add(top, shift, out=ceiling)  # low + 2 C
    np.subtract(shift, low, out=base)  # top - 2 low
    for channel in image:
        base += channel
    shift *= np.float32(abs(turn) * _SEXTANTS)
    neighbours = ((green, blue), (blue, red), (red, green))  # next, before
    for sign, pair in zip(signs, neighbours, strict=True):
        above, below = pair if turn >= 0 else pair[::-1]
        np.subtract(above, below, out=sign)
        np.copysign(shift, sign, out=sign)
    for channel, sign in zip(image, signs, strict=True):
        channel *= np.float32(-2)
        channel += base
        channel += sign
        np.abs(channel, out=channel)
        np.subtract(ceiling, channel, out=channel)
        np.maximum(channel, low, out=channel)
        np.minimum(channel, top, out=channel)

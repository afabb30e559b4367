"""One image at a time: cropping and colour. Runs in worker processes; numpy and Pillow only.

Why Pillow: torchvision cannot be imported next to the CPU build of torch. Measured on one core at 224 px, colour jitter
takes 3.9 ms an image with Pillow's ImageEnhance (what torchvision itself calls for Pillow images) and 10 ms with
kornia 0.9 on float tensors; decoding JPEGs with Pillow's draft mode takes 1 ms. kornia would also have to come after
the worker.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageEnhance

from lightnas_edge.data.decoding import ShownImage, open_image

Pixels = np.ndarray[Any, np.dtype[np.uint8]]  # (S, S, 3)

# Published search and training: RandomResizedCrop, flip, ColorJitter (LightNAS search_imagenet.py); torchvision's
# defaults.
CROP_AREA = (0.08, 1.0)
# Not published: 8 % of an image of 32 x 32 pixels are a patch of 9 x 9, from which a supernet hardly learns (docs/search.md).
LEAST_CROP_PIXELS = 400.0
CROP_ASPECT = (3 / 4, 4 / 3)
JITTER = 0.4  # brightness, contrast, saturation: factor from 0.6 to 1.4
JITTER_HUE = 0.1  # of the full circle
RESIZE_RATIO = 256 / 224  # validation: shorter side to 256, centre 224


class Images(ABC):
    """A numbered set of images with labels.

    Implementations guarantee that `image` depends on nothing but its arguments and what is on disk.
    """

    labels: np.ndarray[Any, np.dtype[np.int64]]
    size: int

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def image(self, index: int, generator: np.random.Generator | None) -> Pixels:
        """(S, S, 3) pixels; augmented with the generator, as for validation without one.

        Raises:
            UnreadableImageError: the file cannot be decoded.
        """


@dataclass
class ArrayImages(Images):
    """Images in memory, (N, S, S, 3). Augmentation: a shift of up to `shift` pixels; no flip, since digits are not
    symmetric.
    """

    pixels: Pixels
    labels: np.ndarray[Any, np.dtype[np.int64]]
    shift: int

    def __post_init__(self) -> None:
        self.size = self.pixels.shape[1]

    def image(self, index: int, generator: np.random.Generator | None) -> Pixels:
        pixels: Pixels = self.pixels[index]
        if generator is None or self.shift == 0:
            return pixels
        down, right = generator.integers(-self.shift, self.shift + 1, size=2)
        shifted: Pixels = np.zeros_like(pixels)
        side = self.size
        shifted[max(down, 0) : side + min(down, 0), max(right, 0) : side + min(right, 0)] = pixels[
            max(-down, 0) : side + min(-down, 0), max(-right, 0) : side + min(-right, 0)
        ]
        return shifted


@dataclass
class FileImages(Images):
    """Images in files, decoded when they are read."""

    paths: list[Path]
    labels: np.ndarray[Any, np.dtype[np.int64]]
    size: int

    def image(self, index: int, generator: np.random.Generator | None) -> Pixels:
        with open_image(self.paths[index]) as image:
            prepared = (
                _validation_view(image, self.size) if generator is None else _augmented(image, self.size, generator)
            )
        return np.asarray(prepared)


def smaller_than(path: Path, size: int) -> bool:
    """Whether a readable image has a side below `size`."""
    with open_image(path) as image:
        return min(image.size) < size


def _validation_view(image: ShownImage, size: int) -> Image.Image:
    """Shorter side to 256/224 of the size, centre cut out; one resampling."""
    width, height = image.size
    side = min(width, height) / RESIZE_RATIO
    left, top = (width - side) / 2, (height - side) / 2
    return _cut(image, (left, top, side, side), size)


def _augmented(image: ShownImage, size: int, generator: np.random.Generator) -> Image.Image:
    cropped = _cut(image, _random_crop(*image.size, generator), size)
    if generator.random() < 0.5:
        cropped = cropped.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return _jitter(cropped, generator)


def _random_crop(width: int, height: int, generator: np.random.Generator) -> tuple[float, float, float, float]:
    """(left, top, width, height): a random area and aspect; after ten misses the centre, as torchvision does.

    The area is at least `LEAST_CROP_PIXELS`, or all of a smaller image.
    """
    least = min(max(CROP_AREA[0] * width * height, LEAST_CROP_PIXELS), width * height)
    for _ in range(10):
        area = generator.uniform(least, CROP_AREA[1] * width * height)
        aspect = math.exp(generator.uniform(math.log(CROP_ASPECT[0]), math.log(CROP_ASPECT[1])))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return int(generator.integers(width - w + 1)), int(generator.integers(height - h + 1)), w, h
    aspect = min(max(width / height, CROP_ASPECT[0]), CROP_ASPECT[1])
    w, h = min(width, round(height * aspect)), min(height, round(width / aspect))
    return (width - w) // 2, (height - h) // 2, w, h


def _cut(image: ShownImage, box: tuple[float, float, float, float], size: int) -> Image.Image:
    """A box of the image as a square of `size`; JPEGs are decoded no larger than that needs."""
    width, height = image.size
    left, top, w, h = box
    rgb = image.rgb(least=(math.ceil(width * size / w), math.ceil(height * size / h)))
    across, down = rgb.width / width, rgb.height / height
    edges = (left * across, top * down, min((left + w) * across, rgb.width), min((top + h) * down, rgb.height))
    return rgb.resize((size, size), Image.Resampling.BILINEAR, box=edges)


def _jitter(image: Image.Image, generator: np.random.Generator) -> Image.Image:
    """Brightness, contrast, saturation and hue in random order."""
    factors = generator.uniform(1 - JITTER, 1 + JITTER, size=3)
    hue = generator.uniform(-JITTER_HUE, JITTER_HUE)
    for change in generator.permutation(4):
        if change == 0:
            image = ImageEnhance.Brightness(image).enhance(factors[0])
        elif change == 1:
            image = ImageEnhance.Contrast(image).enhance(factors[1])
        elif change == 2:
            image = ImageEnhance.Color(image).enhance(factors[2])
        else:
            image = _turn_hue(image, hue)
    return image


def _turn_hue(image: Image.Image, turn: float) -> Image.Image:
    hue, saturation, value = image.convert("HSV").split()
    offset = round(turn * 256)
    hue = hue.point([(level + offset) % 256 for level in range(256)])
    return Image.merge("HSV", (hue, saturation, value)).convert("RGB")

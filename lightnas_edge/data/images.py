"""One image at a time: cropping and resizing, then colour (colour.py). Runs in worker processes: decoding.py, numpy, and one function of torch.

Why Pillow decodes: torchvision cannot be imported next to every build of torch, and kornia was slower for the colours. Crops for training are resized
by torch, which does for 8-bit images what Pillow does (antialiased bilinear, differences of one level) in vector instructions.
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from lightnas_edge.data.colour import Pixels, jitter_colours
from lightnas_edge.data.copies import Copies
from lightnas_edge.data.decoding import Box, ShownImage, UnreadableImageError, open_image

# Published search and training: RandomResizedCrop, flip, ColorJitter (LightNAS search_imagenet.py); torchvision's
# defaults.
CROP_AREA = (0.08, 1.0)
# Not published: 8 % of an image of 32 x 32 pixels are a patch of 9 x 9, from which a supernet hardly learns (docs/search.md).
LEAST_CROP_PIXELS = 400.0
CROP_ASPECT = (3 / 4, 4 / 3)
RESIZE_RATIO = 256 / 224  # validation: shorter side to 256, centre 224

# Raised whenever training images come out with other pixels: what was begun with others is not continued.
PIXELS = 2

Policy = Callable[[Pixels, np.random.Generator], Pixels]  # such as RandAugment, on a cropped image


class Images(ABC):
    """A numbered set of images with labels.

    Implementations guarantee that `image` depends on nothing but its arguments and what is on disk.
    """

    labels: np.ndarray[Any, np.dtype[np.int64]]
    size: int
    policy: Policy | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def image(self, index: int, generator: np.random.Generator | None) -> Pixels:
        """(S, S, 3) pixels; augmented with the generator, as for validation without one.

        Raises:
            UnreadableImageError: the file cannot be decoded.
        """

    def with_policy(self, policy: Policy | None) -> Images:
        """The same images with another policy of augmentation; it comes last, and colour jitter gives way to it."""
        other = copy.copy(self)
        other.policy = policy
        return other


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
        if generator is None:
            return pixels
        pixels = self._shifted(pixels, generator) if self.shift else pixels
        return pixels if self.policy is None else self.policy(pixels, generator)

    def _shifted(self, pixels: Pixels, generator: np.random.Generator) -> Pixels:
        down, right = generator.integers(-self.shift, self.shift + 1, size=2)
        shifted: Pixels = np.zeros_like(pixels)
        side = self.size
        shifted[max(down, 0) : side + min(down, 0), max(right, 0) : side + min(right, 0)] = pixels[
            max(-down, 0) : side + min(-down, 0), max(-right, 0) : side + min(-right, 0)
        ]
        return shifted


@dataclass
class FileImages(Images):
    """Images in files, decoded when they are read; with `copies`, large ones from smaller copies."""

    paths: list[Path]
    labels: np.ndarray[Any, np.dtype[np.int64]]
    size: int
    copies: Copies | None = None

    def image(self, index: int, generator: np.random.Generator | None) -> Pixels:
        path = self.paths[index]
        if generator is None:
            with open_image(path) as image:
                return np.asarray(_validation_view(image, self.size))
        cropped = self._cropped(path, generator)
        return (self.policy or jitter_colours)(cropped, generator)

    def _cropped(self, path: Path, generator: np.random.Generator) -> Pixels:
        if self.copies is not None:
            return _from_copy(path, self.size, self.copies, generator)
        with open_image(path) as image:
            return _flipped(image, _random_crop(*image.size, generator), self.size, generator)


def _from_copy(path: Path, size: int, copies: Copies, generator: np.random.Generator) -> Pixels:
    """As without copies; of a large image, the crop is taken from its copy where it need not be enlarged."""
    with open_image(path) as image:
        box = _random_crop(*image.size, generator)
        if not copies.is_worthwhile(image.size):
            return _flipped(image, box, size, generator)
        try:
            place = copies.place(path)
        except OSError as error:
            raise UnreadableImageError(f"{path}: {error.strerror}") from error
        if copies.has_room and not place.exists():
            copies.keep(place, image.rgb(least=(copies.side, copies.side)))
        if min(box[2:]) * copies.side / min(image.size) >= size:
            try:
                with open_image(place) as copy:
                    scale = copy.size[0] / image.size[0], copy.size[1] / image.size[1]
                    smaller = (box[0] * scale[0], box[1] * scale[1], box[2] * scale[0], box[3] * scale[1])
                    return _flipped(copy, smaller, size, generator)
            except UnreadableImageError:  # the folder is full, or the copy is damaged
                place.unlink(missing_ok=True)
    with open_image(path) as image:  # again: a JPEG that was decoded at a lower resolution stays there
        return _flipped(image, box, size, generator)


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


def _flipped(image: ShownImage, box: Box, size: int, generator: np.random.Generator) -> Pixels:
    """A crop of the image, flipped or not."""
    cropped = _resized(image, box, size)
    return cropped[:, ::-1] if generator.random() < 0.5 else cropped


def _random_crop(width: int, height: int, generator: np.random.Generator) -> Box:
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


def _cut(image: ShownImage, box: Box, size: int) -> Image.Image:
    """A box of the image as a square of `size`; JPEGs are decoded no larger than that needs."""
    left, top, w, h = box
    rgb = image.rgb(least=_least(image, box, size))
    across, down = rgb.width / image.size[0], rgb.height / image.size[1]
    edges = (left * across, top * down, min((left + w) * across, rgb.width), min((top + h) * down, rgb.height))
    return rgb.resize((size, size), Image.Resampling.BILINEAR, box=edges)


def _resized(image: ShownImage, box: Box, size: int) -> Pixels:
    """As `_cut`, faster; of an image that was decoded at a lower resolution, the edges are whole pixels of that resolution."""
    part = torch.from_numpy(image.levels(box, _least(image, box, size))).permute(2, 0, 1).unsqueeze(0)
    resized = F.interpolate(part, size=(size, size), mode="bilinear", antialias=True)
    pixels: Pixels = resized[0, :3].permute(1, 2, 0).numpy()
    return pixels


def _least(image: ShownImage, box: Box, size: int) -> tuple[int, int]:
    """(width, height) of the image in which a box has at least the size."""
    return math.ceil(image.size[0] * size / box[2]), math.ceil(image.size[1] * size / box[3])

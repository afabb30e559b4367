"""Colours as Pillow changes them."""

import colorsys

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from lightnas_edge.data.colour import (
    JITTER,
    JITTER_HUE,
    PARTS,
    change_contrast,
    change_saturation,
    jitter_colours,
    turn_hue,
)


@pytest.fixture
def picture():
    generator = np.random.default_rng(0)
    return generator.integers(0, 256, (40, 40, 3), dtype=np.uint8)


def changed(picture, change, kind, planes):
    fine = (picture.transpose(2, 0, 1).astype(np.int16) * PARTS).astype(kind)
    change(fine, np.empty((planes, *picture.shape[:2]), kind))
    return fine.transpose(1, 2, 0) / PARTS


@pytest.mark.parametrize("factor", [0.6, 1.4])
def test_contrast_and_saturation_are_those_of_pillow(picture, factor):
    image, factor = Image.fromarray(picture), np.float32(factor)

    contrast = changed(picture, lambda fine, rest: change_contrast(fine, factor), np.float32, 1)
    saturation = changed(picture, lambda fine, rest: change_saturation(fine, factor, rest[0]), np.float32, 1)

    assert np.abs(contrast - np.asarray(ImageEnhance.Contrast(image).enhance(float(factor)))).max() <= 2
    assert np.abs(saturation - np.asarray(ImageEnhance.Color(image).enhance(float(factor)))).max() <= 2


@pytest.mark.parametrize("turn", [-0.1, -0.03, 0.0, 0.07, 0.1])
def test_the_hue_is_turned_as_in_hsv(picture, turn):
    picture[0, :6] = [(255, 0, 0), (255, 255, 0), (0, 255, 255), (255, 0, 255), (255, 255, 255), (9, 9, 8)]

    found = changed(picture, lambda fine, rest: turn_hue(fine, turn, rest), np.int16, 7)

    for row, column in [*((0, column) for column in range(8)), (3, 7), (20, 20), (39, 1)]:
        hue, saturation, value = colorsys.rgb_to_hsv(*(picture[row, column] / 255))
        expected = np.array(colorsys.hsv_to_rgb((hue + turn) % 1, saturation, value)) * 255
        assert found[row, column] == pytest.approx(expected, abs=1.01 / PARTS)


def jittered_by_pillow(picture, generator):
    """As torchvision's ColorJitter does, with the same random numbers."""
    factors, turn = generator.uniform(1 - JITTER, 1 + JITTER, size=3), generator.uniform(-JITTER_HUE, JITTER_HUE)
    image = Image.fromarray(picture)
    for change in generator.permutation(4):
        if change < 3:
            enhancer = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)[change]
            image = enhancer(image).enhance(float(factors[change]))
        else:
            hue, saturation, value = image.convert("HSV").split()
            turned = (np.asarray(hue).astype(int) + round(turn * 256)).astype(np.uint8)
            image = Image.merge("HSV", (Image.fromarray(turned), saturation, value)).convert("RGB")
    return np.asarray(image).astype(int)


def test_the_whole_jitter_is_that_of_pillow_within_its_rounding():
    """Pillow cuts off fractions after each step, and is darker by up to a level for each."""
    rows, columns = np.mgrid[0:120, 0:120]
    picture = np.stack([rows * 2, columns * 2, 255 - rows - columns], -1).astype(np.uint8)
    differences = [
        jitter_colours(picture, np.random.default_rng(seed)).astype(int)
        - jittered_by_pillow(picture, np.random.default_rng(seed))
        for seed in range(24)  # every order of the four steps is as likely
    ]

    assert np.abs(differences).mean() < 2
    assert max(np.abs(each).mean() for each in differences) < 3


def test_views_and_sizes_do_not_matter(picture):
    """Memory is used again between images of several sizes; a crop may be flipped, or have a fourth, undefined channel."""
    with_fourth = np.concatenate([picture, picture[..., :1]], axis=-1)[..., :3]
    expected = jitter_colours(picture.copy(), np.random.default_rng(3))
    jitter_colours(picture[:8, :8], np.random.default_rng(0))

    found = jitter_colours(with_fourth, np.random.default_rng(3))
    flipped = jitter_colours(picture[:, ::-1], np.random.default_rng(3))

    assert np.array_equal(found, expected)
    assert np.abs(flipped[:, ::-1].astype(int) - expected).max() <= 1  # the mean is summed in another order

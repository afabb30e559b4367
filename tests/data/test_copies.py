"""Colours as Pillow changes them, and crops from smaller copies of large images."""

import os

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from lightnas_edge.data.colour import change_contrast, change_saturation, turn_hue
from lightnas_edge.data.copies import Copies
from lightnas_edge.data.images import FileImages

SIDE = 16


@pytest.fixture
def picture():
    generator = np.random.default_rng(0)
    return generator.integers(0, 256, (40, 40, 3), dtype=np.uint8)


def changed(picture, change):
    planes = picture.transpose(2, 0, 1).astype(np.float32)
    change(planes, np.empty((8, *picture.shape[:2]), np.float32))
    return planes.transpose(1, 2, 0)


@pytest.mark.parametrize("factor", [0.6, 1.4])
def test_contrast_and_saturation_are_those_of_pillow(picture, factor):
    image, factor = Image.fromarray(picture), np.float32(factor)

    contrast = changed(picture, lambda planes, rest: change_contrast(planes, factor))
    saturation = changed(picture, lambda planes, rest: change_saturation(planes, factor, rest))

    assert np.abs(contrast - np.asarray(ImageEnhance.Contrast(image).enhance(float(factor)))).max() <= 2
    assert np.abs(saturation - np.asarray(ImageEnhance.Color(image).enhance(float(factor)))).max() <= 2


@pytest.mark.parametrize("turn", [-0.1, -0.03, 0.0, 0.07, 0.1])
def test_the_hue_is_turned_as_in_hsv(picture, turn):
    import colorsys

    found = changed(picture, lambda planes, rest: turn_hue(planes, turn, rest))

    for row, column in [(0, 0), (3, 7), (20, 20), (39, 1)]:
        hue, saturation, value = colorsys.rgb_to_hsv(*(picture[row, column] / 255))
        expected = np.array(colorsys.hsv_to_rgb((hue + turn) % 1, saturation, value)) * 255
        assert found[row, column] == pytest.approx(expected, abs=0.01)


@pytest.fixture
def photograph(tmp_path):
    rows, columns = np.mgrid[0:200, 0:300]
    pixels = np.stack([rows, columns / 2, (rows + columns) / 3], -1).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "large.jpg", quality=95)
    return tmp_path / "large.jpg"


def crops(path, copies=None):
    images = FileImages([path], np.zeros(1, np.int64), SIDE, copies)
    return np.stack([images.image(0, np.random.default_rng(seed)) for seed in range(20)]).astype(float)


def test_crops_from_a_copy_are_those_from_the_original(photograph, tmp_path):
    copies = Copies.in_folder(tmp_path / "copies", SIDE)

    found, expected = crops(photograph, copies), crops(photograph)

    (copy,) = (tmp_path / "copies").glob("*/*.jpg")
    with Image.open(copy) as image:
        assert min(image.size) == 3 * SIDE
    assert np.abs(found - expected).mean() < 3
    assert int((tmp_path / "copies" / "used").read_text()) == copy.stat().st_size


def test_a_changed_file_has_another_copy_and_a_damaged_copy_is_no_loss(photograph, tmp_path):
    copies = Copies.in_folder(tmp_path / "copies", SIDE)
    before = copies.place(photograph)
    crops(photograph, copies)
    before.write_bytes(b"torn")

    assert np.isfinite(crops(photograph, copies)).all()
    os.utime(photograph, ns=(1, 1))
    assert copies.place(photograph) != before


def test_the_folder_stays_below_its_limit(photograph, tmp_path):
    copies = Copies.in_folder(tmp_path / "copies", SIDE, limit_gb=1e-7)

    assert np.array_equal(crops(photograph, copies), crops(photograph))
    assert not list((tmp_path / "copies").glob("*/*.jpg"))

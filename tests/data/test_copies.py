"""Crops from smaller copies of large images."""

import os

import numpy as np
import pytest
from PIL import Image

from lightnas_edge.data.copies import Copies
from lightnas_edge.data.images import FileImages

SIDE = 16


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

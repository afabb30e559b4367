"""With simplejpeg, JPEG files are decoded to the same pixels as by Pillow alone."""

import numpy as np
import pytest
from PIL import Image

from lightnas_edge.data import decoding
from lightnas_edge.data.decoding import UnreadableImageError, open_image
from lightnas_edge.data.images import FileImages

pytest.importorskip("simplejpeg", reason="simplejpeg is not installed: pip install 'lightnas-edge[jpeg]'")


@pytest.fixture
def picture():
    rows, columns = np.mgrid[0:301, 0:403]
    waves = np.stack([np.sin(rows / 9), np.cos(columns / 7), np.sin((rows + columns) / 23)], -1)
    return Image.fromarray((127 * waves + 128).astype(np.uint8))


def crops(path, size):
    """Of many scales, so that small and large parts of the resolution are decoded."""
    images = FileImages([path], np.zeros(1, np.int64), size)
    return np.stack([images.image(0, np.random.default_rng(seed)) for seed in range(12)])


def with_and_without(path, size, monkeypatch):
    found = crops(path, size)
    monkeypatch.setattr(decoding, "_decode_jpeg", lambda: None)
    return found, crops(path, size)


@pytest.mark.parametrize("size", [8, 32, 224])
@pytest.mark.parametrize(
    "form",
    [{"subsampling": 0}, {"subsampling": 1}, {"subsampling": 2}, {"progressive": True}, {"keep_rgb": True}],
    ids=["4:4:4", "4:2:2", "4:2:0", "progressive", "stored as RGB"],
)
def test_pixels_are_those_of_pillow(picture, form, size, tmp_path, monkeypatch):
    picture.save(tmp_path / "x.jpg", **form)
    with open_image(tmp_path / "x.jpg") as image:  # three channels: not by way of Pillow
        assert image.levels((10, 20, 150, 100), (403, 301)).shape == (100, 150, 3)

    found, expected = with_and_without(tmp_path / "x.jpg", size, monkeypatch)

    assert np.array_equal(found, expected)


@pytest.mark.parametrize("mode", ["L", "CMYK", "turned"])
def test_other_files_are_left_to_pillow(picture, mode, tmp_path, monkeypatch):
    exif = Image.Exif()
    exif[0x0112] = 6 if mode == "turned" else 1
    (picture if mode == "turned" else picture.convert(mode)).save(tmp_path / "x.jpg", exif=exif)

    found, expected = with_and_without(tmp_path / "x.jpg", 32, monkeypatch)

    assert np.array_equal(found, expected)


def test_a_damaged_file_is_named_with_pillows_reason(picture, tmp_path):
    picture.save(tmp_path / "x.jpg")
    content = (tmp_path / "x.jpg").read_bytes()
    (tmp_path / "x.jpg").write_bytes(content[: len(content) // 2])

    with pytest.raises(UnreadableImageError, match=r"x\.jpg: image file is truncated"):
        crops(tmp_path / "x.jpg", 32)

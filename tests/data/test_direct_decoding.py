"""With simplejpeg, JPEG files are decoded to the same pixels as by Pillow alone."""

import numpy as np
import pytest
from PIL import Image

from lightnas_edge.data import direct_jpeg
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
    monkeypatch.setattr(direct_jpeg, "simplejpeg", lambda: None)
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


def exif(orientation):
    tags = Image.Exif()
    tags[0x0112] = orientation
    return {"exif": tags}


XMP = {"xmp": b'http://ns.adobe.com/xap/1.0/\0<rdf:Description tiff:Orientation="6"/>'}


@pytest.mark.parametrize(
    ("mode", "form", "size"),
    [
        ("L", {}, (403, 301)),
        ("CMYK", {}, (403, 301)),
        ("RGB", exif(1), (403, 301)),
        ("RGB", exif(6), (301, 403)),
        ("RGB", XMP, (301, 403)),
        ("RGB", {"format": "MPO", "save_all": True, "append_images": [Image.new("RGB", (40, 30))]}, (403, 301)),
    ],
    ids=["grey", "CMYK", "upright", "turned", "turned in XMP", "of two images"],
)
def test_other_files_are_read_as_by_pillow(picture, mode, form, size, tmp_path, monkeypatch):
    picture.convert(mode).save(tmp_path / "x.jpg", **form)
    with open_image(tmp_path / "x.jpg") as image:
        assert image.size == size

    found, expected = with_and_without(tmp_path / "x.jpg", 32, monkeypatch)

    assert np.array_equal(found, expected)


def test_a_file_that_ends_anywhere_is_named_and_no_other_error(picture, tmp_path):
    picture.save(tmp_path / "x.jpg")
    content = (tmp_path / "x.jpg").read_bytes()
    for length in (0, 1, 2, 3, 5, 11, 21, 100, 300, 600, 700):
        (tmp_path / "x.jpg").write_bytes(content[:length])
        with pytest.raises(UnreadableImageError, match=r"x\.jpg: "):
            crops(tmp_path / "x.jpg", 32)


def test_a_damaged_file_is_named_with_pillows_reason(picture, tmp_path):
    picture.save(tmp_path / "x.jpg")
    content = (tmp_path / "x.jpg").read_bytes()
    (tmp_path / "x.jpg").write_bytes(content[: len(content) // 2])

    with pytest.raises(UnreadableImageError, match=r"x\.jpg: image file is truncated"):
        crops(tmp_path / "x.jpg", 32)

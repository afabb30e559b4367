"""Image files are read as viewers show them: all levels, upright, in every format that the installed Pillow reads."""

import struct

import numpy as np
import pytest
from PIL import Image, ImageCms

from lightnas_edge.data.decoding import UnreadableImageError, image_suffixes, open_image
from lightnas_edge.data.images import FileImages

LEVELS = np.array([[0, 257 * 10], [257 * 200, 65535]], np.uint16)
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_270,
}  # fmt: skip


def pixels(path):
    with open_image(path) as image:
        return np.asarray(image.rgb())


def written(path, content):
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("suffix", ["png", "tif", "jp2"])
def test_16_bit_grey_keeps_its_levels(tmp_path, suffix):
    Image.fromarray(LEVELS).save(tmp_path / f"x.{suffix}")

    assert pixels(tmp_path / f"x.{suffix}")[..., 0].tolist() == [[0, 10], [200, 255]]


@pytest.mark.parametrize(
    "content",
    [b"P5 2 2 65535\n" + LEVELS.astype(">u2").tobytes(), b"P2 2 2 65535\n0 2570 51400 65535\n"],
    ids=["raw", "plain"],
)
def test_16_bit_pgm_keeps_its_levels(tmp_path, content):
    assert pixels(written(tmp_path / "x.pgm", content))[..., 0].tolist() == [[0, 10], [200, 255]]


def tiff(stored, *, bits, photometric):
    """A TIFF of one row of two pixels, without compression."""
    entries = [
        (256, 2), (257, 1), (258, bits), (259, 1), (262, photometric), (273, 8), (277, 1), (278, 1), (279, len(stored)),
    ]  # fmt: skip
    directory = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHIHxx", tag, 3, 1, n) for tag, n in entries)
    return b"II*\0" + struct.pack("<I", 8 + len(stored)) + stored + directory + bytes(4)


@pytest.mark.parametrize(
    ("stored", "bits", "photometric", "expected"),
    [(b"\x00\x0f\xff", 12, 1, [0, 255]), (b"\0\0\xff\x0f", 16, 1, [0, 16]), (b"\0\0\xff\x0f", 16, 0, [255, 239])],
    ids=["12 bits", "16 bits", "white is zero"],
)
def test_a_tiff_says_how_many_bits_it_has_and_where_white_is(tmp_path, stored, bits, photometric, expected):
    """Black and 4095."""
    path = written(tmp_path / "x.tif", tiff(stored, bits=bits, photometric=photometric))

    assert pixels(path)[0, :, 0].tolist() == expected


@pytest.mark.parametrize(
    ("values", "mode"), [(np.float32(LEVELS / 65535), "F"), (np.int32(LEVELS), "I")], ids=["float", "32-bit integer"]
)
def test_levels_without_a_defined_white_are_refused_by_name(tmp_path, values, mode):
    Image.fromarray(values).save(tmp_path / "x.tif")

    with pytest.raises(
        UnreadableImageError, match=rf"x\.tif: .*\(mode {mode}\).*save it with 8 or 16 bits per channel"
    ):
        pixels(tmp_path / "x.tif")


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "LAB"])
def test_every_other_mode_keeps_black_and_white(tmp_path, mode):
    shown = Image.fromarray(np.repeat(np.uint8([[0] * 8 + [255] * 8] * 16)[..., None], 3, axis=-1))
    if mode == "LAB":
        lab = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
        stored = ImageCms.applyTransform(shown, lab)
    else:
        stored = shown.convert(mode)
    path = tmp_path / ("x.tif" if mode in ("CMYK", "LAB") else "x.png")
    stored.save(path)

    assert np.abs(pixels(path).astype(int) - np.asarray(shown)).max() <= 2


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif", "avif"])
def test_images_are_upright_in_training_and_validation(tmp_path, orientation, suffix):
    """Dark on the left and at the top, whatever the camera stored."""
    if f".{suffix}" not in image_suffixes():
        pytest.skip(f"this Pillow reads no {suffix}")
    shown = np.full((60, 80, 3), 255, np.uint8)
    shown[:, :40] = 0
    shown[:15] = 0
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(shown).transpose(TURNS[orientation])
    stored.save(tmp_path / f"x.{suffix}", exif=exif, quality=95)
    Image.fromarray(shown).save(tmp_path / "upright.png")
    turned, upright = (
        FileImages([tmp_path / name], np.zeros(1, np.int64), 16) for name in (f"x.{suffix}", "upright.png")
    )

    assert pixels(tmp_path / f"x.{suffix}").shape == shown.shape
    for seed in (None, 0, 1):
        views = [
            images.image(0, None if seed is None else np.random.default_rng(seed)).astype(int)
            for images in (turned, upright)
        ]
        assert np.abs(views[0] - views[1]).mean() < 8


def test_a_large_turned_jpeg_is_decoded_no_larger_than_needed(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (1600, 800)).save(tmp_path / "x.jpg", exif=exif)

    with open_image(tmp_path / "x.jpg") as image:
        assert image.size == (800, 1600)
        assert image.rgb(least=(100, 200)).size == (100, 200)


def test_damaged_exif_is_ignored(tmp_path):
    Image.new("RGB", (8, 4)).save(tmp_path / "x.jpg", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")

    assert pixels(tmp_path / "x.jpg").shape == (4, 8, 3)


@pytest.mark.parametrize(
    "suffix", ["avif", "bmp", "gif", "jfif", "jpg", "mpo", "pgm", "png", "ppm", "qoi", "tga", "webp"]
)
def test_a_format_that_pillow_reads_is_read(tmp_path, suffix):
    if f".{suffix}" not in image_suffixes():
        pytest.skip(f"this Pillow reads no {suffix}")
    Image.new("L" if suffix == "pgm" else "RGB", (8, 8), "white").save(tmp_path / f"x.{suffix}")

    assert pixels(tmp_path / f"x.{suffix}").min() > 250


def test_a_file_of_a_format_that_starts_other_programs_is_refused(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "x.eps")
    (tmp_path / "x.eps").rename(tmp_path / "x.jpg")

    with pytest.raises(UnreadableImageError, match=r"x\.jpg: damaged, or in a format that is not read"):
        pixels(tmp_path / "x.jpg")

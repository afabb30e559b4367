"""Crops of small and large images."""

import numpy as np
import pytest

from lightnas_edge.data.images import _random_crop


@pytest.mark.parametrize(
    ("width", "height", "least", "smallest"),
    [(32, 32, 0.37, 0.5), (500, 375, 0.079, 0.12), (16, 16, 1.0, 1.0)],
    ids=["CIFAR", "photograph", "smaller than the least crop"],
)
def test_a_crop_keeps_enough_of_a_small_image_to_show_something(width, height, least, smallest):
    generator = np.random.default_rng(0)
    areas = []
    for _ in range(500):
        left, top, w, h = _random_crop(width, height, generator)
        assert 0 <= left <= width - w
        assert 0 <= top <= height - h
        areas.append(w * h / (width * height))
    assert least <= min(areas) <= smallest
    assert max(areas) > 0.95

"""RandAugment of torchvision: drawn from the seed of each image, in place of colour jitter."""

import sys

import numpy as np
import pytest
import torch
from PIL import Image

from lightnas_edge.data import load_data
from lightnas_edge.data.transforms import RandAugment, drawn_from, torchvision_transforms
from lightnas_edge.errors import RunError
from lightnas_edge.space import load_space

SPACE = load_space("tiny")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Two classes of six images each, a colour without noise."""
    folder = tmp_path_factory.mktemp("photos")
    for kind, colour in (("green", (40, 160, 90)), ("red", (180, 70, 50))):
        (folder / kind).mkdir()
        for number in range(6):
            Image.new("RGB", (48, 40), colour).save(folder / kind / f"{number}.png")
    return folder


def batches(folder, epoch, *, workers=0, start=0, policy=None):
    loader = load_data(folder, space=SPACE, workers=workers).train_loader(4, policy=policy)
    return torch.cat([pixels for pixels, _ in loader.batches(epoch, start=start)])


def test_an_image_is_a_function_of_its_generator_and_other_random_numbers_stay(torchvision):
    pixels = np.random.default_rng(0).integers(0, 256, size=(24, 24, 3), dtype=np.uint8)
    policy = RandAugment(2, 9)
    torch.manual_seed(1)
    state = torch.get_rng_state()

    once, again, other = (policy(pixels, np.random.default_rng(seed)) for seed in (5, 5, 6))

    assert np.array_equal(once, again) and not np.array_equal(once, other) and not np.array_equal(once, pixels)
    assert (once.shape, once.dtype) == ((24, 24, 3), np.uint8)
    assert torch.equal(torch.get_rng_state(), state)


def test_batches_follow_from_seed_epoch_and_step_with_any_number_of_workers(photos, torchvision):
    policy = RandAugment(2, 9)
    reference = batches(photos, 3, policy=policy)

    assert torch.equal(batches(photos, 3, workers=2, policy=policy), reference)
    assert torch.equal(batches(photos, 3, start=1, policy=policy), reference[4:])
    assert not torch.equal(batches(photos, 4, policy=policy), reference)


def test_a_policy_takes_the_place_of_colour_jitter(photos):
    """Of one colour, a crop has that colour alone, and jitter changes it."""
    plain = batches(photos, 0, policy=lambda pixels, generator: pixels)

    assert {tuple(colour) for colour in plain.reshape(-1, 3).tolist()} == {(40, 160, 90), (180, 70, 50)}
    assert not torch.equal(batches(photos, 0), plain)


def test_validation_images_have_no_policy(photos):
    data = load_data(photos, space=SPACE, workers=0)
    images = data.train.with_policy(lambda pixels, generator: np.zeros_like(pixels))

    assert np.array_equal(images.image(0, None), data.train.image(0, None))
    assert not images.image(0, np.random.default_rng(0)).any() and data.train.policy is None


def test_random_numbers_are_those_of_the_whole_seed():
    drawn = []
    for seed in ((1, 2, 3), (1, 2, 3), (1, 2, 4), (1, 23)):
        with drawn_from(*seed):
            drawn.append(torch.rand(1).item())

    assert drawn[0] == drawn[1] and len(set(drawn)) == 3


@pytest.fixture
def not_imported(monkeypatch):
    """As in a program that has not imported torchvision yet."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, name)


def test_without_torchvision_the_extra_is_named(not_imported, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)

    with pytest.raises(RunError, match="need the package torchvision") as caught:
        torchvision_transforms()

    assert "lightnas-edge[recipes]" in caught.value.hint


def test_a_torchvision_of_another_pytorch_is_named(not_imported, monkeypatch, tmp_path):
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text(
        "raise RuntimeError('operator torchvision::nms does not exist')"
    )
    monkeypatch.syspath_prepend(tmp_path)

    with pytest.raises(
        RunError, match=r"does not work with PyTorch .* operator torchvision::nms does not exist"
    ) as caught:
        torchvision_transforms()

    assert "of this version and build" in caught.value.hint

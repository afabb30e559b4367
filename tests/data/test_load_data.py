"""Data sets: what is found in a folder, what is wrong with it, and batches that follow from the seed."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lightnas_edge.data import load_data, normalise
from lightnas_edge.errors import DataError
from lightnas_edge.space import load_space

SPACE = load_space("tiny")


def image(path, colour=(200, 30, 30), size=(48, 40), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(len(path.name)).integers(0, 50, size=(size[1], size[0], 3))
    Image.fromarray((np.array(colour) + noise).clip(0, 255).astype(np.uint8)).convert(mode).save(path)


def folder_with(root, *names):
    for name in names:
        image(root / name)
    return root


@pytest.fixture
def photos(tmp_path):
    """Two classes, six images each, no val/."""
    return folder_with(tmp_path / "photos", *(f"{kind}/{number}.jpg" for kind in ("cat", "dog") for number in range(6)))


def load(source, **more):
    return load_data(source, space=SPACE, workers=more.pop("workers", 0), **more)


def epoch_of(loader, epoch, start=0):
    batches = list(loader.batches(epoch, start=start))
    return torch.cat([pixels for pixels, _ in batches]), torch.cat([labels for _, labels in batches])


def test_the_digits_come_with_scikit_learn():
    data = load("digits")

    assert (len(data.classes), len(data.train) + len(data.validation)) == (10, 1797)
    assert data.train.image(0, None).shape == (32, 32, 3)


def test_a_folder_without_val_is_split_by_class_and_seed(photos):
    data = load(photos, validation_share=1 / 3)

    assert data.classes == ("cat", "dog")
    assert np.bincount(data.validation.labels).tolist() == [2, 2] and len(data.train) == 8
    assert load(photos, validation_share=1 / 3).sha256 == data.sha256
    assert load(photos, validation_share=1 / 3, seed=1).sha256 != data.sha256


def test_train_and_val_are_taken_as_given(tmp_path):
    names = [
        f"{part}/{kind}/{n}.png" for part, count in (("train", 3), ("val", 2)) for kind in "ab" for n in range(count)
    ]
    data = load(folder_with(tmp_path, *names))

    assert (len(data.train), len(data.validation), data.split) == (6, 4, "train/ and val/ as given")


@pytest.mark.parametrize("workers", [0, 2])
def test_order_and_augmentation_follow_from_seed_and_epoch(photos, workers):
    """The same with any number of workers, and from the middle of an epoch."""
    reference = epoch_of(load(photos).train_loader(2), 3)
    loader = load(photos, workers=workers).train_loader(2)

    assert torch.equal(epoch_of(loader, 3)[0], reference[0])
    assert torch.equal(epoch_of(loader, 3, start=2)[0], reference[0][4:])
    assert not torch.equal(epoch_of(loader, 4)[0], reference[0])


def test_loading_draws_no_random_numbers_of_torch(photos):
    torch.manual_seed(0)
    expected = torch.get_rng_state()

    epoch_of(load(photos).train_loader(2), 0)

    assert torch.equal(torch.get_rng_state(), expected)


def test_an_incomplete_last_batch_is_left_out_in_training_only(photos):
    data = load(photos, validation_share=1 / 3)

    assert [len(labels) for _, labels in data.train_loader(3).batches(0)] == [3, 3]
    assert [len(labels) for _, labels in data.validation_loader(3).batches(0)] == [3, 1]
    assert [len(labels) for _, labels in data.train_loader(100).batches(0)] == [8], "the only batch is kept"


def test_an_unreadable_image_is_named_also_from_a_worker(photos):
    for workers in (0, 1):
        (photos / "cat" / "0.jpg").write_bytes(b"\xff\xd8 no picture")
        (photos / "cat" / "3.jpg").write_bytes((photos / "cat" / "4.jpg").read_bytes()[:300])
        with pytest.raises(DataError, match=r"cannot read .*cat/[03]\.jpg") as caught:
            data = load(photos, workers=workers)
            epoch_of(data.train_loader(20), 0), epoch_of(data.validation_loader(20), 0)
        assert "repair or remove" in caught.value.hint


def test_images_of_any_mode_and_a_shape_unlike_the_input_are_taken(tmp_path):
    for name, mode in (("grey", "L"), ("palette", "P"), ("alpha", "RGBA"), ("one", "1")):
        for number in range(2):
            image(tmp_path / name / f"{number}.png", size=(5, 90), mode=mode)
    pixels, _ = epoch_of(load(tmp_path).train_loader(8), 0)

    assert pixels.shape == (4, 32, 32, 3) and pixels.dtype == torch.uint8


def test_validation_takes_the_centre(tmp_path):
    """An image red in its middle and blue at its sides loses the sides, 1/16 of the shorter side at each."""
    wide = np.zeros((64, 128, 3), np.uint8)
    wide[:, :, 2] = 255
    wide[:, 34:94] = (255, 0, 0)
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    for name in ("a/0.png", "a/1.png", "b/0.png", "b/1.png"):
        Image.fromarray(wide).save(tmp_path / name)

    view = load(tmp_path).validation.image(0, None)

    assert (view == (255, 0, 0)).all()


def test_normalised_batches_are_imagenets_and_channels_last():
    batch = normalise(torch.full((2, 4, 4, 3), 255, dtype=torch.uint8))

    torch.testing.assert_close(
        batch[0, :, 0, 0], torch.tensor([(1 - 0.485) / 0.229, (1 - 0.456) / 0.224, (1 - 0.406) / 0.225])
    )
    assert batch.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    "names, fault",
    [
        (["train/a/0.jpg", "train/b/0.jpg", "val/a/0.jpg"], "class 'b' is in train/ and not in val/"),
        (["train/a/0.jpg", "val/a/0.jpg"], "only one class, 'a'"),
        (["a/0.jpg", "b/0.jpg", "b/1.jpg"], "class 'a' has one image: it cannot be split"),
        (["0.jpg"], "no class folders"),
        (["val/a/0.jpg"], "has val/ and no train/"),
    ],
)
def test_what_is_wrong_with_a_folder_is_reported(tmp_path, names, fault):
    with pytest.raises(DataError, match=fault) as caught:
        load(folder_with(tmp_path, *names))

    assert "train/CLASS/*.jpg" in caught.value.hint


def test_all_faults_come_in_one_message(tmp_path):
    folder_with(tmp_path, "train/a/0.jpg", "train/b/0.jpg", "val/a/0.jpg", "val/c/0.jpg")
    (tmp_path / "train" / "empty").mkdir()
    (tmp_path / "train" / "empty" / "notes.txt").write_text("none yet")

    with pytest.raises(DataError, match=r"4 faults") as caught:
        load(tmp_path)

    assert "class 'empty' has no images" in str(caught.value) and "(1 other files)" in str(caught.value)


def test_a_folder_that_is_not_there_is_reported(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        load(tmp_path / "nowhere")


def test_arrays_for_export_are_the_validation_images(photos):
    data = load(photos)
    arrays, labels = data.validation_arrays()
    few, few_labels = data.validation_arrays(1)

    assert arrays.shape == (2, 3, 32, 32) and arrays.dtype == np.float32 and labels.tolist() == [0, 1]
    assert np.array_equal(few, arrays[:1]) and few_labels.tolist() == [0]


def test_the_shared_flowers_load(shared_data):
    data = load(shared_data / "images" / "flowers5")

    assert (data.classes, len(data.train), len(data.validation)) == (
        ("daisy", "dandelion", "roses", "sunflowers", "tulips"), 400, 100,
    )  # fmt: skip


def image_folder(folder, classes):
    for part in ("train", "val"):
        for name in classes:
            (folder / part / name).mkdir(parents=True)
            Image.new("RGB", (16, 16)).save(folder / part / name / "a.png")


def test_a_folder_named_digits_is_not_the_digits_of_scikit_learn(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    image_folder(tmp_path / "digits", ["cat", "dog"])

    for source in ("./digits", Path("digits"), tmp_path / "digits"):
        found = load_data(source, space=load_space("tiny"))
        assert found.classes == ("cat", "dog")
        assert load_data(found.source, space=load_space("tiny")).classes == ("cat", "dog")
    assert load_data(Path("digits"), space=load_space("tiny")).source == "./digits"


def test_the_word_digits_next_to_such_a_folder_is_explained(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_data("digits", space=load_space("tiny")).notes == ()
    (tmp_path / "digits").mkdir()

    (note,) = load_data("digits", space=load_space("tiny")).notes

    assert note == "'digits' means scikit-learn's digits; the folder is given as ./digits"

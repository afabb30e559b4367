"""Folders as people have them: names of parts, hidden folders, links, names in other encodings, and what is left aside."""

import os
import shutil

import pytest
from PIL import Image

from lightnas_edge.data import load_data, load_images, load_validation_images
from lightnas_edge.errors import DataError
from lightnas_edge.space import load_space

SPACE = load_space("tiny")


def folder_with(root, *names):
    for place, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16), (place, 0, 0)).save(root / name)
    return root


def layout(root, *parts, classes=("glioma", "notumor"), count=2):
    return folder_with(root, *(f"{part}/{name}/{n}.png" for part in parts for name in classes for n in range(count)))


def load(folder):
    return load_data(folder, space=SPACE, workers=0)


@pytest.mark.parametrize(
    ("train", "validation"),
    [
        ("Train", "Val"), ("train", "valid"), ("TRAINING", "VALIDATION"), ("train2017", "val2017"), ("seg_train", "seg_val"),
        ("training_set", "dev-set"), ("TrainImages", "EvalImages"), ("trainset", "valset"),
    ],
)  # fmt: skip
def test_parts_are_known_by_the_names_that_people_give_them(tmp_path, train, validation):
    data = load(layout(tmp_path, train, validation))

    assert (data.classes, len(data.train), len(data.validation)) == (("glioma", "notumor"), 4, 4)
    assert {path.parent.parent.name for path in data.train.paths} == {train}
    assert len(load_validation_images(tmp_path, 16, 10)[0]) == 4


@pytest.mark.parametrize("names", [("Training", "Testing"), ("train", "test"), ("x_train", "x_test")])
def test_a_training_and_a_test_part_alone_are_no_classes(tmp_path, names):
    with pytest.raises(DataError, match=r"look like parts and not like classes, and none of them is val/") as caught:
        load(layout(tmp_path, *names))

    assert f"--data {tmp_path / names[0]}" in caught.value.hint
    assert load(tmp_path / names[0]).classes == ("glioma", "notumor")


@pytest.mark.parametrize("names", [("fold_0", "fold_1"), ("Trainingsdaten", "Testdaten"), ("a", "b", "c")])
def test_folders_that_hold_the_same_folders_are_no_classes(tmp_path, names):
    with pytest.raises(
        DataError, match="look like parts and not like classes: each holds the folders glioma, notumor"
    ) as caught:
        load(layout(tmp_path, *names))

    assert "rename them to train/ and val/" in caught.value.hint


def test_parts_of_unknown_names_may_lack_a_class(tmp_path):
    layout(tmp_path, "fold_0", classes=("a", "b", "c"))

    with pytest.raises(DataError, match="each holds the folders a, b"):
        load(layout(tmp_path, "fold_1", classes=("a", "b")))


def test_folders_inside_a_class_count_for_it(tmp_path):
    names = [
        f"{name}/{each}/{n}.png" for name, each in (("cat", "day"), ("cat", "night"), ("dog", "day")) for n in range(2)
    ]

    data = load(folder_with(tmp_path, *names))

    assert (data.classes, len(data.train) + len(data.validation)) == (("cat", "dog"), 6)


def test_a_test_part_next_to_train_and_val_is_left_aside_with_a_word(tmp_path):
    (note,) = load(layout(tmp_path, "train", "val", "test", "extra")).notes

    assert note == "left aside: extra/ (next to the parts); test/ (a part that neither trains nor validates)"


def test_a_test_part_next_to_class_folders_is_refused(tmp_path):
    layout(tmp_path, "test", classes=("cat", "dog"))

    with pytest.raises(DataError, match="test/ looks like a part, next to folders that look like classes"):
        load(folder_with(tmp_path, "cat/0.png", "cat/1.png", "dog/0.png", "dog/1.png"))


def test_two_folders_for_the_same_part_are_refused(tmp_path):
    with pytest.raises(DataError, match="both Train/ and train2/ look like the part train/"):
        load(layout(tmp_path, "Train", "train2", "val"))


def test_classes_may_be_called_as_parts_are(tmp_path):
    """`train` is a class of CIFAR-100 and of COCO."""
    names = [f"{name}/{n}.png" for name in ("bus", "test_tube", "train") for n in range(2)]

    assert load(folder_with(tmp_path, *names)).classes == ("bus", "test_tube", "train")


def test_a_folder_around_the_classes_is_named(tmp_path):
    with pytest.raises(DataError, match=rf"only one class, 'archive': .*--data {tmp_path}/archive"):
        load(layout(tmp_path / "archive", "train", "val").parent)


@pytest.mark.parametrize("hidden", [".ipynb_checkpoints", "@eaDir", "__MACOSX", "$RECYCLE.BIN", ".cache/deep"])
def test_files_below_hidden_folders_do_not_count(tmp_path, hidden):
    names = [f"{name}/{n}.png" for name in ("cat", "dog") for n in range(4)]
    folder_with(tmp_path, *names)
    clean = load(tmp_path)
    folder_with(tmp_path, f"cat/{hidden}/0.png", "cat/._1.png", f"{hidden}/cat/0.png")

    data = load(tmp_path)

    assert (len(data.train) + len(data.validation), data.sha256) == (8, clean.sha256)
    assert "hidden, or written by other programs" in data.notes[0]
    assert len(load_images(tmp_path, 16)[0]) == 8


def test_files_that_are_left_aside_are_listed_once_with_the_reason(tmp_path):
    layout(tmp_path, "train", "val")
    for name in ("train/README", "train/glioma/a.heic", "val/glioma/b.csv", "val/glioma/c"):
        (tmp_path / name).write_text("x")
    (tmp_path / "train/glioma/d.png").symlink_to("nowhere.png")
    (tmp_path / "train/glioma/e.png").symlink_to("e.png")
    os.mkfifo(tmp_path / "train/glioma/f.png")

    (note,) = load(tmp_path).notes

    assert sorted(note.removeprefix("left aside: ").split("; ")) == [
        "train/README (outside class folders)",
        "train/glioma/a.heic (.heic is not read)",
        "train/glioma/d.png, train/glioma/e.png (a link to nothing)",
        "train/glioma/f.png (no regular file)",
        "val/glioma/b.csv (.csv is not read)",
        "val/glioma/c (no suffix)",
    ]


def test_many_files_that_are_left_aside_are_counted(tmp_path):
    layout(tmp_path, "train", "val")
    for number in range(9):
        (tmp_path / f"train/glioma/{number}.txt").write_text("x")

    assert load(tmp_path).notes[0].endswith("train/glioma/2.txt and 6 more (.txt is not read)")


def test_linked_folders_are_followed(tmp_path):
    folder_with(tmp_path / "data", "cat/0.png", "cat/1.png", "dog/0.png", "dog/1.png")
    folder_with(tmp_path / "more", "2.png", "below/3.png")
    folder_with(tmp_path / "birds", "0.png", "1.png")
    (tmp_path / "data/cat/more").symlink_to(tmp_path / "more")
    (tmp_path / "data/bird").symlink_to(tmp_path / "birds")

    data = load(tmp_path / "data")

    assert data.classes == ("bird", "cat", "dog")
    assert len(data.train) + len(data.validation) == 8
    assert len(load_images(tmp_path / "data", 16)[0]) == 8


@pytest.mark.parametrize("target", [".", "..", "../..", "/", "../../dog"])
def test_links_in_a_circle_are_refused(tmp_path, target):
    layout(tmp_path, "train", "val", classes=("cat", "dog"))
    (tmp_path / "train/cat/loop").symlink_to(target)
    if target == "../../dog":  # a circle of two links
        (tmp_path / "dog").mkdir()
        (tmp_path / "dog/back").symlink_to(tmp_path / "train/cat")

    with pytest.raises(DataError, match="is a link to a folder that it lies in: remove the link"):
        load(tmp_path)


def test_images_that_both_parts_hold_through_links_are_refused(tmp_path):
    layout(tmp_path, "train", classes=("cat", "dog"))
    (tmp_path / "val").symlink_to(tmp_path / "train")

    with pytest.raises(DataError, match=r"val/dog is in both parts"):
        load(tmp_path)


@pytest.mark.parametrize("link", [os.link, os.symlink])
def test_single_images_that_both_parts_hold_through_links_are_refused(tmp_path, link):
    layout(tmp_path, "train", "val", classes=("cat", "dog"))
    first, *_ = sorted((tmp_path / "train/dog").iterdir())
    link(first, tmp_path / "val/dog/again.png")

    with pytest.raises(DataError, match=r"val/dog/again\.png is in both parts, by a link: remove it from one of them"):
        load(tmp_path)

    link(first, tmp_path / "val/dog/more.png")
    with pytest.raises(DataError, match=r"2 images \(for example val/dog/again\.png\) are in both parts"):
        load(tmp_path)


def test_images_linked_from_a_pool_are_no_fault(tmp_path):
    layout(tmp_path, "pool", classes=("cat", "dog"))
    for index, file in enumerate(sorted((tmp_path / "pool").glob("*/*"))):
        place = tmp_path / "data" / ("train", "val")[index % 2] / file.parent.name / file.name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(file)

    assert load(tmp_path / "data").classes == ("cat", "dog")


def test_names_are_the_same_in_both_unicode_forms(tmp_path):
    """macOS decomposes: é is two characters there."""
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    mac, linux = tmp_path / "mac", tmp_path / "linux"
    for root, name in ((mac, decomposed), (linux, composed)):
        folder_with(root, *(f"train/{each}/{name}{n}.png" for each in (name, "tea") for n in range(2)))
        layout(root, "val", classes=(composed, "tea"))

    assert load(mac).classes == load(linux).classes == (composed, "tea")
    assert load(mac).sha256 == load(linux).sha256


def test_one_class_in_two_unicode_forms_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"class 'café' has two folders .* Unicode form alone: merge them"):
        load(layout(tmp_path, "train", "val", classes=("caf\u00e9", "cafe\u0301", "tea")))


def test_names_that_are_no_utf8_are_read(tmp_path):
    """From an old archive or camera: ü in Latin-1."""
    layout(tmp_path, "train", "val", classes=("a", "b"))
    for part in ("train", "val"):
        os.rename(tmp_path / part / "b", os.fsencode(tmp_path / part) + b"/m\xfcnchen")
        os.rename(tmp_path / part / "a" / "0.png", os.fsencode(tmp_path / part) + b"/a/\xe9.png")

    data = load(tmp_path)

    assert data.classes == ("a", "m\\xfcnchen")
    assert [len(labels) for _, labels in data.train_loader(4).batches(0)] == [4]
    data.record.to_json()


def test_a_file_of_such_a_name_that_cannot_be_read_is_named(tmp_path):
    layout(tmp_path, "train", "val")
    with open(os.fsencode(tmp_path) + b"/train/glioma/\xfc.png", "wb") as file:
        file.write(b"no image")

    with pytest.raises(DataError, match=r"glioma/\\xfc\.png: damaged"):
        list(load(tmp_path).train_loader(8).batches(0))


def test_a_data_folder_of_such_a_name_is_refused_by_name(tmp_path):
    folder = os.fsdecode(os.fsencode(tmp_path) + b"/\xfc")
    shutil.copytree(layout(tmp_path / "x", "train", "val"), folder)

    with pytest.raises(DataError, match=r"/\\xfc is not in UTF-8"):
        load(folder)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every folder")
def test_a_folder_that_may_not_be_read_is_named(tmp_path):
    layout(tmp_path, "train", "val")
    (tmp_path / "train/glioma").chmod(0)

    with pytest.raises(DataError, match=r"cannot read the folder .*glioma: Permission denied"):
        load(tmp_path)


def test_fewer_than_no_processes_are_refused(tmp_path):
    with pytest.raises(DataError, match="-1 processes that decode: expected 0 or more"):
        load_data(layout(tmp_path, "train", "val"), space=SPACE, workers=-1)

"""A network that was trained before teaches another one."""

import dataclasses

import pytest
import torch
from safetensors.torch import load_file, save_file

from lightnas_edge.errors import ModelError
from lightnas_edge.space import Architecture
from lightnas_edge.train import TrainConfig, load_network, train_network, trained_network
from tests import run_folders
from tests.search.problems import SPACE, data

CONFIG = TrainConfig(epochs=2, batch=16, lr=0.05, checkpoint_s=1e9)
CLASSES = ("dark", "bright")
SMALL = Architecture.from_indices(SPACE, [0, 0, 0, 0])


def begin(folder, space=SPACE, indices=(2, 0, 1, 2)):
    return run_folders.find(
        run_folders.begin(folder, space, data().record), Architecture.from_indices(space, list(indices))
    )


@pytest.fixture(scope="module")
def taught(tmp_path_factory):
    """A trained run."""
    run = begin(tmp_path_factory.mktemp("teacher"))
    train_network(run, data(), dataclasses.replace(CONFIG, epochs=4))
    return run


def test_a_run_teaches_with_its_accuracy_and_the_record_names_its_weights(taught, tmp_path):
    student = begin(tmp_path, indices=(0, 0, 0, 0))

    teacher = trained_network(taught.folder, student.space, CLASSES, 0.5)
    record = train_network(student, data(), CONFIG, teacher=teacher).record.teacher

    trained = taught.weights.record
    assert record.name == f"the network of {taught.folder}" and record.weight == 0.5
    assert (record.accuracy, record.sha256) == (trained.best_accuracy, trained.weights_sha256)


def test_a_file_teaches_as_its_run_does(taught, tmp_path):
    images = torch.randn(4, 3, SPACE.input_size, SPACE.input_size)
    batches = [torch.randn(16, 3, SPACE.input_size, SPACE.input_size)]
    file = taught.weights.path
    bare = tmp_path / "bare.safetensors"
    save_file({name: value for name, value in load_file(file).items() if "running" not in name}, bare)

    named, bared = (trained_network(path, SPACE, CLASSES, 0.5).build(batches).eval() for path in (file, bare))

    with torch.no_grad():
        assert torch.equal(named(images), load_network(taught)(images))
        assert not torch.equal(bared(images), named(images)), "its statistics are those of the batches"


def test_a_teacher_may_be_of_another_space(taught, tmp_path):
    """Wider, for instance: only its answers count."""
    wide = begin(tmp_path / "teacher", dataclasses.replace(SPACE, name="wide", head_channels=48))
    train_network(wide, data(), CONFIG)
    student = begin(tmp_path / "student")

    record = train_network(student, data(), CONFIG, teacher=trained_network(wide.folder, SPACE, CLASSES, 0.3)).record

    assert record.teacher.sha256 == wide.weights.record.weights_sha256 and record.teacher.weight == 0.3
    with pytest.raises(ModelError, match="no network of the space small"):
        trained_network(wide.weights.path, SPACE, CLASSES, 0.3)


def test_a_teacher_of_another_input_size_or_of_other_classes_is_refused(taught, tmp_path):
    other = dataclasses.replace(SPACE, input_size=2 * SPACE.input_size)

    with pytest.raises(ModelError, match=r"takes images of 16 px, the network that is trained takes 32 px"):
        trained_network(taught.folder, other, CLASSES, 0.5)
    with pytest.raises(
        ModelError, match=r"trained for 2 classes \(dark, bright\), the images have 2 classes \(cat, dog\)"
    ):
        trained_network(taught.folder, SPACE, ("cat", "dog"), 0.5)

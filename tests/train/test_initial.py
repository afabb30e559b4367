"""Weights that a training begins with: from the supernet of the search, or from a file; where they came from is recorded."""

import dataclasses
import json
import pickle
import shutil

import pytest
import torch
from safetensors.torch import save_file

from lightnas_edge.data import normalise
from lightnas_edge.errors import RunError
from lightnas_edge.nn import Network
from lightnas_edge.runs import Run
from lightnas_edge.search import run_search
from lightnas_edge.train import (
    TrainConfig,
    fine_tuning_schedule,
    from_file,
    from_supernet,
    largest_of_supernet,
    train_network,
)
from lightnas_edge.train.training import Training
from tests.cli.commands import run as command
from tests.search.problems import CONFIG as SEARCH
from tests.search.problems import SPACE, budget, data

CONFIG = TrainConfig(epochs=2, batch=16, checkpoint_s=1e9)
TWO = SPACE.with_classes(2)


@pytest.fixture(scope="module", params=["shared", "entangled"])
def searched(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    run_search(folder, SPACE, data(), budget(9.0), dataclasses.replace(SEARCH, method=request.param))
    return Run.open(folder)


@pytest.fixture
def run(searched, tmp_path):
    """A copy, to be trained in."""
    shutil.copytree(searched.folder, tmp_path / "run")
    return Run.open(tmp_path / "run")


def left_behind(run):
    lines = [json.loads(line) for line in (run.train_folder / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        del line["elapsed_s"]
    return lines, (run.train_folder / "weights.safetensors").read_bytes()


def test_the_record_says_what_came_from_the_supernet(run):
    record = train_network(run, data(), CONFIG, initial=from_supernet(run)).record

    initial = run.weights.record.initial
    assert initial == record.initial
    assert (initial.source, initial.name) == ("supernet", "search/checkpoint.pt")
    assert initial.statistics == "training images"
    assert not initial.other_shape and not initial.unused
    assert initial.missing and all("norm" in name for name in initial.missing)
    assert initial.accuracy > 0.8, "two classes that differ in brightness: the search has learned them"


class Stop(Exception):
    pass


def test_a_training_cut_off_ends_as_if_it_had_not_been_and_keeps_its_origin(run, tmp_path, monkeypatch):
    monkeypatch.setattr("lightnas_edge.nn.loop.FLUSH_S", 0.0)
    shutil.copytree(run.folder, tmp_path / "cut")
    cut, seen = Run.open(tmp_path / "cut"), 0
    teacher = largest_of_supernet(run, TWO, data().classes, 0.3)

    def stop(event):
        nonlocal seen
        seen += event["kind"] == "training-step"
        if seen == 5:
            raise Stop

    whole = train_network(run, data(), CONFIG, initial=from_supernet(run), teacher=teacher).record
    config = dataclasses.replace(CONFIG, checkpoint_s=0.0)
    with pytest.raises(Stop):
        train_network(cut, data(), config, initial=from_supernet(cut), teacher=teacher, on_event=stop)
    events = []
    record = train_network(
        cut, data(), config, initial=from_supernet(cut), teacher=teacher, on_event=events.append
    ).record

    assert next(event for event in events if event["kind"] == "start")["resumed"]
    assert not any(event["kind"] == "initial" for event in events), "the weights are taken once"
    assert left_behind(run) == left_behind(cut)
    assert (record.initial, record.teacher) == (whole.initial, whole.teacher)
    assert record.teacher.weight == 0.3 and "largest network of small" in record.teacher.name


def test_other_initial_weights_are_another_training(run):
    train_network(run, data(), CONFIG, initial=from_supernet(run))

    with pytest.raises(RunError, match="initial"):
        train_network(run, data(), CONFIG)


def test_the_loss_of_a_distilled_training_is_a_mixture(run, tmp_path):
    torch.manual_seed(0)
    images = data()
    arguments = {"data": images, "config": CONFIG, "identity": {}, "on_event": lambda event: None}
    build = lambda: Network(TWO, run.architecture)  # noqa: E731
    taught = Training(tmp_path / "a", build, teacher=largest_of_supernet(run, TWO, data().classes, 0.25), **arguments)
    taught._call_teacher(taught.teacher)
    taught.network.eval()  # no dropout
    pixels, labels = next(images.train_loader(16).batches(0))
    pixels = normalise(pixels)

    logits = taught.network(pixels)
    loss = taught._loss(logits, pixels, labels)
    loss.backward()

    answers = torch.softmax(taught.teaching(pixels), -1)
    plain = torch.nn.functional.cross_entropy(logits, labels, label_smoothing=0.1)
    expected = 0.75 * plain - 0.25 * (answers * torch.log_softmax(logits, -1)).sum(-1).mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert all(parameter.grad is None for parameter in taught.teaching.parameters())


def test_the_own_weights_as_a_file_have_the_own_accuracy(run, tmp_path):
    first = train_network(run, data(), CONFIG)
    shutil.copy(first.weights, tmp_path / "first.safetensors")

    record = train_network(run, data(), CONFIG, initial=from_file(tmp_path / "first.safetensors"), resume=False).record

    assert record.initial.accuracy == first.record.best_accuracy
    assert (record.initial.source, record.initial.statistics) == ("file", "source")
    assert record.initial.missing == record.initial.other_shape == ()


def test_a_file_of_other_classes_fits_but_for_the_classifier(run, tmp_path):
    save_file(Network(SPACE, run.architecture).state_dict(), tmp_path / "ten.safetensors")

    record = train_network(run, data(), CONFIG, initial=from_file(tmp_path / "ten.safetensors")).record

    assert record.initial.other_shape == ("head.classifier.weight", "head.classifier.bias")


def test_a_file_without_statistics_gets_those_of_the_training_images(run, tmp_path):
    weights = {
        name: value for name, value in Network(TWO, run.architecture).state_dict().items() if "running" not in name
    }
    save_file(weights, tmp_path / "bare.safetensors")

    record = train_network(run, data(), CONFIG, initial=from_file(tmp_path / "bare.safetensors")).record

    assert record.initial.statistics == "training images" and record.initial.missing == ()


class Harmful:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_a_pickle_is_refused_and_not_run(run, tmp_path):
    (tmp_path / "weights.pt").write_bytes(pickle.dumps(Harmful(tmp_path / "written")))
    torch.save({"stem.conv.weight": torch.ones(1)}, tmp_path / "weights.pth")

    for name in ("weights.pt", "weights.pth"):
        with pytest.raises(RunError, match="cannot be read as safetensors") as caught:
            train_network(run, data(), CONFIG, initial=from_file(tmp_path / name))

        assert "run code" in caught.value.hint
    assert not (tmp_path / "written").exists()


def test_a_file_in_which_nothing_fits_is_refused_with_an_example_of_a_name(run, tmp_path):
    save_file({"features.0.weight": torch.ones(3)}, tmp_path / "other.safetensors")

    with pytest.raises(RunError, match="no tensor of") as caught:
        train_network(run, data(), CONFIG, initial=from_file(tmp_path / "other.safetensors"))

    assert "layers.0.depthwise.weight" in caught.value.hint


def test_a_damaged_checkpoint_of_the_search_names_the_way_out(run):
    path = run.search_checkpoint
    path.write_bytes(path.read_bytes()[:-100])

    with pytest.raises(RunError, match="is damaged") as caught:
        train_network(run, data(), CONFIG, initial=from_supernet(run))

    assert "--from-scratch" in caught.value.hint


def test_a_teacher_of_other_classes_is_refused(run):
    with pytest.raises(RunError, match="knows 2 classes and cannot teach 10"):
        largest_of_supernet(run, SPACE, [str(index) for index in range(10)], 0.5)
    with pytest.raises(RunError, match="knows 2 classes and cannot teach others"):
        largest_of_supernet(run, TWO, data().classes[::-1], 0.5)


def test_a_teacher_is_made_where_its_images_are(run, tmp_path, monkeypatch):
    """Its weights begin on the CPU, also where the training runs on a GPU."""
    taught = Training(
        tmp_path, lambda: Network(TWO, run.architecture), data=data(), config=CONFIG, identity={},
        on_event=lambda event: None, teacher=largest_of_supernet(run, TWO, data().classes, 0.25),
    )  # fmt: skip
    seen = []
    build = lambda batches: seen.extend(each.device.type for each in batches) or Network(TWO, run.architecture)  # noqa: E731
    monkeypatch.setattr(taught, "_statistics_batches", lambda: iter([torch.zeros(2, 3, 16, 16, device="meta")]))
    monkeypatch.setattr(torch.Tensor, "cpu", lambda self: torch.zeros(self.shape))

    taught._call_teacher(dataclasses.replace(taught.teacher, build=build))

    assert seen == ["cpu"]


def test_learned_weights_need_no_warm_up():
    config = fine_tuning_schedule(TrainConfig(epochs=10, batch=1024))

    assert config.lr_at(0) == pytest.approx(0.5) and config.lr_at(10) == pytest.approx(0)
    assert fine_tuning_schedule(TrainConfig(lr=0.3, warmup_epochs=2)) == TrainConfig(lr=0.3, warmup_epochs=2)


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    from lightnas_edge.data import load_data

    folder = tmp_path_factory.mktemp("digits")
    config = dataclasses.replace(SEARCH, epochs=2, batch=128, architecture_batch=256)
    run_search(folder, SPACE, load_data("digits", space=SPACE), budget(9.0), config)
    return folder


def train(folder, *options):
    return command("train", folder, "--epochs", "1", "--batch-size", "256", *options)


def test_the_command_takes_the_supernet_where_there_is_one_and_says_so(digits, tmp_path):
    folder = shutil.copytree(digits, tmp_path / "run")

    answer = train(folder, "--distil")

    assert answer.code == 0, answer.err
    assert "initial weights: " in answer.err and "from the supernet of the search (search/checkpoint.pt)" in answer.err
    assert "top-1 accuracy before the first step" in answer.err
    assert "teacher: the largest network of small" in answer.err
    assert "trained 1 epochs from the weights of search/checkpoint.pt" in answer.out
    again = train(folder, "--from-scratch")
    assert again.code == 1 and "initial: " in again.err and "--fresh" in again.err
    scratch = train(folder, "--from-scratch", "--fresh")
    assert scratch.code == 0 and "trained 1 epochs from scratch" in scratch.out and "initial weights" not in scratch.err
    shutil.rmtree(folder / "search")
    gone = train(folder, "--from-supernet", "--fresh")
    assert gone.code == 1 and "has no supernet" in gone.err and "--from-scratch" in gone.err
    saved = shutil.copy(folder / "train" / "weights.safetensors", tmp_path / "weights.safetensors")
    named = train(folder, "--init", saved, "--fresh", "--json")
    assert named.code == 0 and json.loads(named.out)["initial"]["name"] == str(saved)


@pytest.mark.parametrize("option", [("--from-supernet",), ("--from-scratch",), ("--init", "x"), ("--distil",)])
def test_a_fine_tuning_in_8_bits_begins_with_the_trained_weights(digits, option):
    answer = train(digits, "--quantize", "int8", *option)

    assert answer.code == 2 and f"{option[0]} does not go with --quantize" in answer.err


def test_the_weight_of_a_teacher_needs_one(digits):
    answer = train(digits, "--distil-weight", "0.3")

    assert answer.code == 2 and "--distil-weight belongs to --distil" in answer.err

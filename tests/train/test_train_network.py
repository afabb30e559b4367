"""Training from scratch: resumable to the bit, the best epoch kept, loadable for export."""

import dataclasses
import gc
import json
import multiprocessing

import numpy as np
import pytest
import torch

from lightnas_edge.data import normalise
from lightnas_edge.errors import DivergedError, RunError
from lightnas_edge.runs import Run
from lightnas_edge.space import Architecture
from lightnas_edge.train import TrainConfig, load_network, train_network
from tests import run_folders
from tests.search.problems import SPACE, data

CONFIG = TrainConfig(epochs=3, batch=16, lr=0.05, checkpoint_s=1e9)
FOUND = Architecture.from_indices(SPACE, [2, 0, 1, 2])


def train(folder, config=CONFIG, **more):
    images = more.pop("images", None) or data()
    run = run_folders.find(run_folders.begin(folder, SPACE, images.record), FOUND)
    return train_network(run, images, config, **more).record


def left_behind(folder):
    """Weights and metrics, but for times."""
    lines = [json.loads(line) for line in (folder / "train" / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        del line["elapsed_s"]
    return lines, (folder / "train" / "weights.safetensors").read_bytes()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    train(folder, dataclasses.replace(CONFIG, epochs=6))
    return folder


def test_two_classes_that_differ_in_brightness_are_learnt(whole):
    record = json.loads((whole / "train" / "result.json").read_text())

    assert record["best_accuracy"] > 0.9
    assert (record["kind"], record["data"]["classes"], record["epochs"]) == ("training", ["dark", "bright"], 6)
    assert "chosen on the validation images" in record["note"]


class Stop(Exception):
    pass


@pytest.mark.parametrize("after", [3, 6, 17])
def test_a_training_cut_off_anywhere_ends_as_if_it_had_not_been(whole, tmp_path, after, monkeypatch):
    monkeypatch.setattr("lightnas_edge.nn.loop.FLUSH_S", 0.0)
    config, seen = dataclasses.replace(CONFIG, epochs=6, checkpoint_s=0.01), 0

    def cut(event):
        nonlocal seen
        seen += event["kind"] == "training-step"
        if seen == after:
            raise Stop

    with pytest.raises(Stop):
        train(tmp_path, config, on_event=cut)
    train(tmp_path, config)

    assert left_behind(whole) == left_behind(tmp_path)


def test_the_cost_is_estimated_before_the_first_step_and_changes_no_bit(whole, tmp_path, monkeypatch):
    monkeypatch.setattr("lightnas_edge.nn.loop.TIME_FROM_STEPS", 24)
    events = []

    train(tmp_path, dataclasses.replace(CONFIG, epochs=6), on_event=events.append)

    (estimate,) = [event for event in events if event["kind"] == "estimate"]
    assert events.index(estimate) == 1, "after the start, before any step"
    assert estimate["steps"] == 24 == sum(event["kind"] == "training-step" for event in events)
    assert estimate["seconds"] > 0 and estimate["memory_mb"] > 50
    assert left_behind(whole) == left_behind(tmp_path)


def test_the_weights_kept_have_the_accuracy_of_the_record(whole):
    """Loaded as export loads it: evaluation mode, running statistics, the best epoch's weights."""
    images = data()
    pixels = torch.stack([torch.from_numpy(images.validation.image(index, None)) for index in range(32)])

    network = load_network(whole)
    with torch.no_grad():
        predicted = network(normalise(pixels)).argmax(-1).numpy()

    record = json.loads((whole / "train" / "result.json").read_text())
    assert np.mean(predicted == images.validation.labels) == pytest.approx(record["best_accuracy"])


def test_weights_of_another_architecture_are_refused(whole, tmp_path):
    import shutil

    shutil.copytree(whole, tmp_path / "run")
    run_folders.find(Run.open(tmp_path / "run"), Architecture.from_indices(SPACE, [0, 0, 0, 0]))

    with pytest.raises(RunError, match="another architecture"):
        load_network(tmp_path / "run")


def test_without_training_there_is_nothing_to_load(tmp_path):
    run = run_folders.find(run_folders.begin(tmp_path, SPACE), FOUND)

    with pytest.raises(RunError) as caught:
        load_network(run)

    assert "lightnas-edge train" in caught.value.hint


def test_another_recipe_is_not_mixed_into_a_training(whole):
    with pytest.raises(RunError, match=r"lr: was 0.05, now 0.01"):
        train(whole, dataclasses.replace(CONFIG, epochs=6, lr=0.01))


def test_a_loss_that_is_no_number_stops_the_training(tmp_path):
    broken = data()
    with pytest.raises(DivergedError, match="the loss became") as caught:
        train(tmp_path, dataclasses.replace(CONFIG, lr=1e30, clip_norm=1e30), images=broken)

    assert "epoch" in str(caught.value)


def test_biases_and_norms_are_not_decayed(tmp_path):
    from lightnas_edge.nn import Network
    from lightnas_edge.train.training import Training

    training = Training(
        tmp_path,
        lambda: Network(SPACE.with_classes(2), FOUND),
        data(),
        CONFIG,
        identity={},
        on_event=lambda event: None,
    )
    decayed, others = training.optimiser.param_groups

    assert {weight.dim() for weight in others["params"]} == {1} and others["weight_decay"] == 0
    assert decayed["weight_decay"] == 4e-5 and len(decayed["params"]) + len(others["params"]) == len(
        list(training.network.parameters())
    )


def test_the_learning_rate_rises_then_falls_as_half_a_cosine():
    config = TrainConfig(epochs=12, lr=1.0, warmup_epochs=2)

    assert [round(config.lr_at(progress), 3) for progress in (0, 1, 2, 7, 12)] == [0.0, 0.5, 1.0, 0.5, 0.0]


def test_the_processes_that_decode_images_end_with_the_training(tmp_path):
    """Left to the garbage collector, each of them may keep the program waiting for 5 s."""
    gc.disable()
    try:
        train(tmp_path, images=dataclasses.replace(data(), workers=1))
        remaining = multiprocessing.active_children()
    finally:
        gc.enable()

    assert remaining == []


def test_the_only_step_of_a_training_learns():
    config = TrainConfig(epochs=1, lr=0.5)

    assert config.lr_of_step(0, 1, 0) == 0.5
    assert config.lr_of_step(1, 2, 0) == pytest.approx(0.0)

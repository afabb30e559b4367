"""Fine-tuning in 8 bits: from the float weights, resumable to the bit, read through the run."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from onnx import numpy_helper
from safetensors.numpy import load_file

from lightnas_edge.deploy.int8 import int8_parts
from lightnas_edge.errors import DataError, RunError, StaleRecordError
from lightnas_edge.graph import Arithmetic, weight_shapes
from lightnas_edge.nn import Network
from lightnas_edge.nn.checkpoint import load_checkpoint
from lightnas_edge.quantise.calibration import CalibrationImages, quantised_network_model
from lightnas_edge.space import Architecture
from lightnas_edge.train import dialect_of, fine_tune_quantised, fine_tuning_config, load_network, train_network
from tests import run_folders
from tests.cli.commands import run as command
from tests.interruption import interrupt
from tests.search.problems import SPACE, data
from tests.train.test_train_network import CONFIG as FLOAT
from tests.train.test_train_network import Stop

FOUND = Architecture.from_indices(SPACE, [2, 0, 1, 2])
CONFIG = dataclasses.replace(fine_tuning_config(epochs=2, batch=16, lr=0.01), checkpoint_s=1e9)


def trained(folder, **fingerprint):
    """A run with float weights."""
    images = data()
    run = run_folders.begin(folder, SPACE, images.record, fingerprint=fingerprint)
    train_network(run_folders.find(run, FOUND), images, dataclasses.replace(FLOAT, epochs=2))
    return run


def fine_tune(run, config=CONFIG, **more):
    images = data()
    return fine_tune_quantised(run, images, config, CalibrationImages.from_training(images, 32), **more).record


def left_behind(run):
    lines = [json.loads(line) for line in (run.quantised_folder / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        del line["elapsed_s"]
    return lines, (run.quantised_folder / "weights.safetensors").read_bytes()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    run = trained(tmp_path_factory.mktemp("whole"))
    fine_tune(run)
    return run


def test_the_run_has_the_weights_and_what_they_were_made_from(whole):
    record = whole.quantised.record

    assert record.quantised.dialect == "ort" == dialect_of(whole)
    assert record.quantised.float_weights_sha256 == whole.weights.record.weights_sha256
    assert record.quantised.float_accuracy == whole.weights.record.best_accuracy
    assert record.quantised.calibration.images == 32
    assert record.weights_sha256 != record.quantised.float_weights_sha256
    assert [line["epoch"] for line in left_behind(whole)[0] if line["kind"] == "training-epoch"] == [0, 1]
    assert set(load_file(whole.quantised.path)) == set(weight_shapes(whole.space, FOUND))


def test_the_ranges_follow_the_training_for_half_of_the_steps(whole):
    quantised, started = whole.quantised.record.quantised, whole.quantised.record.quantised.calibration
    steps = [line for line in left_behind(whole)[0] if line["kind"] == "training-step"]

    assert quantised.observed_steps == len(steps) // 2 > 0
    assert started.observed_steps == 0
    moved = [name for name, found in quantised.ranges.items() if found != pytest.approx(started.ranges[name], rel=1e-4)]
    assert len(moved) > len(quantised.ranges) / 2


def test_the_graph_has_the_ranges_at_the_end(whole):
    quantised, arithmetic = whole.quantised.record.quantised, Arithmetic("int8", "ort")
    parts = int8_parts(whole, load_network(whole), arithmetic, data(), None, "minmax", None)

    model = quantised_network_model(
        load_network(whole).space, FOUND, parts.weights, arithmetic, parts.calibration.ranges
    )

    assert parts.fine_tuned and parts.calibration.observed_steps == quantised.observed_steps
    stored = {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}
    low, high = quantised.ranges["input"]
    assert stored["input.scale"] == pytest.approx((high - low) / 255, rel=1e-6)


def test_a_poor_calibration_leaves_no_trace_in_the_result(whole, tmp_path):
    """Ranges from images of a tenth of the contrast."""
    run, images = trained(tmp_path), data()
    good = CalibrationImages.from_training(images, 32)
    poor = dataclasses.replace(good, pixels=good.pixels / 10, source="dim images")

    quantised = fine_tune_quantised(run, images, CONFIG, poor).record.quantised

    assert np.ptp(quantised.calibration.ranges["input"]) == pytest.approx(np.ptp(good.pixels) / 10, rel=0.05)
    assert quantised.ranges == whole.quantised.record.quantised.ranges
    assert left_behind(run) == left_behind(whole)


@pytest.mark.parametrize("after", [2, 6])
def test_a_fine_tuning_cut_off_anywhere_ends_as_if_it_had_not_been(whole, tmp_path, after, monkeypatch):
    monkeypatch.setattr("lightnas_edge.nn.loop.FLUSH_S", 0.0)
    run, seen = trained(tmp_path), 0

    def cut(event):
        nonlocal seen
        seen += event["kind"] == "training-step"
        if seen == after:
            raise Stop

    with pytest.raises(Stop):
        fine_tune(run, dataclasses.replace(CONFIG, checkpoint_s=0.0), on_event=cut)
    fine_tune(run)

    assert left_behind(whole) == left_behind(run)


def test_ctrl_c_abandons_a_pass_and_loses_nothing(whole, tmp_path):
    run = trained(tmp_path)
    setup = (
        "from lightnas_edge.quantise.fake_quantised import FakeQuantised\n"
        "from lightnas_edge.runs import Run\n"
        "from tests.train.test_quantise import fine_tune\n"
    )
    at = 2 + 3  # 2 passes of validation before the fine-tuning

    assert interrupt(setup, f"fine_tune(Run.open({str(tmp_path)!r}))", "FakeQuantised", "forward", at) == at
    state = load_checkpoint(run.quantised_folder / "checkpoint.pt", schema=2)
    assert (state["epoch"], state["step"]) == (0, 2)
    fine_tune(run)

    assert left_behind(whole) == left_behind(run)


def test_other_float_weights_make_the_fine_tuned_ones_stale(tmp_path):
    run = trained(tmp_path)
    fine_tune(run, dataclasses.replace(CONFIG, epochs=1))
    run_folders.train(run, Network(SPACE.with_classes(2), FOUND))

    with pytest.raises(StaleRecordError, match="other float weights") as caught:
        _ = run.quantised
    with pytest.raises(RunError, match="float_weights: was"):
        fine_tune(run, dataclasses.replace(CONFIG, epochs=1))

    assert "--quantize int8 --fresh" in caught.value.hint
    fine_tune(run, dataclasses.replace(CONFIG, epochs=1), resume=False)
    assert run.quantised.record.quantised.float_weights_sha256 == run.weights.record.weights_sha256


def test_another_dialect_is_not_mixed_into_a_fine_tuning(whole):
    with pytest.raises(RunError, match='dialect: was "ort", now "tensorrt"'):
        fine_tune(whole, dialect="tensorrt")


@pytest.mark.parametrize(
    ("fingerprint", "why"),
    [
        ({"backend": "onnxruntime-cuda"}, "measures fp32, not int8"),
        ({"backend": "tensorrt", "board": "jetson-nano"}, "computes in fp32 and fp16, not in int8"),
    ],
)
def test_an_engine_without_int8_is_refused_before_any_work(tmp_path, fingerprint, why):
    run = run_folders.find(run_folders.begin(tmp_path, SPACE, data().record, fingerprint=fingerprint), FOUND)
    run_folders.train(run, Network(SPACE.with_classes(2), FOUND))

    with pytest.raises(RunError, match=why) as caught:
        fine_tune(run)

    assert "--dialect tensorrt" in caught.value.hint
    assert not run.quantised_folder.exists()


@pytest.mark.parametrize(
    ("fingerprint", "dialect"),
    [
        ({"backend": "onnxruntime", "board": "generic-linux"}, "ort"),
        ({"backend": "tensorrt", "board": "generic-linux"}, "tensorrt"),
        ({"backend": "onnxruntime", "board": "jetson-nano"}, "ort"),
        ({"backend": "simulated", "board": "virtual:jetson-orin-nano"}, "tensorrt"),
        ({}, "ort"),
    ],
)
def test_the_dialect_is_that_of_the_engine_of_the_table(tmp_path, fingerprint, dialect):
    run = run_folders.begin(tmp_path, SPACE, data().record, fingerprint=fingerprint)

    assert dialect_of(run) == dialect


def test_images_that_may_judge_the_network_are_refused(whole):
    """Another folder of the same classes may train on what the float training validates on."""
    other = dataclasses.replace(data(), sha256="f" * 64)

    with pytest.raises(DataError, match="other images than the training"):
        fine_tune_quantised(whole, other, CONFIG, CalibrationImages.from_training(other, 32))


def test_a_fine_tuning_has_a_hundredth_of_the_learning_rate_and_no_warm_up():
    config = fine_tuning_config(epochs=4, batch=1024)

    assert config.lr_at(0) == pytest.approx(0.005) and config.lr_at(4) == pytest.approx(0)


@pytest.fixture
def digits(tmp_path):
    """A run about digits with random weights as its float weights."""
    from lightnas_edge.data import load_data

    run = run_folders.begin(tmp_path / "digits", SPACE, load_data("digits", space=SPACE).record)
    torch.manual_seed(0)
    return run_folders.train(run_folders.find(run, FOUND), Network(SPACE, FOUND))


def test_the_command_says_the_accuracy_before_and_after(digits):
    answer = command("train", digits.folder, "--quantize", "int8", "--epochs", "1", "--calibrate", "50")

    assert answer.code == 0, answer.err
    assert "fine-tuned 1 epochs in int8 (ort): top-1 accuracy" in answer.out
    assert "without fine-tuning" in answer.out and "in float32" in answer.out
    assert "50 calibration images" in answer.err
    assert "before the fine-tuning" in answer.err
    again = command("train", digits.folder, "--quantize", "int8", "--epochs", "2", "--calibrate", "50")
    assert again.code == 1 and "epochs: was 1, now 2" in again.err and "--fresh" in again.err
    fresh = command("train", digits.folder, "--quantize", "int8", "--epochs", "1", "--fresh", "--json")
    assert json.loads(fresh.out)["quantised"]["calibration"]["images"] == 512


def test_the_command_needs_float_weights_and_says_how_to_get_them(tmp_path):
    run = run_folders.find(run_folders.begin(tmp_path, SPACE, data().record), FOUND)

    answer = command("train", run.folder, "--quantize", "int8")

    assert answer.code == 1
    assert "result.json does not exist" in answer.err and f"lightnas-edge train {run.folder}" in answer.err


@pytest.mark.parametrize("option", [("--calibrate", "100"), ("--calibration-method", "minmax"), ("--dialect", "ort")])
def test_options_of_a_fine_tuning_without_one_are_wrong_usage(tmp_path, option):
    run = run_folders.find(run_folders.begin(tmp_path, SPACE, data().record), FOUND)

    answer = command("train", run.folder, *option)

    assert answer.code == 2 and f"{option[0]} belongs to a fine-tuning in 8 bits" in answer.err

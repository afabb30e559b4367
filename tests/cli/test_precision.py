"""`lightnas-edge precision`: what it refuses at once, its exit codes, and what it prints."""

import json

import numpy as np
import pytest
from onnx import helper
from PIL import Image

from lightnas_edge.cli.precision import COLUMNS, _to_train_on
from tests.cli.commands import run
from tests.models import files


@pytest.fixture
def net(tmp_path, monkeypatch):
    monkeypatch.setenv("LIGHTNAS_EDGE_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    made = files.convolution((1, 3, 8, 8), (1, 4, 6, 6))
    made.opset_import[0].version = 13  # the board's TensorRT reads no more
    return files.saved(tmp_path, made)


def test_a_run_or_a_model_and_not_both(net):
    for arguments in ((), ("run", "--model", net)):
        found = run("precision", *arguments, "--latency-ms", 1)
        assert found.code == 2
        assert "takes a run directory, or a float32 ONNX file" in found.err


def test_options_that_belong_to_the_other_kind_are_refused(net):
    assert "--threads: only with --model" in run("precision", "run", "--threads", 2).err
    assert "--predictor: only with a run" in run("precision", "--model", net, "--predictor", "p", "--latency-ms", 1).err


def test_an_unknown_precision_is_named(net):
    found = run("precision", "--model", net, "--latency-ms", 1, "--precision", "fp32,int4")

    assert found.code == 2
    assert "no such precision: 'int4'; choose from fp32, fp16, int8" in found.err


def test_a_number_of_images_needs_a_folder_to_take_them_from(net):
    found = run("precision", "--model", net, "--latency-ms", 1, "--calibrate", 100)

    assert found.code == 2
    assert "--calibrate 100 takes images of --data" in found.err


@pytest.mark.timeout(240)
def test_the_table_fits_a_terminal_and_everything_simulated_is_marked(net):
    """0.001 ms is below what any kernel takes: no precision keeps the budget."""
    command = ("precision", "--model", net, "--host", "virtual:jetson-nano", "--latency-ms", 0.001, "--rounds", 12)

    found = run(*command)

    assert found.code == 3
    lines = found.out.splitlines()
    assert max(map(len, lines)) <= COLUMNS
    assert lines[0].startswith("SIMULATED net on virtual:jetson-nano, measured in turns (4 passes)")
    assert lines[1].split() == ["precision", "p50", "ms", "p95", "ms", "speed", "top-1", "to", "fp32", "verdict"]
    assert [line.split()[0] for line in lines[2:4]] == ["fp32", "fp16"]
    assert any(
        line.startswith("int8: not available: Jetson Nano computes in fp32 and fp16, not in int8") for line in lines
    )
    assert any(line.startswith("SIMULATED no precision is shown to keep all budgets") for line in lines)
    record = json.loads(run(*command, "--json").out)
    assert record["choice"]["precision"] is None


@pytest.mark.timeout(240)
def test_a_file_that_the_board_cannot_load_ends_with_the_boards_own_words(net, tmp_path):
    newer = files.saved(tmp_path, files.convolution((1, 3, 8, 8), (1, 4, 6, 6)), "newer.onnx")  # opset 17

    found = run("precision", "--model", newer, "--host", "virtual:jetson-nano", "--latency-ms", 1, "--rounds", 12)

    assert found.code == 1
    assert "no precision could be measured on virtual:jetson-nano" in found.err
    assert "fp32: virtual:jetson-nano could not measure it: TensorRT 8.2.1 reads opset 13 at most" in found.err


# -- images that calibrate a model file -----------------------------------------------------------------------


def classifier(folder, classes):
    """A convolution and the mean of each channel, which is a class."""
    nodes = [
        helper.make_node("Conv", ["images", "w"], ["features"]),
        helper.make_node("GlobalAveragePool", ["features"], ["means"]),
        helper.make_node("Flatten", ["means"], ["logits"]),
    ]
    weights = np.random.default_rng(0).standard_normal((classes, 3, 3, 3))
    return files.saved(
        folder,
        files.model(
            nodes, [files.value("images", ("N", 3, 8, 8))], [files.value("logits", ("N", classes))],
            [files.constant("w", weights)],
        ),
    )  # fmt: skip


def images(folder, count=3, classes=("a", "b")):
    random = np.random.default_rng(len(str(folder)))
    for name in classes:
        (folder / name).mkdir(parents=True)
        for index in range(count):
            pixels = random.integers(0, 255, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{index}.png")
    return folder


SHARED = "int8 is calibrated on images of --data, by which its accuracy is judged too; give --calibrate DIR"


@pytest.mark.timeout(240)
def test_images_that_calibrate_and_judge_are_marked_and_a_remedy_repeats_the_command(net, tmp_path):
    model, val = classifier(tmp_path, 2), images(tmp_path / "val")
    command = ("precision", "--model", model, "--host", "localhost", "--shape", "1x3x8x8", "--data", val)

    found = run(*command, "--latency-ms", 0.00001, "--rounds", 2, "--json")

    assert SHARED in found.err
    (floats, eight) = [row["verification"] for row in json.loads(found.out)["rows"] if row["verification"]]
    assert SHARED in eight["warnings"] and SHARED not in floats["warnings"]
    again = f"lightnas-edge precision --model {model} --host localhost --shape 1x3x8x8 --data {val} --latency-ms 1e-05"
    assert any(f"measure more rounds: `{again} --rounds 15`" in text for text in floats["warnings"])
    assert f"`{again} --rounds " in floats["remedy"]


@pytest.mark.timeout(240)
def test_images_are_not_read_for_calibration_where_int8_is_not_measured(net, tmp_path):
    model, val = classifier(tmp_path, 2), images(tmp_path / "val")

    found = run(
        "precision", "--model", model, "--host", "localhost", "--shape", "1x3x8x8", "--data", val, "--precision", "fp32",
        "--latency-ms", 1000, "--rounds", 12, "--calibrate", tmp_path / "missing",
    )  # fmt: skip

    assert found.code == 0
    assert "calibration images" not in found.err


def test_training_images_of_the_data_calibrate_where_there_are_some(tmp_path):
    images(tmp_path / "data" / "train", count=60)
    images(tmp_path / "data" / "val")

    found = _to_train_on(str(tmp_path / "data"), 8, 512)

    assert (len(found.pixels), found.warnings) == (120, ())


def test_digits_are_calibrated_on_those_that_do_not_judge():
    from lightnas_edge.data import load_validation_images

    found = _to_train_on("digits", 8, 512)
    judged, _, _ = load_validation_images("digits", 8, 2000)

    assert (found.pixels.shape, found.warnings) == ((512, 3, 8, 8), ())
    kept = {image.tobytes() for image in judged}
    assert sum(image.tobytes() in kept for image in found.pixels) < 5


@pytest.mark.parametrize("parts", [("train",), ("Training", "val"), ("train2017", "val2017"), ()], ids=str)
def test_images_that_judge_never_calibrate_without_a_warning(tmp_path, parts):
    from lightnas_edge.data import load_validation_images

    for part in parts:
        images(tmp_path / "data" / part, count=60)
    if not parts:
        images(tmp_path / "data", count=60, classes=("bus", "car", "train"))  # a class of that name is no part
    judged, _, _ = load_validation_images(str(tmp_path / "data"), 8, 1000)

    found = _to_train_on(str(tmp_path / "data"), 8, 512)

    kept = {image.tobytes() for image in judged}
    assert any(image.tobytes() in kept for image in found.pixels) == (SHARED in found.warnings) == (len(parts) < 2)

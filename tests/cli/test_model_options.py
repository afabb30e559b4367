"""`--model` and `--shape`, as `profile` and `verify` read them."""

import argparse

import pytest

import devices
from lightnas_edge.cli import main
from lightnas_edge.cli._console import UsageError
from lightnas_edge.cli._model_options import add_model, add_model_measuring, chosen_model, model_settings, shape
from lightnas_edge.cli._options import add_board
from lightnas_edge.errors import ModelError
from tests.models import files


@pytest.mark.parametrize(
    ("text", "name", "sizes"),
    [
        ("images:1x3x640x640", "images", (1, 3, 640, 640)),
        ("1x3x640x640", "", (1, 3, 640, 640)),
        ("serving_default:0:7", "serving_default:0", (7,)),
        (":4", "", (4,)),
    ],
)
def test_a_shape_is_a_name_and_sizes(text, name, sizes):
    assert shape(text) == (name, sizes)
    assert str(shape(text)[1]) == "x".join(map(str, sizes))


@pytest.mark.parametrize(
    "text", ["", "images", "images:", "1x0x3", "1x-1", "1,3,4", "x", "1x3x", "images:1x٣", "1x9999999999"]
)
def test_what_is_no_shape_is_refused(text):
    with pytest.raises(argparse.ArgumentTypeError, match="expected NAME:1x3x640x640"):
        shape(text)


def parsed(*argv):
    parser = argparse.ArgumentParser()
    add_model_measuring(add_model(parser))
    add_board(parser)
    return parser.parse_args(list(map(str, argv)))


def test_shapes_reach_the_model(tmp_path):
    path = files.saved(tmp_path, files.embedding())
    model = chosen_model(parsed("--model", path, "--shape", "ids:2x5", "--shape", "mask:2x5"))
    assert [value.shape for value in model.facts.inputs] == [(2, 5), (2, 5)]


def test_two_shapes_of_one_input_are_refused(tmp_path):
    path = files.saved(tmp_path, files.embedding())
    with pytest.raises(UsageError, match="ids twice: 2x5 and 2x6"):
        chosen_model(parsed("--model", path, "--shape", "ids:2x5", "--shape", "ids:2x6"))


def test_an_operator_that_the_runtime_lacks_is_named_before_anything_is_sent(tmp_path):
    made = files.model(
        [files.helper.make_node("EfficientNMS_TRT", ["x"], ["y"], name="/nms")],
        [files.value("x", [1, 4])],
        [files.value("y", [1, 2])],
    )
    arguments = parsed("--model", files.saved(tmp_path, made))
    with pytest.raises(ModelError, match="ONNX Runtime has no EfficientNMS_TRT"):
        model_settings(arguments, devices.connect("localhost"), chosen_model(arguments), 3)


def test_an_opset_that_this_machines_runtime_reads_passes_the_probe(tmp_path, monkeypatch):
    monkeypatch.setenv("LIGHTNAS_EDGE_HOME", str(tmp_path / "home"))
    made = files.convolution()
    made.opset_import[0].version = 18
    arguments = parsed("--model", files.saved(tmp_path, made))
    assert model_settings(arguments, devices.connect("localhost"), chosen_model(arguments), 3).precision == "fp32"


def test_open_axes_end_with_exit_code_2_and_the_option_to_give(tmp_path, capsys):
    path = files.saved(tmp_path, files.embedding())
    assert main(["verify", "--model", str(path), "--host", "localhost", "--latency-ms", "20"]) == 2
    assert "--shape ids:1x128 --shape mask:1x128" in capsys.readouterr().err

"""Ranges come from images; what gives no ranges, or a layer of zeros, is refused by name."""

import functools
import subprocess
import sys

import numpy as np
import onnxruntime
import pytest
from onnx import numpy_helper
from PIL import Image

from lightnas_edge.data import load_data
from lightnas_edge.errors import CalibrationError, DataError
from lightnas_edge.graph import Arithmetic, activation_ranges, model_bytes, network_model, operator_model
from lightnas_edge.nn import folded_weights
from lightnas_edge.quantise.calibration import (
    MOST_IMAGES,
    CalibrationImages,
    calibrate,
    calibrate_network,
    quantised_network_model,
)
from lightnas_edge.runs import Run
from lightnas_edge.space import Architecture, Space
from lightnas_edge.train import TrainConfig, load_network, train_network
from tests import run_folders

SPACE = Space.from_json({
    "schema": 1, "name": "small", "input_size": 16, "classes": 10, "stem": {"channels": 12, "stride": 1},
    "operators": ["mbconv_k3_e3", "mbconv_k3_e3_se"], "layers": [{"channels": 16, "stride": 2}],
    "head": {"channels": 32},
})  # fmt: skip
ARCHITECTURE = Architecture.from_names(SPACE, ["mbconv_k3_e3"])
ORT, TENSORRT = Arithmetic("int8", "ort"), Arithmetic("int8", "tensorrt")
METHODS = ["minmax", "entropy", "percentile"]
both = pytest.mark.parametrize("arithmetic", [ORT, TENSORRT], ids=str)


@pytest.fixture(scope="module")
def data():
    return load_data("digits", space=SPACE)


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """A network that knows the digits."""
    run = run_folders.begin(tmp_path_factory.mktemp("trained") / "run", SPACE, data.record)
    run_folders.find(run, ARCHITECTURE)
    train_network(run, data, TrainConfig(epochs=16, batch=32, lr=0.2))
    return load_network(Run.open(run.folder))


@pytest.fixture(scope="module")
def weights(trained):
    return folded_weights(trained)


@pytest.fixture(scope="module")
def images(data):
    return CalibrationImages.from_training(data, 200)


@pytest.fixture(scope="module")
def calibrated(weights, images):
    """The record of a method, made once."""

    @functools.cache
    def make(method):
        return calibrate_network(SPACE, ARCHITECTURE, weights, ORT, images, "0" * 64, method)

    return make


def floats(weights, **options):
    return network_model(SPACE, ARCHITECTURE, weights=weights, **options)


def run(model, pixels):
    return onnxruntime.InferenceSession(model_bytes(model)).run(None, {"input": pixels})[0]


# -- ranges -----------------------------------------------------------------------------------------------------


def test_the_ranges_of_minmax_are_the_lowest_and_highest_values(weights, images, calibrated):
    expected = activation_ranges(floats(weights, batch=200), images.pixels)

    found = calibrated("minmax").ranges

    assert set(found) == set(expected)
    for name, ends in expected.items():
        assert found[name] == pytest.approx(ends, rel=1e-5, abs=1e-5), name


@pytest.mark.parametrize("method", ["minmax", "percentile"])
@both
def test_a_calibrated_network_names_the_classes_that_the_trained_one_names(
    weights, calibrated, data, method, arithmetic
):
    pixels, labels = data.validation_arrays()
    exact = run(floats(weights, batch=len(pixels)), pixels).argmax(1)
    assert np.mean(exact == labels) > 0.9

    model = quantised_network_model(
        SPACE, ARCHITECTURE, weights, arithmetic, calibrated(method).ranges, batch=len(pixels)
    )

    assert np.mean(run(model, pixels).argmax(1) == exact) > 0.95


def test_entropy_cuts_the_tail_of_a_distribution_off(images):
    """On one convolution: the library searches a threshold for every tensor, in seconds each."""
    stem = operator_model(SPACE.stem)

    found, widest = (calibrate(stem, images.pixels, method) for method in ("entropy", "minmax"))

    assert set(found) == set(widest)
    for name, (low, high) in found.items():
        assert widest[name][0] - 1e-5 <= low <= high <= widest[name][1] + 1e-5, name
    low, high = (found["operator.conv.out"][1], widest["operator.conv.out"][1])
    assert 0.1 * high < low < high


def test_calibrated_ranges_are_not_those_of_seeded_inputs(weights, calibrated):
    """A writer without ranges takes normal noise, which no image resembles."""
    seeded = activation_ranges(floats(weights), np.random.default_rng(6).standard_normal((1, 3, 16, 16), np.float32))

    for name in ("stem.conv.out", "layers.0.project.out", "head.pool.out", "output"):
        assert calibrated("minmax").ranges[name] != pytest.approx(seeded[name], rel=0.05), name


def test_one_odd_value_stretches_the_range_of_minmax_and_not_that_of_percentile(weights, images):
    odd = np.concatenate([images.pixels] * 3)
    odd[0, 0, 0, 0] = 1000.0

    assert calibrate(floats(weights), odd, "minmax")["input"][1] == 1000.0
    assert calibrate(floats(weights), odd, "percentile")["input"][1] < 10.0


def test_ranges_do_not_depend_on_the_batch_of_the_graph(weights, images):
    assert calibrate(floats(weights, batch=7), images.pixels) == calibrate(floats(weights), images.pixels)


def test_the_same_images_give_the_same_record_and_the_same_file(weights, images, calibrated):
    again = calibrate_network(SPACE, ARCHITECTURE, weights, ORT, images, "0" * 64, "percentile")

    assert again == calibrated("percentile")
    assert list(again.ranges) == list(calibrated("percentile").ranges)
    first, second = (
        model_bytes(quantised_network_model(SPACE, ARCHITECTURE, weights, ORT, each.ranges))
        for each in (again, calibrated("percentile"))
    )
    assert first == second


def test_the_record_says_what_the_ranges_come_from(calibrated, images):
    record = calibrated("percentile")

    assert (record.method, record.dialect, record.images) == ("percentile", "ort", 200)
    assert record.source == "200 training images of digits"
    assert record.images_sha256 == images.sha256
    assert record.runtime == f"onnxruntime {onnxruntime.__version__}"


def test_images_of_another_size_are_refused(weights):
    pixels = np.random.default_rng(0).standard_normal((4, 3, 20, 20), np.float32)

    with pytest.raises(CalibrationError, match=r"are \(3, 20, 20\), the network reads \(3, 16, 16\)"):
        calibrate_network(
            SPACE, ARCHITECTURE, weights, ORT, CalibrationImages(pixels, ("0" * 64,) * 4, "invented"), "0" * 64
        )


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("value", "what"), [(3e38, "infinity"), (np.nan, "NaN")])
def test_an_activation_without_a_range_is_named_with_its_layer(weights, images, method, value, what):
    bias = weights["layers.0.project.bias"].copy()
    bias[0] = value
    scaled = weights["layers.0.project.weight"] * np.float32(1e38 if what == "infinity" else 1.0)
    graph = floats({**weights, "layers.0.project.weight": scaled})
    for each in graph.graph.initializer:  # the writer takes no weights that are not finite
        if each.name == "layers.0.project.bias":
            each.raw_data = bias.tobytes()

    with pytest.raises(
        CalibrationError, match=rf"layers\.0\.project\.out of layer layers\.0\.project .* {what}"
    ) as caught:
        calibrate(graph, images.pixels, method)

    assert "train it again" in caught.value.hint


# -- layers of zeros --------------------------------------------------------------------------------------------


@both
def test_a_layer_whose_weights_are_zero_is_refused_by_name(weights, calibrated, arithmetic):
    silent = {**weights, "layers.0.expand.weight": np.zeros_like(weights["layers.0.expand.weight"])}

    with pytest.raises(CalibrationError, match=r"layers\.0\.expand: all weights are zero"):
        quantised_network_model(SPACE, ARCHITECTURE, silent, arithmetic, calibrated("minmax").ranges)


@both
def test_a_layer_whose_output_is_always_zero_is_refused_by_name(weights, images, arithmetic):
    """Its bias is so low that the ReLU6 lets nothing through."""
    dead = {**weights, "stem.conv.bias": np.full_like(weights["stem.conv.bias"], -1000.0)}
    ranges = calibrate(floats(dead), images.pixels, "minmax")

    with pytest.raises(CalibrationError, match=r"stem\.conv: its output .* is zero for every calibration image"):
        quantised_network_model(SPACE, ARCHITECTURE, dead, arithmetic, ranges)


def test_a_silent_squeeze_and_excitation_is_no_layer_of_int8(data, images):
    """It stays in float32, where zeros are exact."""
    architecture = Architecture.from_names(SPACE, ["mbconv_k3_e3_se"])
    model = network_model(SPACE, architecture)

    drawn = {each.name: numpy_helper.to_array(each) for each in model.graph.initializer if "." in each.name}
    drawn["layers.0.squeeze.reduce.weight"] = np.zeros_like(drawn["layers.0.squeeze.reduce.weight"])
    ranges = calibrate(network_model(SPACE, architecture, weights=drawn), images.pixels, "minmax")

    assert ranges["layers.0.squeeze.relu.out"] == (0.0, 0.0)
    assert quantised_network_model(SPACE, architecture, drawn, ORT, ranges).graph.node


# -- images -----------------------------------------------------------------------------------------------------


def test_training_images_are_evenly_spaced_and_not_augmented(data):
    found = CalibrationImages.from_training(data, 150)

    all_pixels = data.training_arrays(None)
    chosen = np.linspace(0, len(all_pixels) - 1, 150).astype(int)
    np.testing.assert_array_equal(found.pixels, all_pixels[chosen])
    assert len(set(found.sha256)) > 140
    assert found.warnings == ()


@pytest.mark.parametrize("count", [0, -1, MOST_IMAGES + 1])
def test_a_number_of_images_that_cannot_be_is_refused(data, count):
    with pytest.raises(CalibrationError, match=f"calibration on {count} images is not possible"):
        CalibrationImages.from_training(data, count)


def test_few_images_are_a_warning(data):
    (warning,) = CalibrationImages.from_training(data, 99).warnings

    assert warning == "only 99 calibration images: ranges settle with 100 or more"


def test_more_images_than_there_are_is_a_warning(data):
    found = CalibrationImages.from_training(data, 2000)

    assert len(found.pixels) == len(data.train)
    assert f"the training has {len(data.train)}" in found.warnings[0]


def pictures(folder, count, side=40, *, alike=False):
    generator = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    first = generator.integers(0, 256, (side, side, 3), np.uint8)
    for index in range(count):
        pixels = first if alike else generator.integers(0, 256, (side, side, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{index:03}.png")
    return folder


def test_any_images_below_a_folder_are_taken_without_labels(tmp_path):
    pictures(tmp_path / "a" / "deep", 60)
    pictures(tmp_path / "b", 60)
    (tmp_path / "notes.txt").write_text("no image")

    found = CalibrationImages.from_folder(tmp_path, 16)

    assert found.pixels.shape == (120, 3, 16, 16)
    assert found.source == f"120 images of {tmp_path}"
    assert found.warnings == ()


def test_images_of_a_folder_are_prepared_as_validation_images(tmp_path):
    for part, name in (("train", "x"), ("train", "y"), ("val", "x"), ("val", "y")):
        pictures(tmp_path / part / name, 3)
    validation, _ = load_data(tmp_path, space=SPACE, workers=0).validation_arrays()

    np.testing.assert_array_equal(CalibrationImages.from_folder(tmp_path / "val", 16).pixels, validation)


def test_smaller_images_are_enlarged_with_a_warning(tmp_path):
    found = CalibrationImages.from_folder(pictures(tmp_path / "small", 120, side=10), 16)

    assert found.pixels.shape == (120, 3, 16, 16)
    (warning,) = found.warnings
    assert warning.startswith("120 of 120 calibration images have a side below the 16 pixels of the network's input")


def test_a_folder_without_images_is_refused(tmp_path):
    with pytest.raises(CalibrationError, match="holds no images to calibrate on"):
        CalibrationImages.from_folder(tmp_path, 16)


def test_a_folder_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        CalibrationImages.from_folder(tmp_path / "gone", 16)


def test_an_image_that_cannot_be_read_is_named(tmp_path):
    (pictures(tmp_path / "images", 2) / "000.png").write_bytes(b"\x89PNG broken")

    with pytest.raises(DataError, match=r"000\.png"):
        CalibrationImages.from_folder(tmp_path / "images", 16)


def test_images_that_are_all_alike_are_refused(tmp_path):
    with pytest.raises(CalibrationError, match=r"3 calibration images .* are all alike"):
        CalibrationImages.from_folder(pictures(tmp_path / "images", 3, alike=True), 16)


def test_onnxruntimes_tools_do_not_hide_our_packages(tmp_path):
    """Their package appends a folder with a module `profiler` to the search path."""
    program = (
        "import sys; before = list(sys.path); from lightnas_edge.quantise._tools import import_tools; import_tools(); "
        "import onnxruntime.transformers; import profiler.job; assert sys.path == before"
    )
    found = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False)

    assert found.returncode == 0, found.stderr

"""What is exported computes what was trained, or it is not written."""

import dataclasses
import json

import numpy as np
import onnx
import onnxruntime
import pytest
from PIL import Image
from safetensors.numpy import save
from sklearn.datasets import load_digits

from lightnas_edge.cli import main
from lightnas_edge.data.decoding import DECODING
from lightnas_edge.deploy import export, export_network
from lightnas_edge.errors import DataError, ExportError, RunError, StaleRecordError
from lightnas_edge.files import sha256_of
from lightnas_edge.nn import Network, folded_weights
from lightnas_edge.records.quantisation import QuantisedTraining
from lightnas_edge.runs import Run
from lightnas_edge.train import load_network
from tests import run_folders


def test_the_file_computes_what_pytorch_computes_on_real_images(run_folder):
    export = export_network(run_folder)

    assert export.record.agreement.images == 64
    assert export.record.agreement.relative_difference < 1e-5
    assert export.record.agreement.top1_agreement == 1.0
    assert export.path == run_folder / "export" / "model.onnx"


def test_the_record_tells_what_was_written_and_how_to_feed_it(run_folder):
    export_network(run_folder, target="tensorrt-8.5", batch=2)

    record = json.loads((run_folder / "export" / "export.json").read_text())
    model = onnx.load(run_folder / "export" / "model.onnx")

    assert (record["kind"], record["target"], record["opset"], record["batch"]) == ("export", "tensorrt-8.5", 17, 2)
    assert model.opset_import[0].version == 17
    assert record["input_size"] == 16
    assert record["classes"] == [str(digit) for digit in range(10)]
    assert {"max_abs_difference", "cosine", "images"} <= set(record["agreement"])
    properties = {prop.key: json.loads(prop.value) for prop in model.metadata_props}
    assert (properties["classes"], properties["decoding"]) == (record["classes"], DECODING)


def test_a_batch_that_does_not_divide_the_images_is_checked_too(run_folder):
    assert export_network(run_folder, batch=5, images=7).record.agreement.images == 7


def test_the_same_run_gives_the_same_file(run_folder):
    assert export_network(run_folder).content == export_network(run_folder).content


def test_a_file_that_computes_something_else_is_not_written(run_folder, monkeypatch):
    folded = export.folded_weights

    def spoilt(network):
        weights = folded(network)
        weights["head.classifier.bias"] = weights["head.classifier.bias"] + 1.0
        return weights

    export_network(run_folder)
    before = (run_folder / "export" / "model.onnx").read_bytes()
    monkeypatch.setattr(export, "folded_weights", spoilt)

    with pytest.raises(ExportError, match="does not compute what PyTorch computes"):
        export_network(run_folder)

    assert (run_folder / "export" / "model.onnx").read_bytes() == before


def test_without_a_trained_network_there_is_nothing_to_export(run_folder):
    (run_folder / "train" / "result.json").unlink()

    with pytest.raises(RunError, match=r"result\.json does not exist"):
        export_network(run_folder)


def test_data_that_has_moved_is_named(run_folder, tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        export_network(run_folder, data=tmp_path / "gone")


def test_the_exported_file_runs_alone(run_folder):
    export_network(run_folder)

    session = onnxruntime.InferenceSession(run_folder / "export" / "model.onnx")

    assert session.run(["output"], {"input": np.zeros((1, 3, 16, 16), np.float32)})[0].shape == (1, 10)


def test_the_export_names_the_classes_that_were_trained(run_folder, digits, monkeypatch):
    """The search had ten classes, the training three."""
    three = dataclasses.replace(digits, classes=("a", "b", "c"), sha256="1" * 64)
    run = Run.open(run_folder)
    space = run.space.with_classes(3)
    run_folders.train(run, Network(space, run.architecture), three.record)
    monkeypatch.setattr(export, "load_data", lambda source, **named: three)

    found = export_network(run)

    assert found.record.classes == ("a", "b", "c")
    assert onnx.load_from_string(found.content).graph.output[0].type.tensor_type.shape.dim[1].dim_value == 3


def in_precision(run_folder, precision):
    """The run as it would be with a table of that precision."""
    with_table(run_folder, precision=precision)


def with_table(run_folder, **fields):
    """The run as it would be with a table of such a fingerprint; None removes a field."""
    path = run_folder / "run.json"
    record = json.loads(path.read_text())
    record["fingerprint"] = {k: v for k, v in {**record["fingerprint"], **fields}.items() if v is not None}
    path.write_text(json.dumps(record))
    found = run_folder / "architecture.json"
    architecture = json.loads(found.read_text())
    architecture["made_from"]["run_sha256"] = Run.open(run_folder).record.sha256
    found.write_text(json.dumps(architecture))


def test_the_file_is_in_the_precision_of_the_runs_table(run_folder):
    in_precision(run_folder, "fp16")

    export = export_network(run_folder)

    assert export.record.precision == "fp16"
    assert 0 < export.record.agreement.relative_difference < export.record.max_relative_difference == 3e-2
    assert export.record.agreement.top1_agreement > 0.9
    graph = onnx.load(export.path).graph
    ends = {end.type.tensor_type.elem_type for end in [*graph.input, *graph.output]}
    assert ends == {onnx.TensorProto.FLOAT}
    assert {each.data_type for each in graph.initializer} == {onnx.TensorProto.FLOAT16}


def test_a_run_with_a_table_of_int8_is_calibrated_and_written_in_int8(run_folder):
    in_precision(run_folder, "int8")

    export = export_network(run_folder)

    record = export.record
    assert (record.precision, record.quantisation.dialect, record.quantisation.images) == ("int8", "ort", 512)
    assert record.agreement.top1_agreement > 0.9
    properties = {prop.key: prop.value for prop in onnx.load(export.path).metadata_props}
    assert properties["lightnas_edge.arithmetic"] == "int8 ort"
    assert json.loads(properties["classes"]) == list(record.classes)


@pytest.mark.parametrize(
    ("target", "dialect", "activations"),
    [("onnxruntime-1.20", "ort", onnx.TensorProto.UINT8), ("tensorrt-8.5", "tensorrt", onnx.TensorProto.INT8)],
)
def test_the_target_decides_the_dialect_of_int8(run_folder, target, dialect, activations):
    export = export_network(run_folder, precision="int8", target=target, calibration=100)

    assert export.record.quantisation.dialect == export.calibration.dialect == dialect
    assert export.record.agreement.top1_agreement > 0.9
    assert export.record.agreement.images == 256
    zero_points = {
        each.data_type for each in onnx.load(export.path).graph.initializer if each.name.endswith(".out.zero_point")
    }
    assert zero_points == {activations}


def test_an_int8_file_has_its_calibration_next_to_it(run_folder):
    written = export_network(run_folder, precision="int8", calibration=120, method="minmax")
    run = Run.open(run_folder)

    found = run.export
    assert found.calibration == written.calibration
    assert (found.calibration.method, found.calibration.images) == ("minmax", 120)
    assert found.calibration.weights_sha256 == found.record.weights_sha256 == run.weights.record.weights_sha256
    assert found.record.quantisation.calibration_sha256 == found.calibration.sha256

    export_network(run_folder, precision="fp32")
    assert run.export.calibration is None
    assert not (run_folder / "export" / "calibration.json").exists()


def test_a_calibration_of_another_export_is_stale(run_folder):
    export_network(run_folder, precision="int8", calibration=100)
    path = run_folder / "export" / "calibration.json"
    path.write_text(path.read_text().replace("percentile", "minmax"))

    with pytest.raises(StaleRecordError, match=r"calibration\.json is not the calibration that export\.json describes"):
        _ = Run.open(run_folder).export


def test_the_same_images_give_the_same_int8_file(run_folder):
    first, second = (export_network(run_folder, precision="int8", calibration=100) for _ in range(2))

    assert first.content == second.content
    assert first.calibration == second.calibration


def test_warnings_about_the_images_come_with_the_export(run_folder):
    export = export_network(run_folder, precision="int8", calibration=20)

    assert export.warnings == ("only 20 calibration images: ranges settle with 100 or more",)


def test_a_file_that_rounding_changes_too_much_is_not_written(run_folder, monkeypatch):
    export_network(run_folder)
    before = (run_folder / "export" / "model.onnx").read_bytes()
    monkeypatch.setitem(export.LIMITS, "int8", export.Limits(1.0, 0.99999, 0.7))  # more than 8 bits can keep

    with pytest.raises(ExportError, match="rounding to int8 changes the network too much") as caught:
        export_network(run_folder, precision="int8", calibration=100)

    for way in ("nothing was written", "--calibration-method minmax", "other images", "--quantize int8"):
        assert way in caught.value.hint
    assert (run_folder / "export" / "model.onnx").read_bytes() == before
    assert not (run_folder / "export" / "calibration.json").exists()


@pytest.mark.parametrize("backend", ["onnxruntime-cuda", "onnxruntime-tensorrt"])
def test_int8_for_an_engine_without_it_is_refused(run_folder, backend):
    with_table(run_folder, backend=backend)

    with pytest.raises(ExportError, match=f"an engine without int8: the backend {backend}") as caught:
        export_network(run_folder, precision="int8")

    assert "--target tensorrt or --target onnxruntime" in caught.value.hint
    assert not (run_folder / "export").exists()
    assert export_network(run_folder, precision="int8", target="onnxruntime", calibration=100).path.exists()


@pytest.mark.parametrize("board", ["jetson-nano", "virtual:jetson-nano"])
def test_int8_for_a_board_without_it_is_refused(run_folder, board):
    with_table(run_folder, backend="tensorrt", board=board, precision="fp16")

    with pytest.raises(ExportError, match="computes in fp32 and fp16, not in int8") as caught:
        export_network(run_folder, precision="int8", target="tensorrt-8.2")

    assert caught.value.hint == "export with --precision fp16"


def test_int8_without_a_table_asks_for_the_runtime(run_folder):
    with_table(run_folder, backend=None, precision=None)

    with pytest.raises(ExportError, match="the run has no table that names one") as caught:
        export_network(run_folder, precision="int8")

    assert "--target tensorrt or --target onnxruntime" in caught.value.hint


def fine_tune(run_folder, dialect="ort"):
    """As if `train --quantize int8` had ended: with weights and ranges that differ a little from the float ones."""
    run = Run.open(run_folder)
    calibration = export_network(run_folder, precision="int8", dialect=dialect, calibration=100).calibration
    weights = {name: value * np.float32(1.001) for name, value in folded_weights(load_network(run)).items()}
    content = save(weights)
    record = run.weights.record
    run.save_training(
        record.model_copy(update={
            "weights_sha256": sha256_of(content),
            "quantised": QuantisedTraining(
                dialect=dialect, float_weights_sha256=record.weights_sha256, calibration=calibration,
                ranges={name: (1.01 * low, 1.01 * high) for name, (low, high) in calibration.ranges.items()},
                observed_steps=7, float_accuracy=0.9, calibrated_accuracy=0.8,
            ),
        }),
        content,
    )  # fmt: skip
    return run


def test_weights_that_were_fine_tuned_in_int8_are_used(run_folder):
    run = fine_tune(run_folder)

    export = export_network(run_folder, precision="int8")

    tuned = run.quantised.record
    assert export.record.quantisation.fine_tuned
    assert export.calibration.ranges == tuned.quantised.ranges
    assert export.calibration.observed_steps == 7
    assert export.calibration.weights_sha256 == tuned.weights_sha256
    assert export.record.weights_sha256 == run.weights.record.weights_sha256
    assert run.export.calibration == export.calibration


def test_an_export_is_stale_when_the_fine_tuning_was_made_again(run_folder):
    run = fine_tune(run_folder)
    export_network(run_folder, precision="int8")
    record = run.quantised.record
    run.save_training(record.model_copy(update={"weights_sha256": sha256_of(b"others")}), b"others")

    with pytest.raises(StaleRecordError, match="other fine-tuned weights"):
        _ = run.export


def test_calibration_without_int8_is_refused(run_folder):
    with pytest.raises(ExportError, match="for int8, and the file is in fp32") as caught:
        export_network(run_folder, calibration=100)

    assert caught.value.hint == "add --precision int8"


def test_calibration_images_leave_the_fine_tuned_weights_out(run_folder):
    fine_tune(run_folder)

    export = export_network(run_folder, precision="int8", calibration=100)

    assert not export.record.quantisation.fine_tuned


def test_fine_tuned_weights_of_another_dialect_are_not_used(run_folder):
    fine_tune(run_folder, "tensorrt")

    export = export_network(run_folder, precision="int8")

    assert not export.record.quantisation.fine_tuned
    assert export.warnings == (
        "the fine-tuned weights are of int8 tensorrt, the file is in int8 ort: they are not used",
    )
    with pytest.raises(ExportError, match="fine-tuned weights are of int8 tensorrt") as caught:
        export_network(run_folder, precision="int8", fine_tuned=True)
    assert "--quantize int8" in caught.value.hint


def test_damaged_fine_tuned_weights_are_named(run_folder):
    run = fine_tune(run_folder)
    record = run.quantised.record
    run.save_training(record.model_copy(update={"weights_sha256": sha256_of(b"no weights")}), b"no weights")

    with pytest.raises(ExportError, match=r"weights\.safetensors cannot be used"):
        export_network(run_folder, precision="int8")


# -- the command ------------------------------------------------------------------------------------------------


def test_export_says_what_8_bits_change_and_warns_of_few_images(run_folder, capsys):
    assert main(["export", str(run_folder), "--precision", "int8", "--calibrate", "50"]) == 0

    seen = capsys.readouterr()
    assert "calibrated on 50 images (percentile); rounding to 8 bits keeps PyTorch's class on" in seen.out
    assert "warning: only 50 calibration images" in seen.err


def test_export_calibrates_on_a_folder(run_folder, tmp_path, capsys):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for index, pixels in enumerate(load_digits().images[:120]):
        Image.fromarray((pixels * 15).astype(np.uint8)).resize((40, 40)).save(folder / f"{index}.png")

    assert main(["export", str(run_folder), "--precision", "int8", "--calibrate", str(folder), "--json"]) == 0

    assert json.loads(capsys.readouterr().out)["quantisation"]["images"] == 120


@pytest.mark.parametrize(
    ("options", "code", "text"),
    [
        (["--precision", "int8", "--calibrate", "0"], 2, "leaves no images to calibrate on"),
        (["--precision", "fp16", "--calibrate", "100"], 2, "are for int8, not for fp16"),
        (["--precision", "int8", "--calibrate", "nowhere"], 1, "does not exist"),
        (["--precision", "int8", "--calibration-method", "guess"], 2, "percentile"),
    ],
)  # fmt: skip
def test_calibration_options_that_cannot_be_end_before_anything_is_written(run_folder, capsys, options, code, text):
    try:
        found = main(["export", str(run_folder), *options])
    except SystemExit as ended:
        found = ended.code

    assert found == code
    assert text in capsys.readouterr().err
    assert not (run_folder / "export").exists()

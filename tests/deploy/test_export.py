"""What is exported computes what was trained, or it is not written."""

import dataclasses
import json

import numpy as np
import onnx
import onnxruntime
import pytest

from lightnas_edge.deploy import export, export_network
from lightnas_edge.errors import DataError, ExportError, RunError
from lightnas_edge.nn import Network
from lightnas_edge.runs import Run
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
    assert json.loads({prop.key: prop.value for prop in model.metadata_props}["classes"]) == record["classes"]


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
    path = run_folder / "run.json"
    record = json.loads(path.read_text())
    record["fingerprint"]["precision"] = precision
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

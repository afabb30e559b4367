"""What is exported computes what was trained, or it is not written."""

import json

import numpy as np
import onnx
import onnxruntime
import pytest

from lightnas_edge.deploy import export, export_network
from lightnas_edge.errors import DataError, ExportError, RunError


def test_the_file_computes_what_pytorch_computes_on_real_images(run_folder):
    record = export_network(run_folder)

    assert record.agreement.images == 64
    assert record.agreement.relative_difference < 1e-5
    assert record.agreement.top1_agreement == 1.0
    assert record.path == run_folder / "export" / "model.onnx"


def test_the_record_tells_what_was_written_and_how_to_feed_it(run_folder):
    export_network(run_folder, target="tensorrt-8.5", batch=2)

    record = json.loads((run_folder / "export" / "export.json").read_text())
    model = onnx.load(run_folder / "export" / "model.onnx")

    assert (record["kind"], record["target"], record["opset"], record["batch"]) == ("export", "tensorrt-8.5", 17, 2)
    assert model.opset_import[0].version == 17
    assert record["input"]["shape"] == [2, 3, 16, 16]
    assert record["classes"] == [str(digit) for digit in range(10)]
    assert {"max_abs_difference", "cosine", "images", "sha256", "ir_version", "normalisation"} <= set(record)
    assert json.loads({prop.key: prop.value for prop in model.metadata_props}["classes"]) == record["classes"]


def test_a_batch_that_does_not_divide_the_images_is_checked_too(run_folder):
    assert export_network(run_folder, batch=5, images=7).agreement.images == 7


def test_the_same_run_gives_the_same_file(run_folder):
    assert export_network(run_folder).sha256 == export_network(run_folder).sha256


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

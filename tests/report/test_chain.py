"""The report shows no verdict and no accuracy of a verification that does not belong to the run's export, an export
that does not belong to its weights, weights of another network, or a network of another run.
"""

import json
import shutil

import pytest
import torch

from lightnas_edge.nn import Network
from lightnas_edge.report import build_report
from lightnas_edge.runs import Run
from lightnas_edge.space import Architecture
from tests import run_folders
from tests.report.conftest import FOUND, SPACE, write_export, write_sample_run, write_training

ACCURACY = "98.1 %"  # on the board, in the verification of the sample run


def assert_refused(folder, *messages):
    """No verdict in the title, the line, the texts and the JSON, and the reason with its remedy."""
    report = build_report(folder)
    record = json.loads(report.json.read_text())
    page, text = report.html.read_text(), report.markdown.read_text()

    assert record["verdict"] is None and record["verification"] is None
    assert report.line.endswith(": not verified")
    for written in (page, text):
        assert "Budget met" not in written and ": met" not in written
        assert ACCURACY not in written
        assert "not verified" in written
    for message in messages:
        assert message in record["missing"]["verification"]
    return record


@pytest.fixture
def other(tmp_path):
    """Another run of the same space: another seed, so another question and other weights."""
    return write_sample_run(tmp_path / "other", seed=1)


def test_an_unchanged_run_shows_its_verdict_and_accuracy(run_folder):
    report = build_report(run_folder)

    assert report.missing == {}
    assert report.line.endswith(": met")
    assert ACCURACY in report.html.read_text() and ACCURACY in report.markdown.read_text()


def test_after_retraining_the_export_and_the_verdict_are_older_than_the_weights(run_folder):
    write_training(Run.open(run_folder), seed=5)

    record = assert_refused(run_folder, "is older than the weights", f"`lightnas-edge export {run_folder}` writes it")

    assert record["export"] is None and record["training"] is not None


def test_after_a_new_export_the_verdict_is_about_another_export(run_folder):
    write_training(Run.open(run_folder), seed=5)
    write_export(Run.open(run_folder))

    record = assert_refused(
        run_folder, "is about another export", f"`lightnas-edge verify {run_folder}` measures the network"
    )

    assert record["export"] is not None


def test_the_verification_of_another_run_is_refused(run_folder, other):
    shutil.copy(other / "verify/verification.json", run_folder / "verify/verification.json")

    assert_refused(run_folder, "is about another export")


def test_the_architecture_of_another_run_is_refused(run_folder, other):
    shutil.copy(other / "architecture.json", run_folder / "architecture.json")

    record = assert_refused(run_folder, "belongs to another run")

    assert record["network"] is None and record["training"] is None and record["budgets"] == []


def test_weights_of_another_architecture_are_refused_with_their_curve(run_folder):
    run = Run.open(run_folder)
    names = ["mbconv_k3_e3", *FOUND.names[1:]]
    run.save_found(Architecture.from_names(SPACE, names), run.found.predicted, run.found.choice)

    record = assert_refused(run_folder, "are of another architecture")

    assert record["training"] is None and record["export"] is None
    assert "are of another architecture" in record["missing"]["epochs"]
    assert "Loss and top-1 accuracy over the epochs of training" not in (run_folder / "report.html").read_text()


@pytest.mark.parametrize("path", ["train/weights.safetensors", "export/model.onnx"])
def test_a_file_with_one_flipped_bit_is_refused(run_folder, path):
    content = bytearray((run_folder / path).read_bytes())
    content[-3] ^= 1
    (run_folder / path).write_bytes(bytes(content))

    assert_refused(run_folder, "is not the file that")


def test_a_changed_table_and_a_changed_predictor_are_refused_alone(run_folder, other):
    for name in ("lut.jsonl", "predictor.json"):
        (run_folder / name).write_text((other / name).read_text() + "\n")

    report = build_report(run_folder)

    assert "has changed since the network was chosen" in report.missing["table"]
    assert "has changed since the network was chosen with it" in report.missing["predictor"]
    assert report.line.endswith(": met")


def test_weights_that_were_trained_on_other_images_than_the_search_are_named(run_folder):
    run = Run.open(run_folder)
    data = run_folders.data_record(run.data.classes, source="./digits", sha256="1" * 64)
    with torch.random.fork_rng():
        run_folders.train(run, Network(SPACE.with_classes(10), FOUND), data)

    assert_refused(run_folder, "is older than the weights")
    assert (
        "trained on other images than it was searched on: ./digits, not digits"
        in (run_folder / "report.md").read_text()
    )

"""A model file that was verified without a run has the same page, with what its layers show and nothing of a search."""

import json
from pathlib import Path

import pytest

from lightnas_edge.deploy.judge import Evidence
from lightnas_edge.profiles import import_trtexec
from lightnas_edge.records.model import ModelRecord, TensorRecord
from lightnas_edge.records.report import ReportRecord
from lightnas_edge.report import build_verification_report
from tests import run_folders

DATA = Path(__file__).parents[1] / "profiles" / "data"


def model(sha256):
    tensor = TensorRecord(name="x<b>", type="float32", shape=(1, 3, 224, 224))
    return ModelRecord(
        name="resnet18", file_sha256=sha256, sha256=sha256, size_bytes=46_000_000, opset=13, domains={}, ir_version=7,
        producer="", inputs=(tensor,), outputs=(tensor.model_copy(update={"shape": (1, None)}),), nodes=2,
        operators={"Conv": 2}, other_operators={}, parameters=None, macs=None, precision="fp32", batch=1, changes=(),
    )  # fmt: skip


@pytest.fixture
def profile():
    found = import_trtexec([DATA / f"resnet18.{kind}.json" for kind in ("profile", "graph", "metadata")])
    return found.model_copy(update={"model": model("a" * 64)})


def verified(**changed):
    return run_folders.verification(
        {"latency_ms": 0.5}, Evidence(run_folders.measured(0.4)),
        **{"model": model("a" * 64), "model_sha256": "a" * 64, "weights_sha256": None, "data_sha256": None, **changed},
    )  # fmt: skip


def test_the_page_has_the_model_and_no_part_that_only_a_run_has(tmp_path):
    report = build_verification_report(verified(), tmp_path)

    page, record = report.html.read_text(), json.loads(report.json.read_text())
    assert report.missing == {} and "not available" not in page
    assert ReportRecord.load(report.json).run is None and record["question"] is None
    for absent in ("The search", "The network found", "Training from scratch", "Search space"):
        assert absent not in page
    assert "x&lt;b&gt;" in page and "1 × by content" in page
    assert page.count("resnet18 on localhost") >= 2


def test_the_layers_of_the_same_model_stand_with_their_findings(tmp_path, profile):
    report = build_verification_report(verified(), tmp_path, profile)

    page = report.html.read_text()
    assert profile.findings and all(finding.title in page for finding in profile.findings)
    slowest = max(profile.layers, key=lambda layer: layer.share or 0)
    assert slowest.name.replace("&", "&amp;") in page
    assert all(finding.title in report.markdown.read_text().replace("\\", "") for finding in profile.findings)


def test_the_layers_of_another_model_are_named_and_not_shown(tmp_path, profile):
    report = build_verification_report(verified(model=model("b" * 64), model_sha256="b" * 64), tmp_path, profile)

    assert "of another model" in report.missing["layers"]
    assert 'id="layers"' not in report.html.read_text()

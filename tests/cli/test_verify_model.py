"""`verify --model`: a small file through the real agent, here and on a virtual board."""

import json

import pytest

from lightnas_edge.cli import main
from tests.models import files


@pytest.fixture(params=["localhost", "virtual:jetson-orin-nano"])
def verified(request, tmp_path, monkeypatch, capsys):
    """Exit code, record, page and messages of a convolution with one open axis."""
    monkeypatch.setenv("LIGHTNAS_EDGE_HOME", str(tmp_path / "home"))
    path = files.saved(tmp_path, files.convolution())
    code = main(
        ["verify", "--model", str(path), "--host", request.param, "--shape", "2x3x8x8", "--latency-ms", "1000",
         "--rounds", "12", "--out", str(tmp_path / "out")]
    )  # fmt: skip
    record = json.loads((tmp_path / "out" / "verification.json").read_text())
    return code, record, (tmp_path / "out" / "report.html").read_text(), capsys.readouterr().err


@pytest.mark.timeout(300)
def test_a_model_file_gets_a_verdict_its_layers_and_notes_about_what_was_changed(verified):
    code, record, page, messages = verified

    assert (code, record["verdict"]) == (0, "met")
    assert record["outputs"]["cosine"] > 0.9999
    layers = page.partition('id="layers"')[2].partition("</section>")[0]
    assert '<th scope="row" class="wrap">' in layers and "Conv" in layers
    assert "note: before it is sent, the shape of images is set to [2, 3, 8, 8]" in messages
    assert record["model"]["changes"] and not set(record["model"]["changes"]) & set(record["warnings"])
    assert "Changes before sending" in page


def test_a_budget_of_energy_has_the_energy_of_a_model_file_measured(tmp_path, monkeypatch):
    monkeypatch.setenv("LIGHTNAS_EDGE_HOME", str(tmp_path / "home"))
    path = files.saved(tmp_path, files.convolution())
    code = main(
        ["verify", "--model", str(path), "--host", "virtual:jetson-orin-nano", "--shape", "2x3x8x8", "--energy-mj", "1000",
         "--rounds", "3", "--out", str(tmp_path / "out")]
    )  # fmt: skip

    record = json.loads((tmp_path / "out" / "verification.json").read_text())
    assert (code, record["verdict"]) == (0, "met")
    assert 0 < record["energy"]["gross_mj"] < 1000

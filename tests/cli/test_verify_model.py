"""`verify --model`: a small file through the real agent, here and on a virtual board."""

import json
import re
from dataclasses import replace

import pytest

from lightnas_edge.cli import main
from lightnas_edge.deploy.turns import unfinished_journal
from lightnas_edge.measuring import Settings
from tests.cli.test_remedies import refusal
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


def test_a_remedy_repeats_everything_that_was_asked(tmp_path, monkeypatch, capsys):
    """A command without the budgets would be refused, and one without the precision or the load would measure something else."""
    monkeypatch.setenv("LIGHTNAS_EDGE_HOME", str(tmp_path / "home"))
    path = files.saved(tmp_path, files.convolution())
    asked = ["--shape", "2x3x8x8", "--precision", "fp16", "--latency-ms", "1000", "--p99-ms", "1000", "--sustained", "10s",
             "--rounds", "3", "--out", str(tmp_path / "out"), "--junit", str(tmp_path / "junit.xml")]  # fmt: skip
    assert main(["verify", "--model", str(path), "--host", "virtual:jetson-orin-nano", *asked]) == 3

    remedy = json.loads((tmp_path / "out" / "verification.json").read_text())["remedy"]
    command = re.search(r"`(lightnas-edge verify .*? --rounds \d+)`", remedy)[1]
    for words in (
        "--precision fp16",
        "--latency-ms 1000",
        "--p99-ms 1000",
        "--sustained 10s",
        f"--out {tmp_path / 'out'}",
    ):
        assert words in command
    assert not refusal(command)


def test_a_verification_that_fails_leaves_no_verdict_of_an_earlier_one(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LIGHTNAS_EDGE_HOME", str(tmp_path / "home"))
    path = files.saved(tmp_path, files.convolution())
    (tmp_path / "junit.xml").write_text("<green/>")

    code = main(["verify", "--model", str(path), "--host", "127.0.0.1:1", "--latency-ms", "1", "--shape", "2x3x8x8", "--out",
                 str(tmp_path / "out"), "--junit", str(tmp_path / "junit.xml")])  # fmt: skip

    assert code == 1
    assert not (tmp_path / "junit.xml").exists()


def test_rounds_under_load_do_not_continue_rounds_without(tmp_path):
    settings = Settings()
    load = replace(settings, protocol=settings.protocol.model_copy(update={"sustained_s": 60.0}))

    names = {unfinished_journal(tmp_path, "0" * 64, "nano", each).name for each in (None, settings, load)}

    assert len(names) == 2

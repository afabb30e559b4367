"""With --json, standard output is exactly one JSON document, whatever else the command has to say."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.commands import run

BOARD = ("--host", "virtual:jetson-nano", "--space", "tiny", "--rounds", 3)
COMMANDS = {
    "space list": ("space", "list"),
    "space show": ("space", "show", "tiny"),
    "boards list": ("boards", "list"),
    "probe": ("probe", "--host", "virtual:jetson-nano"),
    "profile": ("profile", *BOARD, "--energy", "--only", "stem", "--out", "new.lut.jsonl"),
    "pull": ("pull", "--host", "localhost", "--out", "pulled"),
    "lut show": ("lut", "show", "ops.lut.jsonl"),
    "lut check": ("lut", "check", "ops.lut.jsonl"),
    "sample": ("sample", *BOARD, "--count", 2, "--out", "new.lut.jsonl"),
    "sample --adaptive": ("sample", *BOARD, "--adaptive", "--until", 1, "--count", 11, "--out", "new.lut.jsonl"),
    "fit": ("fit", "--space", "tiny", "--lut", "ops.lut.jsonl", "--samples", "nets.lut.jsonl", "--curve", "--out", "new.json"),
    "range": ("range", "--predictor", "p.predictor.json"),
    "search": (
        "search", "--host", "virtual:jetson-nano", "--space", "tiny", "--latency-ms", 100, "--force", "--data", "digits",
        "--epochs", 2, "--batch-size", 128, "--out", "found",
    ),
    "search --from": ("search", "--from", "run", "--latency-ms", 90),
    "train": ("train", "run", "--epochs", 1),
    "export": ("export", "run"),
    "verify": ("verify", "run", "--host", "localhost", "--rounds", 12),
    "report": ("report", "run"),
    "refine": ("refine", "run", "--host", "localhost", "--rounds", 4, "--candidates", 1, "--steps", 2, "--seeds", 2, "--vary", "widths"),
}  # fmt: skip


@pytest.fixture
def copy(whole_loop, tmp_path, monkeypatch):
    """A copy of what the steps left."""
    shutil.copytree(whole_loop.folder, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    monkeypatch.setenv("LIGHTNAS_EDGE_HOME", str(tmp_path / "copy" / "agent-home"))
    return tmp_path / "copy"


@pytest.mark.parametrize("command", COMMANDS)
def test_standard_output_is_one_document(command, copy):
    answer = run(*COMMANDS[command], "--json")

    assert answer.code == 0, answer.err
    assert isinstance(json.loads(answer.out), dict)


def test_an_imported_predictor_is_one_document(shared_data, tmp_path):
    published = shared_data / "lightnas_xavier" / "lightnas_predictor.npz"

    answer = run("import", published, "--out", tmp_path / "x.json", "--json")

    assert answer.code == 0 and json.loads(answer.out)["kind"] == "import"


def test_the_descriptor_itself_gets_nothing_else(copy):
    """What a library writes to the descriptor does not pass through Python's standard output."""
    code = "import sys; from lightnas_edge.cli import main; sys.exit(main(sys.argv[1:]))"
    command = [str(word) for word in COMMANDS["search --from"]]
    ran = subprocess.run(
        [sys.executable, "-c", code, *command, "--json"], capture_output=True, text=True, timeout=300,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip

    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout)["kind"] == "front"


def test_an_error_leaves_standard_output_empty(tmp_path):
    answer = run("lut", "show", tmp_path / "none.lut.jsonl", "--json")

    assert (answer.code, answer.out) == (1, "")

"""All steps run once, for real and in short; the tests look at what they left behind."""

import os
from collections import namedtuple
from pathlib import Path

import pytest

from tests.cli.commands import run

WholeLoop = namedtuple("WholeLoop", "folder answer")


@pytest.fixture(scope="session")
def whole_loop(tmp_path_factory):
    """profile, sample, fit, range, search, train, export, verify, report on the tiny space and the digits."""
    folder = tmp_path_factory.mktemp("whole_loop")
    before = {name: os.environ.get(name) for name in ("LIGHTNAS_EDGE_HOME", "LIGHTNAS_EDGE_PROGRESS_S")}
    os.environ["LIGHTNAS_EDGE_HOME"] = str(folder / "agent-home")
    os.environ["LIGHTNAS_EDGE_PROGRESS_S"] = "0.05"
    here = Path.cwd()
    os.chdir(folder)
    answer = {}
    try:
        answer["profile"] = run(
            "profile", "--host", "localhost", "--space", "tiny", "--rounds", 4, "--out", "ops.lut.jsonl"
        )
        answer["sample"] = run("sample", "--space", "tiny", "--count", 6, "--rounds", 4, "--out", "nets.lut.jsonl")
        answer["fit"] = run(
            "fit",
            "--space",
            "tiny",
            "--lut",
            "ops.lut.jsonl",
            "--samples",
            "nets.lut.jsonl",
            "--out",
            "p.predictor.json",
        )
        answer["range"] = run("range", "--predictor", "p.predictor.json", "--json")
        answer["search"] = run(
            "search", "--predictor", "p.predictor.json", "--latency-ms", 100, "--force", "--data", "digits", "--out", "run",
            "--epochs", 2, "--batch-size", 128, "--confidence", 0.9,
        )  # fmt: skip
        answer["train"] = run("train", "run", "--epochs", 1)
        answer["export"] = run("export", "run")
        answer["verify"] = run("verify", "run", "--host", "localhost", "--rounds", 12)
        answer["report"] = run("report", "run")
    finally:
        os.chdir(here)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
    return WholeLoop(folder, answer)

"""Commands whose images are decoded by processes of their own end, and can be interrupted, as any others."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from tests.cli import commands
from tests.cli.commands import environment, program


@pytest.fixture
def images(tmp_path):
    generator = np.random.default_rng(0)
    for part, count in (("train", 40), ("val", 8)):
        for name in "abc":
            folder = tmp_path / "images" / part / name
            folder.mkdir(parents=True)
            for index in range(count):
                pixels = generator.integers(0, 255, (64, 64, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{index}.jpg")
    return tmp_path / "images"


def test_a_search_with_decoding_processes_is_interrupted_resumed_and_ends(images, tmp_path, monkeypatch):
    monkeypatch.setenv("LIGHTNAS_EDGE_HOME", str(tmp_path / "home"))
    run, table = tmp_path / "run", tmp_path / "table.lut.jsonl"
    measured = commands.run(
        "profile", "--host", "virtual:jetson-nano", "--space", "tiny", "--classes", 3, "--rounds", 3, "--out", table
    )
    assert measured.code == 0, measured.err
    words = [
        "search", "--space", "tiny", "--classes", "3", "--lut", str(table), "--latency-ms", "100", "--force", "--data", str(images), "--out", str(run),
        "--epochs", "12", "--batch-size", "16", "--workers", "2", "--device", "cpu",
    ]  # fmt: skip
    process = program(*words, home=tmp_path, start_new_session=True)
    limit_s = time.monotonic() + 120
    while not (run / "search" / "metrics.jsonl").exists() or not (run / "search" / "metrics.jsonl").stat().st_size:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < limit_s
        time.sleep(0.05)

    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert (run / "search" / "checkpoint.pt").exists()

    again = program(*words, home=tmp_path)
    out, err = again.communicate(timeout=300)
    assert again.returncode == 0, err
    assert "resuming" in err and "found" in out


def test_a_command_ends_while_a_process_that_it_forked_is_alive():
    code = (
        "import os, time; from lightnas_edge.cli._interrupts import acknowledge_interrupts\n"
        "with acknowledge_interrupts():\n"
        "    child = os.fork()\n"
        "    if child == 0:\n"
        "        time.sleep(60); os._exit(0)\n"
        "os.kill(child, 9); print('ended')\n"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment(), timeout=30, check=True
    )
    assert answer.stdout == "ended\n"

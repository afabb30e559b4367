"""Refining under torchrun: one process measures and writes, all score together, and the scores are those of one process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lightnas_edge.refine import refine_network
from lightnas_edge.runs import Run
from tests.refine.problems import CONFIG, Board, write_run
from tests.search.problems import data

ROOT = Path(__file__).parents[2]
PROGRAM = """
import pathlib, sys
import torch
from lightnas_edge.nn import joined_ranks
from lightnas_edge.refine import refine_network
from tests.refine.problems import CONFIG, Board
from tests.search.problems import data

torch.set_num_threads(1)
torch.nn.Dropout.forward = lambda self, x: x  # what is dropped out differs between processes
folder, stop_after = pathlib.Path(sys.argv[1]), int(sys.argv[2])

def stop(event):
    if event["kind"] == "score" and event["done"] == stop_after:
        raise SystemExit(7)

with joined_ranks("cpu") as ranks:
    board = Board()
    found = refine_network(folder / "run", folder / "refined", data(), CONFIG, board, on_event=stop)
    (folder / f"rank{ranks.rank}.txt").write_text(f"{found.channels} {found.comparison.scores}")
    assert ranks.first or not board.measured, "only the first process measures"
"""


def torchrun(folder, stop_after=0):
    program = folder / "program.py"
    program.write_text(PROGRAM)
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node=2",
        str(program),
        str(folder),
        str(stop_after),
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)


def scores(folder):
    lines = [json.loads(line) for line in (folder / "refine" / "scores.jsonl").read_text().splitlines()]
    return {(tuple(line["widths"]), tuple(line["expansions"]), line["seed"]): line["score"] for line in lines}


def test_two_processes_refine_as_one_and_a_killed_one_is_resumed(tmp_path, monkeypatch):
    monkeypatch.setattr("torch.nn.Dropout.forward", lambda self, x: x)
    write_run(tmp_path / "run")

    assert torchrun(tmp_path, stop_after=3).returncode != 0
    before = scores(tmp_path / "refined")
    assert len(before) >= 2
    ended = torchrun(tmp_path)
    assert ended.returncode == 0, ended.stderr[-2000:]

    assert (tmp_path / "rank0.txt").read_text() == (tmp_path / "rank1.txt").read_text()
    together = scores(tmp_path / "refined")
    assert {key: together[key] for key in before} == before
    assert Run.open(tmp_path / "refined").refined.scored == len({key[:2] for key in together}) - 1
    refine_network(tmp_path / "run", tmp_path / "alone", data(), CONFIG, Board())
    alone = scores(tmp_path / "alone")
    common = sorted(set(alone) & set(together))
    assert len(common) > 2
    assert [together[key] for key in common] == pytest.approx([alone[key] for key in common], rel=1e-3)

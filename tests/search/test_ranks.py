"""Two processes under torchrun agree to the last bit, and end with the network that belongs to what they learned."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lightnas_edge.data import Loader
from tests.search.problems import images

ROOT = Path(__file__).parents[2]

PROGRAM = """
import dataclasses, json, pathlib, sys
import torch
from lightnas_edge.nn import joined_ranks, loop
from lightnas_edge.search import run_search
from lightnas_edge.search.loop import SearchLoop
from tests.search.problems import CONFIG, SPACE, budget, data

torch.set_num_threads(1)
folder, method, stop_after = pathlib.Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])

class Stop(Exception):
    pass

with joined_ranks("cpu") as ranks:
    seen = 0
    real = SearchLoop._learn
    def learn(self, images, labels):
        global seen
        real(self, images, labels)
        seen += 1
        if seen == stop_after:
            raise SystemExit(7)
    SearchLoop._learn = learn
    loop.AGREE_STEPS = 1
    config = dataclasses.replace(CONFIG, method=method, batch=16, architecture_batch=8, checkpoint_s=0.0)
    searches = []
    keep = SearchLoop.__init__
    def init(self, *arguments, **more):
        keep(self, *arguments, **more)
        searches.append(self)
    SearchLoop.__init__ = init
    (result,) = run_search(folder, SPACE, data(), budget(7.0), config)
    searched = searches[0].search
    strategy = searched.strategy
    state = {
        "rank": ranks.rank, "world": ranks.world, "network": [str(name) for name in result.architecture.operators],
        "images": len(searched.weight_batches._plan.batches[0]),
        "probabilities": strategy.probabilities().tolist(), "multipliers": strategy.multipliers(),
        "scores": strategy.posterior().mean.tolist(),
        "weights": sum(float(value.double().abs().sum()) for value in searched.supernet.state_dict().values()),
    }
    (folder / f"rank{ranks.rank}.json").write_text(json.dumps(state))
"""


def torchrun(folder, method, *, stop_after=0, processes=2):
    program = folder.parent / "program.py"
    program.write_text(PROGRAM)
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}",
        str(program), str(folder), method, str(stop_after),
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)


def states(folder):
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in (0, 1)]


@pytest.mark.parametrize("method", ["entangled", "shared", "lightnas"])
def test_two_ranks_agree_bit_for_bit_and_a_killed_run_ends_as_if_it_had_not_been(tmp_path, method):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    ran = torchrun(whole, method)
    assert ran.returncode == 0, ran.stderr[-2000:]
    zero, one = states(whole)

    assert (zero.pop("rank"), one.pop("rank")) == (0, 1)
    assert zero == one
    assert (zero["world"], zero["images"]) == (2, 8)

    assert torchrun(cut, method, stop_after=5).returncode != 0
    assert (cut / "search" / "checkpoint.pt").exists()
    assert torchrun(cut, method).returncode == 0
    assert states(cut)[0] | {"rank": 0} == zero | {"rank": 0}


def test_ranks_share_a_batch_without_loss_or_double():
    pictures = images(20)
    whole = Loader(pictures, batch=8, seed=3, shuffle=True, augment=False)
    shares = [Loader(pictures, batch=8, seed=3, shuffle=True, augment=False, share=(rank, 2)) for rank in (0, 1)]

    for (all_pixels, _), (even, _), (odd, _) in zip(
        whole.batches(1), *(share.batches(1) for share in shares), strict=True
    ):
        assert torch.equal(all_pixels[0::2], even) and torch.equal(all_pixels[1::2], odd)
    with pytest.raises(ValueError, match="a batch of 2 images for 3 processes"):
        Loader(pictures, batch=2, seed=0, shuffle=False, augment=False, share=(0, 3))

"""Training under torchrun: the processes agree to the last bit, and together do what one process does."""

import copy
import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import nn

from lightnas_edge.errors import ConfigError, RunError
from lightnas_edge.nn.synchronised import with_synchronised_norms
from lightnas_edge.space import Architecture, Space
from lightnas_edge.train import TrainConfig, from_file, train_network
from lightnas_edge.train.training import _require_two_images
from tests import run_folders
from tests.search.problems import SPACE, data

ROOT = Path(__file__).parents[2]
CONFIG = TrainConfig(epochs=2, batch=14, lr=0.05, checkpoint_s=0.0)
LARGE = {"micro_batches": 2, "precision": "bf16"}
RECIPE = {"optimiser": "adamw", "lr": None, "ema": 0.9, "mixup": 0.2, "cutmix": 1.0}
FOUND = Architecture.from_indices(SPACE, [2, 0, 1, 2])
PROGRAM = """
import dataclasses, json, pathlib, sys
import torch
from lightnas_edge.nn import joined_ranks, loop
from lightnas_edge.train import from_file, train_network
from lightnas_edge.train.training import Training
from tests.search.problems import data
from tests.torchvision_operators import declare_missing
from tests.train.test_ranks import CONFIG

if any("mixup" in more for _, more, _ in json.loads(sys.argv[1])):
    declare_missing()

torch.set_num_threads(1)
loop.AGREE_STEPS = 1
keep, step, trainings = Training.__init__, Training._train_step, []

def init(self, *arguments, **keywords):
    keep(self, *arguments, **keywords)
    trainings.append(self)

def counted(self, images, labels):
    step(self, images, labels)
    counted.left -= 1
    if not counted.left:
        raise SystemExit(7)

Training.__init__, Training._train_step = init, counted
with joined_ranks("cpu") as ranks:
    for folder, more, counted.left in json.loads(sys.argv[1]):
        folder = pathlib.Path(folder)
        weights = folder.parent / "start.safetensors"
        initial = from_file(weights) if folder.name == "begun" else None
        record = train_network(folder, data(), dataclasses.replace(CONFIG, **more), initial=initial).record
        training = trainings[-1]
        (folder / f"rank{ranks.rank}.json").write_text(json.dumps({
            "weights": {name: value.double().flatten().tolist() for name, value in training.network.state_dict().items()},
            "accuracies": training.accuracies, "best": record.weights_sha256, "share": len(training.train_batches._plan.batches[0]),
        }))
"""


DRY = Space.from_json({**SPACE.to_json(), "dropout": 0.0})  # what is dropped out differs between processes


def begun(folder, space=SPACE):
    return run_folders.find(run_folders.begin(folder, space, data().record), FOUND)


def torchrun(folder, *jobs):
    """Each job: a run below the folder, what differs from the configuration, and the steps after which all processes end (0: never)."""
    program = folder / "program.py"
    program.write_text(PROGRAM)
    for name, _, _ in jobs:
        if not (folder / name).exists():
            begun(folder / name, DRY if name == "synchronised" else SPACE)
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2",
        str(program), json.dumps([(str(folder / name), more, stop_after) for name, more, stop_after in jobs]),
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Three trainings to their ends, and one that was cut off and continued."""
    folder = tmp_path_factory.mktemp("ranks")
    cut = torchrun(
        folder, ("local", {}, 0), ("synchronised", {"sync_batch_norm": True}, 0), ("large", LARGE, 0), ("cut", LARGE, 5)
    )
    assert cut.returncode != 0 and (folder / "large" / "rank1.json").exists(), cut.stderr[-2000:]
    assert (folder / "cut" / "train" / "checkpoint.pt").exists()
    with pytest.raises(RunError, match="processes"):
        train_network(folder / "cut", data(), dataclasses.replace(CONFIG, **LARGE))
    learned = load_file(folder / "local" / "train" / "weights.safetensors")
    without_statistics = {
        name: value for name, value in learned.items() if "running_" not in name and "num_" not in name
    }
    save_file(without_statistics, folder / "start.safetensors")
    continued = torchrun(folder, ("cut", LARGE, 0), ("begun", {"sync_batch_norm": True}, 0))
    assert continued.returncode == 0, continued.stderr[-2000:]
    return folder


def state(folder, rank):
    return json.loads((folder / f"rank{rank}.json").read_text())


@pytest.mark.parametrize("name", ["local", "synchronised", "large"])
def test_ranks_agree_bit_for_bit(trained, name):
    assert state(trained / name, 0) == state(trained / name, 1)
    assert state(trained / name, 0)["share"] == 7


def test_ranks_agree_on_averaged_weights_and_mix_their_own_shares(torchvision, tmp_path):
    done = torchrun(tmp_path, ("recipe", RECIPE, 0))

    assert done.returncode == 0, done.stderr[-2000:]
    assert state(tmp_path / "recipe", 0) == state(tmp_path / "recipe", 1), "`best` is the hash of the averaged weights"


def test_a_killed_training_ends_as_if_it_had_not_been(trained):
    assert state(trained / "cut", 0) == state(trained / "large", 0)


def test_initial_weights_are_worth_what_they_are_in_one_process(trained, tmp_path):
    """Their running statistics are estimated on the same images, with norms that are those of all ranks later."""
    together = json.loads((trained / "begun" / "train" / "result.json").read_text())["initial"]

    alone = train_network(
        begun(tmp_path), data(), CONFIG, initial=from_file(trained / "start.safetensors")
    ).record.initial

    assert together["statistics"] == alone.statistics == "training images"
    assert together["accuracy"] == pytest.approx(alone.accuracy, abs=1 / 32)
    assert alone.accuracy > 0.6, "chance is a half"


def test_the_first_process_keeps_the_weights_that_all_hold(trained):
    record = json.loads((trained / "local" / "train" / "result.json").read_text())
    assert record["weights_sha256"] == state(trained / "local", 1)["best"]


def test_two_processes_do_what_one_does(trained, tmp_path):
    """At an equal global batch, with batch norm over all of it: equal but for the order in which floats are added."""
    record = train_network(begun(tmp_path, DRY), data(), CONFIG).record

    one, two = (
        [json.loads(line) for line in (folder / "train" / "metrics.jsonl").read_text().splitlines()]
        for folder in (tmp_path, trained / "synchronised")
    )
    one, two = ([line for line in lines if line["kind"] == "training-step"] for lines in (one, two))
    assert [line["images"] for line in one] == [line["images"] for line in two] and len(one) > 5
    assert [line["loss"] for line in one] == pytest.approx([line["loss"] for line in two], rel=1e-3)
    assert (
        record.best_accuracy
        == json.loads((trained / "synchronised" / "train" / "result.json").read_text())["best_accuracy"]
    )
    theirs = load_file(trained / "synchronised" / "train" / "weights.safetensors")
    for name, value in load_file(tmp_path / "train" / "weights.safetensors").items():
        torch.testing.assert_close(value, theirs[name], atol=1e-3, rtol=1e-2)


def test_synchronised_norms_of_one_process_are_torchs(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        torch.manual_seed(0)
        plain = nn.Sequential(
            nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4, eps=1e-3), nn.ReLU(), nn.Flatten(), nn.BatchNorm1d(64)
        )
        plain[1].weight.data.uniform_(0.5, 2)
        other = with_synchronised_norms(copy.deepcopy(plain), torch.device("cpu"))
        images = 100 + torch.randn(6, 3, 6, 6)  # a mean that takes the digits of small deviations
        outputs = []
        for network in (plain, other):
            outputs.append(network(images))
            (outputs[-1] * torch.linspace(0.1, 1, 64)).exp().sum().backward()
        torch.testing.assert_close(*outputs, atol=1e-4, rtol=1e-3)
        assert list(plain.state_dict()) == list(other.state_dict())
        for one, two in zip(plain.parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(one.grad, two.grad, rtol=1e-2, atol=1e-3 * float(one.grad.abs().max()))
        for one, two in zip(plain.buffers(), other.buffers(), strict=True):
            torch.testing.assert_close(one, two)
        torch.testing.assert_close(plain.eval()(images), other.eval()(images))
    finally:
        dist.destroy_process_group()


def test_a_batch_that_leaves_a_process_one_image_is_refused():
    with pytest.raises(ConfigError, match="batch: 14 images for 8 processes") as caught:
        _require_two_images(data(), CONFIG, 8)
    assert "16 images or more" in caught.value.hint
    with pytest.raises(ConfigError, match="micro_batches: 8 micro-batches of 14 images"):
        dataclasses.replace(CONFIG, micro_batches=8)
    with pytest.raises(ConfigError, match="precision: expected one of fp32, bf16, auto, found 'fp8'"):
        dataclasses.replace(CONFIG, precision="fp8")

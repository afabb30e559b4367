"""Trains every network of the benchmark's space from scratch: benchmarks/truth/accuracy.csv.

    python -m benchmarks.make_truth            resumes where it was stopped; about an hour of one idle core
    python -m benchmarks.make_truth --seeds 1
    python -m benchmarks.make_truth --top 40 --seeds 6         more trainings of the best, where choices differ by little
    python -m benchmarks.make_truth --latency NETWORKS OPERATORS

The last writes latency.csv and small.predictor.json instead, from two journals:

    lightnas-edge profile --host localhost --space benchmarks/truth/small.toml --out OPERATORS
    lightnas-edge sample --host localhost --space benchmarks/truth/small.toml --count 256 --out NETWORKS

One line per network and seed; the seed decides initial weights and order. All networks are trained with SGD with
momentum, 200 steps of 64 images, learning rate 0.2 with a linear warm-up and half a cosine. The accuracy is that of the
last step, so the test images select nothing.
"""

from __future__ import annotations

import argparse
import itertools
import math
import sys
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.truth_task import FOLDER, Task, load_task, read
from lightnas_edge.data import normalise
from lightnas_edge.data.images import ArrayImages
from lightnas_edge.nn import Network
from lightnas_edge.space import Architecture

STEPS, BATCH, LR, RISE = 200, 64, 0.2, 0.1  # RISE: share of the steps in which the learning rate rises
MOMENTUM, WEIGHT_DECAY, LABEL_SMOOTHING, CLIP_NORM = 0.9, 4e-5, 0.1, 5.0  # as in lightnas_edge/train
FIELDS = ("architecture", "seed", "test_accuracy", "test_loss", "validation_accuracy", "validation_loss")
OUT = FOLDER / "accuracy.csv"
PREDICTOR_NETWORKS = 60  # the first of those measured


def tensors(images: ArrayImages) -> tuple[Tensor, Tensor]:
    pixels = normalise(torch.from_numpy(images.pixels)).contiguous(memory_format=torch.channels_last)
    return pixels, torch.from_numpy(images.labels)


def train(task: Task, indices: tuple[int, ...], seed: int, steps: int = STEPS) -> list[float]:
    """Accuracy and cross-entropy on the test images, then on the validation images, after training from scratch."""
    images, labels = tensors(task.data.train)
    torch.manual_seed(seed)
    network = Network(task.space, Architecture.from_indices(task.space, indices))
    network = network.to(memory_format=torch.channels_last).train()
    optimiser = torch.optim.SGD(network.parameters(), lr=LR, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY, fused=True)
    generator = torch.Generator().manual_seed(seed)
    epochs = math.ceil(steps * BATCH / len(labels))
    order = torch.cat([torch.randperm(len(labels), generator=generator) for _ in range(epochs)])
    for step, batch in enumerate(order[: steps * BATCH].split(BATCH)):
        progress = (step + 1) / steps
        for group in optimiser.param_groups:
            group["lr"] = LR * min(1.0, progress / RISE) * 0.5 * (1 + math.cos(math.pi * progress))
        optimiser.zero_grad(set_to_none=True)
        loss = F.cross_entropy(network(images[batch]), labels[batch], label_smoothing=LABEL_SMOOTHING)
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(network.parameters(), CLIP_NORM)
        optimiser.step()
    network.eval()
    return [value for part in (task.test, task.data.validation) for value in score(network, *tensors(part))]


def score(network: Network, images: Tensor, labels: Tensor) -> tuple[float, float]:
    with torch.inference_mode():
        logits = torch.cat([network(part) for part in images.split(512)])
    return float((logits.argmax(-1) == labels).float().mean()), float(F.cross_entropy(logits, labels))


def best(task: Task, networks: list[tuple[int, ...]], count: int) -> list[tuple[int, ...]]:
    """The networks of the highest mean accuracy over the first two trainings."""
    found: dict[str, list[float]] = defaultdict(list)
    for row in read(OUT):
        if int(row["seed"]) < 2:
            found[row["architecture"]].append(float(row["test_accuracy"]))
    mean = {each: float(np.mean(found[Architecture.from_indices(task.space, each).slug])) for each in networks}
    return sorted(networks, key=lambda each: -mean[each])[:count]


def write_latency(task: Task, networks: Path, operators: Path) -> None:
    """Measured latency of all networks, and a predictor fitted to the table and 60 of them."""
    import luts
    from lightnas_edge.predictor import fit_additive
    from lightnas_edge.predictor.observations import load_observations

    table = luts.read(operators)
    seen = load_observations(task.space, [luts.read(networks)], table)
    with (FOLDER / "latency.csv").open("w") as file:
        file.write(
            "# every network of small.toml measured on one machine: lightnas-edge sample --count 256, ONNX Runtime, CPU,\n"
            "# one thread, batch 1; drift corrected. A busy virtual machine: repeatability about 1 %\n"
            "architecture,measured_ms,standard_error_ms\n"
        )
        for indices, value, error in zip(seen.indices, seen.value, seen.standard_error, strict=True):
            slug = Architecture.from_indices(task.space, indices).slug
            file.write(f"{slug},{value:.6f},{error:.6f}\n")
    predictor = fit_additive(task.space, table, seen.take(np.arange(PREDICTOR_NETWORKS)))
    predictor.save(FOLDER / "small.predictor.json")
    error = predictor.predict_indices(seen.indices) / seen.value - 1
    print(
        f"{len(seen)} networks; the predictor from {PREDICTOR_NETWORKS} of them has an error of {100 * error[PREDICTOR_NETWORKS:].std():.2f} % on the others"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=2, metavar="N")
    parser.add_argument("--top", type=int, metavar="N", help="only the N best by the trainings so far")
    parser.add_argument("--latency", type=Path, nargs=2, metavar=("NETWORKS", "OPERATORS"), help="journals")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    task = load_task()
    if arguments.latency:
        write_latency(task, *arguments.latency)
        return
    done = {(row["architecture"], int(row["seed"])) for row in read(OUT)}
    if not done:
        with OUT.open("w") as file:
            file.write(
                "# python -m benchmarks.make_truth: every network of small.toml trained from scratch on translated digits\n"
                f"# {STEPS} steps of {BATCH} images, torch {torch.__version__.split('+')[0]}, CPU, one thread; "
                f"accuracy and cross-entropy on {len(task.test)} test images that no search\n"
                "# uses, and on the validation images, which represent the score of a search that trains networks\n"
                f"{','.join(FIELDS)}\n"
            )
    layers, operators = len(task.space.layers), len(task.space.operators)
    networks = list(itertools.product(range(operators), repeat=layers))
    if arguments.top:
        networks = best(task, networks, arguments.top)
    for seed in range(arguments.seeds):
        begun_s = time.monotonic()
        for count, index in enumerate(np.random.default_rng(seed).permutation(len(networks)), 1):
            indices = networks[index]
            slug = Architecture.from_indices(task.space, indices).slug
            if (slug, seed) in done:
                continue
            scores = train(task, indices, seed)
            with OUT.open("a") as file:
                file.write(",".join([slug, str(seed), *(f"{value:.4f}" for value in scores)]) + "\n")
            print(
                f"seed {seed}, {count} of {len(networks)}, {time.monotonic() - begun_s:.0f} s: {slug} {scores[0]:.4f}",
                file=sys.stderr,
            )


if __name__ == "__main__":
    main()

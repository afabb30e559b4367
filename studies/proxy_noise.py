"""Which losses of a short training distinguish networks? The evidence for the burn-in of `training_loss_sum`.

Choices of channels around the network of a run, the smallest and the largest among them, are trained for some steps on
several seeds. For windows of steps: the spread of the choices' mean losses over the noise between seeds.

    python -m studies.proxy_noise RUN [--choices 8] [--seeds 5] [--steps 200]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from lightnas_edge.data import load_data
from lightnas_edge.refine import Grid, TrainingLossSum
from lightnas_edge.runs import Run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_folder", type=Path, metavar="RUN")
    parser.add_argument("--choices", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=200)
    arguments = parser.parse_args()
    run = Run.open(arguments.run_folder)
    grid = Grid(run.space, run.architecture)
    data = load_data(run.data.source, space=run.space, seed=run.data.seed)
    generator = np.random.default_rng(5)
    choices = [grid.unchanged, *(grid.channels([end(values) for values in grid.genes]) for end in (min, max))]
    while len(choices) < arguments.choices:
        choices.append(grid.channels([values[generator.integers(len(values))] for values in grid.genes]))
    proxy = TrainingLossSum(data, steps=arguments.steps, batch=64)
    losses = np.array(
        [
            [torch.stack(proxy.losses(*grid.network(choice), seed)).tolist() for choice in choices]
            for seed in range(arguments.seeds)
        ]
    )  # (seeds, choices, steps)
    print("steps        spread of choices   noise between seeds   ratio")
    for start, end in ((0, 0.3), (0, 0.5), (0, 1), (0.25, 0.5), (0.5, 1), (0.75, 1)):
        first, last = int(start * arguments.steps), int(end * arguments.steps)
        centred = losses[:, :, first:last].mean(axis=2)
        centred -= centred.mean(axis=1, keepdims=True)  # choices are paired within a seed
        spread = centred.mean(axis=0).std(ddof=1)
        freedom = (arguments.seeds - 1) * (len(choices) - 1)
        noise = np.sqrt(((centred - centred.mean(axis=0)) ** 2).sum() / freedom)
        print(f"{first:4d} to {last:4d}  {spread:17.4f}  {noise:20.4f}  {spread / noise:6.2f}")


if __name__ == "__main__":
    main()

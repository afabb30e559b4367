"""How much a supernet learns from few steps of random paths: evidence for docs/search.md.

python -m benchmarks.supernet_learning            # residual branches start small, as built
python -m benchmarks.supernet_learning published  # norms without any parameter, as published
"""

from __future__ import annotations

import sys
from dataclasses import replace

import torch

from lightnas_edge.data import load_data, normalise
from lightnas_edge.nn import blocks, supernet
from lightnas_edge.search.steps import sample_path, weight_step
from lightnas_edge.space import load_space

STEPS, BATCH, LR = 250, 64, 0.1


def main(published: bool) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    space = load_space("tiny")
    data = load_data("digits", space=space)
    if published:
        supernet.SUPERNET = replace(blocks.SUPERNET, residual_start=None)
    net = supernet.Supernet(space).to(memory_format=torch.channels_last).train()
    optimiser = torch.optim.SGD(net.parameters(), lr=LR, momentum=0.9, weight_decay=3e-5, foreach=True)
    alpha = torch.zeros(len(space.layers), len(space.operators))
    shares: list[float] = []
    epoch = 0
    while len(shares) < STEPS:
        for pixels, labels in data.train_loader(BATCH).batches(epoch):
            outcome = weight_step(net, optimiser, normalise(pixels), labels, [sample_path(alpha)])
            shares.append(float(outcome.correct) / outcome.images)
            if len(shares) % 50 == 0:
                print(
                    f"steps {len(shares) - 49} to {len(shares)}: {100 * sum(shares[-50:]) / 50:.1f} % right", flush=True
                )
        epoch += 1


if __name__ == "__main__":
    main(sys.argv[1:] == ["published"])

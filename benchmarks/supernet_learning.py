"""How much a supernet learns from few steps of random paths: evidence for docs/search.md.

python -m benchmarks.supernet_learning                                                      # digits, as built
python -m benchmarks.supernet_learning --published                                          # norms without any parameter, as published
python -m benchmarks.supernet_learning --batch 16 --lr 0.0125 --steps 400 --cosine          # digits, small batches
python -m benchmarks.supernet_learning --data FOLDER --size 32 --images 2000 --batch 16 --lr 0.0125 --steps 600 --cosine --light
"""

from __future__ import annotations

import argparse
import math
from dataclasses import replace

import numpy as np
import torch

from lightnas_edge.data import DataSet, colour, images, load_data, normalise
from lightnas_edge.nn import blocks, supernet
from lightnas_edge.search.steps import path_losses, sample_path, weight_step
from lightnas_edge.space import load_space


def main() -> None:
    arguments = _parser().parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    space = load_space(arguments.space)
    space = replace(space, input_size=arguments.size or space.input_size)
    data = load_data(arguments.data, space=space, workers=0)
    if arguments.images is not None:
        data = _some(data, arguments.images)
    space = space.with_classes(len(data.classes))
    if arguments.light:
        images.CROP_AREA, colour.JITTER, colour.JITTER_HUE = (0.5, 1.0), 0.0, 0.0
    if arguments.published:
        supernet.SUPERNET = replace(blocks.SUPERNET, residual_start=None)
    net = supernet.Supernet(space).to(memory_format=torch.channels_last).train()
    optimiser = torch.optim.SGD(net.parameters(), lr=arguments.lr, momentum=0.9, weight_decay=3e-5, foreach=True)
    alpha = torch.zeros(len(space.layers), len(space.operators))
    shares: list[float] = []
    epoch, part = 0, max(1, arguments.steps // 5)
    while len(shares) < arguments.steps:
        for pixels, labels in data.train_loader(arguments.batch).batches(epoch):
            if arguments.cosine:
                for group in optimiser.param_groups:
                    group["lr"] = arguments.lr * 0.5 * (1 + math.cos(math.pi * len(shares) / arguments.steps))
            outcome = weight_step(net, optimiser, normalise(pixels), labels, [sample_path(alpha)])
            shares.append(float(outcome.correct) / outcome.images)
            if len(shares) % part == 0:
                print(
                    f"steps {len(shares) - part + 1} to {len(shares)}: {100 * sum(shares[-part:]) / part:.1f} % right"
                )
            if len(shares) == arguments.steps:
                break
        epoch += 1
    correct = []
    for pixels, labels in data.validation_loader(arguments.batch, shuffle=True).batches(0):
        _, outcome = path_losses(net, normalise(pixels), labels, [sample_path(alpha) for _ in range(3)])
        correct.append(float(outcome.correct) / outcome.images)
    print(f"random paths on held-out images: {100 * float(np.mean(correct)):.1f} % right")


def _some(data: DataSet, count: int) -> DataSet:
    """That many training images, and 320 of the validation images, of a folder."""
    generator = np.random.default_rng(0)

    def taken(whole: images.Images, count: int) -> images.FileImages:
        assert isinstance(whole, images.FileImages), "--images is for folders"
        chosen = generator.permutation(len(whole))[:count]
        return images.FileImages([whole.paths[index] for index in chosen], whole.labels[chosen], whole.size)

    return replace(data, train=taken(data.train, count), validation=taken(data.validation, 320))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.supernet_learning", description=__doc__.splitlines()[0])
    parser.add_argument("--space", default="tiny")
    parser.add_argument("--data", default="digits", help="digits, or a folder")
    parser.add_argument("--size", type=int, help="pixels (default: the space's own)")
    parser.add_argument("--images", type=int, help="training images of a folder (default: all)")
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument("--cosine", action="store_true", help="the weight step falls to zero (default: constant)")
    parser.add_argument("--light", action="store_true", help="crops of half an image or more, no change of colour")
    parser.add_argument("--published", action="store_true", help="norms without any parameter")
    return parser


if __name__ == "__main__":
    main()

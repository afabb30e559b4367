"""Effect of each part of a training recipe: one network, from scratch, with the published recipe and with one part changed.

    python -m studies.recipes DIR [--space tiny] [--seeds 2] [--epochs 10] [--batch-size 32]

The network has a random architecture (seed 0). Prints the top-1 accuracy on the validation images after the last epoch, not the best one,
which these images would choose. Mixup, CutMix and RandAugment are left out where torchvision cannot be used.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lightnas_edge.data import load_data
from lightnas_edge.data.transforms import torchvision_transforms
from lightnas_edge.errors import RunError
from lightnas_edge.measuring import sample_architectures
from lightnas_edge.space import load_space
from lightnas_edge.train import TrainConfig, train_architecture

RECIPES: dict[str, dict[str, Any]] = {
    "published": {},
    "--ema 0.99": {"ema": 0.99},
    "--optimiser adamw": {"optimiser": "adamw"},
    "--optimiser adamw --lr 0.003": {"optimiser": "adamw", "lr": 0.003},
    "--mixup 0.2": {"mixup": 0.2},
    "--mixup 0.2 --cutmix 1": {"mixup": 0.2, "cutmix": 1.0},
    "--randaugment 2,9": {"randaugment": 2, "randaugment_magnitude": 9},
}
_FROM_TORCHVISION = {"mixup", "cutmix", "randaugment"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="DIR")
    parser.add_argument("--space", default="tiny")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=32)
    arguments = parser.parse_args()
    space = load_space(arguments.space)
    (architecture,) = sample_architectures(space, 11, 0)[-1:]  # the first ten are the same for every seed
    data = load_data(arguments.folder, space=space, workers=0)
    print(f"{len(data.train)} training images, {len(data.validation)} validation images, {architecture}", flush=True)
    for name, changed in usable_recipes().items():
        accuracies = []
        for seed in range(arguments.seeds):
            config = TrainConfig(
                epochs=arguments.epochs, batch=arguments.batch_size, seed=seed, device="cpu", **changed
            )
            with tempfile.TemporaryDirectory() as scratch:
                record, _ = train_architecture(Path(scratch), space, architecture, data, config)
            accuracies.append(100 * record.last_accuracy)
        print(f"{name}: {np.mean(accuracies):.1f} % ({', '.join(f'{each:.1f}' for each in accuracies)})", flush=True)


def usable_recipes() -> dict[str, dict[str, Any]]:
    try:
        torchvision_transforms()
    except RunError as error:
        print(f"without mixup, CutMix and RandAugment: {error}")
        return {name: changed for name, changed in RECIPES.items() if not _FROM_TORCHVISION & set(changed)}
    return RECIPES


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()

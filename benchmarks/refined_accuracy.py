"""Did refining help? A network and its refined one, trained on several seeds each; the images are the same.

    python -m benchmarks.refined_accuracy RUN REFINED [--seeds 4] [--epochs 20] [--batch-size 64]

Prints the share of validation images right after the last epoch (not the best one, which these images would choose).
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np

from lightnas_edge.data import load_data
from lightnas_edge.runs import read_architecture, read_run
from lightnas_edge.train import TrainConfig, train_network


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs=2, metavar="RUN")
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--batch-size", type=int, default=64)
    arguments = parser.parse_args()
    right = np.zeros((2, arguments.seeds))
    for seed in range(arguments.seeds):
        for row, folder in enumerate(arguments.folders):
            run, space = read_run(folder)
            data = load_data(run["data"]["source"], space=space, seed=run["seed"])
            config = TrainConfig(epochs=arguments.epochs, batch=arguments.batch_size, seed=seed)
            with tempfile.TemporaryDirectory() as scratch:
                space = space.with_classes(len(data.classes))
                network = read_architecture(folder, space)
                right[row, seed] = train_network(Path(scratch), space, network, data, config).last_accuracy
            print(f"{folder}, seed {seed}: {100 * right[row, seed]:.1f} % right", flush=True)
    differences = right[1] - right[0]
    error = differences.std(ddof=1) / np.sqrt(arguments.seeds)
    print(
        f"mean {100 * right[0].mean():.2f} % and {100 * right[1].mean():.2f} %: refined {100 * differences.mean():+.2f} "
        f"± {100 * error:.2f} points over {arguments.seeds} seeds"
    )


if __name__ == "__main__":
    main()

"""Effect of refining on accuracy: a network and the refined one, trained on several seeds each, on the same images.

    python -m studies.refined_accuracy RUN REFINED [--seeds 4] [--epochs 20] [--batch-size 64]

Prints the top-1 accuracy on the validation images after the last epoch, not the best one, which these images would choose.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np

from lightnas_edge.data import load_data
from lightnas_edge.runs import Run
from lightnas_edge.train import TrainConfig, train_architecture


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs=2, metavar="RUN")
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--batch-size", type=int, default=64)
    arguments = parser.parse_args()
    accuracy = np.zeros((2, arguments.seeds))
    for seed in range(arguments.seeds):
        for row, folder in enumerate(arguments.folders):
            run = Run.open(folder)
            data = load_data(run.data.source, space=run.space, seed=run.data.seed)
            config = TrainConfig(epochs=arguments.epochs, batch=arguments.batch_size, seed=seed)
            with tempfile.TemporaryDirectory() as scratch:
                record, _ = train_architecture(Path(scratch), run.space, run.architecture, data, config)
            accuracy[row, seed] = record.last_accuracy
            print(f"{folder}, seed {seed}: top-1 accuracy {100 * accuracy[row, seed]:.1f} %", flush=True)
    differences = accuracy[1] - accuracy[0]
    error = differences.std(ddof=1) / np.sqrt(arguments.seeds)
    print(
        f"mean {100 * accuracy[0].mean():.2f} % and {100 * accuracy[1].mean():.2f} %: refined {100 * differences.mean():+.2f} "
        f"± {100 * error:.2f} points over {arguments.seeds} seeds"
    )


if __name__ == "__main__":
    main()

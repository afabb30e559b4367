"""What weights of the search give a final training: from the supernet, distilled too, and from scratch, at equal steps.

    python -m benchmarks.inherited                        nasbench-macro at 32 px and lightnas at 64 px, three seeds
    python -m benchmarks.inherited --space lightnas --epochs 6 --searches 3 --distil --keep FOLDER      more; searches stay in FOLDER

Images: a part of CIFAR-10, 100 of each class for training and as many for validation; lightnas sees them enlarged. A search (method
shared, five epochs) finds a network with at most half of the multiply-accumulates of the largest one. Each seed trains that network from the
supernet and from scratch, with the schedules that `train` gives them; with --searches N, seed s takes the network of search s modulo N.
Accuracy is that of the last epoch, so that no epoch is chosen on the images.
"""

from __future__ import annotations

import argparse
import tarfile
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch

from benchmarks import recorded
from benchmarks.notes import note
from lightnas_edge.cli._console import print_result, print_table
from lightnas_edge.data import DataSet, load_data
from lightnas_edge.predictor.counted import CountedPredictor
from lightnas_edge.runs import Run
from lightnas_edge.search import Budget, Constraint, SearchConfig, run_search
from lightnas_edge.space import Space, load_space
from lightnas_edge.train import (
    Distillation,
    Initial,
    TrainConfig,
    from_supernet,
    largest_of_supernet,
    train_architecture,
)

IMAGES = "cifar10_full/cifar10.tar"
SPACES = {"nasbench-macro": 32, "lightnas": 64}  # pixels
TRAIN, VALIDATION = 100, 100  # images of each class
BATCH, SEARCH_EPOCHS, EPOCHS = 32, 5, 2
SHARE = 0.5  # of the multiply-accumulates of the largest network
SCRATCH, INHERITED, DISTILLED = "from scratch", "from the supernet", "from the supernet, distilled"


def images(folder: Path, space: Space, seed: int) -> DataSet:
    """A part of CIFAR-10's training images, unpacked into the folder."""
    if not folder.exists():
        parts = {"train": (0, TRAIN), "val": (TRAIN, TRAIN + VALIDATION)}
        with tarfile.open(recorded.folder() / IMAGES) as archive:
            names = defaultdict(list)
            for name in sorted(archive.getnames()):
                if name.endswith(".jpg") and "train" in name.split("/"):
                    names[name.split("/")[-2]].append(name)
            for class_name, files in names.items():
                for part, (begin, end) in parts.items():
                    place = folder / part / class_name
                    place.mkdir(parents=True)
                    for file in files[begin:end]:
                        content = archive.extractfile(file)
                        assert content is not None, f"{file} of {IMAGES} is no file"
                        (place / Path(file).name).write_bytes(content.read())
    return load_data(folder, space=space, seed=seed, workers=0)


def searched(folder: Path, space: Space, data: DataSet, seed: int) -> Run:
    """The search of a seed; one that is there already is used."""
    if not (folder / "architecture.json").exists():
        counted = CountedPredictor(space, "macs_m")
        target = SHARE * float(counted.constant + counted.cost.max(axis=1).sum())
        budget = Budget("half", (Constraint(counted, target),))
        config = SearchConfig(
            method="shared", epochs=SEARCH_EPOCHS, batch=BATCH, architecture_batch=200, paths=2, candidates=2, seed=seed
        )
        run_search(folder, space, data, budget, config)
    return Run.open(folder)


def accuracies(folder: Path, name: str, seed: int, arguments: argparse.Namespace) -> dict[str, float]:
    """Of the last epoch, by what the training began with."""
    space = load_space(name)
    space = Space.from_json({**space.to_json(), "input_size": SPACES[name]}).with_classes(10)
    search_seed, began_s = seed % arguments.searches, time.monotonic()
    run = searched(folder / f"{name}-{search_seed}", space, images(folder / "images", space, search_seed), search_seed)
    note(f"{name}, seed {seed}: searched in {time.monotonic() - began_s:.0f} s")
    data = images(folder / "images", space, seed)
    config = TrainConfig(epochs=arguments.epochs, batch=BATCH, seed=seed, device="cpu")
    trainings: list[tuple[str, Initial | None, Distillation | None]] = [
        (SCRATCH, None, None),
        (INHERITED, from_supernet(run), None),
    ]
    if arguments.distil:
        trainings.append((DISTILLED, from_supernet(run), largest_of_supernet(run, space, 0.5)))
    found = {}
    for what, initial, teacher in trainings:
        with tempfile.TemporaryDirectory(prefix="lightnas-edge-inherited-") as scratch:
            record, _ = train_architecture(
                Path(scratch), space, run.architecture, data, config, initial=initial, teacher=teacher
            )
        found[what] = record.last_accuracy
        before = "" if record.initial is None else f", before the first step {100 * record.initial.accuracy:.1f} %"
        taught_by = "" if record.teacher is None else f", teacher {100 * record.teacher.accuracy:.1f} %"
        note(f"  {what}: {100 * record.last_accuracy:.1f} %{before}{taught_by}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", nargs="+", choices=SPACES, default=list(SPACES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--searches", type=int, default=1, help="different ones, over which the seeds go (default: 1)")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help=f"of the final trainings (default: {EPOCHS})")
    parser.add_argument("--distil", action="store_true", help="also distilled from the largest network")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="for images and searches")
    arguments = parser.parse_args()
    if skipped := recorded.missing(IMAGES):
        print_result(skipped)
        return
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="lightnas-edge-inherited-") as scratch:
        folder = arguments.keep or Path(scratch)
        for name in arguments.space:
            by_seed = [accuracies(folder, name, seed, arguments) for seed in arguments.seeds]
            steps = arguments.epochs * (10 * TRAIN // BATCH)
            columns = [f"{name}, {SPACES[name]} px, {steps} steps of {BATCH}, n={10 * VALIDATION}"]
            columns += [*(f"seed {seed}" for seed in arguments.seeds), "mean", "to scratch, points"]
            print_table(columns, [_row(what, by_seed) for what in by_seed[0]])


def _row(what: str, by_seed: list[dict[str, float]]) -> list[str]:
    values = 100 * np.array([found[what] for found in by_seed])
    gains = values - 100 * np.array([found[SCRATCH] for found in by_seed])
    spread = f" ± {gains.std(ddof=1) / np.sqrt(len(gains)):.1f}" if len(gains) > 1 else ""
    gain = "-" if what == SCRATCH else f"{gains.mean():+.1f}{spread}"
    return [what, *(f"{value:.1f} %" for value in values), f"{values.mean():.1f} %", gain]


if __name__ == "__main__":
    main()

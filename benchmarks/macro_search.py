"""Searches of nasbench-macro on CIFAR-10: what the networks that they choose for 50 budgets lose against the best ones.

    python -m benchmarks.macro_search                              the table, from the searches stored in benchmarks/macro/runs
    python -m benchmarks.macro_search --run shared --seeds 0 1     searches that are not stored yet; half an hour of one core each
    python -m benchmarks.macro_search --check shared-0             that search again: does it give the stored networks?

Budgets, regret, floors: benchmarks/macro.py. The predictor was fitted to 100 networks (`fit_predictor`) and is stored, so that a stored search
does not change with the program that fits predictors. A search sees 6,000 training images of CIFAR-10
and holds 1,500 others of them out; the accuracies of the truth are on the test images. Methods: benchmarks/searches.py; evolution for
every tenth budget, the published loop for the middle one, and without a supernet:

    most MACs, slowest    by the predicted bound
    10 trainings          the best of ten random networks within the bound, by one published training of each
"""

from __future__ import annotations

import sys
import tarfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks import recorded, searches
from benchmarks.macro import ACCURACIES, MacroTruth, floors, latency_observations
from benchmarks.macro_latency import FOLDER
from benchmarks.measured_finalists import MEASURED, arithmetic_alone, with_measured_finalists
from benchmarks.searches import Found, Network, Truth
from lightnas_edge.cli._console import print_result, print_table
from lightnas_edge.data import DataSet, load_data
from lightnas_edge.predictor import AdditivePredictor, fit_additive, load_predictor

IMAGES = "cifar10_full/cifar10.tar"
TRAIN, HELD_OUT = 600, 150  # images of each class
NETWORKS, PREDICTOR = 100, FOLDER / "macro.predictor.json"
TRAININGS, DRAWS = 10, 20


@dataclass(frozen=True, eq=False)
class Macro(Truth):
    """See above."""

    published: MacroTruth

    def images(self, folder: Path, seed: int) -> DataSet:
        """A part of CIFAR-10's training images, unpacked into the folder."""
        ends = {"train": (0, TRAIN), "val": (TRAIN, TRAIN + HELD_OUT)}
        with tarfile.open(recorded.folder() / IMAGES) as archive:
            names: dict[str, list[str]] = defaultdict(list)
            for name in archive.getnames():
                parts = name.split("/")
                if name.endswith(".jpg") and "train" in parts:
                    names[parts[-2]].append(name)
            for class_name, files in names.items():
                for part, (begin, end) in ends.items():
                    place = folder / part / class_name
                    place.mkdir(parents=True)
                    for file in sorted(files)[begin:end]:
                        content = archive.extractfile(file)
                        assert content is not None, f"{file} of {IMAGES} is no file"
                        (place / Path(file).name).write_bytes(content.read())
        return load_data(str(folder), space=self.space, seed=seed)

    @property
    def place(self) -> dict[Network, int]:  # type: ignore[override]  # equal networks have one row
        return self.published.place

    def without_search(self) -> dict[str, list[Found]]:
        trained = []
        for draw in range(DRAWS):
            generator, best = np.random.default_rng([3, draw]), {}
            for number, limit in enumerate(self.budgets_ms):
                tried = generator.permutation(np.flatnonzero(self.upper_ms <= limit))[:TRAININGS]
                best[number] = tuple(self.indices[tried[self.published.trainings[tried, 0].argmax()]].tolist())
            trained.append(best)
        return {
            "most MACs": [self.best_by(self.published.macs)],
            f"most MACs, {MEASURED} measured": [with_measured_finalists(self, arithmetic_alone(self.space))],
            "slowest": [self.best_by(self.predicted_ms)],
            "10 trainings": trained,
        }


def load() -> Macro:
    published = MacroTruth.load()
    predictor = load_predictor(PREDICTOR)
    assert isinstance(predictor, AdditivePredictor)
    return Macro(
        published.space, published.indices, published.accuracy, latency_observations(), predictor, published.budgets_ms,
        FOLDER / "runs", evolved=slice(4, None, 10), looped=slice(24, None, 50), published=published,
    )  # fmt: skip


def fit_predictor() -> None:
    """Writes PREDICTOR; the searches stored so far then no longer belong to it."""
    measured = latency_observations()
    rows = np.random.default_rng(0).permutation(len(measured))[:NETWORKS]
    fit_additive(measured.space, None, measured.take(rows)).save(PREDICTOR)


def main(argv: list[str]) -> int:
    if skipped := recorded.missing(ACCURACIES, *((IMAGES,) if {"--run", "--check"} & set(argv) else ())):
        print_result(skipped)
        return 0
    status = searches.main(load, __doc__, argv)
    if "--check" not in argv:
        found = [[name, f"{np.mean(regret):.3f}"] for name, regret in floors(MacroTruth.load()).items()]
        print_table(["floors: scores that know the truth, networks by their measured latency", "regret, points"], found)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""The search against known truth, the quick check: a space of 256 networks, each trained from scratch, on translated digits.

    make bench-search                                                the table, from the searches stored in benchmarks/truth/runs
    python -m benchmarks.bench_search --run shared --seeds 0 1       searches that are not stored yet; a minute of one core each
    python -m benchmarks.bench_search --check shared-0               that search again: does it give the stored networks?

Nine budgets, at quantiles of 10 to 90 % of the measured latencies. True accuracy is the mean over the trainings in
benchmarks/truth/accuracy.csv: two of every network, six of the best forty. The predictor is fitted to 60 networks; the measured
latency of benchmarks/truth/latency.csv decides whether a budget is kept. Methods: benchmarks/searches.py, and without a supernet:

    most MACs, slowest    by the predicted bound
    random search         networks within the bound, trained from scratch; as many as a budget of the published loop pays for; the
                          best on the validation images is taken. A replay: those trainings are the first ones of accuracy.csv
    all trained once      every network within the bound, the best on the validation images: what a training's own noise leaves
"""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks import searches
from benchmarks.measured_finalists import MEASURED, arithmetic_alone, with_measured_finalists
from benchmarks.searches import Found, Truth
from benchmarks.truth_task import FOLDER, load_task, read
from lightnas_edge.data import DataSet
from lightnas_edge.predictor import AdditivePredictor, Observations, load_predictor
from lightnas_edge.search.config import SearchConfig
from lightnas_edge.space import Architecture, Space, load_space

BUDGETS, LOWEST, HIGHEST = 9, 0.1, 0.9
DRAWS = 20
Array = NDArray[np.float64]


class Digits(Truth):
    """See above."""

    def images(self, folder: Path, seed: int) -> DataSet:
        from dataclasses import replace

        return replace(load_task().data, seed=seed)

    def without_search(self) -> dict[str, list[Found]]:
        from benchmarks.make_truth import BATCH, STEPS

        space, macs = self.space, arithmetic_alone(self.space)
        validation = trainings(self, "validation_accuracy")[:, 0]
        config = SearchConfig(
            method="lightnas",
            epochs=searches.EPOCHS,
            batch=searches.BATCH,
            architecture_batch=searches.ARCHITECTURE_BATCH,
        )
        data = load_task().data
        count = int(searches.search_passes(space, data, config) / (3 * STEPS * BATCH + len(data.validation)))
        drawn = []
        for draw in range(DRAWS):
            generator, found = np.random.default_rng([draw, 7]), {}
            for number, limit in enumerate(self.budgets_ms):
                tried = generator.permutation(np.flatnonzero(self.upper_ms <= limit))[:count]
                found[number] = tuple(self.indices[tried[validation[tried].argmax()]].tolist())
            drawn.append(found)
        return {
            "most MACs": [self.best_by(np.array([macs.score(row) for row in self.indices]))],
            f"most MACs, {MEASURED} measured": [with_measured_finalists(self, macs)],
            "slowest": [self.best_by(self.predicted_ms)],
            "all trained once": [self.best_by(validation)],
            f"random search, {count} trainings": drawn,
        }


def load() -> Digits:
    space = load_space(str(FOLDER / "small.toml"))
    indices = np.array(list(itertools.product(range(len(space.operators)), repeat=len(space.layers))))
    place = _by_slug(space, indices)
    latency_ms, error_ms = np.full((2, len(indices)), np.nan)
    for row in read(FOLDER / "latency.csv"):
        latency_ms[place[row["architecture"]]] = float(row["measured_ms"])
        error_ms[place[row["architecture"]]] = float(row["standard_error_ms"])
    predictor = load_predictor(FOLDER / "small.predictor.json")
    assert isinstance(predictor, AdditivePredictor)
    measured = Observations(space, indices, latency_ms, error_ms, predictor.fingerprint, repeatability=0.01)
    truth = Digits(
        space, indices, np.zeros(len(indices)), measured, predictor, np.quantile(latency_ms, np.linspace(LOWEST, HIGHEST, BUDGETS)),
        FOLDER / "runs", evolved=slice(None), looped=slice(1, None, 3),
    )  # fmt: skip
    truth.accuracy[:] = 100 * np.nanmean(trainings(truth, "test_accuracy"), axis=1)
    return truth


def trainings(truth: Digits, field: str) -> Array:
    """(N, S) of every network, nan where a network has fewer trainings."""
    rows = read(FOLDER / "accuracy.csv")
    found = np.full((len(truth.indices), 1 + max(int(row["seed"]) for row in rows)), np.nan)
    place = _by_slug(truth.space, truth.indices)
    for row in rows:
        found[place[row["architecture"]], int(row["seed"])] = float(row[field])
    return found


def _by_slug(space: Space, indices: NDArray[np.int64]) -> dict[str, int]:
    return {Architecture.from_indices(space, row).slug: number for number, row in enumerate(indices)}


def rows() -> list[tuple[str, str, str]]:
    """For `python -m benchmarks search`."""
    return [
        (method, f"regret {regret}, {kept} kept, {cost} M passes a budget, {repetitions} x {budgets} choices", "")
        for method, regret, _, kept, repetitions, budgets, _, cost in searches.table(load())
    ]


if __name__ == "__main__":
    sys.exit(searches.main(load, __doc__, sys.argv[1:]))

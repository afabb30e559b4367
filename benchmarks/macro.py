"""NAS-Bench-Macro with measured latencies: a truth for searches and predictors.

    python -m benchmarks.macro        the truth and its floors; seconds

Latencies: benchmarks/macro/latency.csv, of every distinct network, measured on one machine (benchmarks/macro_latency.py). Accuracies:
the published trainings, three of each network, from `../shared/data/nasbench_macro` (DATA=folder elsewhere).

Regret: true accuracy of the best network that keeps the budget less that of the network found, in points. Budgets: 50 latencies, at
quantiles of 5 to 95 % of the measured ones. Floors: the regret of an additive score of operators, fitted to the
whole truth by least squares, of one of adjacent pairs, and of choosing by one training instead of the mean of three. A score fitted
to the networks near a budget alone may do better.
"""

from __future__ import annotations

import json
import lzma
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from benchmarks import recorded
from benchmarks.macro_latency import PROVENANCE, SPACE, TABLE, distinct_networks
from benchmarks.truth_task import read
from lightnas_edge.cli._console import print_result, print_table
from lightnas_edge.predictor import Observations
from lightnas_edge.space import Space, load_space

ACCURACIES = "nasbench_macro/nas-bench-macro_cifar10.json.xz"
BUDGETS, LOWEST, HIGHEST = 50, 0.05, 0.95

Array = NDArray[np.float64]


def latency_observations() -> Observations:
    """Every distinct network, the mean of two passes."""
    space = load_space(SPACE)
    rows = read(TABLE)
    indices = np.array([[int(digit) for digit in row["network"]] for row in rows])
    passes = np.array([[float(row["first_ms"]), float(row["second_ms"])] for row in rows])
    errors = np.array([[float(row["first_se_ms"]), float(row["second_se_ms"])] for row in rows])
    provenance = json.loads(PROVENANCE.read_text(encoding="utf-8"))
    return Observations(
        space, indices, passes.mean(axis=1), np.sqrt((errors**2).sum(axis=1)) / 2, provenance["fingerprint"],
        repeatability=provenance["repeatability"],
    )  # fmt: skip


@dataclass(frozen=True, eq=False)
class MacroTruth:
    """N distinct networks, in the order of the latency table.

    Args:
        indices: (N, L). latency_ms: (N,). accuracy: (N,) mean of all its trainings, in %. trainings: (N, 3) of the first of equal
            networks. macs: (N,) as published.
    """

    space: Space
    indices: NDArray[np.int64]
    latency_ms: Array
    accuracy: Array
    trainings: Array
    macs: Array

    @classmethod
    def load(cls) -> MacroTruth:
        """Raises OSError without the published file."""
        with lzma.open(recorded.folder() / ACCURACIES) as file:
            published = json.load(file)
        measured = latency_observations()
        equal = {networks[-1]: networks for networks in distinct_networks(measured.space).values()}
        accuracy, trainings, macs = [], [], []
        for row in measured.indices:
            entries = [published["".join(map(str, network))] for network in equal[tuple(row.tolist())]]
            accuracy.append(float(np.mean([entry["test_acc"] for entry in entries])))
            trainings.append(entries[0]["test_acc"])
            macs.append(float(entries[0]["flops"]))
        return cls(
            measured.space, measured.indices, measured.value, np.array(accuracy), np.array(trainings), np.array(macs)
        )

    @cached_property
    def budgets_ms(self) -> Array:
        """(50,)"""
        return np.quantile(self.latency_ms, np.linspace(LOWEST, HIGHEST, BUDGETS))

    @cached_property
    def place(self) -> dict[tuple[int, ...], int]:
        """(L,) indices of any architecture -> the row of its network."""
        last = {tuple(row.tolist()): number for number, row in enumerate(self.indices)}
        groups = distinct_networks(self.space).values()
        return {network: last[networks[-1]] for networks in groups for network in networks}

    def best_by(self, score: Array) -> NDArray[np.int64]:
        """(50,) the row of the highest score within each budget, by measured latency."""
        return np.array(
            [int(np.where(self.latency_ms <= budget, score, -np.inf).argmax()) for budget in self.budgets_ms]
        )

    def regret(self, rows: NDArray[np.integer]) -> Array:
        """(50,) points below the best network of each budget; nan where the budget is exceeded."""
        best = self.accuracy[self.best_by(self.accuracy)]
        return np.where(self.latency_ms[rows] <= self.budgets_ms, best - self.accuracy[rows], np.nan)

    def one_hot(self) -> Array:
        """(N, L * K)"""
        found: Array = np.eye(len(self.space.operators))[self.indices].reshape(len(self.indices), -1)
        return found

    def adjacent_pairs(self) -> Array:
        """(N, L * K + (L - 1) * K * K) operators, and those of neighbouring layers together."""
        each = self.one_hot().reshape(len(self.indices), len(self.space.layers), -1)
        pairs = np.einsum("nla,nlb->nlab", each[:, :-1], each[:, 1:]).reshape(len(each), -1)
        return np.column_stack([self.one_hot(), pairs])


def fitted(columns: Array, accuracy: Array) -> Array:
    """(N,) the least-squares score."""
    found: Array = columns @ np.linalg.lstsq(columns, accuracy, rcond=None)[0]
    return found


def floors(truth: MacroTruth) -> dict[str, Array]:
    """Name -> (50,) regret of scores that know the whole truth, and of what needs no search."""
    scores: dict[str, Callable[[], Array]] = {
        "additive score, fitted to the truth": lambda: fitted(truth.one_hot(), truth.accuracy),
        "adjacent pairs, fitted to the truth": lambda: fitted(truth.adjacent_pairs(), truth.accuracy),
        "one training of each network": lambda: truth.trainings[:, 0],
        "most MACs": lambda: truth.macs,
        "slowest": lambda: truth.latency_ms,
    }
    found = {name: truth.regret(truth.best_by(score())) for name, score in scores.items()}
    best = truth.accuracy[truth.best_by(truth.accuracy)]
    means = [float(truth.accuracy[truth.latency_ms <= budget].mean()) for budget in truth.budgets_ms]
    found["a random network within the budget"] = best - np.array(means)
    return found


def main() -> int:
    if skipped := recorded.missing(ACCURACIES):
        print_result(skipped)
        return 0
    truth = MacroTruth.load()
    low, high = truth.budgets_ms[[0, -1]]
    print_result(
        f"{len(truth.latency_ms)} distinct networks, {truth.latency_ms.min():.3f} to {truth.latency_ms.max():.3f} ms; "
        f"{BUDGETS} budgets from {low:.3f} to {high:.3f} ms; correlation of latency and MACs "
        f"{np.corrcoef(truth.latency_ms, truth.macs)[0, 1]:.3f}"
    )
    rows = [
        [name, f"{np.mean(regret):.3f}", f"{np.quantile(regret, 0.9):.3f}", f"{np.max(regret):.3f}"]
        for name, regret in floors(truth).items()
    ]
    print_table(["regret in points, 50 budgets", "mean", "9 of 10 below", "highest"], rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())

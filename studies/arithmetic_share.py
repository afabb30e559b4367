"""How much arithmetic should count in operator scores: regret of the highest score on the digits truth, by its weight.

    python -m studies.arithmetic_share             five searches of each of four methods; 15 minutes of one core
    python -m studies.arithmetic_share 0           the seeds that are named

The searches are those of `benchmarks.bench_search`. A search does not depend on the weight, only the choice that follows does.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.bench_search import load
from benchmarks.notes import note
from benchmarks.searches import Found, Regret, search
from lightnas_edge.cli._console import print_table
from lightnas_edge.search.posterior import arithmetic_of

GROUPS = ("shared", "shared-gradients", "entangled", "blockwise")
WEIGHTS = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0)
SEEDS = (0, 1, 2, 3, 4)


def main(seeds: list[int]) -> int:
    truth = load()
    arithmetic = arithmetic_of(truth.space)
    layers = np.arange(len(truth.space.layers))
    found: dict[tuple[float, str], list[Found]] = {}
    for group in GROUPS:
        for seed in seeds or SEEDS:
            note(f"{group} {seed}")
            with tempfile.TemporaryDirectory() as folder:
                mean = search(truth, group, seed, Path(folder), False).scores
            assert mean is not None
            deviation = np.sqrt(mean.var(axis=1).sum())
            for weight in WEIGHTS:
                scores = mean + weight * deviation * arithmetic
                chosen = truth.best_by(scores[layers, truth.indices].sum(axis=1))
                found.setdefault((weight, group), []).append(chosen)
    alone = Regret.of(truth, [truth.best_by(arithmetic[layers, truth.indices].sum(axis=1))]).text
    rows = [[f"{weight:g}", *(Regret.of(truth, found[weight, group]).text for group in GROUPS)] for weight in WEIGHTS]
    print_table(["weight of arithmetic", *GROUPS], [*rows, ["alone", *[alone] * len(GROUPS)]])
    return 0


if __name__ == "__main__":
    sys.exit(main([int(seed) for seed in sys.argv[1:]]))

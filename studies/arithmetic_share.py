"""How much should arithmetic count in operator scores? Regret on the digits truth, by its weight, for searches of several lengths.

    python -m studies.arithmetic_share             three searches of each length and method; an hour and a half of one core
    python -m studies.arithmetic_share 0           the seeds that are named

The searches are those of `benchmarks.bench_search`, except for their epochs. A search does not depend on the weight, only the choice that
follows does. The rule is `arithmetic_weight`, by the accuracy of the sampled paths.
"""

from __future__ import annotations

import sys
import tempfile
from collections import defaultdict
from pathlib import Path

import numpy as np

from benchmarks.bench_search import load
from benchmarks.notes import note
from benchmarks.searches import Found, Regret, search
from lightnas_edge.cli._console import print_table
from lightnas_edge.search.posterior import OperatorPosterior, arithmetic_of

EPOCHS = {"shared": (2, 3, 5, 9, 20), "entangled": (2, 3, 6, 14), "blockwise": (2, 3, 5, 9, 20)}
WEIGHTS = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0)
RULE = "the rule"
SEEDS = (0, 1, 2)


def main(seeds: list[int]) -> int:
    truth = load()
    arithmetic = arithmetic_of(truth.space)
    layers = np.arange(len(truth.space.layers))
    rows, differences = [], defaultdict[float, list[float]](list)
    for group, epochs in ((group, epochs) for group, lengths in EPOCHS.items() for epochs in lengths):
        found, rule = defaultdict[float | str, list[Found]](list), []
        for seed in seeds or SEEDS:
            note(f"{group}, {epochs} epochs, seed {seed}")
            with tempfile.TemporaryDirectory() as folder:
                searched = search(truth, group, seed, Path(folder), False, epochs=epochs)
            assert searched.scores is not None and searched.arithmetic_weight is not None
            rule.append(searched.arithmetic_weight)
            learned = OperatorPosterior(searched.scores, np.zeros((searched.scores.size, 1)))
            for name, weight in {RULE: rule[-1], **{weight: weight for weight in WEIGHTS}}.items():
                scores = learned.with_capacity(arithmetic, weight).mean
                found[name].append(truth.best_by(scores[layers, truth.indices].sum(axis=1)))
        for weight in WEIGHTS:
            for ours, other in zip(found[RULE], found[weight], strict=True):
                differences[weight].append(Regret.of(truth, [ours]).mean - Regret.of(truth, [other]).mean)
        regrets = [f"{Regret.of(truth, found[weight]).mean:.2f}" for weight in (*WEIGHTS, RULE)]
        rows.append([f"{group}, {epochs} epochs", f"{np.mean(rule):.2f}", *regrets])
    alone = Regret.of(truth, [truth.best_by(arithmetic[layers, truth.indices].sum(axis=1))]).mean
    print_table(["regret, by the weight of arithmetic", "the rule gives", *map(str, WEIGHTS), RULE], rows)
    paired = [
        [f"{weight:g}", f"{np.mean(each):+.3f} ± {np.std(each, ddof=1) / np.sqrt(len(each)):.3f}"]
        for weight, each in differences.items()
    ]
    print_table(
        ["weight", "regret with the rule less that with this weight"],
        [*paired, ["arithmetic alone", f"regret {alone:.2f}"]],
    )
    return 0


if __name__ == "__main__":
    sys.exit(main([int(seed) for seed in sys.argv[1:]]))

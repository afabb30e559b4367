"""Coverage of the predictor's 90 % interval on held-out networks, by the number of networks fitted.

    python -m studies.coverage OPERATORS.lut.jsonl NETWORKS.lut.jsonl

Networks are split at random into fitted and held-out ones, twenty times for each count (seeds 0 to 19).
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

import luts
from lightnas_edge.predictor import fit_additive
from lightnas_edge.predictor.evaluate import CONFIDENCE
from lightnas_edge.predictor.observations import load_observations
from lightnas_edge.space import load_space

COUNTS = (10, 20, 30, 50, 100)
SEEDS = 20


def main(arguments: list[str]) -> int:
    if len(arguments) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    lut, networks = (luts.read(Path(name)) for name in arguments)
    space = load_space(lut.header.space)
    observations = load_observations(space, [networks], lut)
    print(f"{len(observations)} networks of {space.name}; 90 % PI coverage, its spread over {SEEDS} draws, MAPE")
    for name, table in (("table and networks", lut), ("networks alone", None)):
        for count in (count for count in COUNTS if count <= len(observations) // 2):
            inside, errors = [], []
            for seed in range(SEEDS):
                dealt = np.random.default_rng(seed).permutation(len(observations))
                fitted, held_out = observations.take(dealt[:count]), observations.take(dealt[count:])
                predictor = fit_additive(space, table, fitted)
                low, high = predictor.interval(held_out.one_hot, CONFIDENCE)
                measured = held_out.value
                inside.append(float(np.mean((low <= measured) & (measured <= high))))
                errors.append(float(np.mean(np.abs(predictor.predict(held_out.one_hot) / measured - 1))))
            print(
                f"{name:20} {count:4d} fitted: {100 * np.mean(inside):.0f} % ± {100 * np.std(inside):.0f}, "
                f"MAPE {100 * np.mean(errors):.2f} %"
            )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""How often units that are alike are called different, by simulation: `python -m tests.luts.refusals [FLEETS]`."""

import sys
import tempfile
from pathlib import Path

import numpy as np

import luts
from tests.luts.journals import FINGERPRINT, header, visit, write

KEYS = {f"op{index}@1": 0.1 * 1.2**index for index in range(12)}  # the sentinels, which every unit measures
SESSIONS, ROUNDS = 4, 3  # packets of a unit, and rounds of a sentinel in each
VISIT = 0.005  # relative deviation of one visit


def unit(folder, name, speed, session_deviation, generator):
    """The table of one unit: each session has a level of its own, as a board has that starts again."""
    records = [header(fingerprint=FINGERPRINT | {"unit": name * 12})]
    for session in range(SESSIONS):
        level = speed * np.exp(generator.normal(0, session_deviation))
        for round in range(ROUNDS):
            for key, truth_ms in KEYS.items():
                samples = truth_ms * level * np.exp(generator.normal(0, VISIT)) * np.exp(generator.normal(0, 0.002, 3))
                records.append(visit(key, samples.tolist(), session=f"{name}{session}", round=round))
    return luts.read(write(folder / f"{name}.lut.jsonl", *records))


def is_refused(units, session_deviation, seed, spread=0.0):
    """Whether such a fleet is called different. `spread`: relative deviation of the units' true speeds; 0: they are alike."""
    generator = np.random.default_rng(seed)
    names = "abcdefghij"[:units]
    with tempfile.TemporaryDirectory() as folder:
        speeds = np.exp(generator.normal(0, spread, units)) if spread else np.ones(units)
        tables = {
            name: unit(Path(folder), name, speed, session_deviation, generator)
            for name, speed in zip(names, speeds, strict=True)
        }
        return not luts.compare_units(tables).alike


def share(units, session_deviation, fleets, spread=0.0):
    """Of fleets that are refused."""
    return float(np.mean([is_refused(units, session_deviation, seed, spread) for seed in range(fleets)]))


if __name__ == "__main__":
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    for deviation in (0.003, 0.01, 0.03):
        for number in (3, 2, 5):
            print(
                f"{number} units, sessions {deviation:.1%}: {share(number, deviation, count):.1%} of {count}",
                flush=True,
            )

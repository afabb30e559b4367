"""Two tables of the same keys, corrected for drift that is local in time: evidence for docs/measuring.md.

BENCH_OUT=folder python -m benchmarks measuring
python -m studies.local_drift folder/operators-1.lut.jsonl folder/operators-2.lut.jsonl
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np
from scipy.ndimage import median_filter

import luts
from lightnas_edge.cli._console import print_result, print_table

WINDOWS = (5, 9, 15, 31)  # visits
QUANTILES = (0.1, 0.25, 0.5)


def main(paths: Sequence[str]) -> int:
    one, two = (luts.read(path) for path in paths)
    print_result(f"built-in estimator: {luts.repeatability(one, two)}")
    residual = _visits(one)[2]
    lags = ", ".join(f"{lag}: {np.corrcoef(residual[:-lag], residual[lag:])[0, 1]:.2f}" for lag in (1, 4, 16, 64))
    print_result(f"autocorrelation of the visits' deviations, by lag: {lags}")
    rows = []
    for window in WINDOWS:
        estimates = [[_estimate(table, window, quantile) for quantile in QUANTILES] for table in (one, two)]
        rows.append([f"{window} visits", *(f"{_deviation(a, b):.2f} %" for a, b in zip(*estimates, strict=True))])
    print_table(["drift as a running median over", *(f"quantile {quantile}" for quantile in QUANTILES)], rows)
    return 0


def _visits(table: luts.Lut) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(key number, samples, log deviation from the key's median) of the visits of one session, in order."""
    visits = sorted((visit for visit in table.visits if visit.samples_ms), key=lambda visit: visit.t_s or 0.0)
    numbers = {key: index for index, key in enumerate(sorted({visit.key for visit in visits}))}
    key = np.array([numbers[visit.key] for visit in visits])
    samples = np.array([visit.samples_ms for visit in visits])
    centre = np.log(np.median(samples, axis=1))
    return key, samples, centre - _medians(key, centre)[key]


def _estimate(table: luts.Lut, window: int, quantile: float) -> np.ndarray:
    """(keys,) log latency, corrected for local drift."""
    key, samples, residual = _visits(table)
    centre, drift = np.log(np.median(samples, axis=1)), np.zeros(len(key))
    for _ in range(15):
        residual = centre - _medians(key, centre - drift)[key]
        drift = median_filter(residual, size=window, mode="nearest")
    corrected = samples / np.exp(drift - np.median(drift))[:, None]
    return np.log([np.quantile(corrected[key == number], quantile) for number in range(key.max() + 1)])


def _medians(key: np.ndarray, values: np.ndarray) -> np.ndarray:
    return np.array([np.median(values[key == number]) for number in range(key.max() + 1)])


def _deviation(one: np.ndarray, two: np.ndarray) -> float:
    """Relative standard deviation of one pass in per cent, corrected for the common factor."""
    difference = one - two - np.median(one - two)
    return float(100 * np.sqrt(np.mean(difference**2) / 2))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

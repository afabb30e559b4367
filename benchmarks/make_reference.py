"""Makes luts/reference/xavier-lightnas-b8.predictor.json from the LightNAS authors' predictor.

python -m benchmarks.make_reference path/to/lightnas_predictor.npz
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from lightnas_edge.predictor import Observations, fit_additive, read_published_predictor
from lightnas_edge.records.predictor import FitRecord, Publication
from lightnas_edge.space import load_space

NETWORKS = 4000
STATED_RMSE_MS = 0.0289
OUT = Path(__file__).parent.parent / "luts" / "reference" / "xavier-lightnas-b8.predictor.json"


def main(npz: str) -> None:
    space = load_space("lightnas")
    published = read_published_predictor(Path(npz), space)
    generator = np.random.default_rng(0)
    seen, unseen = (generator.integers(7, size=(NETWORKS, 21)) for _ in range(2))
    latency_ms = published.predict_indices(seen)
    observations = Observations(
        space, seen, latency_ms, np.full(NETWORKS, 1e-3), published.fingerprint, batch=published.batch
    )
    predictor = fit_additive(space, None, observations)
    error_ms = predictor.predict_indices(unseen) - published.predict_indices(unseen)
    rmse_ms = round(float(np.sqrt(np.mean(error_ms**2))), 4)
    fit = FitRecord(
        method="least squares to the authors' published predictor, equal shapes sharing one cost",
        networks=0,
        publication=Publication(
            source="github.com/stepbuystep/LightNAS, commit 2f0e1d1, Apache-2.0",
            measured_as="Jetson AGX Xavier, PyTorch eager, FP32, batch 8, 224x224; not TensorRT",
            fitted_to=f"predictions of the published predictor for {NETWORKS} random networks; no measurements",
            stated_rmse=STATED_RMSE_MS,
            rmse_to_original=rmse_ms,
        ),
    )
    # The error of this fit adds to the error that the authors state for their predictor.
    predictor.noise, predictor.discrepancy = float(np.hypot(STATED_RMSE_MS, rmse_ms)), rmse_ms
    assert predictor.distant is not None
    predictor.distant = replace(predictor.distant, step_std=rmse_ms)
    predictor.origin = replace(predictor.origin, fit=fit)
    predictor.save(OUT)
    print(f"{OUT.name}: RMSE to the published predictor {rmse_ms} ms on {NETWORKS} other networks")


if __name__ == "__main__":
    main(sys.argv[1])

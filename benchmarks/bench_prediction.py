"""Speed of a predictor on one core, for the published space. The table comes from a virtual board; its values do not matter here."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

import devices
from lightnas_edge.measuring import MeasurementProtocol, Settings, measure, write_profile_job
from lightnas_edge.predictor import lut_predictor
from lightnas_edge.space import load_space

ARCHITECTURES = 200_000


def rows() -> list[tuple[str, str, str]]:
    space = load_space("lightnas")
    with tempfile.TemporaryDirectory() as scratch:
        settings = Settings(backend="simulated", protocol=MeasurementProtocol(rounds=3))
        job = write_profile_job(Path(scratch) / "job", space, settings)
        board = devices.connect("virtual:jetson-agx-xavier")
        predictor = lut_predictor(space, measure(board, job, Path(scratch) / "t.lut.jsonl", fresh=True))
    shape = ARCHITECTURES, len(space.layers)
    indices = np.random.default_rng(0).integers(len(space.operators), size=shape)
    one_hot = np.eye(len(space.operators), dtype=np.float64)[indices]
    with threadpool_limits(1):
        return [
            ("architectures per second, one-hot, one core", _rate(lambda: predictor.predict(one_hot)), ">= 1 M/s"),
            ("architectures per second, indices, one core", _rate(lambda: predictor.predict_indices(indices)), "-"),
            ("intervals per second, one core", _rate(lambda: predictor.interval(one_hot[:20_000]), 20_000), "-"),
        ]


def _rate(run: Callable[[], object], count: int = ARCHITECTURES) -> str:
    run()
    seconds = []
    for _ in range(7):
        started_s = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - started_s)
    return f"{count / min(seconds) / 1e6:.2f} M/s"

"""How fast predictors are, and how good they are on this machine, measured for real."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

import devices
import luts
from benchmarks.figures import Drawing, Panel
from benchmarks.verdicts import Row, Section, at_least, at_most, told
from lightnas_edge.predictor import Observations, fit_additive, load_predictor, lut_predictor, observe
from lightnas_edge.predictor.evaluate import score
from lightnas_edge.profiling import (
    Protocol,
    Settings,
    measure,
    sample_architectures,
    write_profile_job,
    write_sample_job,
)
from lightnas_edge.space import load_space

ARCHITECTURES = 200_000
SPACES = {"tiny": 40, "lightnas": 30}  # space -> networks measured
CALIBRATION = 12  # networks that the predictor may see; it is judged on the others
ROUNDS = 12


def speed(drawing: Drawing) -> Section:
    """On the predictor that comes with the project: the published space, 86 costs."""
    predictor = load_predictor("xavier-lightnas-b8")
    space = predictor.space
    generator = np.random.default_rng(0)
    indices = generator.integers(len(space.operators), size=(ARCHITECTURES, len(space.layers)))
    one_hot = np.eye(len(space.operators))[indices]
    one = Observations(
        space, indices[:1], np.array([20.0]), np.array([0.1]), predictor.fingerprint, batch=predictor.batch
    )
    with threadpool_limits(1):
        coded = ARCHITECTURES / _fastest_s(lambda: predictor.predict(one_hot)) / 1e6
        indexed = ARCHITECTURES / _fastest_s(lambda: predictor.predict_indices(indices)) / 1e6
        intervals = 20_000 / _fastest_s(lambda: predictor.interval(one_hot[:20_000])) / 1e6
        update_ms = 1e3 * _fastest_s(lambda: predictor.updated(one))
    return Section("Speed, one core, published space", (
        at_least("architectures a second, one-hot", coded, 1.0, "{:.2f} M"),
        told("architectures a second, indices", indexed, "{:.2f} M"),
        told("intervals a second", intervals, "{:.2f} M"),
        at_most("one measurement more in the posterior", update_ms, 10.0, "{:.2f} ms"),
    ))  # fmt: skip


def measured(drawing: Drawing) -> Section:
    """Operators once, networks twice; tables are kept in the folder that BENCH_OUT names, where it is set."""
    rows: list[Row] = []
    panels = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(os.environ.get("BENCH_OUT", scratch))
        connection = devices.connect("localhost")
        for name, count in SPACES.items():
            space = load_space(name)
            settings = Settings(protocol=Protocol(rounds=ROUNDS))
            networks = sample_architectures(space, count, seed=1)
            operators = write_profile_job(Path(scratch) / f"{name}-operators", space, settings)
            whole = write_sample_job(Path(scratch) / f"{name}-networks", space, settings, networks)
            table = measure(connection, operators, folder / f"{name}.lut.jsonl")
            passes = [measure(connection, whole, folder / f"{name}-networks-{n}.lut.jsonl") for n in (1, 2)]
            first, second = (observe(space, [each], table) for each in passes)
            repeated = np.median(np.abs(second.value / first.value - np.median(second.value / first.value)))
            seen, held = first.take(np.arange(CALIBRATION)), first.take(np.arange(CALIBRATION, len(first)))
            predictors = {
                "sum of the table": lut_predictor(space, table),
                "calibrated": fit_additive(space, table, seen),
            }
            rows.append(told(f"{name}: a second measurement of the same networks, MAD", 100 * repeated, "{:.2f} %"))
            rows.append(
                told(f"{name}: repeatability from the rounds", 100 * luts.repeatability(*passes).networks, "{:.2f} %")
            )
            for what, predictor in predictors.items():
                low, high = predictor.interval(held.one_hot, 0.9)
                scores = score(predictor.predict(held.one_hot), low, high, held)
                rows += [
                    told(f"{name}: {what}, MAPE of {len(held)} networks held out", 100 * scores.mape, "{:.2f} %"),
                    told(f"{name}: {what}, bias", 100 * scores.bias, "{:+.2f} %"),
                    told(f"{name}: {what}, in 90 % interval", 100 * scores.coverage_90, "{:.0f} %"),
                ]
                panels.append(Panel(f"{name}, {what}", "ms", held.value, predictor.predict(held.one_hot), low, high))
    drawing.predicted("prediction-local", panels)
    title = f"This machine, {CALIBRATION} networks to calibrate, {ROUNDS} rounds, seed 1"
    return Section(title, tuple(rows))


def _fastest_s(run: Callable[[], object], repetitions: int = 7) -> float:
    run()
    seconds = []
    for _ in range(repetitions):
        started_s = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - started_s)
    return min(seconds)

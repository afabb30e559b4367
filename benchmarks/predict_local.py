"""Speed of predictors, and their error on measurements of this machine."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

import devices
import luts
from benchmarks.figures import Drawing, Panel
from benchmarks.verdicts import Row, Section, at_least, at_most, covered, reported
from lightnas_edge.measuring import (
    Job,
    MeasurementProtocol,
    Settings,
    measure,
    sample_architectures,
    write_profile_job,
    write_sample_job,
)
from lightnas_edge.predictor import (
    Observations,
    fit_additive,
    fit_best,
    load_observations,
    load_predictor,
    lut_predictor,
)
from lightnas_edge.predictor.compare import CALIBRATED
from lightnas_edge.predictor.evaluate import Scores, score
from lightnas_edge.space import Architecture, Space, load_space

ARCHITECTURES, SINGLE = 200_000, 5_000
SPACES = {"tiny": 40, "lightnas": 30}  # space -> networks measured
CALIBRATION_NETWORKS = 12  # networks to fit to; the others are held out
ROUNDS = 12
STATISTICS_NETWORKS, STATISTICS_ROUNDS = 60, 25
DRAWS = 20  # of the networks to calibrate with


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
        networks = [Architecture.from_indices(space, row) for row in indices[:SINGLE]]
        single = SINGLE / _fastest_s(lambda: [predictor.predict_one(network) for network in networks])
        intervals = 20_000 / _fastest_s(lambda: predictor.interval(one_hot[:20_000])) / 1e6
        update_ms = 1e3 * _fastest_s(lambda: predictor.updated(one))
    return Section("Speed, one core, published space", (
        at_least("architectures a second, one-hot", coded, 1.0, "{:.2f} M"),
        reported("architectures a second, indices", indexed, "{:.2f} M"),
        at_least("single predictions a second", single, 50_000, "{:,.0f}"),
        reported("intervals a second", intervals, "{:.2f} M"),
        at_most("one measurement more in the posterior", update_ms, 10.0, "{:.2f} ms"),
    ))  # fmt: skip


def measured(drawing: Drawing) -> Section:
    """Operators once, networks twice. With BENCH_OUT=folder the tables are kept there and reused."""
    title = (
        f"This machine, {CALIBRATION_NETWORKS} networks to calibrate, seeds 0 to {DRAWS - 1} of which, {ROUNDS} rounds"
    )
    rows: list[Row] = []
    panels = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(os.environ.get("BENCH_OUT", scratch))
        for name, count in SPACES.items():
            table, passes = _tables(name, count, folder, Path(scratch))
            repeated = luts.repeatability(*passes).networks
            networks = load_observations(table[0], [passes[0]], table[1])
            rows.append(reported(f"{name}: repeatability of networks", 100 * repeated, "{:.2f} %"))
            for what in ("sum of the table", "calibrated"):
                found = [_held_out(*table, networks, seed, what == "calibrated") for seed in range(DRAWS)]
                scores = [each for each, _ in found]
                held = f"{name}: {what}, {scores[0].n} networks held out"
                rows.append(reported(f"{held}, MAPE", 100 * float(np.mean([each.mape for each in scores])), "{:.2f} %"))
                rows.append(
                    reported(f"{held}, bias", 100 * float(np.mean([each.bias for each in scores])), "{:+.2f} %")
                )
                inside = float(np.mean([each.coverage_90 for each in scores]))
                rows.append(covered(f"{held}, 90 % PI coverage", inside) if what == "calibrated" else reported(
                    f"{held}, 90 % PI coverage", 100 * inside, "{:.1f} %"
                ))  # fmt: skip
                panels.append(replace(found[0][1], title=f"{name}, {what}"))
    drawing.predicted("prediction-local", panels)
    return Section(title, tuple(rows))


def statistics(drawing: Drawing) -> Section:
    """Held-out error of each statistic of single inferences, as a multiple of its own repeatability.

    Operators once, networks once: the repeatability comes from alternate rounds. The error contains that of measuring the
    networks that are predicted, so 1 is the least.
    """
    title = f"Statistics of single inferences on this machine: tiny, {STATISTICS_NETWORKS} networks, {STATISTICS_ROUNDS} rounds"
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(os.environ.get("BENCH_OUT", scratch))
        (space, table), (networks,) = _tables(
            "tiny", STATISTICS_NETWORKS, folder, Path(scratch), rounds=STATISTICS_ROUNDS, passes=1
        )
        for metric in luts.LATENCY_METRICS:
            observations = load_observations(space, [networks], table, metric=metric)
            predictor, _ = fit_best(space, table, observations, method=CALIBRATED)
            errors = [point.predicted / point.measured - 1 for point in predictor.fit.points]
            error = float(np.sqrt(np.mean(np.square(errors))))
            repeated = observations.repeatability
            rows.append(reported(f"{metric}: repeatability", 100 * repeated, "{:.2f} %"))
            rows.append(reported(f"{metric}: held-out error, RMS, five-fold", 100 * error, "{:.2f} %"))
            what = f"{metric}: held-out error over repeatability"
            ratio = error / repeated
            rows.append(
                at_most(what, ratio, 1.2, "{:.2f}") if metric == "latency_ms" else reported(what, ratio, "{:.2f}")
            )
        inferences = [entry.inferences for entry in networks.networks.values()]
        rows.append(reported("inferences of a network, median", float(np.median(inferences)), "{:.0f}"))
        foreign = [visit.after.foreign_cpu for visit in networks.visits if visit.after and visit.after.foreign_cpu]
        rows.append(reported("cores used by others, mean", float(np.mean(foreign)) if foreign else 0.0, "{:.2f}"))
    return Section(title, tuple(rows))


def _tables(
    name: str, count: int, folder: Path, scratch: Path, *, rounds: int = ROUNDS, passes: int = 2
) -> tuple[tuple[Space, luts.Lut], list[luts.Lut]]:
    space = load_space(name)
    settings = Settings(protocol=MeasurementProtocol(rounds=rounds))
    suffix = "" if rounds == ROUNDS else f"-r{rounds}"
    operators = write_profile_job(scratch / f"{name}-operators", space, settings)
    networks = write_sample_job(
        scratch / f"{name}-networks", space, settings, sample_architectures(space, count, seed=1)
    )

    def table(job: Job, path: Path) -> luts.Lut:
        return luts.read(path) if path.exists() else measure(devices.connect("localhost"), job, path, fresh=True)

    measured = [table(networks, folder / f"{name}-networks-{n}{suffix}.lut.jsonl") for n in range(1, passes + 1)]
    return (space, table(operators, folder / f"{name}{suffix}.lut.jsonl")), measured


def _held_out(
    space: Space, table: luts.Lut, networks: Observations, seed: int, calibrated: bool
) -> tuple[Scores, Panel]:
    dealt = np.random.default_rng(seed).permutation(len(networks))
    seen, held = networks.take(dealt[:CALIBRATION_NETWORKS]), networks.take(dealt[CALIBRATION_NETWORKS:])
    predictor = fit_additive(space, table, seen) if calibrated else lut_predictor(space, table)
    predicted = predictor.predict(held.one_hot)
    low, high = predictor.interval(held.one_hot, 0.9)
    return score(predicted, low, high, held), Panel("", "ms", held.value, predicted, low, high)


def _fastest_s(run: Callable[[], object], repetitions: int = 7) -> float:
    run()
    seconds = []
    for _ in range(repetitions):
        started_s = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - started_s)
    return min(seconds)

"""The LightNAS authors' predictor of an AGX Xavier as the board: error by the number of measurements.

A measurement is the published predictor's latency of a network plus normal noise. The entries of the operators' table are
20 % too slow in common and have 10 % random errors each.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import luts
from benchmarks import recorded
from benchmarks.figures import Drawing, Panel
from benchmarks.verdicts import Row, Section, at_most, covered, reported
from lightnas_edge.predictor import (
    AdditivePredictor,
    MlpPredictor,
    Observations,
    Predictor,
    fit_additive,
    fit_mlp,
    lut_predictor,
    next_networks,
    read_published_predictor,
)
from lightnas_edge.predictor.terms import Terms
from lightnas_edge.space import Architecture, Space, load_space
from tests.luts.journals import write_measured

SEEDS = (0, 1, 2, 3)
COUNTS = (5, 10, 20, 35, 50, 75, 100, 150, 200)
MLP_COUNTS = (200, 500, 1000, 2000, 4000, 8000)
CANDIDATES = 1000  # random networks to choose from, at every step of the adaptive choice
NEW = 4000
NOISE_MS, LOUD_MS = 0.03, 0.1


class _Board:
    def __init__(self, npz: Path) -> None:
        self.space: Space = load_space("lightnas")
        self.published: MlpPredictor = read_published_predictor(npz, self.space)
        self.new = self._random(np.random.default_rng(10_000), NEW)
        self.truth_ms = self.published.predict_indices(self.new)

    def measure(self, networks: NDArray[np.int64], noise_ms: float, seed: int) -> Observations:
        measured = self.published.predict_indices(networks) + noise_ms * np.random.default_rng(seed).normal(
            size=len(networks)
        )
        return Observations(
            self.space, networks, measured, np.full(len(networks), noise_ms), self.published.fingerprint, batch=8
        )  # fmt: skip

    def measure_random(self, count: int, noise_ms: float, seed: int) -> Observations:
        """The first of a longer series: more networks are the same ones and others."""
        return self.measure(self._random(np.random.default_rng([1, seed]), count), noise_ms, 100 + seed)

    def table(self, seed: int) -> luts.Lut:
        """Operators in isolation, as a table would have them: the least-squares costs, and the errors stated above."""
        exact = fit_additive(self.space, None, self.measure_random(3000, 1e-4, 99))
        generator = np.random.default_rng([2, seed])

        def off(cost_ms: float) -> float:
            return max(1.2 * cost_ms * (1 + 0.1 * generator.normal()), 1e-3)

        entries = {key: off(cost) for key, cost in zip(Terms.of(self.space).keys, exact.mean[1:], strict=True)}
        entries |= {shaped.key: off(exact.mean[0] / len(self.space.fixed)) for shaped in self.space.fixed}
        with tempfile.TemporaryDirectory() as folder:
            path = write_measured(Path(folder) / "table", entries, rounds=3, fingerprint=self.published.fingerprint)
            return luts.read(path)

    def error_ms(self, predictor: Predictor) -> float:
        return float(np.sqrt(np.mean((predictor.predict_indices(self.new) - self.truth_ms) ** 2)))

    def inside(self, predictor: Predictor, noise_ms: float, seed: int) -> float:
        """Share of measurements of new networks in the 90 % interval."""
        fresh = self.measure(self.new[:1000], noise_ms, 200 + seed)
        low, high = predictor.interval(fresh.one_hot, 0.9)
        return float(np.mean((low <= fresh.value) & (fresh.value <= high)))

    def _random(self, generator: np.random.Generator, count: int) -> NDArray[np.int64]:
        return generator.integers(len(self.space.operators), size=(count, len(self.space.layers)))


def section(drawing: Drawing) -> Section:
    title = "Published AGX Xavier predictor as the board, table 20 % and 10 % off, seeds 0 to 3"
    if skipped := recorded.missing("lightnas_xavier/lightnas_predictor.npz"):
        return Section(title, skipped=skipped)
    board = _Board(recorded.folder() / "lightnas_xavier" / "lightnas_predictor.npz")
    tables = [board.table(seed) for seed in SEEDS]
    alone_ms = [board.error_ms(lut_predictor(board.space, table)) for table in tables]
    random_ms, adaptive_ms = (np.zeros((len(COUNTS), len(SEEDS))) for _ in range(2))
    inside = np.zeros((len(COUNTS), len(SEEDS)))
    loud_ms, loud_inside, shown = [], [], None
    for column, (seed, table) in enumerate(zip(SEEDS, tables, strict=True)):
        for row, count in enumerate(COUNTS):
            predictor = fit_additive(board.space, table, board.measure_random(count, NOISE_MS, seed))
            random_ms[row, column] = board.error_ms(predictor)
            inside[row, column] = board.inside(predictor, NOISE_MS, seed)
            if count == 100 and shown is None:
                shown = predictor
        adaptive_ms[:, column] = _adaptive(board, table, seed)
        loud = fit_additive(board.space, table, board.measure_random(200, LOUD_MS, seed))
        loud_ms.append(board.error_ms(loud))
        loud_inside.append(board.inside(loud, LOUD_MS, seed))
    mlp_ms = [
        board.error_ms(fit_mlp(board.space, board.measure_random(count, NOISE_MS, 0), seed=0)) for count in MLP_COUNTS
    ]
    assert shown is not None
    _draw(drawing, board, shown, random_ms.mean(axis=1), adaptive_ms.mean(axis=1), mlp_ms)
    at = {count: row for row, count in enumerate(COUNTS)}
    better = adaptive_ms.mean(axis=1) < random_ms.mean(axis=1)
    fifty_ms = float(random_ms[at[50]].mean())
    return Section(title, (
        reported("table alone, RMSE on new networks", float(np.mean(alone_ms)), "{:.2f} ms"),
        at_most("200 random networks, noise 0.03 ms, RMSE", float(random_ms[at[200]].mean()), 0.033, "{:.3f} ms"),
        at_most("200 random networks, noise 0.1 ms, RMSE", float(np.mean(loud_ms)), 0.079, "{:.3f} ms"),
        at_most("100 random networks, noise 0.03 ms, RMSE", float(random_ms[at[100]].mean()), 0.062, "{:.3f} ms"),
        Row("random, RMSE by networks measured", _by_count(COUNTS, random_ms.mean(axis=1))),
        Row("adaptive, RMSE by networks measured", _by_count(COUNTS, adaptive_ms.mean(axis=1))),
        Row("adaptive better than random at every count", f"at {better.sum()} of {len(COUNTS)}", "all", bool(better.all())),
        Row("the paper's MLP, RMSE by networks measured, seed 0", _by_count(MLP_COUNTS, mlp_ms)),
        Row(f"networks that the MLP needs for the error of 50 here ({fifty_ms:.3f} ms)", _needed(mlp_ms, fifty_ms)),
        covered("90 % PI coverage of new networks, 50 to 200 measured", float(inside[at[50]:].mean())),
        covered("90 % PI coverage of new networks, noise 0.1 ms", float(np.mean(loud_inside))),
        reported("90 % PI coverage of new networks, 5 to 35 measured", 100 * float(inside[:at[50]].mean()), "{:.1f} %"),
    ))  # fmt: skip


def _adaptive(board: _Board, table: luts.Lut, seed: int) -> list[float]:
    """RMSE at every count, where each batch holds the most informative networks."""
    predictor: AdditivePredictor = lut_predictor(board.space, table)
    generator = np.random.default_rng([3, seed])
    networks: list[Architecture] = []
    errors_ms = []
    for count in COUNTS:
        pool = [
            Architecture.from_indices(board.space, row)
            for row in generator.integers(len(board.space.operators), size=(CANDIDATES, len(board.space.layers)))
        ]
        networks += next_networks(predictor, pool, count - len(networks))
        indices = np.stack([network.indices(board.space) for network in networks])
        predictor = fit_additive(board.space, table, board.measure(indices, NOISE_MS, 100 + seed))
        errors_ms.append(board.error_ms(predictor))
    return errors_ms


def _draw(
    drawing: Drawing,
    board: _Board,
    predictor: Predictor,
    random_ms: NDArray[np.float64],
    adaptive_ms: NDArray[np.float64],
    mlp_ms: list[float],
) -> None:
    fresh = board.measure(board.new[:1000], NOISE_MS, 300)
    low, high = predictor.interval(fresh.one_hot, 0.9)
    drawing.predicted(
        "prediction-board",
        [Panel("100 networks measured", "ms", fresh.value, predictor.predict(fresh.one_hot), low, high)],
    )
    drawing.curves("prediction-board-measurements", {
        "published AGX Xavier predictor, noise 0.03 ms": {
            "random networks": (COUNTS, random_ms.tolist()),
            "adaptive choice": (COUNTS, adaptive_ms.tolist()),
            "the paper's MLP": (MLP_COUNTS, mlp_ms),
        }
    }, "RMSE on new networks, ms", "networks measured")  # fmt: skip


def _by_count(counts: tuple[int, ...], errors_ms: object) -> str:
    return ", ".join(f"{count}: {error:.3f}" for count, error in zip(counts, errors_ms, strict=True))


def _needed(mlp_ms: list[float], target_ms: float) -> str:
    reached = [count for count, error_ms in zip(MLP_COUNTS, mlp_ms, strict=True) if error_ms <= target_ms]
    return f"{reached[0]}" if reached else f"more than {MLP_COUNTS[-1]}"

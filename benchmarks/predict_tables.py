"""Feature tables: NAS-Bench-201 cells on a TX2, networks on a Nano, once-for-all blocks on an AGX Xavier and a TX2."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks import recorded
from benchmarks.figures import Drawing, Panel
from benchmarks.verdicts import Row, Section, at_least, at_most, covered, reported
from lightnas_edge.predictor.external_tables import read_external_table
from lightnas_edge.predictor.features import ADDITIVE, Features, first_rows, fit_features, fit_transfer
from lightnas_edge.predictor.metrics import UNITS

Array = NDArray[np.float64]
SEEDS = (0, 1, 2)
FOLDS = 5
EDGES = slice(0, 30)  # of the work of a cell: which operator on which edge
COUNTS = (3, 5, 10, 20, 40)
RANDOM_DRAWS = 8


@dataclass(frozen=True, eq=False)
class _HeldOut:
    """(n,) each, of every row while it was held out."""

    predicted: Array
    low: Array
    high: Array
    extrapolated: NDArray[np.bool_]

    def inside(self, value: Array) -> Array:
        return ((self.low <= value) & (value <= self.high)).astype(np.float64)


def _folds(features: Features, value: Array, seed: int, *, relative: bool, method: str | None = None) -> _HeldOut:
    """Five-fold; model, prior scales and intervals are fitted in every fold, to its own rows."""
    dealt = np.random.default_rng(seed).permutation(len(value)) % FOLDS
    found = _HeldOut(*(np.zeros(len(value)) for _ in range(3)), np.zeros(len(value), dtype=bool))
    for fold in range(FOLDS):
        held, seen = np.flatnonzero(dealt == fold), np.flatnonzero(dealt != fold)
        predictor = fit_features(features.take(seen), value[seen], relative=relative, method=method, seed=seed)
        asked = features.take(held)
        found.predicted[held] = predictor.predict(asked)
        found.low[held], found.high[held] = predictor.interval(asked, 0.9)
        found.extrapolated[held] = predictor.extrapolated(asked)
    return found


def cells(drawing: Drawing) -> Section:
    title = "NAS-Bench-201 on a Jetson TX2, five-fold, seeds 0 to 2"
    if skipped := recorded.missing("nb201_tx2/measurements.csv"):
        return Section(title, skipped=skipped)
    table = read_external_table(recorded.folder() / "nb201_tx2" / "measurements.csv")
    repeats = np.stack([values for (_, metric), values in table.values.items() if metric == "latency_ms"])
    rows = np.flatnonzero(np.isfinite(repeats).all(axis=0))
    features, repeats = table.features.take(rows), repeats[:, rows]
    value = np.median(repeats, axis=0)
    on_edges = np.column_stack([features.work[:, EDGES], features.work[:, -1]])
    additive = [
        _folds(Features(on_edges, features.traits), value, seed, relative=False, method=ADDITIVE) for seed in SEEDS
    ]
    best = [_folds(features, value, seed, relative=False) for seed in SEEDS]
    drawing.predicted("prediction-cells", [
        Panel(name, "ms", value, found[0].predicted, found[0].low, found[0].high)
        for name, found in (("additive", additive), ("best on held-out rows", best))
    ])  # fmt: skip
    agreement = [_r2(repeats[a], repeats[b]) for a in range(len(repeats)) for b in range(len(repeats)) if a != b]
    return Section(title, (
        reported("cells", len(value), "{:.0f}"),
        reported("one of the three measurements against another, R2", float(np.mean(agreement)), "{:.4f}"),
        at_least("additive, R2", _mean(_r2(each.predicted, value) for each in additive), 0.96, "{:.4f}"),
        at_least("best model, R2", _mean(_r2(each.predicted, value) for each in best), 0.975, "{:.4f}"),
        reported("best model, RMSE", _mean(np.sqrt(np.mean((each.predicted - value) ** 2)) for each in best), "{:.3f} ms"),
        covered("additive, 90 % PI coverage", _mean(each.inside(value).mean() for each in additive)),
        covered("best model, 90 % PI coverage", _mean(each.inside(value).mean() for each in best)),
    ))  # fmt: skip


def convnets(drawing: Drawing) -> Section:
    title = "Convolutional networks on a Jetson Nano, seeds 0 and 1"
    if skipped := recorded.missing("nano_convnets/measurements.csv"):
        return Section(title, skipped=skipped)
    data = recorded.convnets()
    count = len(data.macs)
    by_size = np.argsort(data.macs, kind="stable")
    rows: list[Row] = [
        reported("networks", count, "{:.0f}"),
        reported(
            "repeatability of the latency in another process, MAPE",
            float(np.nanmean(np.abs(data.again_ms / data.latency_ms - 1))),
            "{:.2%}",
        ),
    ]
    panels = []
    for metric, unit, value in (("latency", "ms", data.latency_ms), ("energy", "mJ", data.energy_mj)):
        errors, inside = [], []
        for seed in SEEDS[:2]:
            dealt = np.random.default_rng(seed).permutation(count)
            found, held = _split(data.features, value, dealt[: count // 2], dealt[count // 2 :], seed)
            errors.append(_mape(found.predicted, value[held]))
            inside.append(found.inside(value[held]).mean())
        panels.append(Panel(f"{metric}, a random half", unit, value[held], found.predicted, found.low, found.high))
        cut = count - count // 10
        large, held = _split(data.features, value, by_size[:cut], by_size[cut:], SEEDS[0])
        panels.append(Panel(f"{metric}, the largest decile", unit, value[held], large.predicted, large.low, large.high))
        rows += [
            at_most(f"{metric}, a random half, MAPE", _mean(errors), 0.04, "{:.2%}"),
            at_most(f"{metric}, largest decile of MACs from the others, MAPE", _mape(large.predicted, value[held]), 0.05, "{:.2%}"),
            covered(f"{metric}, a random half, 90 % PI coverage", _mean(inside)),
            _covered_or_extrapolated(f"{metric}, largest decile, 90 % PI coverage", large.inside(value[held]), large.extrapolated),
        ]  # fmt: skip
    drawing.predicted("prediction-convnets", panels, log=True)
    return Section(title, tuple(rows))


def _split(
    features: Features, value: Array, seen: NDArray[np.int64], held: NDArray[np.int64], seed: int
) -> tuple[_HeldOut, NDArray[np.int64]]:
    predictor = fit_features(features.take(seen), value[seen], seed=seed)
    asked = features.take(held)
    return _HeldOut(predictor.predict(asked), *predictor.interval(asked, 0.9), predictor.extrapolated(asked)), held


def blocks(drawing: Drawing) -> Section:
    title = "Once-for-all blocks, AGX Xavier and TX2, seeds 0 to 2; random blocks of seeds 0 to 7"
    if skipped := recorded.missing("ofa_block_lut/lut.csv"):
        return Section(title, skipped=skipped)
    table = read_external_table(recorded.folder() / "ofa_block_lut" / "lut.csv")
    boards = sorted({board for board, _ in table.values})
    metrics = sorted({metric for _, metric in table.values}, reverse=True)
    rows: list[Row] = []
    inside = []
    for metric, board in itertools.product(metrics, boards):
        known = table.known((board, metric))
        value = table.values[board, metric][known]
        found = [_folds(table.features.take(known), value, seed, relative=True) for seed in SEEDS]
        inside.append(_mean(each.inside(value).mean() for each in found))
        error = _mean(_mape(each.predicted, value) for each in found)
        rows.append(reported(f"{board}, {metric}, five-fold, no other board, MAPE", error, "{:.1%}"))
    rows.append(covered("five-fold, 90 % PI coverage, all of them", _mean(inside)))
    panels, curves, inside = [], {}, []
    for metric, (source, target) in itertools.product(metrics, itertools.permutations(boards, 2)):
        known = table.known((source, metric), (target, metric))
        there, here = (table.values[board, metric][known] for board in (source, target))
        features = table.features.take(known)
        name = f"{source} to {target}, {metric.partition('_')[0]}"
        counts = [count for count in COUNTS if count <= len(here) // 2]
        moved = [_moved(features, there, here, first_rows(features, there, count)) for count in counts]
        random = [
            _mean(
                _moved(features, there, here, np.random.default_rng(seed).permutation(len(here))[:count].tolist()).error
                for seed in range(RANDOM_DRAWS)
            )
            for count in counts
        ]
        curves[name] = {
            "chosen blocks": (counts, [each.error for each in moved]),
            "random blocks": (counts, random),
            "one factor": (counts, [each.of_one_factor for each in moved]),
        }
        shown = ", ".join(f"{count}: {each.error:.1%}" for count, each in zip(counts, moved, strict=True))
        rows.append(Row(f"{name}, MAPE by blocks measured", shown))
        if 10 in counts:
            ten = moved[counts.index(10)]
            rows.append(reported(f"{name}, 10 blocks and one factor for all, MAPE", ten.of_one_factor, "{:.1%}"))
            inside.append(float(np.mean((ten.low <= ten.value) & (ten.value <= ten.high))))
            panels.append(Panel(name, UNITS[metric], ten.value, ten.predicted, ten.low, ten.high))
    if inside:
        rows.append(covered("transfers from 10 blocks, 90 % PI coverage", _mean(inside)))
    drawing.predicted("prediction-blocks", panels, log=True, raster=True)  # no licence: pictures, no numbers
    drawing.curves("prediction-blocks-transfer", curves, "MAPE of the other blocks", "blocks measured")
    return Section(title, tuple(rows))


@dataclass(frozen=True, eq=False)
class _Moved:
    """Predictions of a transfer for the blocks that were not measured; (n,) each, and two relative errors."""

    value: Array
    predicted: Array
    low: Array
    high: Array
    error: float
    of_one_factor: float  # the median ratio of the boards instead of the transfer


def _moved(features: Features, there: Array, here: Array, places: list[int]) -> _Moved:
    found = fit_transfer(features, there, places, here[places])
    others = np.setdiff1d(np.arange(len(here)), places)
    predicted, low, high = (values[others] for values in (found.predict(), *found.interval(0.9)))
    factor = float(np.median(here[places] / there[places]))
    errors = _mape(predicted, here[others]), _mape(factor * there[others], here[others])
    return _Moved(here[others], predicted, low, high, *errors)


def _covered_or_extrapolated(what: str, inside: Array, extrapolated: NDArray[np.bool_]) -> Row:
    """As `covered`, of the rows inside the applicability domain; extrapolated rows are counted separately."""
    in_domain = inside[~extrapolated]
    share = f"{100 * inside.mean():.1f} %, {100 * extrapolated.mean():.0f} % extrapolated"
    met = bool(len(in_domain) == 0 or 0.85 <= in_domain.mean() <= 0.95)
    return Row(what, share, "85 to 95 %, or extrapolated", met, float(inside.mean()))


def _mape(predicted: Array, value: Array) -> float:
    return float(np.mean(np.abs(predicted / value - 1)))


def _r2(predicted: Array, value: Array) -> float:
    return float(1 - np.sum((predicted - value) ** 2) / np.sum((value - value.mean()) ** 2))


def _mean(values: object) -> float:
    return float(np.mean(list(values)))

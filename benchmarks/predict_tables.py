"""Feature tables: NAS-Bench-201 cells on a TX2, networks on a Nano, once-for-all blocks on an AGX Xavier and a TX2.

A region is a part of the held-out rows: a size, a width or a kernel that the fitted rows lack. Each has its coverage, that of its rows
that are not extrapolated, and its width: how many times as wide its intervals are as those that would contain 90 % exactly.
"""

from __future__ import annotations

import itertools
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import ExtraTreesRegressor, HistGradientBoostingRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import RidgeCV
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from benchmarks import recorded
from benchmarks.figures import Drawing, Panel
from benchmarks.verdicts import Row, Section, at_least, at_most, covered, reported
from lightnas_edge.predictor.external_tables import read_external_table
from lightnas_edge.predictor.feature_models import ADDITIVE
from lightnas_edge.predictor.features import Features, fit_features
from lightnas_edge.predictor.metrics import UNITS
from lightnas_edge.predictor.table_transfer import first_rows, fit_transfer

Array = NDArray[np.float64]
Rows = NDArray[np.int64]
SEEDS = (0, 1, 2)
FOLDS = 5
EDGES = slice(0, 30)  # of the work of a cell: which operator on which edge
COUNTS = (3, 5, 10, 20, 40)
RANDOM_DRAWS = 8
WIDEST = 1.3  # of a half-width, relative to the one that is needed
LEAST_ROWS = 10  # of a part of a region with a coverage of its own
FITTED = 3400  # networks of the Nano at most


@dataclass(frozen=True, eq=False)
class _HeldOut:
    """(n,) each, of every row while it was held out; predictions of the baselines by name."""

    value: Array
    predicted: Array
    low: Array
    high: Array
    extrapolated: NDArray[np.bool_]
    baselines: Mapping[str, Array]
    relative: bool

    def inside(self) -> NDArray[np.bool_]:
        return (self.low <= self.value) & (self.value <= self.high)

    def width(self) -> float:
        """One over the factor by which the half-widths must be multiplied to contain 90 % of these rows exactly."""
        value, low, high = (np.log(each) if self.relative else each for each in (self.value, self.low, self.high))
        half = np.maximum(high - low, 1e-9) / 2
        return float(1 / np.quantile(np.abs(value - (low + high) / 2) / half, 0.9))

    def take(self, rows: Rows) -> _HeldOut:
        return _HeldOut(
            self.value[rows], self.predicted[rows], self.low[rows], self.high[rows], self.extrapolated[rows],
            {name: values[rows] for name, values in self.baselines.items()}, self.relative,
        )  # fmt: skip


def _baselines(features: Features, value: Array, asked: Features, relative: bool) -> dict[str, Array]:
    """What scikit-learn's models predict from the same numbers, at their defaults."""
    columns, of_asked = (np.column_stack([each.traits, np.log1p(each.work)]) for each in (features, asked))
    models = {
        "ridge": make_pipeline(StandardScaler(), RidgeCV(np.logspace(-3, 3, 13))),
        "boosting": HistGradientBoostingRegressor(min_samples_leaf=min(20, len(value) // 20), random_state=0),
        "ExtraTrees": ExtraTreesRegressor(random_state=0),
        "MLP": make_pipeline(StandardScaler(), MLPRegressor(hidden_layer_sizes=(64, 64), max_iter=200, random_state=0)),
    }
    target = np.log(value) if relative else value
    centre, spread = target.mean(), target.std() or 1.0
    found = {}
    with warnings.catch_warnings(), threadpool_limits(1):
        warnings.simplefilter("ignore", ConvergenceWarning)
        for name, model in models.items():
            predicted = centre + spread * model.fit(columns, (target - centre) / spread).predict(of_asked)
            found[name] = np.exp(np.clip(predicted, -50, 50)) if relative else predicted
    return found


def _split(features: Features, value: Array, seen: Rows, held: Rows, seed: int, *, relative: bool = True,
           method: str | None = None, baselines: bool = True) -> _HeldOut:  # fmt: skip
    known, asked = features.take(seen), features.take(held)
    predictor = fit_features(known, value[seen], relative=relative, method=method, seed=seed)
    return _HeldOut(
        value[held], predictor.predict(asked), *predictor.interval(asked, 0.9), predictor.extrapolated(asked),
        _baselines(known, value[seen], asked, relative) if baselines else {}, relative,
    )  # fmt: skip


def _folds(features: Features, value: Array, seed: int, *, relative: bool, method: str | None = None,
           baselines: bool = True) -> _HeldOut:  # fmt: skip
    """Five-fold; models, weights and intervals are fitted in every fold, to its own rows."""
    dealt = np.random.default_rng(seed).permutation(len(value)) % FOLDS
    held = [np.flatnonzero(dealt == fold) for fold in range(FOLDS)]
    parts = [
        _split(features, value, np.flatnonzero(dealt != fold), held[fold], seed, relative=relative, method=method, baselines=baselines)
        for fold in range(FOLDS)
    ]  # fmt: skip
    columns = [
        np.concatenate([getattr(part, name) for part in parts])
        for name in ("value", "predicted", "low", "high", "extrapolated")
    ]
    compared = {name: np.concatenate([part.baselines[name] for part in parts]) for name in parts[0].baselines}
    return _HeldOut(*columns, compared, relative).take(np.argsort(np.concatenate(held)))


def _region(what: str, found: _HeldOut) -> Row:
    """Coverage, coverage without extrapolated rows, and width."""
    inside, flagged = found.inside(), found.extrapolated
    shown, shares = f"{100 * inside.mean():.1f} %", [float(inside.mean())]
    if flagged.any():
        shown += f", {100 * flagged.mean():.0f} % extrapolated"
        if (~flagged).sum() >= LEAST_ROWS:
            shares.append(float(inside[~flagged].mean()))
            shown += f", the others {100 * shares[-1]:.1f} %"
    width = found.width()
    met = bool(all(0.85 <= share <= 0.95 for share in shares) and width <= WIDEST)
    return Row(f"{what}, 90 % PI coverage, width", f"{shown}; {width:.2f}", f"85 to 95 %; <= {WIDEST}", met, shares[0])


def _compared(what: str, found: _HeldOut) -> Row:
    """The error of the baselines on the same rows."""
    error = _mape if found.relative else _r2
    form = "{} {:.1%}" if found.relative else "{} {:.3f}"
    shown = [form.format(name, error(each, found.value)) for name, each in found.baselines.items()]
    return Row(f"{what}, {'MAPE' if found.relative else 'R2'} of baselines", ", ".join(shown))


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
        _folds(Features(on_edges, features.traits), value, seed, relative=False, method=ADDITIVE, baselines=False)
        for seed in SEEDS
    ]
    average = [_folds(features, value, seed, relative=False) for seed in SEEDS]
    drawing.predicted("prediction-cells", [
        Panel(name, "ms", value, found[0].predicted, found[0].low, found[0].high)
        for name, found in (("additive", additive), ("average of models", average))
    ])  # fmt: skip
    agreement = [_r2(repeats[a], repeats[b]) for a in range(len(repeats)) for b in range(len(repeats)) if a != b]
    by_size = np.array_split(np.argsort(average[0].predicted), 3)
    return Section(title, (
        reported("cells", len(value), "{:.0f}"),
        reported("one of the three measurements against another, R2", float(np.mean(agreement)), "{:.4f}"),
        at_least("additive, R2", _mean(_r2(each.predicted, value) for each in additive), 0.96, "{:.4f}"),
        at_least("average of models, R2", _mean(_r2(each.predicted, value) for each in average), 0.987, "{:.4f}"),
        _compared("seed 0", average[0]),
        reported("average of models, RMSE", _mean(np.sqrt(np.mean((each.predicted - value) ** 2)) for each in average), "{:.3f} ms"),
        covered("additive, 90 % PI coverage", _mean(each.inside().mean() for each in additive)),
        *(_region(f"all, seed {seed}", each) for seed, each in zip(SEEDS, average, strict=True)),
        *(_region(f"{name} third, seed 0", average[0].take(rows)) for name, rows in zip(("fastest", "middle", "slowest"), by_size, strict=True)),
    ))  # fmt: skip


def convnets(drawing: Drawing) -> Section:
    title = "Convolutional networks on a Jetson Nano, seed 0"
    if skipped := recorded.missing("nano_convnets/measurements.csv"):
        return Section(title, skipped=skipped)
    data = recorded.convnets()
    count = len(data.macs)
    by_size = np.argsort(data.macs, kind="stable")
    tenth = count // 10
    repeatability = float(np.nanmean(np.abs(data.again_ms / data.latency_ms - 1)))
    rows: list[Row] = [
        reported("networks", count, "{:.0f}"),
        reported("repeatability of the latency in another process, MAPE", repeatability, "{:.2%}"),
    ]
    dealt = np.random.default_rng(SEEDS[0]).permutation(count)
    widths, kernels = (_commonest(each) for each in (data.width, data.kernel))
    splits = {
        "a random half": (dealt[: count // 2], dealt[count // 2 :]),
        f"width {widths}, none measured": _without(data.width == widths),
        f"kernel {kernels}, none measured": _without(data.kernel == kernels),
        "smallest tenth, none measured": (by_size[tenth:], by_size[:tenth]),
        "largest tenth, none measured": (by_size[:-tenth], by_size[-tenth:]),
    }
    limits = {"a random half": 0.022, f"width {widths}, none measured": 0.035}
    panels = []
    for name, (seen, held) in splits.items():
        some = np.random.default_rng(SEEDS[0]).permutation(seen)[:FITTED]
        found = _split(data.features, data.latency_ms, some, held, SEEDS[0])
        what, error = f"latency, {name}", _mape(found.predicted, found.value)
        rows.append(
            at_most(f"{what}, MAPE", error, limits[name], "{:.2%}")
            if name in limits
            else reported(f"{what}, MAPE", error, "{:.2%}")
        )
        rows += [_compared(what, found), _region(what, found)]
        if name == "a random half":
            tenths = np.array_split(np.argsort(data.macs[held], kind="stable"), 10)
            for place, label in ((0, "smallest"), (4, "fifth"), (9, "largest")):
                rows.append(_region(f"{what}, its {label} tenth", found.take(tenths[place])))
            lowest, *_, highest = sorted(float(found.take(part).inside().mean()) for part in tenths)
            rows.append(Row(f"{what}, coverage of tenths by size", f"{100 * lowest:.1f} to {100 * highest:.1f} %",
                            "85 to 95 %", bool(lowest >= 0.85 and highest <= 0.95)))  # fmt: skip
        panels.append(Panel(what, "ms", found.value, found.predicted, found.low, found.high))
    energy = _split(data.features, data.energy_mj, *splits["a random half"], SEEDS[0])
    what = "energy, a random half"
    rows += [
        at_most(f"{what}, MAPE", _mape(energy.predicted, energy.value), 0.033, "{:.2%}"),
        _compared(what, energy),
        _region(what, energy),
    ]
    panels.insert(1, Panel(what, "mJ", energy.value, energy.predicted, energy.low, energy.high))
    drawing.predicted("prediction-convnets", panels[:3] + panels[-1:], log=True)
    return Section(title, tuple(rows))


def _commonest(values: NDArray[np.int64]) -> int:
    found, counts = np.unique(values, return_counts=True)
    return int(found[counts.argmax()])


def _without(held: NDArray[np.bool_]) -> tuple[Rows, Rows]:
    return np.flatnonzero(~held), np.flatnonzero(held)


def blocks(drawing: Drawing) -> Section:
    title = "Once-for-all blocks, AGX Xavier and TX2, seed 0; random blocks of seeds 0 to 7"
    if skipped := recorded.missing("ofa_block_lut/lut.csv"):
        return Section(title, skipped=skipped)
    table = read_external_table(recorded.folder() / "ofa_block_lut" / "lut.csv")
    boards = sorted({board for board, _ in table.values})
    metrics = sorted({metric for _, metric in table.values}, reverse=True)
    side = np.array([_side(key) for key in table.keys])
    rows: list[Row] = []
    for metric, board in itertools.product(metrics, boards):
        known = table.known((board, metric))
        value, features = table.values[board, metric][known], table.features.take(known)
        what = f"{board}, {metric.partition('_')[0]}"
        found = _folds(features, value, SEEDS[0], relative=True)
        rows.append(reported(f"{what}, five-fold, no other board, MAPE", _mape(found.predicted, value), "{:.1%}"))
        rows += [_compared(f"{what}, five-fold", found), _region(f"{what}, five-fold", found)]
        for name, held in (("input of 14", side[known] == 14), ("input of 28", side[known] == 28),
                           ("input up to 14", side[known] <= 14), ("input from 112", side[known] >= 112)):  # fmt: skip
            if min(held.sum(), (~held).sum()) < LEAST_ROWS:
                continue
            apart = _split(features, value, *_without(held), SEEDS[0])
            rows.append(reported(f"{what}, {name}, none measured, MAPE", _mape(apart.predicted, apart.value), "{:.1%}"))
            rows += [_compared(f"{what}, {name}", apart), _region(f"{what}, {name}", apart)]
    panels, curves = [], {}
    for metric, (source, target) in itertools.product(metrics, itertools.permutations(boards, 2)):
        known = table.known((source, metric), (target, metric))
        there, here = (table.values[board, metric][known] for board in (source, target))
        features = table.features.take(known)
        name = f"{source} to {target}, {metric.partition('_')[0]}"
        counts = [count for count in COUNTS if count <= len(here) // 2]
        moved = [_moved(features, there, here, first_rows(features, there, count)) for count in counts]
        random = [
            [
                _moved(features, there, here, np.random.default_rng(seed).permutation(len(here))[:count].tolist())
                for seed in range(RANDOM_DRAWS)
            ]
            for count in counts
        ]
        curves[name] = {
            "chosen blocks": (counts, [each.error for each in moved]),
            "random blocks": (counts, [_mean(each.error for each in draws) for draws in random]),
            "one factor": (counts, [each.of_one_factor for each in moved]),
        }
        shown = ", ".join(f"{count}: {each.error:.1%}" for count, each in zip(counts, moved, strict=True))
        rows.append(Row(f"{name}, MAPE by blocks measured", shown))
        if 10 in counts:
            ten, draws = moved[counts.index(10)], random[counts.index(10)]
            factor = [each.of_one_factor for each in draws]
            worse = sum(each.error > each.of_one_factor for each in draws)
            rows += [
                at_most(f"{name}, 10 chosen blocks, MAPE", ten.error, 0.09, "{:.1%}"),
                at_most(f"{name}, 10 random blocks, MAPE", _mean(each.error for each in draws), 0.09, "{:.1%}"),
                Row(f"{name}, 10 random blocks, one factor for all, MAPE",
                    f"{_mean(factor):.1%}; the transfer is worse in {worse} of {len(draws)} draws", "worse in none", worse == 0),
                covered(f"{name}, 10 chosen blocks, 90 % PI coverage", ten.covered()),
                covered(f"{name}, 10 random blocks, 90 % PI coverage", _mean(each.covered() for each in draws)),
            ]  # fmt: skip
            panels.append(Panel(name, UNITS[metric], ten.value, ten.predicted, ten.low, ten.high))
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

    def covered(self) -> float:
        return float(np.mean((self.low <= self.value) & (self.value <= self.high)))


def _moved(features: Features, there: Array, here: Array, places: list[int]) -> _Moved:
    found = fit_transfer(features, there, places, here[places])
    others = np.setdiff1d(np.arange(len(here)), places)
    predicted, low, high = (values[others] for values in (found.predict(), *found.interval(0.9)))
    factor = float(np.median(here[places] / there[places]))
    errors = _mape(predicted, here[others]), _mape(factor * there[others], here[others])
    return _Moved(here[others], predicted, low, high, *errors)


def _side(key: str) -> int:
    """Rows of a block's input; 1 of a linear layer."""
    shape = re.search(r"-input:1_\d+_\d+_(\d+)", key)
    return int(shape[1]) if shape else 1


def _mape(predicted: Array, value: Array) -> float:
    return float(np.mean(np.abs(predicted / value - 1)))


def _r2(predicted: Array, value: Array) -> float:
    return float(1 - np.sum((predicted - value) ** 2) / np.sum((value - value.mean()) ** 2))


def _mean(values: object) -> float:
    return float(np.mean(list(values)))

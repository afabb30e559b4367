"""Model selection: every method on held-out networks, and the one with the lowest error."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

import luts
from lightnas_edge.errors import PredictorError
from lightnas_edge.predictor.additive import AdditivePredictor
from lightnas_edge.predictor.base import Predictor
from lightnas_edge.predictor.evaluate import CONFIDENCE, score
from lightnas_edge.predictor.fit import fit_additive, lut_predictor
from lightnas_edge.predictor.mlp import LEAST_NETWORKS, MlpPredictor, fit_mlp
from lightnas_edge.predictor.observations import Observations, load_observations
from lightnas_edge.predictor.residuals import decompose_residuals
from lightnas_edge.records.predictor import CurvePoint, HeldOutPoint, MethodScore, ResidualDecomposition, Scores
from lightnas_edge.space import Space


@dataclass(frozen=True)
class MethodComparison:
    """Best first. `skipped` says which methods could not be tried, and why; `residuals` needs a table."""

    rows: tuple[MethodScore, ...]
    skipped: tuple[str, ...] = ()
    residuals: ResidualDecomposition | None = None
    points: Mapping[str, tuple[HeldOutPoint, ...]] = field(default_factory=dict)  # by method, every network once

    @property
    def best(self) -> str | None:
        """The best method that a search can use."""
        return next((row.method for row in self.rows if row.selectable), None)


LUT_ALONE = "LUT alone"
CALIBRATED = "LUT calibrated"
TRANSFERRED = "transferred"
SAMPLES_ALONE = "samples alone"
MLP = "MLP"
_CURVE = (1, 2, 3, 5, 10, 20, 30, 50, 100)
_CURVE_LEAST = 4  # networks left to evaluate on
BOOSTING = "gradient boosting"  # for comparison only: it has no interval and no gradient


def compare(
    space: Space,
    lut: luts.Lut | None,
    samples: Sequence[luts.Lut] | Observations,
    *,
    seed: int = 0,
    folds: int = 5,
    baseline: bool = False,
    metric: str = "latency_ms",
    prior: AdditivePredictor | None = None,
) -> MethodComparison:
    """k-fold over networks: each network is predicted once, by predictors that have not seen it.

    A network that was measured twice stays in one fold. The LUT alone is not fitted; it is evaluated on all networks.

    Args:
        baseline: evaluate scikit-learn's gradient boosting too, which uses neither the table nor additivity.
        metric: what to read of the files; observations bring their own.
        prior: predictor of another board, to transfer to this one.
    """
    observations = (
        samples if isinstance(samples, Observations) else load_observations(space, samples, lut, metric=metric)
    )
    splits = _folds(observations, folds, seed)
    skipped: list[str] = []
    rows: list[MethodScore] = []
    points: dict[str, tuple[HeldOutPoint, ...]] = {}
    methods = _methods(space, lut, seed, observations.metric, prior)
    if len(splits) < 2:
        skipped.append("held-out scores need at least 2 different networks")
        methods = {name: method for name, method in methods.items() if name == LUT_ALONE}
    for name, fit in methods.items():
        least = len(observations) - max((len(held_out) for held_out in splits), default=0)
        if name == MLP and least < LEAST_NETWORKS:
            skipped.append(f"{MLP}: needs {LEAST_NETWORKS} networks in every fold, has {least}")
            continue
        scores, points[name] = _held_out(fit, observations, splits)
        # A simulated prior would turn a predictor of measurements into a simulated one, for a small gain.
        simulated = name == TRANSFERRED and prior is not None and prior.simulated and not observations.simulated
        trained_on = 0 if name == LUT_ALONE else least
        rows.append(MethodScore(method=name, scores=scores, trained_on=trained_on, selectable=not simulated))
    if baseline and len(splits) >= 2:
        rows.append(_boosted(observations, splits, seed, least))
    rows.sort(key=lambda row: row.scores.rmse)
    return MethodComparison(tuple(rows), tuple(skipped), points=points)


def fit_best(
    space: Space,
    lut: luts.Lut | None,
    samples: Sequence[luts.Lut] | Observations,
    *,
    seed: int = 0,
    folds: int = 5,
    method: str | None = None,
    baseline: bool = False,
    metric: str = "latency_ms",
    prior: AdditivePredictor | None = None,
) -> tuple[AdditivePredictor | MlpPredictor, MethodComparison]:
    """The method with the lowest held-out error, fitted to all networks; scores and choice are in `predictor.fit`.

    Args:
        method: "LUT alone", "LUT calibrated", "samples alone", "transferred" or "MLP"; None chooses by held-out error.
        baseline: as in `compare`; it is scored and never chosen.
        metric, prior: as in `compare`.

    Raises:
        LutMissError, PredictorError, FingerprintError: as the methods' own functions.
    """
    if lut is not None and not samples:
        alone = lut_predictor(space, lut, metric=metric)
        latency = "; a median is above the sum of robust costs by the machine's noise" if metric == "latency_ms" else ""
        skipped = (f"no measured networks: the table alone, without held-out scores{latency}",)
        alone.origin = replace(alone.origin, fit=alone.fit.changed(skipped=skipped))
        return alone, MethodComparison((), skipped)
    observations = (
        samples if isinstance(samples, Observations) else load_observations(space, samples, lut, metric=metric)
    )
    comparison = compare(space, lut, observations, seed=seed, folds=folds, baseline=baseline, prior=prior)
    best = comparison.best or (TRANSFERRED if prior is not None else CALIBRATED if lut is not None else SAMPLES_ALONE)
    if len(comparison.rows) == 1 and best == LUT_ALONE:
        best = CALIBRATED  # one network gives no held-out error to compare, and is evidence all the same
    chosen = method or best
    methods = _methods(space, lut, seed, observations.metric, prior)
    if chosen not in methods:
        raise PredictorError(f"no such method for these data: {chosen!r}", hint=f"choose from: {', '.join(methods)}")
    predictor = methods[chosen](observations)
    row = next((row for row in comparison.rows if row.method == chosen), None)
    points = comparison.points.get(chosen, ())
    if row is not None and isinstance(predictor, MlpPredictor):
        # The folds hold out more networks than early stopping does, and train in the same way.
        residual = np.array([point.measured - point.predicted for point in points])
        predictor.calibrate(residual, len(observations))
    if lut is not None:
        comparison = replace(comparison, residuals=decompose_residuals(space, lut, observations))
    fit = predictor.fit.changed(
        chosen=chosen,
        residuals=comparison.residuals,
        held_out=row and row.scores,
        points=points,
        protocol=f"{folds}-fold over networks, seed {seed}",
        comparison=comparison.rows,
        skipped=comparison.skipped,
    )
    predictor.origin = replace(predictor.origin, fit=fit)
    return predictor, comparison


def learning_curve(
    space: Space,
    lut: luts.Lut | None,
    observations: Observations,
    *,
    prior: AdditivePredictor | None = None,
    seed: int = 0,
    draws: int = 4,
) -> list[CurvePoint]:
    """Error by the number of measured networks, for every method except the MLP, on the networks that were not used."""
    methods = _methods(space, lut, seed, observations.metric, prior)
    del methods[MLP]
    generator = np.random.default_rng(seed)
    points = []
    for count in [count for count in _CURVE if count + _CURVE_LEAST <= len(observations)]:
        orders = [generator.permutation(len(observations)) for _ in range(draws)]
        for name, fit in methods.items():
            found = []
            for order in orders:
                predictor, rest = fit(observations.take(order[:count])), observations.take(order[count:])
                low, high = predictor.interval(rest.one_hot, CONFIDENCE)
                found.append(score(predictor.predict(rest.one_hot), low, high, rest))
            points.append(
                CurvePoint(
                    method=name,
                    networks=count,
                    rmse=float(np.mean([each.rmse for each in found])),
                    mape=_mean([each.mape for each in found]),
                    coverage_90=_mean([each.coverage_90 for each in found]),
                )
            )
    return points


def _mean(values: Sequence[float | None]) -> float | None:
    """Unknown where one of them is."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if len(known) == len(values) else None


_Method = Callable[[Observations], AdditivePredictor | MlpPredictor]


def _methods(
    space: Space, lut: luts.Lut | None, seed: int, metric: str, prior: AdditivePredictor | None = None
) -> dict[str, _Method]:
    methods: dict[str, _Method] = {}
    if lut is not None:
        if metric not in luts.NETWORK_METRICS:
            alone = lut_predictor(space, lut, metric=metric)
            methods[LUT_ALONE] = lambda _: alone
        methods[CALIBRATED] = lambda seen: fit_additive(space, lut, seen)
    if prior is not None:
        methods[TRANSFERRED] = lambda seen: fit_additive(space, None, seen, prior=prior)
    methods[SAMPLES_ALONE] = lambda seen: fit_additive(space, None, seen)
    methods[MLP] = lambda seen: fit_mlp(space, seen, seed)
    return methods


def _folds(observations: Observations, folds: int, seed: int) -> list[np.ndarray[Any, np.dtype[np.int64]]]:
    """Rows of the networks that each fold holds out; equal networks together."""
    _, network = np.unique(observations.indices, axis=0, return_inverse=True)
    network = network.ravel()
    count = int(network.max()) + 1
    fold_of = np.random.default_rng(seed).permutation(count) % min(folds, count)
    return [np.flatnonzero(fold_of[network] == fold) for fold in range(min(folds, count))]


def _held_out(
    fit: _Method, observations: Observations, splits: Sequence[np.ndarray[Any, np.dtype[np.int64]]]
) -> tuple[Scores, tuple[HeldOutPoint, ...]]:
    predicted, low, high = (np.zeros(len(observations)) for _ in range(3))
    extrapolated = np.zeros(len(observations), dtype=bool)
    everything = np.arange(len(observations))
    for held_out in splits:
        seen = np.setdiff1d(everything, held_out)
        predictor: Predictor = fit(observations.take(seen))
        one_hot = observations.take(held_out).one_hot
        predicted[held_out] = predictor.predict(one_hot)
        low[held_out], high[held_out] = predictor.interval(one_hot, CONFIDENCE)
        extrapolated[held_out] = predictor.extrapolated(one_hot)
    points = tuple(
        HeldOutPoint(predicted=one, measured=other)
        for one, other in zip(predicted.tolist(), observations.value.tolist(), strict=True)
    )
    return score(predicted, low, high, observations, extrapolated), points


def _boosted(
    observations: Observations, splits: Sequence[np.ndarray[Any, np.dtype[np.int64]]], seed: int, trained_on: int
) -> MethodScore:
    """scikit-learn's GradientBoostingRegressor with its own defaults, on the one-hot codes."""
    from sklearn.ensemble import GradientBoostingRegressor

    predicted, unknown = np.zeros(len(observations)), np.full(len(observations), np.nan)
    for held_out in splits:
        seen = observations.take(np.setdiff1d(np.arange(len(observations)), held_out))
        trees = GradientBoostingRegressor(random_state=seed).fit(_flat(seen), seen.value)
        predicted[held_out] = trees.predict(_flat(observations.take(held_out)))
    scores = score(predicted, unknown, unknown, observations)
    return MethodScore(method=BOOSTING, scores=scores, trained_on=trained_on, selectable=False)


def _flat(observations: Observations) -> np.ndarray[Any, Any]:
    return observations.one_hot.reshape(len(observations), -1)

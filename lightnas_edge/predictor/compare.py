"""Which predictor serves: every method on networks it has not seen, the best by held-out error."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

import luts
from lightnas_edge.errors import PredictorError
from lightnas_edge.predictor.additive import AdditivePredictor, fit_additive, lut_predictor
from lightnas_edge.predictor.base import Predictor
from lightnas_edge.predictor.evaluate import CONFIDENCE, Scores, score
from lightnas_edge.predictor.mlp import LEAST_NETWORKS, MlpPredictor, fit_mlp
from lightnas_edge.predictor.observations import Observations, load_observations
from lightnas_edge.predictor.residuals import ResidualDecomposition, decompose_residuals
from lightnas_edge.space import Space

Point = tuple[float, float]


@dataclass(frozen=True)
class MethodScore:
    """A method, and how it did on networks held out in turn."""

    method: str
    scores: Scores
    trained_on: int  # networks per fold
    points: tuple[Point, ...] = ()  # (predicted, measured) of every network, while it was held out
    may_serve: bool = True  # what may not is compared with only

    def to_json(self) -> dict[str, Any]:
        return {"method": self.method, "trained_on": self.trained_on, **self.scores.to_json()}


@dataclass(frozen=True)
class MethodComparison:
    """Best first. `skipped` says which methods could not be tried, and why; `ledger` is there with a table."""

    rows: tuple[MethodScore, ...]
    skipped: tuple[str, ...] = ()
    ledger: ResidualDecomposition | None = None

    @property
    def best(self) -> str | None:
        """The best method that a search can use."""
        return next((row.method for row in self.rows if row.may_serve), None)

    def to_json(self) -> list[dict[str, Any]]:
        return [row.to_json() for row in self.rows]


LUT_ALONE = "LUT alone"
CALIBRATED = "LUT calibrated"
CARRIED = "carried over"
SAMPLES_ALONE = "samples alone"
MLP = "MLP"
_CURVE = (1, 2, 3, 5, 10, 20, 30, 50, 100)
_CURVE_LEAST = 4  # networks left to judge by
BOOSTING = "gradient boosting"  # to compare with only: it states no interval and has no gradient to search by


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

    The same network measured twice stays in one fold. The LUT alone is fitted to nothing and judged on all networks.

    Args:
        baseline: judge scikit-learn's gradient boosting too, which knows nothing of tables or sums.
        metric: what to read of the files; observations bring their own.
        prior: another board's predictor, carried over by the networks.
    """
    observations = (
        samples if isinstance(samples, Observations) else load_observations(space, samples, lut, metric=metric)
    )
    parts = _folds(observations, folds, seed)
    skipped = []
    rows = []
    methods = _methods(space, lut, seed, observations.metric, prior)
    if len(parts) < 2:
        skipped.append("held-out scores need at least 2 different networks")
        methods = {name: method for name, method in methods.items() if name == LUT_ALONE}
    for name, fit in methods.items():
        least = len(observations) - max((len(part) for part in parts), default=0)
        if name == MLP and least < LEAST_NETWORKS:
            skipped.append(f"{MLP}: needs {LEAST_NETWORKS} networks in every fold, has {least}")
            continue
        scores, points = _held_out(fit, observations, parts)
        # What a simulated board taught would make a predictor of measurements a simulated one, for a small gain.
        invented = name == CARRIED and prior is not None and prior.simulated and not observations.simulated
        rows.append(MethodScore(name, scores, 0 if name == LUT_ALONE else least, points, may_serve=not invented))
    if baseline and len(parts) >= 2:
        rows.append(_boosted(observations, parts, seed, least))
    rows.sort(key=lambda row: row.scores.rmse)
    return MethodComparison(tuple(rows), tuple(skipped))


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
    """The method with the least held-out error, fitted to all networks; scores and choice are in `predictor.fit`.

    Args:
        method: "LUT alone", "LUT calibrated", "samples alone", "carried over" or "MLP" to decide for oneself.
        baseline: as of `compare`; what it scores is told, it is never chosen.
        metric, prior: as of `compare`.

    Raises:
        LutMissError, PredictorError, FingerprintError: as the methods' own functions.
    """
    if lut is not None and not samples:
        alone = lut_predictor(space, lut, metric=metric)
        return alone, MethodComparison((), ("no networks were measured: the table alone, unchecked",))
    observations = (
        samples if isinstance(samples, Observations) else load_observations(space, samples, lut, metric=metric)
    )
    comparison = compare(space, lut, observations, seed=seed, folds=folds, baseline=baseline, prior=prior)
    best = comparison.best or (CARRIED if prior is not None else CALIBRATED if lut is not None else SAMPLES_ALONE)
    if len(comparison.rows) == 1 and best == LUT_ALONE:
        best = CALIBRATED  # one network: no held-out error to compare, but it is evidence all the same
    chosen = method or best
    methods = _methods(space, lut, seed, observations.metric, prior)
    if chosen not in methods:
        raise PredictorError(f"no such method here: {chosen!r}", hint=f"choose from: {', '.join(methods)}")
    predictor = methods[chosen](observations)
    row = next((row for row in comparison.rows if row.method == chosen), None)
    if row is not None and isinstance(predictor, MlpPredictor):
        # More networks held out than those that stopped the training, by networks trained as this one was.
        predictor.calibrate(np.array([measured - predicted for predicted, measured in row.points]))
    if lut is not None:
        comparison = replace(comparison, ledger=decompose_residuals(space, lut, observations))
    fit = {
        **predictor.fit,
        "chosen": chosen,
        "ledger": comparison.ledger and comparison.ledger.to_json(),
        "held_out": row and row.scores.to_json(),
        "points": [
            {"predicted": predicted, "measured": measured} for predicted, measured in (row.points if row else ())
        ],
        "protocol": f"{folds}-fold over networks, seed {seed}",
        "comparison": comparison.to_json(),
        "skipped": list(comparison.skipped),
    }
    predictor.origin = replace(predictor.origin, fit=fit)
    return predictor, comparison


@dataclass(frozen=True)
class CurvePoint:
    """How a method did from so many networks, on all the others: means over several draws."""

    method: str
    networks: int
    rmse: float
    mape: float
    coverage_90: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def learning_curve(
    space: Space,
    lut: luts.Lut | None,
    observations: Observations,
    *,
    prior: AdditivePredictor | None = None,
    seed: int = 0,
    draws: int = 4,
) -> list[CurvePoint]:
    """Error against the number of measured networks, for every method but the MLP; the others are predicted each time."""
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
            rmse, mape, held = (
                float(np.mean([getattr(scores, field) for scores in found]))
                for field in ("rmse", "mape", "coverage_90")
            )
            points.append(CurvePoint(name, count, rmse, mape, held))
    return points


_Method = Callable[[Observations], AdditivePredictor | MlpPredictor]


def _methods(
    space: Space, lut: luts.Lut | None, seed: int, metric: str, prior: AdditivePredictor | None = None
) -> dict[str, _Method]:
    methods: dict[str, _Method] = {}
    if lut is not None:
        alone = lut_predictor(space, lut, metric=metric)
        methods[LUT_ALONE] = lambda _: alone
        methods[CALIBRATED] = lambda seen: fit_additive(space, lut, seen)
    if prior is not None:
        methods[CARRIED] = lambda seen: fit_additive(space, None, seen, prior=prior)
    methods[SAMPLES_ALONE] = lambda seen: fit_additive(space, None, seen)
    methods[MLP] = lambda seen: fit_mlp(space, seen, seed)
    return methods


def _folds(observations: Observations, folds: int, seed: int) -> list[np.ndarray[Any, np.dtype[np.int64]]]:
    """Rows of each fold; equal networks together."""
    _, network = np.unique(observations.indices, axis=0, return_inverse=True)
    network = network.ravel()
    count = int(network.max()) + 1
    dealt = np.random.default_rng(seed).permutation(count) % min(folds, count)
    return [np.flatnonzero(dealt[network] == fold) for fold in range(min(folds, count))]


def _held_out(
    fit: _Method, observations: Observations, parts: Sequence[np.ndarray[Any, np.dtype[np.int64]]]
) -> tuple[Scores, tuple[Point, ...]]:
    predicted, low, high = (np.zeros(len(observations)) for _ in range(3))
    outside = np.zeros(len(observations), dtype=bool)
    everything = np.arange(len(observations))
    for part in parts:
        seen = np.setdiff1d(everything, part)
        predictor: Predictor = fit(observations.take(seen))
        one_hot = observations.take(part).one_hot
        predicted[part] = predictor.predict(one_hot)
        low[part], high[part] = predictor.interval(one_hot, CONFIDENCE)
        outside[part] = predictor.outside(one_hot)
    return score(predicted, low, high, observations, outside), _points(predicted, observations)


def _boosted(
    observations: Observations, parts: Sequence[np.ndarray[Any, np.dtype[np.int64]]], seed: int, trained_on: int
) -> MethodScore:
    """scikit-learn's GradientBoostingRegressor with its own defaults, on the one-hot codes."""
    from sklearn.ensemble import GradientBoostingRegressor

    predicted, unknown = np.zeros(len(observations)), np.full(len(observations), np.nan)
    for part in parts:
        seen = observations.take(np.setdiff1d(np.arange(len(observations)), part))
        trees = GradientBoostingRegressor(random_state=seed).fit(_flat(seen), seen.value)
        predicted[part] = trees.predict(_flat(observations.take(part)))
    scores = score(predicted, unknown, unknown, observations)
    return MethodScore(BOOSTING, scores, trained_on, _points(predicted, observations), may_serve=False)


def _flat(observations: Observations) -> np.ndarray[Any, Any]:
    return observations.one_hot.reshape(len(observations), -1)


def _points(predicted: np.ndarray[Any, np.dtype[np.float64]], observations: Observations) -> tuple[Point, ...]:
    return tuple(zip(predicted.tolist(), observations.value.tolist(), strict=True))

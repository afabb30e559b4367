"""Which measurements pay: the error of a predictor against the time of the board, from the networks that are measured.

Three plans: the operators' table alone, whole networks alone, both. The error of a plan is that of its predictor on networks
that it was not fitted to. With fewer networks than are measured it comes from random subsets, with as many from the folds of the
comparison, with more from a curve through these: error^2 = floor^2 + slope / networks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from scipy import optimize

import luts
from lightnas_edge.files import finite
from lightnas_edge.measuring.board_time import BoardTime
from lightnas_edge.predictor.base import Array
from lightnas_edge.predictor.compare import CALIBRATED, LUT_ALONE, SAMPLES_ALONE, MethodComparison
from lightnas_edge.predictor.fit import fit_additive
from lightnas_edge.predictor.observations import Observations
from lightnas_edge.records.plans import MeasuringPlans, PlanName, PlanPoint
from lightnas_edge.records.predictor import HeldOutPoint
from lightnas_edge.space import Space

_SHARES = (4, 2)  # the subsets have a quarter and a half of the networks that a fold is trained on
_LEAST_SUBSET = 4
_DRAWS = 3
_LEAST_FOR_GAIN = 8  # networks; fewer do not show what a table brings
_SURE = 1.645  # standard errors
_METHODS: dict[PlanName, str] = {"networks only": SAMPLES_ALONE, "both": CALIBRATED}


def measuring_plans(
    space: Space,
    lut: luts.Lut | None,
    observations: Observations | None,
    comparison: MethodComparison,
    time: BoardTime,
    *,
    metric: str,
    seed: int = 0,
    simulated: bool = False,
) -> MeasuringPlans:
    """The plans that these measurements know something about.

    Args:
        comparison: of the methods on the same observations.
        time: of the board, for the table and the networks.
    """
    measured = 0 if observations is None else len(observations)
    points: list[PlanPoint] = []
    if lut is not None and metric not in luts.NETWORK_METRICS:
        mape = _mape(comparison.points.get(LUT_ALONE, ()))
        points.append(
            PlanPoint(
                plan="table only", networks=0, board_minutes=_minutes(time, 0, True), mape=mape,
                basis="none" if mape is None else "held out",
            )
        )  # fmt: skip
    curves: dict[PlanName, Callable[[float], float]] = {}
    for plan, method in _METHODS.items():
        row = next((each for each in comparison.rows if each.method == method), None)
        if row is None or observations is None or row.scores.mape is None:
            continue
        with_table = plan == "both"
        known = {row.trained_on: row.scores.mape}
        for share in _SHARES:
            count = row.trained_on // share
            if count >= _LEAST_SUBSET and count not in known:
                mape = _of_subsets(space, lut if with_table else None, observations, count, seed)
                known |= {} if mape is None else {count: mape}
        if len(known) > 1:
            curves[plan] = _curve(known)
        rows = [(count, known[count], "held out") for count in sorted(known)]
        if plan in curves:
            rows.append((2 * measured, curves[plan](2 * measured), "extrapolated"))
        points += [
            PlanPoint.model_validate({
                "plan": plan, "networks": count, "board_minutes": _minutes(time, count, with_table), "mape": mape, "basis": basis,
            })
            for count, mape, basis in rows
        ]  # fmt: skip
    gain = _gain(comparison.points)
    helps = None if gain is None else gain[0] > _SURE * gain[1]
    return MeasuringPlans(
        metric=metric,
        simulated=simulated,
        points=tuple(points),
        table_gain=None if gain is None else gain[0],
        table_gain_error=None if gain is None else gain[1],
        table_helps=helps,
        verdict=_verdict(comparison, gain, helps, time, curves, measured),
    )


def _of_subsets(space: Space, lut: luts.Lut | None, observations: Observations, count: int, seed: int) -> float | None:
    """Mean error on the other networks, over random subsets."""
    generator = np.random.default_rng([seed, count])  # the same subsets with and without the table
    found = []
    for _ in range(_DRAWS):
        order = generator.permutation(len(observations))
        predictor = fit_additive(space, lut, observations.take(order[:count]))
        rest = observations.take(order[count:])
        with np.errstate(divide="ignore", invalid="ignore"):
            found.append(float(np.mean(np.abs(predictor.predict(rest.one_hot) / rest.value - 1))))
    mean: float | None = finite(float(np.mean(found)))
    return mean


def _curve(known: Mapping[int, float]) -> Callable[[float], float]:
    """Networks -> error; the curve falls, and passes through the point with most networks."""
    counts = np.array(list(known), dtype=np.float64)
    errors = np.array(list(known.values()))
    design = np.stack([np.ones_like(counts), 1 / counts], axis=1)
    (floor, slope), _ = optimize.nnls(design / errors[:, None] ** 2, np.ones(len(counts)))
    most = int(counts.argmax())
    factor = errors[most] / np.sqrt(max(floor + slope / counts[most], 1e-300))
    return lambda networks: float(factor * np.sqrt(floor + slope / networks))


def _gain(points: Mapping[str, Sequence[HeldOutPoint]]) -> tuple[float, float] | None:
    """(mean, standard error) of the absolute relative error without the table less that with it, network by network."""
    alone, both = (_relative_errors(points.get(method, ())) for method in (SAMPLES_ALONE, CALIBRATED))
    if len(alone) < _LEAST_FOR_GAIN or len(alone) != len(both):
        return None
    difference = alone - both
    if not np.isfinite(difference).all():
        return None
    return float(difference.mean()), float(difference.std(ddof=1) / np.sqrt(len(difference)))


def _relative_errors(points: Sequence[HeldOutPoint]) -> Array:
    predicted = np.array([point.predicted for point in points])
    measured = np.array([point.measured for point in points])
    with np.errstate(divide="ignore", invalid="ignore"):
        errors: Array = np.abs(predicted / measured - 1)
    return errors


def _mape(points: Sequence[HeldOutPoint]) -> float | None:
    return finite(float(np.mean(_relative_errors(points)))) if points else None


def _minutes(time: BoardTime, networks: int, with_table: bool) -> float | None:
    """Of the board. Sentinels are measured with the networks once, however many those are."""
    parts = [time.table_s] if with_table else []
    if networks:
        parts += [time.sentinels_s, None if time.network_s is None else networks * time.network_s]
    known = [part for part in parts if part is not None]
    return sum(known) / 60 if len(known) == len(parts) else None


def _verdict(
    comparison: MethodComparison,
    gain: tuple[float, float] | None,
    helps: bool | None,
    time: BoardTime,
    curves: Mapping[PlanName, Callable[[float], float]],
    measured: int,
) -> str | None:
    mape = {row.method: row.scores.mape for row in comparison.rows}
    alone, both = mape.get(SAMPLES_ALONE), mape.get(CALIBRATED)
    if alone is None or both is None:
        return None
    if gain is None:
        return f"{measured} networks are too few to see what the operators' table brings; {_LEAST_FOR_GAIN} show it"
    apart = f"{100 * gain[0]:+.2f} ± {100 * gain[1]:.2f} points"
    if not helps:
        return (
            f"the operators' table brings nothing here: error {100 * both:.2f} % with it, {100 * alone:.2f} % without "
            f"(gain {apart}); measure networks only"
        )
    text = f"the operators' table lowers the error from {100 * alone:.2f} to {100 * both:.2f} % (gain {apart})"
    if time.table_s is None or not time.network_s or "networks only" not in curves:
        return text
    instead = int(time.table_s / time.network_s)
    expected = curves["networks only"](measured + instead)
    if instead and expected <= both:
        return (
            f"{text}; in its time the board measures {instead} further networks, and without the table these would give about "
            f"{100 * expected:.2f} % (extrapolated)"
        )
    return text

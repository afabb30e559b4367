"""The interface of all predictors, and the range of values that a space reaches under one."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from lightnas_edge.errors import PredictorError
from lightnas_edge.files import write_json
from lightnas_edge.predictor.applicability import UNKNOWN, ApplicabilityDomain
from lightnas_edge.predictor.bounds import ConvexBound
from lightnas_edge.predictor.metrics import UNITS
from lightnas_edge.records.differences import require_equal_fingerprints
from lightnas_edge.records.html_table import html_table
from lightnas_edge.records.predictor import NOT_FITTED, AdditiveParameters, FitRecord, MlpParameters, PredictorRecord
from lightnas_edge.space import Architecture, Operator, Space

if TYPE_CHECKING:
    import torch

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Origin:
    """Where a predictor's numbers come from. They are valid for this board in this state only."""

    fingerprint: dict[str, Any]
    simulated: bool = False
    batch: int = 1
    metric: str = "latency_ms"
    fit: FitRecord = NOT_FITTED


class Predictor(ABC):
    """Architecture -> one metric of a whole network, in the metric's unit, at batch `batch`.

    An implementation guarantees: `predict` is what `torch_module` computes; `interval` and `upper` are about a
    measurement of the network, so they include the uncertainty of the model and the noise of measuring.
    Shapes: B architectures, L searchable layers, K operators per layer; rows of a one-hot sum to 1.
    """

    type: str
    least = -math.inf  # no prediction is below it

    def __init__(self, space: Space, origin: Origin) -> None:
        self.space = space
        self.origin = origin
        self.applicability: ApplicabilityDomain = UNKNOWN

    @property
    def summary(self) -> str:
        """The predictor in one line."""
        mark, fit = "SIMULATED: " * self.simulated, self.fit
        method = fit.chosen or fit.method
        return f"{mark}{self.metric} of {self.space.name} at batch {self.batch}: {method}, {fit.networks} measured networks"

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.summary}>"

    def _repr_html_(self) -> str:
        columns = ("method", "networks held out", f"RMSE {self.unit}", "MAPE", "90 % PI coverage")
        rows = [
            (row.method, row.scores.n, f"{row.scores.rmse:.3g}", _percent(row.scores.mape), _percent(row.scores.coverage_90))
            for row in self.fit.comparison
        ]  # fmt: skip
        scores = self.fit.held_out
        noise = "" if scores is None else f"repeatability of the measurements: {_percent(scores.repeatability)}"
        return html_table(self.summary, columns, rows, note=noise)

    @property
    def metric(self) -> str:
        return self.origin.metric

    @property
    def unit(self) -> str:
        return UNITS[self.metric]

    @property
    def fingerprint(self) -> dict[str, Any]:
        return self.origin.fingerprint

    @property
    def simulated(self) -> bool:
        return self.origin.simulated

    @property
    def batch(self) -> int:
        return self.origin.batch

    @property
    def fit(self) -> FitRecord:
        return self.origin.fit

    def require_same_board(self, fingerprint: dict[str, Any], what: str) -> None:
        """Raises FingerprintError, with the fields that differ, unless `what` is of this board in this state."""
        require_equal_fingerprints(
            self.fingerprint,
            fingerprint,
            f"the predictor and {what}",
            hint="a predictor is valid for the board and state that it was fitted on; fit one for this board, or transfer "
            f"this one: `lightnas-edge fit --space {self.space.option} --samples FILE --prior FILE`",
        )

    @abstractmethod
    def predict(self, one_hot: NDArray[Any]) -> Array:
        """(B, L, K) one-hot, any numeric type -> (B,) in `unit`."""

    @abstractmethod
    def deviation(self, one_hot: NDArray[Any]) -> Array:
        """(B, L, K) -> (B,) standard deviation of a measurement around the prediction."""

    @abstractmethod
    def torch_module(self) -> torch.nn.Module:
        """(B, L, K) float tensor -> (B,), differentiable in its input; its own numbers are constants."""

    @abstractmethod
    def linear_terms(self) -> tuple[float, Array] | None:
        """(constant, (L, K)) such that predictions are their sum, or `least` where that is more; None for a predictor that is not linear."""

    @abstractmethod
    def parameters(self) -> AdditiveParameters | MlpParameters:
        """The `parameters` of the file."""

    def convex_bound(self, confidence: float | None) -> ConvexBound | None:
        """`upper` at a confidence, the prediction when None, as a convex function; None where no such form is known."""
        linear = self.linear_terms()
        return None if linear is None or confidence is not None else ConvexBound(*linear, least=self.least)

    def predict_indices(self, indices: NDArray[np.integer[Any]]) -> Array:
        """(B, L) positions in `space.operators` -> (B,); faster than building a one-hot first."""
        return self.predict(one_hot_of(self.space, indices))

    def predict_one(self, architecture: Architecture) -> float:
        """Raises ArchitectureError: it does not fit the space."""
        if self._costs is not None and architecture.space == self.space.name:
            constant, costs = self._costs
            with suppress(KeyError, ValueError):  # an operator that the space lacks, another number of layers
                total = constant + sum([cost[each] for cost, each in zip(costs, architecture.operators, strict=True)])
                return max(total, self.least)
        return float(self.predict(architecture.one_hot(self.space)[None])[0])

    @cached_property
    def _costs(self) -> tuple[float, list[dict[Operator, float]]] | None:
        """The constant, and the cost of every operator in each layer; None for a predictor that is not linear."""
        linear = self.linear_terms()
        if linear is None:
            return None
        return linear[0], [dict(zip(self.space.operators, row, strict=True)) for row in linear[1].tolist()]

    def interval(self, one_hot: NDArray[Any], confidence: float = 0.9) -> tuple[Array, Array]:
        """(low (B,), high (B,)): a measurement of the network, which is above 0, lies between them with this probability."""
        centre, half = self.predict(one_hot), self.quantile((1 + confidence) / 2) * self.deviation(one_hot)
        return np.maximum(centre - half, np.minimum(centre, 0)), centre + half

    def upper(self, one_hot: NDArray[Any], confidence: float) -> Array:
        """(B,): a measurement of the network stays below it with this probability."""
        return self.predict(one_hot) + self.quantile(confidence) * self.deviation(one_hot)

    def quantile(self, probability: float) -> float:
        """Number of deviations above the prediction that a measurement stays below with this probability.

        The deviation was learned from the measured networks. With few of them it may be too small: Student's t accounts
        for that, with the degrees of freedom of the calibration. Without networks the distribution is normal.
        """
        require_probability(probability)
        calibration = self.fit.calibration
        if calibration is None:
            return NormalDist().inv_cdf(probability)
        return float(stats.t.ppf(probability, calibration.degrees_of_freedom))

    def extrapolated(self, one_hot: NDArray[Any]) -> NDArray[np.bool_]:
        """(B, L, K) -> (B,): outside the applicability domain; no measured network supports the interval there.

        All networks are extrapolated where no whole network was measured, and none where the domain is unknown.
        """
        one_hot = self._flat(one_hot).reshape(np.shape(one_hot))
        blocks = np.tensordot(one_hot, self.is_block, axes=2)
        return self.applicability.extrapolated(self.predict(one_hot), blocks, self._model_std(one_hot), one_hot)

    @cached_property
    def is_block(self) -> Array:
        """(L, K): 0 for an operator that is an identity in its layer, else 1."""
        layers = range(len(self.space.layers))
        found: Array = np.array(
            [[float(not self.space.at(layer, one).is_identity) for one in self.space.operators] for layer in layers]
        )
        return found

    def _model_std(self, one_hot: NDArray[Any]) -> Array | None:
        """(B, L, K) -> (B,) standard deviation of the model, without noise; None where the model has none."""
        return None

    def to_record(self) -> PredictorRecord:
        parameters = self.parameters()
        return PredictorRecord(
            type="additive" if isinstance(parameters, AdditiveParameters) else "mlp",
            metric=self.metric,
            unit=self.unit,
            batch=self.batch,
            space=self.space.name,
            space_sha256=self.space.sha256,
            space_definition=self.space.to_json(),
            fingerprint=self.fingerprint,
            simulated=self.simulated,
            fit=self.fit,
            parameters=parameters,
        )

    def save(self, path: Path) -> None:
        """Replace the file by rename. Raises OSError."""
        write_json(path, self.to_record().to_json(), indent=None)

    def _flat(self, one_hot: NDArray[Any]) -> Array:
        """(B, L, K) -> (B, L*K) float64, checked."""
        expected = len(self.space.layers), len(self.space.operators)
        one_hot = np.asarray(one_hot)
        if one_hot.ndim != 3 or one_hot.shape[1:] != expected:
            raise PredictorError(
                f"expected architectures of shape (B, {expected[0]}, {expected[1]}) for space {self.space.name}, "
                f"found {one_hot.shape}"
            )
        return one_hot.reshape(len(one_hot), -1).astype(np.float64, copy=False)


@dataclass(frozen=True)
class Range:
    """Values that a space reaches under a predictor, in its unit; `exact` is False where a search found the ends."""

    lowest: float
    lowest_architecture: Architecture
    median: float  # of random architectures
    highest: float
    highest_architecture: Architecture
    unit: str
    exact: bool = True

    def __str__(self) -> str:
        low, high, median = (f"{value:.4g}" for value in (self.lowest, self.highest, self.median))
        return f"{low} to {high} {self.unit}, median of random networks {median} {self.unit}"


def reachable_range(predictor: Predictor) -> Range:
    """Lowest, median and highest prediction in the space.

    The ends are exact for linear predictors; otherwise they are the best of a local search from many starts.
    """
    space = predictor.space
    generator = np.random.default_rng(0)
    indices = generator.integers(len(space.operators), size=(4096, len(space.layers)))
    predicted = predictor.predict_indices(indices)
    linear = predictor.linear_terms()
    if linear is not None:
        ends = [linear[1].argmin(axis=1), linear[1].argmax(axis=1)]
    else:
        uniform = np.repeat(np.arange(len(space.operators))[:, None], len(space.layers), axis=1)
        starts = np.concatenate([uniform, indices])
        values = np.concatenate([predictor.predict_indices(uniform), predicted])
        ends = [_descend(predictor, starts[np.argsort(sign * values)[:8]], sign) for sign in (1, -1)]
    lowest, highest = predictor.predict_indices(np.stack(ends))
    return Range(
        float(lowest),
        Architecture.from_indices(space, ends[0]),
        float(np.median(predicted)),
        float(highest),
        Architecture.from_indices(space, ends[1]),
        predictor.unit,
        exact=linear is not None,
    )


def neighbours(space: Space, indices: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
    """(L * (K - 1), L): every architecture that differs from (L,) `indices` in one layer."""
    layers, operators = len(space.layers), len(space.operators)
    found = np.repeat(np.asarray(indices, dtype=np.int64)[None], layers * (operators - 1), axis=0)
    layer = np.repeat(np.arange(layers), operators - 1)
    step = np.tile(np.arange(1, operators), layers)
    found[np.arange(len(found)), layer] = (found[np.arange(len(found)), layer] + step) % operators
    return found


def require_probability(confidence: float) -> None:
    """Raises PredictorError where a confidence is none."""
    if not 0 < confidence < 1:
        raise PredictorError(f"a confidence lies between 0 and 1, found {confidence}")


def spread_of(columns: Array) -> Array:
    """(n, D) -> (D,) standard deviations; 1 for a column that is constant but for rounding, so that it can be divided by."""
    spread = columns.std(axis=0)
    found: Array = np.where(spread > 1e-9 * np.abs(columns).max(axis=0, initial=0.0), spread, 1.0)
    return found


def one_hot_of(space: Space, indices: NDArray[np.integer[Any]]) -> Array:
    """(B, L) positions in `space.operators` -> (B, L, K)."""
    found: Array = np.eye(len(space.operators))[np.asarray(indices)]
    return found


def _descend(predictor: Predictor, starts: NDArray[np.int64], sign: int) -> NDArray[np.int64]:
    """The best network that single changes reach from any of the starts."""
    best, best_value = starts[0], np.inf
    for current in starts:
        value = sign * float(predictor.predict_indices(current[None])[0])
        while len(predictor.space.operators) > 1:
            around = neighbours(predictor.space, current)
            values = sign * predictor.predict_indices(around)
            if values.min() >= value:
                break
            current, value = np.asarray(around[values.argmin()]), float(values.min())
        if value < best_value:
            best, best_value = current, value
    return np.asarray(best, dtype=np.int64)


def _percent(share: float | None) -> str:
    return "not available" if share is None else f"{share:.1%}"

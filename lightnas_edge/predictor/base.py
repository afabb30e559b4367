"""What every predictor can do, and the range that a space offers under one."""

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from lightnas_edge.errors import PredictorError
from lightnas_edge.predictor.applicability import ApplicabilityDomain
from lightnas_edge.predictor.calibration import LEAST_DEGREES
from lightnas_edge.predictor.metrics import UNITS
from lightnas_edge.records.differences import require_equal_fingerprints
from lightnas_edge.space import Architecture, Space

if TYPE_CHECKING:
    import torch

SCHEMA = 1
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Origin:
    """Where a predictor's numbers come from: it speaks for this board in this state, and for nothing else."""

    fingerprint: dict[str, Any]
    simulated: bool = False
    batch: int = 1
    metric: str = "latency_ms"
    fit: dict[str, Any] = field(default_factory=dict)  # how it was fitted, and its held-out scores


class Predictor(ABC):
    """Architecture -> one metric of a whole network, in the metric's unit, at batch `batch`.

    An implementation guarantees: `predict` is what `torch_module` computes; `interval` and `upper` speak of what a
    measurement of the network would show, so they hold the model's own doubt and the noise of measuring.
    Shapes: B architectures, L searchable layers, K operators per layer; rows of a one-hot sum to 1.
    """

    type: str

    def __init__(self, space: Space, origin: Origin) -> None:
        self.space = space
        self.origin = origin
        self.applicability: ApplicabilityDomain | None = None

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
    def fit(self) -> dict[str, Any]:
        return self.origin.fit

    def require_same_board(self, fingerprint: dict[str, Any], what: str) -> None:
        """Raises FingerprintError, with the fields that differ, unless `what` is of this board in this state."""
        require_equal_fingerprints(
            self.fingerprint,
            fingerprint,
            f"the predictor and {what}",
            hint="a predictor is valid for the board and state it was fitted on; fit one for this board, or transfer this "
            "one: lightnas-edge fit --prior",
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
        """(constant, (L, K)) such that predictions are their sum; None for a predictor that is not linear."""

    @abstractmethod
    def parameters(self) -> dict[str, Any]:
        """The `parameters` of the file, as plain JSON."""

    def predict_indices(self, indices: NDArray[np.integer[Any]]) -> Array:
        """(B, L) positions in `space.operators` -> (B,); quicker than a one-hot where there is none yet."""
        return self.predict(one_hot_of(self.space, indices))

    def predict_one(self, architecture: Architecture) -> float:
        return float(self.predict(architecture.one_hot(self.space)[None])[0])

    def interval(self, one_hot: NDArray[Any], confidence: float = 0.9) -> tuple[Array, Array]:
        """(low (B,), high (B,)): where a measurement of the network falls with this probability."""
        centre, half = self.predict(one_hot), self.quantile((1 + confidence) / 2) * self.deviation(one_hot)
        return centre - half, centre + half

    def upper(self, one_hot: NDArray[Any], confidence: float) -> Array:
        """(B,): a measurement of the network stays below it with this probability."""
        return self.predict(one_hot) + self.quantile(confidence) * self.deviation(one_hot)

    def quantile(self, probability: float) -> float:
        """Deviations above the prediction below which a measurement stays with this probability.

        The deviation itself was learned from the networks measured; with few of them it may be too small, which is what
        Student's t accounts for, with tails as heavy as the networks showed. Figures: docs/measuring.md.
        """
        if not 0 < probability < 1:
            raise PredictorError(f"a confidence lies between 0 and 1, found {probability}")
        networks = int(self.fit.get("networks") or 0)
        if networks == 0:
            return NormalDist().inv_cdf(probability)
        calibration = self.fit.get("calibration")
        told = calibration.get("degrees") if isinstance(calibration, dict) else None
        degrees = told if isinstance(told, (int, float)) else networks - 1
        return float(stats.t.ppf(probability, max(degrees, LEAST_DEGREES)))

    def outside(self, one_hot: NDArray[Any]) -> NDArray[np.bool_]:
        """(B, L, K) -> (B,): outside what was measured, so that the interval is a guess.

        Everything is outside where no whole network was measured; a file that does not say what was measured flags nothing.
        """
        one_hot = self._flat(one_hot).reshape(np.shape(one_hot))
        if self.applicability is None:
            return np.zeros(len(one_hot), dtype=bool)
        blocks = np.tensordot(one_hot, self.is_block, axes=2)
        return self.applicability.outside(self.predict(one_hot), blocks, self._doubt(one_hot), one_hot)

    @cached_property
    def is_block(self) -> Array:
        """(L, K): 0 for an operator that is nothing where it stands, else 1."""
        layers = range(len(self.space.layers))
        found: Array = np.array(
            [[float(not self.space.at(layer, one).is_identity) for one in self.space.operators] for layer in layers]
        )
        return found

    def _doubt(self, one_hot: NDArray[Any]) -> Array | None:
        """(B, L, K) -> (B,) standard deviation of the model alone, where it knows."""
        return None

    def to_json(self) -> dict[str, Any]:
        return {
            "kind": "predictor",
            "schema": SCHEMA,
            "type": self.type,
            "metric": self.metric,
            "unit": self.unit,
            "batch": self.batch,
            "space": self.space.name,
            "space_sha256": self.space.sha256,
            "space_definition": self.space.to_json(),
            "fingerprint": self.fingerprint,
            "simulated": self.simulated,
            "fit": self.fit,
            "parameters": self.parameters(),
        }

    def save(self, path: Path) -> None:
        """Written beside and renamed: a reader never meets half a predictor."""
        path = Path(path)
        part = path.with_name(path.name + ".part")
        part.write_text(json.dumps(self.to_json(), allow_nan=False), encoding="utf-8")
        os.replace(part, path)

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
    """What a space offers under a predictor, in its unit. `exact` is False when the ends were searched for, not computed."""

    lowest: float
    cheapest: Architecture
    median: float  # of random architectures
    highest: float
    dearest: Architecture
    unit: str
    exact: bool = True

    def __str__(self) -> str:
        low, high, median = (f"{value:.4g}" for value in (self.lowest, self.highest, self.median))
        return f"{low} to {high} {self.unit}, median of random networks {median} {self.unit}"


def reachable_range(predictor: Predictor) -> Range:
    """Cheapest, median and dearest network of the space under the predictor.

    The ends are exact for linear predictors; otherwise the best of a local search from many starts.
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


def one_hot_of(space: Space, indices: NDArray[np.integer[Any]]) -> Array:
    """(B, L) positions in `space.operators` -> (B, L, K)."""
    found: Array = np.eye(len(space.operators))[np.asarray(indices)]
    return found


def _descend(predictor: Predictor, starts: NDArray[np.int64], sign: int) -> NDArray[np.int64]:
    """The best network that single changes lead to, from any of the starts."""
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

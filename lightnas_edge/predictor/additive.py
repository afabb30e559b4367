"""The additive predictor: a constant and one cost per operator at a shape, known as a joint normal distribution.

Latency of a network = constant + sum of the costs of its operators. Equal shapes share one cost. A skip that keeps its
shape costs nothing, since it is no node of the graph. Before any network is measured, costs follow the table:

    cost[key] = scale_factor * table[key] + overhead + deviation[key]    constant = scale_factor * table[fixed] + offset

`scale_factor` is near 1; `overhead` is what an operator loses or gains inside a network (launch, fusion, reformatting);
`offset` is the same for the fixed ends; deviations are proportional to the table's entries, in addition to their
measurement error.

Once networks are measured, the table becomes evidence with errors of its own: costs follow multiplications and memory
traffic, at prices to be learned; operators of one kind, place, kernel or expansion share a deviation from that; and the
entries are noisy observations of those costs. Without a table the same prior is fitted to the networks alone.

The model is linear with normal priors, so the posterior after measuring networks is exact. The prior scales and
the noise maximise the marginal likelihood of networks and table under a broad prior around the stated defaults.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lightnas_edge.errors import PredictorError
from lightnas_edge.predictor.applicability import UNKNOWN, ApplicabilityDomain
from lightnas_edge.predictor.base import Array, Origin, Predictor
from lightnas_edge.predictor.bounds import ConvexBound
from lightnas_edge.predictor.calibration import uncalibrated
from lightnas_edge.predictor.distance import DistantDiscrepancy
from lightnas_edge.predictor.joint import Joint
from lightnas_edge.predictor.observations import Observations
from lightnas_edge.predictor.terms import Terms
from lightnas_edge.records.predictor import AdditiveParameters, Calibration, DistantParameters
from lightnas_edge.space import Architecture, Space

if TYPE_CHECKING:
    import torch

_LEAST = 1e-3  # of the highest prediction; the fastest network of a space takes a hundredth or more of the slowest


class AdditivePredictor(Predictor):
    """Normal distribution over (1 + P,) costs: the constant, then one per operator at a shape.

    Few or noisy measurements may leave the fastest networks, which nobody measured, a sum of costs below zero. No network is
    predicted below `least`, a thousandth of the highest prediction.

    Args:
        mean: (1 + P,) expected costs.
        covariance: (1 + P, 1 + P).
        noise: standard deviation of a measured network around the sum of the true costs.
        discrepancy: the part of `noise` that is the model's, and not of measuring; all of it when None.
        distant: the discrepancy of networks far from the measured ones; None: it is the same everywhere.
        applicability: `UNKNOWN` where the measured networks are not known.
    """

    type = "additive"

    def __init__(
        self,
        space: Space,
        origin: Origin,
        mean: Array,
        covariance: Array,
        noise: float,
        *,
        discrepancy: float | None = None,
        distant: DistantDiscrepancy | None = None,
        applicability: ApplicabilityDomain = UNKNOWN,
        terms: Terms | None = None,
    ) -> None:
        super().__init__(space, origin)
        self.terms = terms or Terms.of(space)
        self.mean = mean
        self.covariance = covariance
        self.noise = noise
        self.discrepancy = noise if discrepancy is None else discrepancy
        self.distant = distant
        self.applicability = applicability
        self._cost = self.terms.spread_out(mean)  # (L, K)
        highest = float(mean[0] + self._cost.max(axis=1).sum())
        self.least = _LEAST * highest if highest > 0 else -math.inf

    def predict(self, one_hot: NDArray[Any]) -> Array:
        predicted: Array = np.maximum(self._sum(one_hot), self.least)
        return predicted

    def predict_indices(self, indices: NDArray[np.integer[Any]]) -> Array:
        total = np.full(len(indices), self.mean[0])
        for layer, cost in enumerate(self._cost):
            total += cost[indices[:, layer]]
        predicted: Array = np.maximum(total, self.least)
        return predicted

    def upper(self, one_hot: NDArray[Any], confidence: float) -> Array:
        bound: Array = np.maximum(self._sum(one_hot) + self.quantile(confidence) * self.deviation(one_hot), self.least)
        return bound

    def _sum(self, one_hot: NDArray[Any]) -> Array:
        """(B, L, K) -> (B,) of the expected costs, which may be below zero."""
        found: Array = self._flat(one_hot) @ self._cost.ravel() + self.mean[0]
        return found

    def deviation(self, one_hot: NDArray[Any]) -> Array:
        return np.hypot(self._model_std(one_hot), self.floor_std(one_hot))

    def floor_std(self, one_hot: NDArray[Any]) -> Array:
        """(B, L, K) -> (B,) the part of `deviation` that no further measurement of other networks reduces."""
        found: Array = np.hypot(self.noise, self._distant_std(self._flat(one_hot)))
        return found

    def _distant_std(self, flat: Array) -> Array:
        """(B, L*K) -> (B,)"""
        if self.distant is None or self.distant_factor is None:
            return np.zeros(len(flat))
        away = flat @ self.distant_factor[1:] + self.distant_factor[0]
        found: Array = np.maximum((away**2).sum(axis=1) - self.distant.step_std, 0.0)
        return found

    def covariance_of(self, one_hot: NDArray[Any]) -> Array:
        """(B, L, K) -> (B, B) of measurements of networks, without their own errors: networks of one kind err together."""
        flat = self._flat(one_hot)
        along = flat @ self.factor[1:] + self.factor[0]
        found: Array = along @ along.T + self.discrepancy**2 * np.eye(len(flat))
        if self.distant_factor is not None:
            away = flat @ self.distant_factor[1:] + self.distant_factor[0]
            away /= np.maximum(np.linalg.norm(away, axis=1, keepdims=True), 1e-300)
            std = self._distant_std(flat)
            found += np.outer(std, std) * (away @ away.T) ** 2
        return found

    def _model_std(self, one_hot: NDArray[Any]) -> Array:
        flat, factor = self._flat(one_hot), self.factor
        model_std: Array = np.sqrt(((flat @ factor[1:] + factor[0]) ** 2).sum(axis=1))
        return model_std

    @cached_property
    def factor(self) -> Array:
        """(1 + L*K, R): the variance of a prediction is the squared length of `[1, one-hot] @ factor`."""
        values, vectors = np.linalg.eigh(self.covariance)
        kept = values > 1e-14 * max(float(values[-1]), 1e-300)
        root = vectors[:, kept] * np.sqrt(values[kept])
        places = self.terms.spread_out(root).reshape(self.terms.position.size, root.shape[1])
        return np.concatenate([root[:1], places])

    @cached_property
    def distant_factor(self) -> Array | None:
        """(1 + L*K, D): as `DistantDiscrepancy.factor`, for `[1, one-hot]`."""
        if self.distant is None:
            return None
        factor = self.distant.factor
        places = self.terms.spread_out(factor).reshape(self.terms.position.size, factor.shape[1])
        return np.concatenate([factor[:1], places])

    def torch_module(self) -> torch.nn.Module:
        from lightnas_edge.predictor._torch import additive_module

        return additive_module(self.mean[0], self._cost, self.least)

    def linear_terms(self) -> tuple[float, Array]:
        return float(self.mean[0]), self._cost.copy()

    def convex_bound(self, confidence: float | None) -> ConvexBound | None:
        if confidence is None:
            return super().convex_bound(None)
        if confidence < 0.5:  # the deviation would be subtracted
            return None
        z = max(self.quantile(confidence), 0.0)
        start = 0.0 if self.distant is None else self.distant.step_std
        return ConvexBound(
            float(self.mean[0]), self._cost, z, self.factor, self.noise, self.distant_factor, start, self.least
        )

    def updated(self, observations: Observations) -> AdditivePredictor:
        """The posterior after more networks, in closed form; the noise level is kept.

        Raises:
            FingerprintError: they were measured on another board or in another state.
            PredictorError: they are of another metric.
        """
        self.require_same_board(observations.fingerprint, "the measured networks")
        if observations.metric != self.metric:
            raise PredictorError(
                f"the predictor is of {self.metric}, the measured networks are of {observations.metric}"
            )
        common_error = observations.common_error_of(self.predict_indices(observations.indices))
        return self._after(observations.indices, observations.value, observations.standard_error, common_error)

    def updated_with(self, architecture: Architecture, value: float, standard_error: float) -> AdditivePredictor:
        """The posterior after one more measurement of a network, normalised to the reference session."""
        indices = architecture.indices(self.space)[None]
        return self._after(indices, np.array([value]), np.array([standard_error]), np.zeros((1, 0)))

    def _after(
        self, indices: NDArray[np.integer[Any]], value: Array, standard_error: Array, common_error: Array
    ) -> AdditivePredictor:
        counts = self.terms.counts(indices)
        variance = standard_error**2 + self.discrepancy**2
        joint = Joint(self.mean, self.covariance).with_sessions(common_error)
        seen = np.concatenate([counts, common_error], axis=1)
        mean, covariance = joint.after(seen, value, variance).costs(len(self.mean))
        networks = self.fit.networks + len(value)
        # Without a leave-one-out error no network was held out, and the tails follow the number of networks alone.
        calibration = uncalibrated(networks) if self.fit.leave_one_out_rmse is None else self.fit.calibration
        fit = self.fit.changed(networks=networks, calibration=calibration, held_out=None)
        # The costs take up what networks of this kind have in common, and such networks are no longer far away.
        distant = None if self.distant is None else self.distant.extended(counts, self.fit.networks)
        applicability = self.applicability.extended(value, counts[:, 1:].sum(axis=1))
        return AdditivePredictor(
            self.space, replace(self.origin, fit=fit), mean, covariance, self.noise, discrepancy=self.discrepancy,
            distant=distant, applicability=applicability, terms=self.terms,
        )  # fmt: skip

    def of_measured(self, one_hot: NDArray[Any], value: Array, standard_error: Array) -> tuple[Array, Array]:
        """Measured networks themselves, by their own measurements and by what all measurements say of their costs.

        The costs have learned from these networks already (`updated`). Of what is left between a network's measurement and the sum of its
        costs, the part that the discrepancy explains is the network's own; the rest is the error of its measurement. So of many
        measured networks, the fastest one is not taken for as fast as it was measured.

        Args:
            one_hot: (n, L, K). value: (n,) measured, in the reference session. standard_error: (n,) of each.

        Returns:
            (n,) expected values and (n,) their standard deviations.
        """
        own = np.hypot(self.discrepancy, self._distant_std(self._flat(one_hot))) ** 2
        share = own / np.maximum(own + standard_error**2, 1e-300)
        predicted = self.predict(one_hot)
        variance = ((1 - share) * self._model_std(one_hot)) ** 2 + share * standard_error**2
        return predicted + share * (value - predicted), np.sqrt(variance)

    def scaled(self, factor: float, calibration: Calibration) -> AdditivePredictor:
        """The same predictions, with every deviation multiplied by a factor."""
        return AdditivePredictor(
            self.space, replace(self.origin, fit=self.fit.changed(calibration=calibration)), self.mean,
            factor**2 * self.covariance, factor * self.noise, discrepancy=factor * self.discrepancy,
            distant=None if self.distant is None else replace(self.distant, step_std=factor * self.distant.step_std),
            applicability=self.applicability.scaled(factor), terms=self.terms,
        )  # fmt: skip

    def parameters(self) -> AdditiveParameters:
        lower = np.tril_indices(len(self.mean))
        return AdditiveParameters(
            constant=float(self.mean[0]),
            cost={key: float(cost) for key, cost in zip(self.terms.keys, self.mean[1:], strict=True)},
            covariance_lower=tuple(self.covariance[lower].tolist()),
            noise=float(self.noise),
            discrepancy=float(self.discrepancy),
            distant=None
            if self.distant is None
            else DistantParameters(
                step_std=self.distant.step_std, directions=tuple(map(tuple, self.distant.root.T.tolist()))
            ),
            applicability_domain=self.applicability.to_record(),
        )

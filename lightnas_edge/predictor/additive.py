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
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

import luts
from lightnas_edge.errors import PredictorError
from lightnas_edge.measuring.commands import sample_command
from lightnas_edge.predictor._evidence import JITTER, cholesky, fit_prior_scales
from lightnas_edge.predictor.applicability import UNKNOWN, UNMEASURED, ApplicabilityDomain
from lightnas_edge.predictor.base import Array, Origin, Predictor
from lightnas_edge.predictor.calibration import calibrate, leave_one_out, uncalibrated
from lightnas_edge.predictor.metrics import checked
from lightnas_edge.predictor.observations import Observations, load_observations
from lightnas_edge.records.differences import require_equal_fingerprints
from lightnas_edge.records.predictor import AdditiveParameters, Calibration, FitRecord, TransferSource
from lightnas_edge.space import SE_REDUCTION, Architecture, Operator, ShapedOperator, Space

if TYPE_CHECKING:
    import torch

_CHUNK = 500  # networks per exact update; updates compose, so this bounds memory, not accuracy
_UNKNOWN_ERROR = 0.05  # relative, of an entry measured in one or two rounds
_EVIDENCE_NETWORKS = 200  # more networks hardly change the prior scales


@dataclass(frozen=True)
class Terms:
    """Which costs a space has: the constant first, then one per distinct operator at a shape."""

    space: Space
    keys: tuple[str, ...]  # (P,)
    position: NDArray[np.int64]  # (L, K) in 1..P; 0 for an identity, which costs nothing

    @classmethod
    def of(cls, space: Space) -> Terms:
        keys: dict[str, int] = {}
        position = np.zeros((len(space.layers), len(space.operators)), dtype=np.int64)
        for layer in range(len(space.layers)):
            for column, operator in enumerate(space.operators):
                shaped = space.at(layer, operator)
                if not shaped.is_identity:
                    position[layer, column] = keys.setdefault(shaped.key, len(keys) + 1)
        return cls(space, tuple(keys), position)

    def shaped(self) -> list[ShapedOperator]:
        """(P,) in the order of `keys`."""
        by_key = {shaped.key: shaped for shaped in self.space.shaped_operators()}
        return [by_key[key] for key in self.keys]

    def counts(self, indices: NDArray[np.integer[Any]]) -> Array:
        """(n, L) -> (n, 1 + P): one constant, and how often the network has each operator."""
        found = np.zeros((len(indices), 1 + len(self.keys)))
        places = self.position[np.arange(len(self.space.layers)), indices]
        np.add.at(found, (np.arange(len(indices))[:, None], places), 1.0)
        found[:, 0] = 1.0
        return found

    def spread_out(self, values: Array) -> Array:
        """(1 + P, ...) -> (L, K, ...), zero for identities."""
        places: Array = values[self.position].copy()
        places[self.position == 0] = 0.0
        return places


class AdditivePredictor(Predictor):
    """Normal distribution over (1 + P,) costs: the constant, then one per operator at a shape.

    Args:
        mean: (1 + P,) expected costs.
        covariance: (1 + P, 1 + P).
        noise: standard deviation of a measured network around the sum of the true costs.
        discrepancy: the part of `noise` that is the model's, and not of measuring; all of it when None.
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
        applicability: ApplicabilityDomain = UNKNOWN,
        terms: Terms | None = None,
    ) -> None:
        super().__init__(space, origin)
        self.terms = terms or Terms.of(space)
        self.mean = mean
        self.covariance = covariance
        self.noise = noise
        self.discrepancy = noise if discrepancy is None else discrepancy
        self.applicability = applicability
        self._cost = self.terms.spread_out(mean)  # (L, K)

    def predict(self, one_hot: NDArray[Any]) -> Array:
        predicted: Array = self._flat(one_hot) @ self._cost.ravel() + self.mean[0]
        return predicted

    def predict_indices(self, indices: NDArray[np.integer[Any]]) -> Array:
        total = np.full(len(indices), self.mean[0])
        for layer, cost in enumerate(self._cost):
            total += cost[indices[:, layer]]
        return total

    def deviation(self, one_hot: NDArray[Any]) -> Array:
        return np.hypot(self._model_std(one_hot), self.noise)

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

    def torch_module(self) -> torch.nn.Module:
        from lightnas_edge.predictor._torch import additive_module

        return additive_module(self.mean[0], self._cost)

    def linear_terms(self) -> tuple[float, Array]:
        return float(self.mean[0]), self._cost.copy()

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
        return self._after(observations.indices, observations.value, observations.standard_error)

    def updated_with(self, architecture: Architecture, value: float, standard_error: float) -> AdditivePredictor:
        """The posterior after one more measurement of a network, normalised to the reference session."""
        return self._after(architecture.indices(self.space)[None], np.array([value]), np.array([standard_error]))

    def _after(self, indices: NDArray[np.integer[Any]], value: Array, standard_error: Array) -> AdditivePredictor:
        counts = self.terms.counts(indices)
        variance = standard_error**2 + self.discrepancy**2
        mean, covariance = _condition(self.mean, self.covariance, counts, value, variance)
        networks = self.fit.networks + len(value)
        # Without a leave-one-out error no network was held out, and the tails follow the number of networks alone.
        calibration = uncalibrated(networks) if self.fit.leave_one_out_rmse is None else self.fit.calibration
        fit = self.fit.changed(networks=networks, calibration=calibration, held_out=None)
        applicability = self.applicability.extended(value, counts[:, 1:].sum(axis=1))
        return AdditivePredictor(
            self.space, replace(self.origin, fit=fit), mean, covariance, self.noise, discrepancy=self.discrepancy,
            applicability=applicability, terms=self.terms,
        )  # fmt: skip

    def parameters(self) -> AdditiveParameters:
        lower = np.tril_indices(len(self.mean))
        return AdditiveParameters(
            constant=float(self.mean[0]),
            cost={key: float(cost) for key, cost in zip(self.terms.keys, self.mean[1:], strict=True)},
            covariance_lower=tuple(self.covariance[lower].tolist()),
            noise=float(self.noise),
            discrepancy=float(self.discrepancy),
            applicability_domain=self.applicability.to_record(),
        )


def lut_predictor(space: Space, lut: luts.Lut, *, metric: str = "latency_ms") -> AdditivePredictor:
    """The table alone: the sum of its entries, with the uncertainty that such sums usually have.

    For a latency it is the sum of the operators' robust costs: an estimate of the median without the machine's noise.

    Raises:
        LutMissError: the table lacks operators of the space, or this metric of some; names them all.
        PredictorError: the table is of another space; there is no such metric, or it is one of whole networks alone.
    """
    if metric in luts.NETWORK_METRICS:
        raise PredictorError(
            f"a table of operators does not give {metric} of a network: a sum of robust costs has no tail",
            hint=f"measure whole networks: {sample_command(space, lut.fingerprint)}; then `lightnas-edge fit "
            f"--space {space.name} --lut FILE --samples FILE --metric {metric}`",
        )
    return _fit(space, lut, None, checked(metric))


def fit_additive(
    space: Space,
    lut: luts.Lut | None,
    samples: Sequence[luts.Lut] | Observations,
    *,
    metric: str | None = None,
    prior: AdditivePredictor | None = None,
) -> AdditivePredictor:
    """The table as prior, measured networks as evidence; without samples the table alone, without a table the samples.

    Args:
        metric: what to predict; that of the observations, or latency_ms, when None.
        prior: predictor of another board, power mode or batch size; the networks scale and correct its costs. It takes
            the place of a table.

    Raises:
        LutMissError: the table lacks operators of the space, or the metric of some.
        PredictorError: neither a table nor samples; networks of another space, or measured without the metric.
        FingerprintError: files of different boards or states.
    """
    if isinstance(samples, Observations):
        observations: Observations | None = samples
        if metric not in (None, samples.metric):
            raise PredictorError(f"the measured networks are of {samples.metric}, not of {metric}")
        if lut is not None:
            require_equal_fingerprints(lut.fingerprint, samples.fingerprint, "the table and the measured networks")
    else:
        observations = load_observations(space, samples, lut, metric=metric or "latency_ms") if samples else None
    if observations is None and lut is not None and prior is None:
        return lut_predictor(space, lut, metric=metric or "latency_ms")
    metric = checked(metric or (observations.metric if observations else "latency_ms"))
    if prior is not None:
        if lut is not None or observations is None:
            raise PredictorError(
                "a predictor is transferred to another board with measured networks of that board, and without a table",
                hint=f"measure the reference networks of the board: {sample_command(space, None, '--count', '10')}",
            )
        if prior.space.sha256 != space.sha256 or prior.metric != metric:
            raise PredictorError(
                f"the prior is of {prior.metric} in space {prior.space.name}, the networks are of {metric} in {space.name}"
            )
    if lut is None and observations is None:
        raise PredictorError("a predictor needs a table, measured networks, or both")
    return _fit(space, lut, observations, metric, prior)


def _fit(
    space: Space,
    lut: luts.Lut | None,
    observations: Observations | None,
    metric: str,
    other: AdditivePredictor | None = None,
) -> AdditivePredictor:
    terms = Terms.of(space)
    if other is not None:
        assert observations is not None
        prior = _transfer_prior(terms, other, observations)
        mean, covariance, scales = _posterior(prior, terms, observations)
    elif observations is None:
        assert lut is not None
        prior = _table_prior(_Entries.of(terms, lut, metric))
        scales = prior.scales
        mean, covariance = prior.costs(scales)
    elif lut is None:
        prior = _physical_prior(terms, float(np.median(observations.value)))
        mean, covariance, scales = _posterior(prior, terms, observations)
    else:
        entries = _Entries.of(terms, lut, metric)
        first, _, _ = _posterior(_informed_prior(terms, entries, entries.value), terms, observations)
        # Once more, now that the costs are known better: the scale factor of a table is one on costs, not on its own errors.
        prior = _informed_prior(terms, entries, first)
        mean, covariance, scales = _posterior(prior, terms, observations)
    noise = discrepancy = scales.pop("noise")
    applicability = UNMEASURED
    calibration = leave_one_out_rmse = None
    if observations is not None:
        # A measurement differs by the discrepancy of the model and by the mean error of measuring.
        noise = math.sqrt(discrepancy**2 + float(np.mean(observations.standard_error**2)))
        counts = terms.counts(observations.indices)
        variance = discrepancy**2 + observations.standard_error**2
        held_out = leave_one_out(mean, covariance, counts, observations.value, variance)
        found = calibrate(held_out.residual / np.hypot(held_out.model_std, noise))
        factor = found.std_factor
        # One factor on all of it: later updates keep their weights, and every interval gets its calibrated width.
        covariance, noise, discrepancy = factor**2 * covariance, factor * noise, factor * discrepancy
        blocks = counts[:, 1:].sum(axis=1)
        applicability = ApplicabilityDomain(
            "measured",
            (float(observations.value.min()), float(observations.value.max())),
            (int(blocks.min()), int(blocks.max())),
            factor * float(held_out.model_std.max()),
        )
        calibration = Calibration(std_factor=_rounded(factor), degrees_of_freedom=found.degrees_of_freedom)
        leave_one_out_rmse = _rounded(float(np.sqrt(np.mean(held_out.residual**2))))
    source = lut if lut is not None else observations
    assert source is not None
    simulated = source.simulated or (observations is not None and observations.simulated)
    transfer = None
    if other is not None:
        assert observations is not None
        simulated |= other.simulated
        transfer = TransferSource(
            fingerprint=other.fingerprint, networks=other.fit.networks, simulated=other.simulated,
            ratio=_rounded(_ratio(other, observations)),
        )  # fmt: skip
    fit = FitRecord(
        method=prior.name if observations is None else f"{prior.name}, Bayesian linear regression on whole networks",
        networks=0 if observations is None else len(observations),
        calibration=calibration,
        prior_scales={name: _rounded(value) for name, value in {**scales, "noise": noise}.items()},
        leave_one_out_rmse=leave_one_out_rmse,
        alignment=() if observations is None else observations.notes,
        prior=transfer,
    )
    origin = Origin(source.fingerprint, simulated, source.batch, metric, fit)
    return AdditivePredictor(
        space, origin, mean, covariance, noise, discrepancy=discrepancy, applicability=applicability, terms=terms
    )


@dataclass(frozen=True)
class Split:
    """Networks less the sum of their table's entries, in parts that add up; n networks, P operators at a shape."""

    sums: Array  # (n,) of the table
    parts: dict[str, Array]  # fixed_overhead, block_overhead, scale_factor, operators, unexplained: (n,) each
    errors: dict[str, float]  # standard deviation of each part's mean over the networks
    per_operator: Array  # (P,) deviation of each operator in a network from its entry, without the parts that all share


def split_difference(space: Space, lut: luts.Lut, observations: Observations) -> Split:
    """The most probable parts of the difference between whole networks and the sum of a table.

    Raises:
        LutMissError: the table lacks operators of the space, or the metric of some.
    """
    terms = Terms.of(space)
    prior = _table_prior(_Entries.of(terms, lut, observations.metric))
    scales = _fit_scales(prior, terms, observations)
    counts = terms.counts(observations.indices)
    sums = counts @ prior.mean
    roots = {name: scales[name] * part.costs for name, part in prior.parts.items()}
    roots = {
        "fixed_overhead": roots["offset"],
        "block_overhead": roots["overhead"],
        "scale_factor": roots["scale_factor"],
        "operators": np.concatenate([roots["deviation"], roots["measuring"]], axis=1),
    }
    seen = {name: counts @ root for name, root in roots.items()}
    noise = observations.standard_error**2 + scales["noise"] ** 2
    total = sum((rows @ rows.T for rows in seen.values()), np.diag(noise))
    factor = cholesky(total)
    solved = linalg.cho_solve(factor, observations.value - sums)
    parts = {name: rows @ (rows.T @ solved) for name, rows in seen.items()}
    parts["unexplained"] = noise * solved
    mean = np.full(len(sums), 1 / len(sums))
    errors = {}
    for name, rows in seen.items():
        along = rows @ (rows.T @ mean)
        errors[name] = math.sqrt(max(float(mean @ along - along @ linalg.cho_solve(factor, along)), 0.0))
    deviations = roots["operators"] @ (seen["operators"].T @ solved)
    return Split(sums, parts, errors, deviations[1:])


# -- priors ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Part:
    """One unknown: it adds prior_scale * columns @ standard normal to the costs and to the entries of a table."""

    costs: Array  # (1 + P, R) as networks show them
    entries: Array  # (1 + P, R) as the table shows them
    prior_scale: float  # by default
    factor: float  # one standard deviation of the prior scale around its default


@dataclass(frozen=True)
class _Prior:
    """Costs are the mean plus all parts; so are the entries of the table, where it is evidence."""

    name: str
    mean: Array  # (1 + P,)
    parts: dict[str, _Part]
    noise: float  # of a measured network, by default; in the metric's unit
    noise_factor: float
    table: Array | None = None  # (1 + P,) the entries seen

    @property
    def scales(self) -> dict[str, float]:
        return {**{name: part.prior_scale for name, part in self.parts.items()}, "noise": self.noise}

    @property
    def factors(self) -> dict[str, float]:
        return {**{name: part.factor for name, part in self.parts.items()}, "noise": self.noise_factor}

    def costs(self, scales: dict[str, float]) -> tuple[Array, Array]:
        """Mean and covariance of the costs under the table, before any network."""
        costs = np.concatenate([scales[name] * part.costs for name, part in self.parts.items()], axis=1)
        covariance: Array = costs @ costs.T
        if self.table is None:
            return self.mean, covariance
        entries = np.concatenate([scales[name] * part.entries for name, part in self.parts.items()], axis=1)
        seen = entries @ entries.T
        factor = cholesky(seen + JITTER * np.trace(seen) * np.eye(len(seen)))
        cross = entries @ costs.T
        gain = linalg.cho_solve(factor, cross)
        covariance = covariance - cross.T @ gain
        return self.mean + gain.T @ (self.table - self.mean), (covariance + covariance.T) / 2


@dataclass(frozen=True)
class _Entries:
    """A table in the order of the costs: the fixed ends as one, then every operator."""

    value: Array  # (1 + P,)
    error: Array  # (1 + P,) standard error of measuring each
    typical: float  # mean over random networks
    per_layer: Array  # (1 + P,) a typical layer's cost; 0 for the ends

    @classmethod
    def of(cls, terms: Terms, lut: luts.Lut, metric: str) -> _Entries:
        space = terms.space
        values, errors = lut.quantities([shaped.key for shaped in space.fixed] + list(terms.keys), metric)
        errors = np.where(np.isfinite(errors), errors, _UNKNOWN_ERROR * np.abs(values))
        ends = len(space.fixed)
        table = np.concatenate([[values[:ends].sum()], values[ends:]])
        measuring = np.concatenate([[math.sqrt(float((errors[:ends] ** 2).sum()))], errors[ends:]])
        typical = float(table[0] + terms.spread_out(table).mean(axis=1).sum())
        per_layer = np.full(len(table), typical / len(space.layers))
        per_layer[0] = 0.0
        return cls(table, measuring, typical, per_layer)


def _table_prior(entries: _Entries) -> _Prior:
    """The sum of the entries, and how whole networks usually differ from it."""
    table, width = entries.value, len(entries.value)
    none = np.zeros((width, 1))
    deviations = np.diag(table)
    deviations[0, 0] = 0.0
    every = np.zeros((width, width))
    return _Prior(
        "table",
        table,
        {
            "scale_factor": _Part(table[:, None], none, 0.05, 2.0),
            "offset": _Part(_column(width, 0, entries.typical), none, 0.05, 3.0),
            "overhead": _Part(entries.per_layer[:, None], none, 0.05, 3.0),
            "deviation": _Part(deviations, every, 0.04, 2.0),
            "measuring": _Part(np.diag(entries.error), every, 1.0, 1.2),
        },
        0.005 * entries.typical,
        3.0,
    )


def _informed_prior(terms: Terms, entries: _Entries, scaled: Array) -> _Prior:
    """Costs that follow what operators compute and move; the table's entries are noisy observations of them.

    The size of that noise is learned from the networks and from how well the entries follow the work.

    Args:
        scaled: (1 + P,) costs that the scale factor between table and networks multiplies.
    """
    physical = _physical_prior(terms, entries.typical)
    plain = _table_prior(entries)
    width = len(entries.value)
    none, every = np.zeros((width, 1)), np.zeros((width, width))
    parts = {
        **{f"work: {name}": replace(part, entries=part.costs) for name, part in physical.parts.items()},
        "scale_factor": replace(plain.parts["scale_factor"], costs=scaled[:, None], entries=none),
        "offset": plain.parts["offset"],
        "overhead": plain.parts["overhead"],
        "deviation": replace(plain.parts["deviation"], prior_scale=0.02),
        "table": _Part(every, np.diag(entries.value), 0.03, 2.0),
        "measuring": _Part(every, np.diag(entries.error), 1.0, 1.2),
    }
    return _Prior("table", physical.mean, parts, plain.noise, plain.noise_factor, table=entries.value)


def _physical_prior(terms: Terms, typical: float) -> _Prior:
    """Costs follow what the operators compute and move, at prices to be learned; similar operators share a deviation."""
    shaped = terms.shaped()
    features = np.array([_work(operator) for operator in shaped])  # (P, 3)
    layers = len(terms.space.layers)
    per_layer = features[terms.position - 1]
    per_layer[terms.position == 0] = 0.0
    features = features * typical / per_layer.mean(axis=1).sum(axis=0)  # each kind of work: a whole typical network
    share = features.mean(axis=1)
    size = 0.5 * share + 0.5 * typical / layers  # deviations of a cost are proportional to it
    width = len(terms.keys) + 1
    blocks = np.full(width, typical / layers)
    blocks[0] = 0.0
    mean = np.zeros(width)
    mean[0] = 0.1 * typical
    mean[1:] = 0.9 * share
    pad = np.zeros((1, 1))
    columns = {
        "pointwise": (np.concatenate([pad, features[:, :1]]), 0.5, 2.0),
        "depthwise": (np.concatenate([pad, features[:, 1:2]]), 0.5, 2.0),
        "traffic": (np.concatenate([pad, features[:, 2:]]), 0.5, 2.0),
        "offset": (_column(width, 0, typical), 0.3, 2.0),
        "overhead": (blocks[:, None], 0.3, 2.0),
        "operator": (_alike(size, [operator.block for operator in shaped]), 0.1, 3.0),
        "place": (_alike(size, [(_place(operator), operator.block == "skip") for operator in shaped]), 0.1, 3.0),
        "expansion": (_alike(size, [(_place(operator), _shape(operator)[1]) for operator in shaped]), 0.05, 3.0),
        "kernel": (
            _alike(size, [(operator.input_size, operator.stride, _shape(operator)[0]) for operator in shaped]),
            0.05,
            3.0,
        ),
        "deviation": (_alike(size, range(width - 1)), 0.15, 3.0),
    }
    parts = {name: _Part(column, np.zeros_like(column), *known) for name, (column, *known) in columns.items()}
    return _Prior("no table, costs from multiplications and memory traffic", mean, parts, 0.005 * typical, 5.0)


def _transfer_prior(terms: Terms, other: AdditivePredictor, observations: Observations) -> _Prior:
    """The costs of another board at this one's speed; the networks decide how the boards differ beyond that."""
    ratio = _ratio(other, observations)
    costs = ratio * other.mean
    typical = ratio * float(other.mean[0] + terms.spread_out(other.mean).mean(axis=1).sum())
    physical = _physical_prior(terms, typical)
    roots, vectors = np.linalg.eigh(other.covariance)
    uncertain = ratio * vectors * np.sqrt(np.maximum(roots, 0.0))
    deviations = np.diag(np.abs(costs))
    deviations[0, 0] = 0.0
    known = {
        "scale_factor": (costs[:, None], 0.1, 2.0),
        "deviation": (deviations, 0.05, 3.0),
        "transferred": (uncertain, 1.0, 1.2),
    }
    parts = {name: replace(part, prior_scale=0.3 * part.prior_scale) for name, part in physical.parts.items()}
    parts |= {
        name: _Part(column, np.zeros_like(column), prior_scale, factor)
        for name, (column, prior_scale, factor) in known.items()
    }
    return _Prior("another board's predictor", costs, parts, 0.005 * typical, 5.0)


def _ratio(other: AdditivePredictor, observations: Observations) -> float:
    """Median cost of the networks here over their predicted cost on the other board.

    Raises:
        PredictorError: it is not a positive number.
    """
    predicted = other.predict_indices(observations.indices)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = float(np.median(observations.value / predicted))
    if not 0 < ratio < math.inf:
        raise PredictorError(
            f"the prior predicts {np.median(predicted):.4g} {other.unit} for networks that measure "
            f"{np.median(observations.value):.4g} {other.unit}: no scale factor relates them",
            hint="use a predictor of the same metric with positive predictions",
        )
    return ratio


def _alike(size: Array, group: Sequence[object]) -> Array:
    """(P,), P names -> (1 + P, groups): operators of one group deviate together, each in proportion to its size."""
    found: dict[object, int] = {}
    places = [found.setdefault(name, len(found)) for name in group]
    columns = np.zeros((1 + len(size), len(found)))
    columns[np.arange(1, 1 + len(size)), places] = size
    return columns


def _place(shaped: ShapedOperator) -> tuple[int, int, int, int]:
    return shaped.in_channels, shaped.out_channels, shaped.input_size, shaped.stride


def _shape(shaped: ShapedOperator) -> tuple[int, int]:
    """(kernel, expansion), zeros for a skip."""
    operator = Operator.parse(shaped.block)
    return operator.kernel, operator.expansion


def _work(shaped: ShapedOperator) -> tuple[float, float, float]:
    """Multiplications in 1x1 convolutions, in depthwise ones, and activations read or written; per image."""
    pixels_in, pixels_out = shaped.input_size**2, shaped.output_size**2
    ends = shaped.in_channels * pixels_in + shaped.out_channels * pixels_out
    if shaped.block == "skip":
        return shaped.in_channels * shaped.out_channels * pixels_out, 0.0, ends
    operator = Operator.parse(shaped.block)
    hidden = shaped.in_channels * operator.expansion
    expand = shaped.in_channels * hidden * pixels_in if operator.expansion > 1 else 0
    pointwise = expand + hidden * shaped.out_channels * pixels_out
    traffic = ends + 2 * hidden * (pixels_in + pixels_out)
    if operator.squeeze_excite:  # the whole hidden tensor is read once to pool, and once more, then written, to rescale
        pointwise += 2 * hidden * (hidden // SE_REDUCTION)
        traffic += 3 * hidden * pixels_out
    return pointwise, operator.kernel**2 * hidden * pixels_out, traffic


def _column(length: int, position: int, value: float) -> Array:
    found = np.zeros((length, 1))
    found[position] = value
    return found


# -- the closed form ----------------------------------------------------------------------------------------------


def _condition(mean: Array, covariance: Array, counts: Array, value: Array, variance: Array) -> tuple[Array, Array]:
    """Posterior of normal costs after `value = counts @ costs + noise` of the given variance."""
    for start in range(0, len(value), _CHUNK):
        rows = slice(start, start + _CHUNK)
        seen = counts[rows]
        cross = seen @ covariance
        factor = cholesky(cross @ seen.T + np.diag(variance[rows]))
        gain = linalg.cho_solve(factor, cross)
        mean = mean + gain.T @ (value[rows] - seen @ mean)
        covariance = covariance - cross.T @ gain
        covariance = (covariance + covariance.T) / 2
    return mean, covariance


def _posterior(prior: _Prior, terms: Terms, observations: Observations) -> tuple[Array, Array, dict[str, float]]:
    """(mean, covariance, scales) of the costs after the networks."""
    scales = _fit_scales(prior, terms, observations)
    mean, covariance = prior.costs(scales)
    variance = observations.standard_error**2 + scales["noise"] ** 2
    counts = terms.counts(observations.indices)
    return *_condition(mean, covariance, counts, observations.value, variance), scales


def _fit_scales(prior: _Prior, terms: Terms, observations: Observations) -> dict[str, float]:
    """The prior scales, and the noise: the maximum of marginal likelihood times a broad prior on each."""
    if len(observations) > _EVIDENCE_NETWORKS:
        chosen = np.random.default_rng(0).permutation(len(observations))[:_EVIDENCE_NETWORKS]
        observations = observations.take(chosen)
    counts = terms.counts(observations.indices)
    unit = float(np.median(observations.value))
    residual = (observations.value - counts @ prior.mean) / unit
    own = (observations.standard_error / unit) ** 2
    noisy = np.ones(len(own))
    seen = {name: counts @ part.costs / unit for name, part in prior.parts.items()}
    if prior.table is not None:
        residual = np.concatenate([residual, (prior.table - prior.mean) / unit])
        own, noisy = (np.concatenate([values, np.zeros(len(prior.table))]) for values in (own, noisy))
        seen = {name: np.concatenate([seen[name], part.entries / unit]) for name, part in prior.parts.items()}
    kernels = [*(rows @ rows.T for rows in seen.values()), np.diag(noisy) / unit**2]
    found = fit_prior_scales(kernels, residual, own, list(prior.scales.values()), list(prior.factors.values()))
    return dict(zip(prior.scales, found.tolist(), strict=True))


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")

"""The additive predictor: a constant and one cost per operator at a shape, known as a joint normal distribution.

Latency of a network = constant + sum of the costs of its operators; equal shapes share one cost, and a skip that keeps
its shape costs nothing, for it is no node in any graph. Before any network is measured, the table speaks:

    cost[key] = scale * table[key] + overhead + deviation[key]        constant = scale * table[fixed] + offset

`scale` is near 1; `overhead` is what an operator loses or gains by standing in a network (launch, fusion,
reformatting), `offset` the same for the ends; deviations are in proportion to the table's entries, beside what measuring
them is known to err by.

Once networks are measured, the table is evidence too and no longer taken at its word: costs follow multiplications and
memory traffic, at prices to be learned; operators of one kind, one place, one kernel or one expansion differ from that
alike; and the entries show those costs with an error of their own, which operators that do not fit their likes give
away. Without a table the same prior learns from the networks alone.

All of it is linear with normal priors, so the posterior after measuring networks is exact; how wide each prior is (and
the noise) is taken from networks and table as far as they can tell, by maximising the marginal likelihood under a broad
prior around the stated defaults.
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
from lightnas_edge.errors import FingerprintError, PredictorError
from lightnas_edge.predictor._evidence import JITTER, most_likely_widths
from lightnas_edge.predictor.applicability import ApplicabilityDomain
from lightnas_edge.predictor.base import Array, Origin, Predictor
from lightnas_edge.predictor.calibration import calibrate, leave_one_out
from lightnas_edge.predictor.metrics import checked
from lightnas_edge.predictor.observations import Observations, load_observations
from lightnas_edge.space import SE_REDUCTION, Architecture, Operator, ShapedOperator, Space

if TYPE_CHECKING:
    import torch

_CHUNK = 500  # networks per exact update; updates compose, so this bounds memory, not accuracy
_UNKNOWN_ERROR = 0.05  # relative, of an entry measured in one or two rounds
_EVIDENCE_NETWORKS = 200  # more do not make the widths of the priors any better known


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
        """(n, L) -> (n, 1 + P): one constant, and how often each operator stands in the network."""
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
        misfit: the part of `noise` that is the model's, and not of measuring; all of it when None.
        support: which networks it has seen; None when it is not known.
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
        misfit: float | None = None,
        support: ApplicabilityDomain | None = None,
        terms: Terms | None = None,
    ) -> None:
        super().__init__(space, origin)
        self.terms = terms or Terms.of(space)
        self.mean = mean
        self.covariance = covariance
        self.noise = noise
        self.misfit = noise if misfit is None else misfit
        self.applicability = support
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
        return np.hypot(self._doubt(one_hot), self.noise)

    def _doubt(self, one_hot: NDArray[Any]) -> Array:
        flat, factor = self._flat(one_hot), self.factor
        doubt: Array = np.sqrt(((flat @ factor[1:] + factor[0]) ** 2).sum(axis=1))
        return doubt

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
        """The posterior after one more measurement of a network, in the metric's unit and at the table's speed."""
        return self._after(architecture.indices(self.space)[None], np.array([value]), np.array([standard_error]))

    def _after(self, indices: NDArray[np.integer[Any]], value: Array, standard_error: Array) -> AdditivePredictor:
        counts = self.terms.counts(indices)
        variance = standard_error**2 + self.misfit**2
        mean, covariance = _condition(self.mean, self.covariance, counts, value, variance)
        networks = int(self.fit.get("networks") or 0) + len(value)
        origin = replace(self.origin, fit={**self.fit, "networks": networks, "held_out": None})
        support = self.applicability and self.applicability.extended(value, counts[:, 1:].sum(axis=1))
        return AdditivePredictor(
            self.space, origin, mean, covariance, self.noise, misfit=self.misfit, support=support, terms=self.terms
        )

    def parameters(self) -> dict[str, Any]:
        lower = np.tril_indices(len(self.mean))
        return {
            "constant": float(self.mean[0]),
            "cost": {key: float(cost) for key, cost in zip(self.terms.keys, self.mean[1:], strict=True)},
            "covariance_lower": [float(value) for value in self.covariance[lower]],
            "noise": self.noise,
            "misfit": self.misfit,
            "support": self.applicability and self.applicability.to_json(),
        }


def lut_predictor(space: Space, lut: luts.Lut, *, metric: str = "latency_ms") -> AdditivePredictor:
    """The table alone: the sum of its entries, with the doubt that whole networks usually show about such sums.

    Raises:
        LutMissError: the table lacks operators of the space, or this metric of some; names them all.
        PredictorError: the table is of another space; there is no such metric.
    """
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
        prior: of another board, power mode or batch size: what it knows is scaled and corrected by the networks. It takes
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
        if lut is not None and samples.fingerprint != lut.fingerprint:
            raise FingerprintError(
                "the table and the measured networks are of different boards or states: "
                + "; ".join(
                    f"{name} {lut.fingerprint.get(name)!r} and {samples.fingerprint.get(name)!r}"
                    for name in sorted({*lut.fingerprint, *samples.fingerprint})
                    if lut.fingerprint.get(name) != samples.fingerprint.get(name)
                )
            )
    else:
        observations = load_observations(space, samples, lut, metric=metric or "latency_ms") if samples else None
    metric = checked(metric or (observations.metric if observations else "latency_ms"))
    if prior is not None:
        if lut is not None or observations is None:
            raise PredictorError(
                "what another board taught is carried over by measured networks of this one, without a table",
                hint="measure the reference set: lightnas-edge sample --count 10",
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
        prior = _carried_prior(terms, other, observations)
        mean, covariance, widths = _posterior(prior, terms, observations)
    elif observations is None:
        assert lut is not None
        prior = _table_prior(_Entries.of(terms, lut, metric))
        widths = prior.widths
        mean, covariance = prior.costs(widths)
    elif lut is None:
        prior = _physical_prior(terms, float(np.median(observations.value)))
        mean, covariance, widths = _posterior(prior, terms, observations)
    else:
        entries = _Entries.of(terms, lut, metric)
        first, _, _ = _posterior(_informed_prior(terms, entries, entries.value), terms, observations)
        # Once more, now that the costs are known better: a table's scale is a factor on costs, not on its own errors.
        prior = _informed_prior(terms, entries, first)
        mean, covariance, widths = _posterior(prior, terms, observations)
    noise = misfit = widths.pop("noise")
    support = ApplicabilityDomain()
    told: dict[str, Any] = {}
    if observations is not None:
        # What a measurement will show: the misfit of the model, and the error of measuring as it was here.
        noise = math.sqrt(misfit**2 + float(np.mean(observations.standard_error**2)))
        counts = terms.counts(observations.indices)
        variance = misfit**2 + observations.standard_error**2
        alone = leave_one_out(mean, covariance, counts, observations.value, variance)
        found = calibrate(alone.residual / np.hypot(alone.doubt, noise))
        # Scaling all of it leaves every later update as it is, and makes every interval as wide as it should have been.
        covariance, noise, misfit = found.scale**2 * covariance, found.scale * noise, found.scale * misfit
        blocks = counts[:, 1:].sum(axis=1)
        support = ApplicabilityDomain(
            (float(observations.value.min()), float(observations.value.max())),
            (int(blocks.min()), int(blocks.max())),
            found.scale * float(alone.doubt.max()),
        )
        told = {
            "calibration": {"scale": _rounded(found.scale), "degrees": found.degrees},
            "leave_one_out": {"rmse": _rounded(float(np.sqrt(np.mean(alone.residual**2))))},
        }
    source = lut if lut is not None else observations
    assert source is not None
    fit: dict[str, Any] = {
        "method": prior.name if observations is None else f"{prior.name}, Bayesian linear regression on whole networks",
        "networks": 0 if observations is None else len(observations),
        "prior_widths": {name: _rounded(value) for name, value in {**widths, "noise": noise}.items()},
        "alignment": [] if observations is None else list(observations.notes),
        "held_out": None,
        **told,
    }
    simulated = source.simulated or (observations is not None and observations.simulated)
    if other is not None:
        simulated |= other.simulated
        fit["prior"] = {
            "fingerprint": other.fingerprint, "networks": other.fit.get("networks"), "simulated": other.simulated,
            "ratio": _rounded(_ratio(other, observations)),
        }  # fmt: skip
    origin = Origin(source.fingerprint, simulated, source.batch, metric, fit)
    return AdditivePredictor(space, origin, mean, covariance, noise, misfit=misfit, support=support, terms=terms)


@dataclass(frozen=True)
class Split:
    """Networks less the sum of their table's entries, in parts that add up; n networks, P operators at a shape."""

    sums: Array  # (n,) of the table
    parts: dict[str, Array]  # scale, offset, overhead, deviation: (n,) each; `left` is in none of them
    errors: dict[str, float]  # standard deviation of each part's mean over the networks
    per_operator: Array  # (P,) deviation of each operator in a network from its entry, beyond what all have in common


def split_difference(space: Space, lut: luts.Lut, observations: Observations) -> Split:
    """Where whole networks differ from the sum of a table, as far as they tell: the most probable parts, given all.

    Raises:
        LutMissError: the table lacks operators of the space, or the metric of some.
    """
    terms = Terms.of(space)
    prior = _table_prior(_Entries.of(terms, lut, observations.metric))
    widths = _most_likely_widths(prior, terms, observations)
    counts = terms.counts(observations.indices)
    sums = counts @ prior.mean
    roots = {name: widths[name] * part.costs for name, part in prior.parts.items()}
    roots["deviation"] = np.concatenate([roots["deviation"], roots.pop("measuring")], axis=1)
    seen = {name: counts @ root for name, root in roots.items()}
    noise = observations.standard_error**2 + widths["noise"] ** 2
    total = sum((rows @ rows.T for rows in seen.values()), np.diag(noise))
    factor = linalg.cho_factor(total, lower=True)
    solved = linalg.cho_solve(factor, observations.value - sums)
    parts = {name: rows @ (rows.T @ solved) for name, rows in seen.items()}
    parts["left"] = noise * solved
    mean = np.full(len(sums), 1 / len(sums))
    errors = {}
    for name, rows in seen.items():
        along = rows @ (rows.T @ mean)
        errors[name] = math.sqrt(max(float(mean @ along - along @ linalg.cho_solve(factor, along)), 0.0))
    deviations = roots["deviation"] @ (seen["deviation"].T @ solved)
    return Split(sums, parts, errors, deviations[1:])


# -- priors ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Part:
    """One thing unknown: width * columns @ standard normal is what it adds, to costs and to the entries of a table."""

    costs: Array  # (1 + P, R) as networks show them
    entries: Array  # (1 + P, R) as the table shows them
    width: float  # by default
    doubt: float  # by which factor the default may be off (one standard deviation)


@dataclass(frozen=True)
class _Prior:
    """Costs are the mean and the sum of all parts; so are the entries of the table, where it is taken as evidence."""

    name: str
    mean: Array  # (1 + P,)
    parts: dict[str, _Part]
    noise: float  # of a measured network, by default; in the metric's unit
    noise_doubt: float
    table: Array | None = None  # (1 + P,) the entries seen

    @property
    def widths(self) -> dict[str, float]:
        return {**{name: part.width for name, part in self.parts.items()}, "noise": self.noise}

    @property
    def doubts(self) -> dict[str, float]:
        return {**{name: part.doubt for name, part in self.parts.items()}, "noise": self.noise_doubt}

    def costs(self, widths: dict[str, float]) -> tuple[Array, Array]:
        """Mean and covariance of the costs under the table, before any network."""
        costs = np.concatenate([widths[name] * part.costs for name, part in self.parts.items()], axis=1)
        covariance: Array = costs @ costs.T
        if self.table is None:
            return self.mean, covariance
        entries = np.concatenate([widths[name] * part.entries for name, part in self.parts.items()], axis=1)
        seen = entries @ entries.T
        factor = linalg.cho_factor(seen + JITTER * np.trace(seen) * np.eye(len(seen)), lower=True)
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
            "scale": _Part(table[:, None], none, 0.05, 2.0),
            "offset": _Part(_column(width, 0, entries.typical), none, 0.05, 3.0),
            "overhead": _Part(entries.per_layer[:, None], none, 0.05, 3.0),
            "deviation": _Part(deviations, every, 0.04, 2.0),
            "measuring": _Part(np.diag(entries.error), every, 1.0, 1.2),
        },
        0.005 * entries.typical,
        3.0,
    )


def _informed_prior(terms: Terms, entries: _Entries, scaled: Array) -> _Prior:
    """Costs that follow what operators compute and move, seen in isolation through the table, with its errors.

    How far the entries err is learned from both: from networks, and from how well the entries follow the work.

    Args:
        scaled: (1 + P,) costs that the scale between table and networks acts on.
    """
    physical = _physical_prior(terms, entries.typical)
    plain = _table_prior(entries)
    width = len(entries.value)
    none, every = np.zeros((width, 1)), np.zeros((width, width))
    parts = {
        **{f"work: {name}": replace(part, entries=part.costs) for name, part in physical.parts.items()},
        "scale": replace(plain.parts["scale"], costs=scaled[:, None], entries=none),
        "offset": plain.parts["offset"],
        "overhead": plain.parts["overhead"],
        "deviation": replace(plain.parts["deviation"], width=0.02),
        "table": _Part(every, np.diag(entries.value), 0.03, 2.0),
        "measuring": _Part(every, np.diag(entries.error), 1.0, 1.2),
    }
    return _Prior("table", physical.mean, parts, plain.noise, plain.noise_doubt, table=entries.value)


def _physical_prior(terms: Terms, typical: float) -> _Prior:
    """Costs follow what the operators compute and move, at prices to be learned; likes differ from it alike."""
    shaped = terms.shaped()
    features = np.array([_work(operator) for operator in shaped])  # (P, 3)
    layers = len(terms.space.layers)
    per_layer = features[terms.position - 1]
    per_layer[terms.position == 0] = 0.0
    features = features * typical / per_layer.mean(axis=1).sum(axis=0)  # each kind of work: a whole typical network
    share = features.mean(axis=1)
    size = 0.5 * share + 0.5 * typical / layers  # what a cost may deviate in proportion to
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


def _carried_prior(terms: Terms, other: AdditivePredictor, observations: Observations) -> _Prior:
    """The costs of another board at this one's speed; how boards differ beyond that is for the networks to say."""
    ratio = _ratio(other, observations)
    costs = ratio * other.mean
    typical = ratio * float(other.mean[0] + terms.spread_out(other.mean).mean(axis=1).sum())
    physical = _physical_prior(terms, typical)
    roots, vectors = np.linalg.eigh(other.covariance)
    doubted = ratio * vectors * np.sqrt(np.maximum(roots, 0.0))
    deviations = np.diag(np.abs(costs))
    deviations[0, 0] = 0.0
    known = {
        "scale": (costs[:, None], 0.1, 2.0),
        "deviation": (deviations, 0.05, 3.0),
        "carried": (doubted, 1.0, 1.2),
    }
    parts = {name: replace(part, width=0.3 * part.width) for name, part in physical.parts.items()}
    parts |= {
        name: _Part(column, np.zeros_like(column), width, doubt) for name, (column, width, doubt) in known.items()
    }
    return _Prior("another board's predictor", costs, parts, 0.005 * typical, 5.0)


def _ratio(other: AdditivePredictor, observations: Observations | None) -> float:
    """What the networks cost here over what they cost there."""
    assert observations is not None
    return float(np.median(observations.value / other.predict_indices(observations.indices)))


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
        factor = linalg.cho_factor(cross @ seen.T + np.diag(variance[rows]), lower=True)
        gain = linalg.cho_solve(factor, cross)
        mean = mean + gain.T @ (value[rows] - seen @ mean)
        covariance = covariance - cross.T @ gain
        covariance = (covariance + covariance.T) / 2
    return mean, covariance


def _posterior(prior: _Prior, terms: Terms, observations: Observations) -> tuple[Array, Array, dict[str, float]]:
    """(mean, covariance, widths) of the costs after the networks."""
    widths = _most_likely_widths(prior, terms, observations)
    mean, covariance = prior.costs(widths)
    variance = observations.standard_error**2 + widths["noise"] ** 2
    counts = terms.counts(observations.indices)
    return *_condition(mean, covariance, counts, observations.value, variance), widths


def _most_likely_widths(prior: _Prior, terms: Terms, observations: Observations) -> dict[str, float]:
    """Widths of the prior's parts and the noise: the maximum of marginal likelihood times a broad prior on each."""
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
    found = most_likely_widths(kernels, residual, own, list(prior.widths.values()), list(prior.doubts.values()))
    return dict(zip(prior.widths, found.tolist(), strict=True))


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")

"""What is known of the costs before networks are measured: from a table, and from what operators compute and move."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import linalg

import luts
from lightnas_edge.predictor._evidence import JITTER, cholesky
from lightnas_edge.predictor.base import Array
from lightnas_edge.predictor.terms import Terms
from lightnas_edge.predictor.work import work
from lightnas_edge.space import Operator, ShapedOperator

_UNKNOWN_ERROR = 0.05  # relative, of an entry measured in one or two rounds


@dataclass(frozen=True)
class Part:
    """One unknown: it adds prior_scale * columns @ standard normal to the costs and to the entries of a table."""

    costs: Array  # (1 + P, R) as networks show them
    entries: Array  # (1 + P, R) as the table shows them
    prior_scale: float  # by default
    factor: float  # one standard deviation of the prior scale around its default


@dataclass(frozen=True)
class Prior:
    """Costs are the mean plus all parts; so are the entries of the table, where it is evidence."""

    name: str
    mean: Array  # (1 + P,)
    parts: dict[str, Part]
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
class Entries:
    """A table in the order of the costs: the fixed ends as one, then every operator."""

    value: Array  # (1 + P,)
    error: Array  # (1 + P,) standard error of measuring each
    typical: float  # mean over random networks
    per_layer: Array  # (1 + P,) a typical layer's cost; 0 for the ends

    @classmethod
    def of(cls, terms: Terms, lut: luts.Lut, metric: str) -> Entries:
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


def table_prior(entries: Entries) -> Prior:
    """The sum of the entries, and how whole networks usually differ from it."""
    table, width = entries.value, len(entries.value)
    none = np.zeros((width, 1))
    deviations = np.diag(table)
    deviations[0, 0] = 0.0
    every = np.zeros((width, width))
    return Prior(
        "table",
        table,
        {
            "scale_factor": Part(table[:, None], none, 0.05, 2.0),
            "offset": Part(_column(width, 0, entries.typical), none, 0.05, 3.0),
            "overhead": Part(entries.per_layer[:, None], none, 0.05, 3.0),
            "deviation": Part(deviations, every, 0.04, 2.0),
            "measuring": Part(np.diag(entries.error), every, 1.0, 1.2),
        },
        0.005 * entries.typical,
        3.0,
    )


def informed_prior(terms: Terms, entries: Entries, scaled: Array) -> Prior:
    """Costs that follow what operators compute and move; the table's entries are noisy observations of them.

    The size of that noise is learned from the networks and from how well the entries follow the work.

    Args:
        scaled: (1 + P,) costs that the scale factor between table and networks multiplies.
    """
    physical = physical_prior(terms, entries.typical)
    plain = table_prior(entries)
    width = len(entries.value)
    none, every = np.zeros((width, 1)), np.zeros((width, width))
    parts = {
        **{f"work: {name}": replace(part, entries=part.costs) for name, part in physical.parts.items()},
        "scale_factor": replace(plain.parts["scale_factor"], costs=scaled[:, None], entries=none),
        "offset": plain.parts["offset"],
        "overhead": plain.parts["overhead"],
        "deviation": replace(plain.parts["deviation"], prior_scale=0.02),
        "table": Part(every, np.diag(entries.value), 0.03, 2.0),
        "measuring": Part(every, np.diag(entries.error), 1.0, 1.2),
    }
    return Prior("table", physical.mean, parts, plain.noise, plain.noise_factor, table=entries.value)


def physical_prior(terms: Terms, typical: float) -> Prior:
    """Costs follow what the operators compute and move, at prices to be learned; similar operators share a deviation."""
    shaped = terms.shaped()
    features = np.array([work(operator) for operator in shaped])  # (P, 3)
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
        # Prices of the same work: by the size of the matrices, and by the kernel.
        "resolution": (
            _alike(features[:, 0], [(operator.input_size, operator.stride) for operator in shaped]),
            0.2,
            3.0,
        ),
        "kernel": (_alike(features[:, 1], [_shape(operator)[0] for operator in shaped]), 0.2, 3.0),
        "deviation": (_alike(size, range(width - 1)), 0.15, 3.0),
    }
    parts = {name: Part(column, np.zeros_like(column), *known) for name, (column, *known) in columns.items()}
    return Prior("no table, costs from multiplications and memory traffic", mean, parts, 0.005 * typical, 5.0)


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


def _column(length: int, position: int, value: float) -> Array:
    found = np.zeros((length, 1))
    found[position] = value
    return found

"""Residual decomposition: why whole networks do not cost the sum of their operators' entries."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import linalg

import luts
from lightnas_edge.files import finite
from lightnas_edge.predictor._evidence import cholesky
from lightnas_edge.predictor.base import Array
from lightnas_edge.predictor.fit import fit_scales
from lightnas_edge.predictor.observations import Observations
from lightnas_edge.predictor.priors import Entries, table_prior
from lightnas_edge.predictor.terms import Terms
from lightnas_edge.records.predictor import COMPONENTS, ResidualComponent, ResidualDecomposition
from lightnas_edge.space import Space

_LARGEST = 3  # operators named at each end


def decompose_residuals(space: Space, lut: luts.Lut, observations: Observations) -> ResidualDecomposition:
    """Cost of whole networks beyond the sum of the table's entries, in components of either sign.

    Where every network has the same number of blocks, the fixed and the per-block overhead cannot be separated; the prior
    then decides their shares.

    Raises:
        LutMissError: the table lacks operators of the space, or the metric of some.
    """
    split = split_difference(space, lut, observations)
    components = tuple(
        ResidualComponent(
            name=name, mean=float(split.parts[name].mean()), std=split.errors.get(name),
            lowest=float(split.parts[name].min()), highest=float(split.parts[name].max()),
        )
        for name in COMPONENTS
    )  # fmt: skip
    terms = Terms.of(space)
    counts = terms.counts(observations.indices)[:, 1:]
    order = np.argsort(split.per_operator)[::-1]
    shown = [index for index in order if counts[:, index].any()]
    ends = dict.fromkeys([*shown[:_LARGEST], *shown[-_LARGEST:]])
    measured = float(observations.value.mean())
    return ResidualDecomposition(
        networks=len(observations),
        metric=observations.metric,
        unit=luts.METRICS[observations.metric],
        fingerprint=observations.fingerprint,
        measured=measured,
        table_sum=float(split.sums.mean()),
        blocks=float(counts.sum(axis=1).mean()),
        networks_above=int((observations.value > split.sums).sum()),
        networks_below=int((observations.value < split.sums).sum()),
        components=components,
        unexplained_rms=float(np.sqrt(np.mean(split.parts["unexplained"] ** 2))),
        repeatability=finite(observations.repeatability * measured),
        operators=tuple((terms.keys[index], float(split.per_operator[index])) for index in ends),
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
    prior = table_prior(Entries.of(terms, lut, observations.metric))
    scales = fit_scales(prior, terms, observations).scales
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

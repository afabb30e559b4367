"""Residual decomposition: why whole networks do not cost the sum of their operators' entries."""

from __future__ import annotations

import numpy as np

import luts
from lightnas_edge.files import finite
from lightnas_edge.predictor.additive import Terms, split_difference
from lightnas_edge.predictor.observations import Observations
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

"""The additivity ledger: why whole networks do not cost what the sum of their operators' entries says."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

import luts
from lightnas_edge.predictor.additive import Terms, split_difference
from lightnas_edge.predictor.observations import Observations
from lightnas_edge.space import Space

_LARGEST = 3  # operators named on each side
CAUSES = {
    "offset": "once per network",
    "overhead": "per block",
    "scale": "in proportion to the sum",
    "deviation": "by operator",
    "left": "left over",
}


@dataclass(frozen=True)
class Cause:
    """One part of the difference, in the metric's unit; above zero where networks cost more than the sum."""

    name: str
    mean: float
    error: float  # standard deviation of the mean; nan for what is left over
    least: float  # of any network
    most: float


@dataclass(frozen=True)
class ResidualDecomposition:
    """n measured networks against the sum of one table, on one board with one engine."""

    networks: int
    metric: str
    unit: str
    fingerprint: dict[str, Any]
    measured: float  # mean
    table_sum: float  # mean
    blocks: float  # mean number of operators that are something
    dearer: int  # networks above their sum
    cheaper: int
    causes: tuple[Cause, ...]  # they add up to measured - table_sum
    left_over: float  # root mean square
    noise: float  # what measuring the same networks again would differ by; nan when unknown
    operators: tuple[tuple[str, float], ...]  # the largest deviations of single operators, dearest first

    @property
    def difference(self) -> float:
        return self.measured - self.table_sum

    def to_json(self) -> dict[str, Any]:
        record: dict[str, Any] = _known(asdict(self))
        return record

    def __str__(self) -> str:
        told = ", ".join(
            f"{CAUSES[cause.name]} {cause.mean:+.3g}"
            for cause in self.causes
            if abs(cause.mean) > 0.002 * self.measured
        )
        return (
            f"the table's sum is {self.table_sum:.3g} {self.unit}, measured {self.measured:.3g} {self.unit} "
            f"({100 * self.difference / self.table_sum:+.1f} %; mean of {self.networks}): {told or 'nothing to explain'}"
        )


def decompose_residuals(space: Space, lut: luts.Lut, observations: Observations) -> ResidualDecomposition:
    """What whole networks cost beyond the sum of the table's entries, both signs, split as far as the networks tell.

    Where every network has the same number of blocks, what is paid once and what is paid per block cannot be told apart; they
    are split as they usually are.

    Raises:
        LutMissError: the table lacks operators of the space, or the metric of some.
    """
    split = split_difference(space, lut, observations)
    causes = tuple(
        Cause(
            name, float(split.parts[name].mean()), split.errors.get(name, math.nan),
            float(split.parts[name].min()), float(split.parts[name].max()),
        )
        for name in CAUSES
    )  # fmt: skip
    terms = Terms.of(space)
    counts = terms.counts(observations.indices)[:, 1:]
    order = np.argsort(split.per_operator)[::-1]
    shown = [index for index in order if counts[:, index].any()]
    ends = dict.fromkeys([*shown[:_LARGEST], *shown[-_LARGEST:]])
    return ResidualDecomposition(
        len(observations), observations.metric, luts.METRICS[observations.metric], observations.fingerprint,
        float(observations.value.mean()), float(split.sums.mean()), float(counts.sum(axis=1).mean()),
        int((observations.value > split.sums).sum()), int((observations.value < split.sums).sum()),
        causes, float(np.sqrt(np.mean(split.parts["left"] ** 2))),
        observations.repeatability * float(observations.value.mean()),
        tuple((terms.keys[index], float(split.per_operator[index])) for index in ends),
    )  # fmt: skip


def _known(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _known(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_known(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value

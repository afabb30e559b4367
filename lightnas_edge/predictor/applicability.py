"""The applicability domain: where a predictor is supported by measured networks. Outside it, a prediction extrapolates."""

from __future__ import annotations

from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from lightnas_edge.records.predictor import ApplicabilityDomainRecord, DomainBasis

Array = NDArray[np.float64]

_MARGIN = 0.1  # of the measured range, to each side
_UPPER = (
    0.9  # quantile of the models' deviations that shows how they spread; a tenth of the networks cannot move it far
)
_BLOCKS = 1  # more or fewer than any measured network had


@dataclass(frozen=True)
class ApplicabilityDomain:
    """The measured networks in outline.

    `measured`: networks outside the ranges are extrapolated; random networks of the measured kind about as rarely as one
    of n networks lies beyond the n - 1 others. `unmeasured`: no network was measured, and all are extrapolated. `unknown`:
    the measured networks are not recorded, and none is extrapolated.
    """

    basis: DomainBasis
    value: tuple[float, float] | None = None  # lowest and highest measured, in the metric's unit
    blocks: tuple[int, int] | None = None  # operators of a network, without identities
    model_std: float | None = None  # usual limit of the measured networks while they were held out
    seen: NDArray[np.bool_] | None = None  # (L, K) operators that a measured network had; None where model_std decides

    def extrapolated(self, value: Array, blocks: Array, model_std: Array | None, one_hot: Array) -> NDArray[np.bool_]:
        """(B,): further from the measured networks than those are from each other.

        Args:
            value: (B,) predicted. blocks: (B,). model_std: (B,) without noise, where the model has one. one_hot: (B, L, K).
        """
        if self.value is None or self.blocks is None:
            return np.full(len(value), self.basis == "unmeasured")
        margin = _MARGIN * (self.value[1] - self.value[0])
        found = (value < self.value[0] - margin) | (value > self.value[1] + margin)
        found |= (blocks < self.blocks[0] - _BLOCKS) | (blocks > self.blocks[1] + _BLOCKS)
        if self.model_std is not None and model_std is not None:
            found |= model_std > self.model_std * (1 + 1e-6)
        if self.seen is not None:
            found |= (one_hot * ~self.seen).any(axis=(1, 2))
        return found

    def extended(self, value: Array, blocks: Array) -> ApplicabilityDomain:
        """After more networks were measured: (n,) each."""
        if self.basis == "unknown":
            return self
        values, numbers = [*(self.value or ()), *value.tolist()], [*(self.blocks or ()), *blocks.tolist()]
        low, high, fewest, most = min(values), max(values), int(min(numbers)), int(max(numbers))
        return replace(self, basis="measured", value=(low, high), blocks=(fewest, most))

    def scaled(self, factor: float) -> ApplicabilityDomain:
        """Where every deviation of the model is multiplied by a factor."""
        return self if self.model_std is None else replace(self, model_std=factor * self.model_std)

    def to_record(self) -> ApplicabilityDomainRecord:
        seen = None if self.seen is None else tuple(map(tuple, self.seen.astype(int).tolist()))
        return ApplicabilityDomainRecord(
            basis=self.basis, value=self.value, blocks=self.blocks, model_std=self.model_std, seen=seen
        )

    @classmethod
    def from_record(cls, record: ApplicabilityDomainRecord, shape: tuple[int, int]) -> ApplicabilityDomain:
        """Raises ValueError where `seen` does not fit (L, K) `shape`."""
        seen = record.seen
        if seen is not None and (len(seen) != shape[0] or any(len(row) != shape[1] for row in seen)):
            rows = sorted({len(row) for row in seen})
            raise ValueError(
                f"seen: expected {shape[0]} layers of {shape[1]} operators, found {len(seen)} of "
                f"{' and '.join(map(str, rows)) or 'none'}"
            )
        matrix = None if seen is None else np.array(seen, dtype=bool)
        return cls(record.basis, record.value, record.blocks, record.model_std, matrix)


def usual_limit(model_std: Array) -> float:
    """Of (n,) networks, each held out: about one in n like them is above it.

    It is the highest of them, unless that one is far above what the middle of the others leads to expect: one network of
    another kind must not declare all of its kind measured.
    """
    logs = np.log(np.maximum(model_std, 1e-300))
    middle, upper = np.quantile(logs, [0.5, _UPPER])
    normal = NormalDist()
    steps = normal.inv_cdf(1 - 1 / (len(logs) + 2)) / normal.inv_cdf(_UPPER)
    return float(np.exp(min(logs.max(), middle + max(steps, 1.0) * (upper - middle))))


UNMEASURED = ApplicabilityDomain("unmeasured")
UNKNOWN = ApplicabilityDomain("unknown")

"""What a predictor was shown: beyond it, an interval is a guess, and the predictor says so."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_MARGIN = 0.1  # of the measured range, to each side
_BLOCKS = 1  # more or fewer than any measured network had


@dataclass(frozen=True)
class ApplicabilityDomain:
    """The measured networks in outline.

    Random networks of the measured kind fall outside about as rarely as one of n falls beyond the n - 1 others.
    Without ranges no network was measured at all, and everything is outside.
    """

    value: tuple[float, float] | None = None  # least and most that was measured, in the metric's unit
    blocks: tuple[int, int] | None = None  # operators in a network, less those that are nothing (a skip in place)
    doubt: float | None = None  # the most that the model doubted a measured network when it was held out
    seen: NDArray[np.bool_] | None = None  # (L, K) which operator stood where; None where doubt tells

    def outside(self, value: Array, blocks: Array, doubt: Array | None, one_hot: Array) -> NDArray[np.bool_]:
        """(B,): further from the measured networks than those are from each other.

        Args:
            value: (B,) predicted. blocks: (B,). doubt: (B,) of the model alone, where it tells. one_hot: (B, L, K).
        """
        if self.value is None or self.blocks is None:
            return np.ones(len(value), dtype=bool)
        margin = _MARGIN * (self.value[1] - self.value[0])
        found = (value < self.value[0] - margin) | (value > self.value[1] + margin)
        found |= (blocks < self.blocks[0] - _BLOCKS) | (blocks > self.blocks[1] + _BLOCKS)
        if self.doubt is not None and doubt is not None:
            found |= doubt > self.doubt * (1 + 1e-6)
        if self.seen is not None:
            found |= (one_hot * ~self.seen).any(axis=(1, 2))
        return found

    def extended(self, value: Array, blocks: Array) -> ApplicabilityDomain:
        """After more networks were measured: (n,) each."""
        values, numbers = [*(self.value or ()), *value.tolist()], [*(self.blocks or ()), *blocks.tolist()]
        low, high, fewest, most = min(values), max(values), int(min(numbers)), int(max(numbers))
        return replace(self, value=(low, high), blocks=(fewest, most))

    def to_json(self) -> dict[str, Any]:
        return {
            "value": self.value and list(self.value),
            "blocks": self.blocks and list(self.blocks),
            "doubt": self.doubt,
            "seen": None if self.seen is None else self.seen.astype(int).tolist(),
        }

    @classmethod
    def from_json(cls, record: Any, shape: tuple[int, int]) -> ApplicabilityDomain:
        """Raises ValueError saying what is wrong."""
        if not isinstance(record, dict):
            raise ValueError(f"expected a table of fields, found {type(record).__name__}")
        if record.get("value") is None and record.get("blocks") is None:
            return cls()
        for name in ("value", "blocks"):
            pair = record.get(name)
            if not (isinstance(pair, list) and len(pair) == 2 and all(map(_finite, pair)) and pair[0] <= pair[1]):
                raise ValueError(f"{name}: expected two numbers, the lower one first, found {pair!r}")
        doubt, seen = record.get("doubt"), record.get("seen")
        if doubt is not None and not (_finite(doubt) and doubt >= 0):
            raise ValueError(f"doubt: expected null or a number of at least 0, found {doubt!r}")
        low, high = record["value"]
        fewest, most = record["blocks"]
        places = None
        if seen is not None:
            try:
                places = np.asarray(seen, dtype=bool)
            except ValueError as error:
                raise ValueError(f"seen: {error}") from error
            if places.shape != shape:
                raise ValueError(f"seen: expected {shape[0]} layers of {shape[1]} operators, found {places.shape}")
        return cls((float(low), float(high)), (int(fewest), int(most)), doubt, places)


def _finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and bool(np.isfinite(value))

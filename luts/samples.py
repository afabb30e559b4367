"""The samples of some visits in few bytes: whole nanoseconds, as the agent writes them, in two or four bytes where that loses nothing."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

_NS_PER_MS = 1e6
_LARGEST_NS = 2**31 - 1
_TYPES: tuple[type[np.number[Any]], ...] = (np.uint16, np.int32, np.float64)  # from small to large
_SMALL, _MIDDLE, _EXACT = range(3)  # the last one is for what is no whole number of nanoseconds


class PackedSamples:
    """Of a few hundred visits; all of them are packed in a few calls, since a call for each visit takes most of the time of reading."""

    def __init__(self, rows: Sequence[Sequence[float]]) -> None:
        """Args: rows: milliseconds of each visit, any number of them."""
        self._counts = np.fromiter(map(len, rows), np.int32, len(rows))
        values = np.fromiter(chain.from_iterable(rows), np.float64, int(self._counts.sum()))
        whole = np.rint(values * _NS_PER_MS)
        low, high, is_whole = self._by_row(whole, values)
        self._base = np.where(is_whole, low, 0).astype(np.int32)
        self._type = np.where(is_whole, np.where(high - low < 2**16, _SMALL, _MIDDLE), _EXACT).astype(np.int8)
        self._start = np.zeros(len(rows), np.int32)
        type_of = np.repeat(self._type, self._counts)
        offset = whole - np.repeat(self._base, self._counts)
        self._pools = []
        for kind, dtype in enumerate(_TYPES):
            counts = np.where(self._type == kind, self._counts, 0)
            self._start += np.where(self._type == kind, np.cumsum(counts) - counts, 0).astype(np.int32)
            self._pools.append((values if kind == _EXACT else offset)[type_of == kind].astype(dtype))

    def _by_row(
        self, whole: NDArray[np.float64], values: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
        """(visits,) the smallest and largest of the nanoseconds, and whether they say all that the values say."""
        some = self._counts > 0
        starts = (np.cumsum(self._counts) - self._counts)[some]
        low, high, is_whole = np.zeros(len(some)), np.zeros(len(some)), np.zeros(len(some), np.bool_)
        if some.any():
            low[some] = np.minimum.reduceat(whole, starts)
            high[some] = np.maximum.reduceat(whole, starts)
            is_whole[some] = np.logical_and.reduceat(whole / _NS_PER_MS == values, starts)
        return low, high, is_whole & (high < _LARGEST_NS)

    def row(self, at: int) -> NDArray[np.float64]:
        """Of one visit in ms."""
        kind, start = self._type[at], self._start[at]
        row = self._pools[kind][start : start + self._counts[at]]
        if kind == _EXACT:
            return np.asarray(row, dtype=np.float64)
        return np.asarray((row.astype(np.int64) + self._base[at]) / _NS_PER_MS)

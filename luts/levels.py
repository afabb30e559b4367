"""Levels of units from keys that not every unit measured: log cost = level of the unit + cost of the key + rest."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def are_linked(known: NDArray[np.bool_]) -> bool:
    """Whether every unit shares two keys or more with others, and all are linked with each other over any number of steps.

    Args:
        known: (keys, units) what is measured; keys of two units or more.
    """
    if not len(known) or known.sum(axis=0).min() < 2:
        return False
    linked = np.arange(known.shape[1]) == 0
    for _ in range(known.shape[1]):
        linked = linked | known[known[:, linked].any(axis=1)].any(axis=0)
    return bool(linked.all())


def unit_levels(logs: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(units,) the level of each unit, and (keys, units) the rest; nan where nothing was measured."""
    centre = np.nanmedian if np.isfinite(logs).sum(axis=0).min() > 2 else np.nanmean
    shift = np.zeros(logs.shape[1])
    for _ in range(50):  # one step where every unit measured every key
        centred = logs - np.nanmean(logs - shift, axis=1, keepdims=True)
        levels = centre(centred, axis=0)
        before, shift = shift, levels - levels.mean()
        if float(np.abs(shift - before).max()) < 1e-9:
            break
    return levels, centred - levels

"""Levels of units from keys that not every unit measured: log cost = level of the unit + cost of the key + rest."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def linked_units(known: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(units,) the largest group of units that each share two keys or more with others of it and are linked over any number of steps.

    Args:
        known: (keys, units) what is measured.
    """
    chosen = np.ones(known.shape[1], np.bool_)
    while True:  # a unit left out takes away what others shared with it only
        shared = known & chosen
        shared &= shared.sum(axis=1, keepdims=True) > 1
        enough = shared.sum(axis=0) > 1
        if (enough == chosen).all():
            break
        chosen = enough
    links = shared.T @ shared
    linked = links
    for _ in range(len(chosen)):
        linked = linked @ links
    return np.asarray(linked[linked.sum(axis=1).argmax()])


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

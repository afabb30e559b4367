"""How fast the machine was in each round, separated from the cost of each operator.

The model: log of the quickest sample of a visit = cost of its key + drift of its group + noise, a group being one round
of one session. Other work on the machine only ever slows a visit down, so the noise is one-sided: an asymmetric Laplace
distribution, of which the fit finds a low quantile. How far rounds of one session drift apart has a normal prior of a
few per cent, so that on a busy machine, where the noise is larger than that, noise is not taken for drift; drift between
sessions has no prior. Keys and groups are solved for together: visits may be missing, sessions may have been
resumed, and only keys measured in several groups inform the groups' drift.
docs/measuring.md has the evidence.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from lightnas_edge.records.lut import Visit
from luts.visits import Visits

Group = tuple[str, int]

MIN_KEYS = 4  # a round with fewer shared keys has no drift of its own: its keys' noise would pass for drift
_LEVEL = 0.1  # quantile of the noise that the fit follows
_DRIFT_DEVIATION = 0.05  # of rounds around their session: machines with floating clocks drift 5 to 10 % over minutes
_ITERATIONS = 100
_AT_A_TIME = 1 << 15  # visits


def estimate_drift(
    visits: Sequence[Visit], reference: frozenset[str] = frozenset(), units: Mapping[str, str | None] | None = None
) -> dict[Group, float]:
    """The drift factor of every group: above 1 means slower than the median round of the reference sessions.

    A group with fewer than `MIN_KEYS` keys that were also measured elsewhere takes the drift of the nearest round of
    its session that has enough; a session without such a round has one drift for all of its rounds.
    The visit-weighted median of the factors over the reference sessions (over all of them when none is named, or none
    was measured) is 1. Of several units each has such a median, and the median of those is 1, whichever unit measured most. Sessions that share no key with the others cannot be compared
    with them; their factors are centred among themselves.

    Args:
        units: on which unit of the board each session ran; all on one when None.
    """
    every = Visits.of(visits)
    measured = every.select(every.is_measured)
    if not len(measured):
        return {}
    row = _from_zero(measured.keys)[0]
    group, numbers = _from_zero(measured.groups)
    groups = [measured.group_names[number] for number in numbers]
    columns = _columns(row, group, groups)
    column = np.array([columns[name] for name in groups], np.int32)[group]
    names = {name: number for number, name in enumerate(dict.fromkeys(name for name, _ in groups))}
    session = np.zeros(len(set(columns.values())), dtype=np.intp)
    for (name, _), index in columns.items():
        session[index] = names[name]
    log_ms = np.fromiter((samples.min() for samples in measured.samples()), np.float64, len(measured))
    np.log(log_ms, out=log_ms)
    component = _components(row, column, session)
    drift = _solve(row, column, session, component, log_ms)
    visits_of = np.bincount(column, minlength=len(drift))
    central = np.array([name in reference for name, _ in groups])[group]
    central_visits_of = np.bincount(column[central], minlength=len(drift))
    unit_names = list(dict.fromkeys((units or {}).get(name) for name in names))
    unit = np.array([unit_names.index((units or {}).get(name)) for name in names])[session]
    for index in range(int(component.max()) + 1):
        own = component == index
        weights = central_visits_of if central_visits_of[own].any() else visits_of
        drift[own] -= _middle(drift[own], weights[own], unit[own])
    return {group: math.exp(drift[index]) for group, index in columns.items()}


def _from_zero(numbers: NDArray[np.int32]) -> tuple[NDArray[np.int32], list[int]]:
    """(n,) the same numbers without gaps, from 0 on, and the number that each stands for."""
    present = np.bincount(numbers) > 0
    return (np.cumsum(present, dtype=np.int32) - 1)[numbers].astype(np.int32), np.flatnonzero(present).tolist()


def _columns(row: NDArray[np.int32], group: NDArray[np.int32], groups: Sequence[Group]) -> dict[Group, int]:
    """Which unknown of the model stands for each group's drift.

    Args:
        row: (visits,) key. group: (visits,) place in `groups`.
    """
    seen = np.zeros((int(row.max()) + 1, len(groups)), np.bool_)
    seen[row, group] = True
    shared = seen[seen.sum(axis=1) > 1].sum(axis=0)
    enough: dict[str, list[int]] = defaultdict(list)
    for (session, round_), count in zip(groups, shared, strict=True):
        if count >= MIN_KEYS:
            enough[session].append(round_)
    columns: dict[Group, int] = {}
    numbers: dict[tuple[str, int | None], int] = {}
    for session, round_ in groups:
        nearest = min(enough[session], key=lambda other: (abs(other - round_), other), default=None)
        columns[session, round_] = numbers.setdefault((session, nearest), len(numbers))
    return columns


def _components(row: NDArray[np.int32], column: NDArray[np.int32], session: NDArray[np.intp]) -> NDArray[np.intp]:
    """(columns,) which of the columns can be compared: those linked by a session or by a key, over any number of steps."""
    component = session.copy()
    for key in range(int(row.max()) + 1):
        linked = np.unique(component[column[row == key]])
        component[np.isin(component, linked)] = linked[0]
    return np.unique(component, return_inverse=True)[1]


def _solve(
    row: NDArray[np.int32],
    column: NDArray[np.int32],
    session: NDArray[np.intp],
    component: NDArray[np.intp],
    log_ms: NDArray[np.float64],
) -> NDArray[np.float64]:
    """(columns,) log drift: the most probable one, found by reweighted least squares over keys and columns together.

    Args:
        row: (visits,) key. column: (visits,) unknown of the visit's drift. session, component: (columns,) of each unknown.
    """
    shape = int(row.max()) + 1, len(session)
    same = session[:, None] == session[None, :]
    prior = (np.eye(shape[1]) - same / same.sum(axis=1)) / _DRIFT_DEVIATION**2
    together = component[:, None] == component[None, :]
    centring = together / together.sum(axis=1)
    weight = np.ones(len(log_ms))
    drift = np.zeros(shape[1])
    parts = [slice(at, at + _AT_A_TIME) for at in range(0, len(log_ms), _AT_A_TIME)]  # there may be a million visits
    for _ in range(_ITERATIONS):
        # Normal equations with the keys' costs eliminated. What they leave open, a common factor of all drifts that are
        # compared with each other, is set to have mean zero.
        weights, sums = np.zeros(shape), np.zeros(shape)
        for part in parts:
            np.add.at(weights, (row[part], column[part]), weight[part])
            np.add.at(sums, (row[part], column[part]), weight[part] * log_ms[part])
        per_key = weights.sum(axis=1)
        share = weights / per_key[:, None]
        system = np.diag(weights.sum(axis=0)) - weights.T @ share + prior
        right = sums.sum(axis=0) - share.T @ sums.sum(axis=1)
        scale = max(float(np.trace(system)) / len(system), 1e-3)
        found = np.linalg.solve(system + scale * centring, right)
        cost = (sums.sum(axis=1) - weights @ found) / per_key
        change, drift = float(np.abs(found - drift).max()), found
        if change < 1e-7:
            break
        total = 0.0
        for part in parts:
            weight[part] = log_ms[part] - cost[row[part]] - found[column[part]]  # the residual, for now
            total += float(np.sum(_side(weight[part]) * np.abs(weight[part])))
        noise = max(total / len(log_ms), 1e-5)
        for part in parts:
            weight[part] = 2 * _side(weight[part]) / (np.abs(weight[part]) + 0.1 * noise + 1e-3) / noise
    return drift


def _side(residual: NDArray[np.float64]) -> NDArray[np.float64]:
    """The asymmetric weight: most of the noise slows a visit down."""
    return np.where(residual < 0, 1 - _LEVEL, _LEVEL)


def _middle(drift: NDArray[np.float64], weights: NDArray[np.intp], unit: NDArray[np.intp]) -> float:
    """The median over the units of each one's median; units without weight do not count.

    Args:
        drift, weights, unit: (columns,)
    """
    levels = [_weighted_median(drift[unit == each], weights[unit == each]) for each in np.unique(unit[weights > 0])]
    return float(np.median(levels))


def _weighted_median(values: NDArray[np.float64], weights: NDArray[np.intp]) -> float:
    """Between two values only where the weights are even; a value without weight is none of them."""
    values, weights = values[weights > 0], weights[weights > 0]
    order = np.argsort(values, kind="stable")
    reached = np.cumsum(weights[order])
    half = reached[-1] / 2
    position = int(np.searchsorted(reached, half))
    if reached[position] == half and position + 1 < len(values):
        return float((values[order[position]] + values[order[position + 1]]) / 2)
    return float(values[order[position]])

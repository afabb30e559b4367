"""Random networks that are predicted near a value."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

import luts
from lightnas_edge.errors import PredictorError
from lightnas_edge.measuring import reference_architectures
from lightnas_edge.measuring.commands import sample_command
from lightnas_edge.predictor.additive import AdditivePredictor
from lightnas_edge.predictor.base import Predictor, reachable_range
from lightnas_edge.predictor.fit import fit_additive
from lightnas_edge.predictor.observations import load_observations
from lightnas_edge.space import Architecture, Space

NEAR = 0.02  # relative; networks this near stay as they are: more changes would leave few networks, all of one kind
_STEPS = 300  # single changes tried on each network
_BLOCK = 64  # networks that are changed together
_FRUITLESS = 20  # blocks without a further network: the space has no more
_LEAST_REFERENCE = 5  # networks of the reference set that show how fast a board is relative to another


def networks_near(
    predictor: Predictor, value: float, count: int, seed: int = 0, *, known: Collection[Architecture] = ()
) -> list[Architecture]:
    """Distinct random networks within 2 % of a value: `count`, or as many as are found.

    The first n are the same for every larger count.

    Args:
        value: in the predictor's unit.
        known: networks that are not wanted again.

    Raises:
        PredictorError: no network is found.
    """
    space = predictor.space
    require_reachable(predictor, value)
    found: dict[Architecture, None] = {}
    block = fruitless = 0
    while len(found) < count and fruitless < _FRUITLESS:
        generator = np.random.default_rng([seed, block])
        indices = generator.integers(len(space.operators), size=(_BLOCK, len(space.layers)))
        indices, away = moved_near(predictor, indices, value, generator)
        new = [Architecture.from_indices(space, row) for row in indices[away <= NEAR * value]]
        before = len(found)
        found |= dict.fromkeys(network for network in new if network not in known)
        fruitless = 0 if len(found) > before else fruitless + 1
        block += 1
    if not found:
        raise PredictorError(
            f"no further network of space {space.name} is predicted within {100 * NEAR:.0f} % of {value:g} {predictor.unit}",
            hint="choose another value in the range of the space; `lightnas-edge range --predictor FILE` prints it",
        )
    return list(found)[:count]


def moved_near(
    predictor: Predictor, indices: NDArray[np.int64], value: float, generator: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """(n, L) networks after single changes that bring them nearer to a value, and (n,) how far they are from it."""
    count, layers = indices.shape
    operators = len(predictor.space.operators)
    indices, rows = indices.copy(), np.arange(count)
    away = np.abs(predictor.predict_indices(indices) - value)
    for _ in range(_STEPS):
        changed = indices.copy()
        changed[rows, generator.integers(layers, size=count)] = generator.integers(operators, size=count)
        off = np.abs(predictor.predict_indices(changed) - value)
        better = (off < away) & (away > NEAR * value)
        indices[better], away[better] = changed[better], off[better]
    return indices, away


def require_reachable(predictor: Predictor, value: float) -> None:
    """Raises PredictorError: the value is out of the range of the space."""
    values = reachable_range(predictor)
    if not values.lowest <= value <= values.highest:
        raise PredictorError(
            f"no network of space {predictor.space.name} is predicted near {value:g} {predictor.unit}; the space reaches "
            f"{values}",
            hint="choose a value in this range",
        )


def transferred_by_reference(
    space: Space, prior: AdditivePredictor, measured: luts.Lut | None, *, metric: str = "latency_ms"
) -> AdditivePredictor:
    """The predictor of another board, transferred by the reference networks of a table alone.

    The other networks of the table are left out, so that the same command names the same networks after an interruption.

    Raises:
        PredictorError: too few reference networks are measured.
    """
    reference = set(reference_architectures(space))
    observed = (
        None if measured is None or not measured.networks else load_observations(space, [measured], metric=metric)
    )
    rows = [] if observed is None else [
        row for row, indices in enumerate(observed.indices) if Architecture.from_indices(space, indices) in reference
    ]  # fmt: skip
    if observed is None or len(rows) < min(_LEAST_REFERENCE, len(reference)):
        raise PredictorError(
            f"a prior is of another board, and {len(rows)} of {len(reference)} reference networks are measured on this one",
            hint=f"measure them first: {sample_command(space, None, '--count', str(len(reference)))}",
        )
    return fit_additive(space, None, observed.take(np.array(rows)), prior=prior)

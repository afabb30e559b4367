"""95 % intervals of sums of errors: some are distributed like Student's t, others lie anywhere within a bound."""

import math
from typing import List, NamedTuple, Sequence, Tuple

CONFIDENCE = 0.95
_GRID = 600  # cells on each side of zero in `half_width`
_REACH = 40.0  # standard errors; beyond it lies 0.06 % of a t distribution of 2 degrees of freedom


class RandomError(NamedTuple):
    """An error that differs from measurement to measurement: Student's t."""

    standard_error: float
    freedom: float  # degrees of freedom

    def times(self, factor: float) -> "RandomError":
        return RandomError(abs(factor) * self.standard_error, self.freedom)


def add(errors: Sequence[RandomError]) -> RandomError:
    """The error of a sum of independent ones, after Welch and Satterthwaite."""
    square = sum(error.standard_error**2 for error in errors)
    if square == 0.0:
        return RandomError(0.0, 1.0)
    return RandomError(math.sqrt(square), square**2 / sum(each.standard_error**4 / each.freedom for each in errors))


def half_width(error: RandomError, bounds: Sequence[float], confidence: float = CONFIDENCE) -> float:
    """Half the interval of a sum of a random error and errors anywhere within +- each of `bounds`.

    The distribution is built on a grid: the t density, then smeared by one box per bound.
    """
    standard_error, freedom = error
    bounds = [bound for bound in bounds if bound > 0.0]
    reach = sum(bounds) + _REACH * standard_error
    if reach == 0.0:
        return 0.0
    cell = reach / _GRID
    if standard_error > 0.2 * cell:
        density = [
            (1.0 + (index * cell / standard_error) ** 2 / freedom) ** (-(freedom + 1.0) / 2.0)
            for index in range(-_GRID, _GRID + 1)
        ]
    else:
        density = [0.0] * (2 * _GRID + 1)
        density[_GRID] = 1.0
    for bound in bounds:
        density = _smear(density, round(bound / cell))
    aim = confidence * sum(density)
    covered = density[_GRID]
    for index in range(1, _GRID + 1):
        if covered >= aim:
            return (index - 0.5) * cell
        covered += density[_GRID - index] + density[_GRID + index]
    return reach


def around(centre: float, half: float) -> Tuple[float, float]:
    return (centre - half, centre + half)


def _smear(density: List[float], half_cells: int) -> List[float]:
    """Average over a box of 2 x half_cells + 1 cells."""
    if half_cells == 0:
        return density
    sums = [0.0]
    for value in density:
        sums.append(sums[-1] + value)
    last = len(density)
    return [sums[min(index + half_cells + 1, last)] - sums[max(index - half_cells, 0)] for index in range(len(density))]

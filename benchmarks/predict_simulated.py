"""Bounds at the optimum on simulated boards: which centre the growth of the distant discrepancy has before any residual.

    python -m benchmarks.predict_simulated                  # tiny, 5 boards of each kind
    python -m benchmarks.predict_simulated --draws 20 nasbench-macro
    python -m benchmarks.predict_simulated --shares         # how many of the networks are to be as `sample --frontier` chooses them

A board has a cost for every operator at a shape, and something that no sum of them describes, of one of eight kinds and of 0.2 to 2 % (RMS
over random networks). A draw fits to 30 to 120 random networks with a noise of 0.1 to 1 %, chooses those of the most multiplications
within five limits, and measures them. The loss is that of a 95 % quantile, in units of the noise that the fit finds.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Callable
from unittest import mock

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from benchmarks.predict_optimum import best_within_limits, scores
from lightnas_edge.cli._console import print_table
from lightnas_edge.predictor import CountedPredictor, Observations, fit_additive
from lightnas_edge.predictor import calibration as calibrating
from lightnas_edge.predictor.base import one_hot_of
from lightnas_edge.predictor.distance import DistantDiscrepancy
from lightnas_edge.predictor.frontier import frontier_networks
from lightnas_edge.predictor.terms import Terms
from lightnas_edge.predictor.work import work
from lightnas_edge.search.constraints import Constraint
from lightnas_edge.search.selection import select
from lightnas_edge.space import Space, load_space

Array = NDArray[np.float64]
Indices = NDArray[np.int64]
Truth = Callable[[Indices], Array]

CENTRES = (0.5, 1.0, 2.0, 3.5)
LIMITS = (0.1, 0.3, 0.5, 0.7, 0.9)
LEVEL = 0.95
SHARES = (0.0, 0.2, 0.4, 0.6)  # of the measured networks, as `sample --frontier` chooses them
KINDS = ("quadratic", "layered", "competing", "clock", "stages", "neighbours", "each", "none")


def random_networks(space: Space, count: int, generator: np.random.Generator) -> Indices:
    return generator.integers(len(space.operators), size=(count, len(space.layers)))


def simulated(space: Space, kind: str, generator: np.random.Generator) -> tuple[Truth, float]:
    """What a board takes for (n, L) networks, and the typical value."""
    terms = Terms.of(space)
    layers = np.arange(len(space.layers))
    amounts = np.array([work(shaped) for shaped in terms.shaped()])
    amounts /= terms.spread_out(np.concatenate([np.zeros((1, 3)), amounts])).mean(axis=1).sum(axis=0)
    price = np.exp(0.7 * generator.normal(size=3))
    cost = (amounts * price).sum(axis=1) + 0.3 * price.mean() / len(layers)
    cost *= np.exp(0.15 * generator.normal(size=len(cost)))

    def additive(networks: Indices) -> Array:
        return 0.1 * price.sum() + terms.counts(networks)[:, 1:] @ cost

    known = random_networks(space, 2000, np.random.default_rng(5))
    typical = float(np.median(additive(known)))
    beyond = _beyond(space, terms, kind, amounts, cost, additive, typical, known, generator)
    one_hot = np.column_stack([np.ones(len(known)), one_hot_of(space, known).reshape(len(known), -1)])
    slope = np.linalg.lstsq(one_hot, beyond(known), rcond=None)[0]
    left = float(np.std(beyond(known) - one_hot @ slope)) or 1.0
    size = typical * 0.002 * 10 ** generator.uniform(0, 1) / left

    def truth(networks: Indices) -> Array:
        flat = np.column_stack([np.ones(len(networks)), one_hot_of(space, networks).reshape(len(networks), -1)])
        return additive(networks) + size * (beyond(networks) - flat @ slope)

    return truth, typical


def _beyond(
    space: Space,
    terms: Terms,
    kind: str,
    amounts: Array,
    cost: Array,
    additive: Truth,
    typical: float,
    known: Indices,
    generator: np.random.Generator,
) -> Truth:
    layers, operators = np.arange(len(space.layers)), len(space.operators)
    distant = DistantDiscrepancy.of(terms, terms.counts(known))
    assert distant is not None
    root = distant.root
    directions = root.shape[1]
    if kind == "quadratic":  # in the sums that a search moves
        form = generator.normal(size=(directions, directions))
        return lambda of: np.einsum("ni,ij,nj->n", terms.counts(of) @ root, form, terms.counts(of) @ root)
    if kind == "layered":  # a perceptron of the sums and of random ones
        hidden = 0.7 * generator.normal(size=(directions + 4, 32)) / np.sqrt(directions + 4)
        others = generator.normal(size=(len(layers), operators, 4)) / np.sqrt(len(layers))
        shift, last = generator.normal(size=(2, 32))
        return lambda of: np.tanh(
            np.column_stack([terms.counts(of) @ root, others[layers, of].sum(axis=1)]) @ hidden + shift
        ) @ last  # fmt: skip
    if kind == "competing":  # multiplications and traffic of the whole network, of which the larger decides
        power, share = np.exp(generator.uniform(0.3, 1.5)), generator.uniform(0.6, 1.5)
        return lambda of: (
            (
                (terms.counts(of)[:, 1:] @ amounts[:, 0]) ** power
                + (share * (terms.counts(of)[:, 1:] @ amounts[:, 2])) ** power
            )
            ** (1 / power)
        )
    if kind == "clock":  # long networks run at another clock
        sign = np.sign(generator.normal())
        return lambda of: sign * (additive(of) / typical) ** 2
    if kind == "stages":  # a quarter of the network that outgrows a cache
        per_layer = terms.spread_out(np.concatenate([[0.0], cost]))
        parts = [(sign, part) for sign, part in zip(generator.normal(size=4), np.array_split(layers, 4), strict=True)]
        return lambda of: sum(
            sign * np.log1p(np.exp(4 * (per_layer[part, of[:, part]].sum(axis=1) / per_layer[part].mean(axis=1).sum() - 1)))
            for sign, part in parts
        )  # fmt: skip
    if kind == "neighbours":  # pairs of operators
        pairs = generator.normal(size=(len(layers) - 1, operators, operators))
        return lambda of: pairs[layers[:-1], of[:, :-1], of[:, 1:]].sum(axis=1)
    if kind == "each":  # of every network alone
        seed = int(generator.integers(1 << 30))
        return lambda of: np.array([np.random.default_rng([seed, *row]).normal() for row in of.tolist()])
    return lambda of: np.zeros(len(of))


def at_optima(space: Space, kind: str, draw: int) -> dict[float, tuple[Array, Array]]:
    """Centre -> (measured less predicted, 95 % bound less predicted) of five networks, in units of the noise found."""
    generator = np.random.default_rng([31, draw, KINDS.index(kind)])
    truth, typical = simulated(space, kind, generator)
    noise = typical * 0.001 * 10 ** generator.uniform(0, 1)
    networks = random_networks(space, int(generator.integers(30, 121)), generator)
    measured = truth(networks) + noise * generator.normal(size=len(networks))
    observations = Observations(space, networks, measured, np.full(len(networks), noise), {})
    found, optima, errors = {}, None, np.zeros(0)
    for centre in CENTRES:
        with mock.patch.object(calibrating, "_GROWTH", centre):
            predictor = fit_additive(space, None, observations)
        if optima is None:  # the centre does not change a prediction
            score = CountedPredictor(space, "macs_m").cost
            limits = np.quantile(predictor.predict_indices(networks), LIMITS)
            chosen = [select(space, score, [Constraint(predictor, limit)]).architecture for limit in limits]
            optima = np.stack([network.indices(space) for network in chosen])
            errors = truth(optima) + noise * generator.normal(size=len(optima)) - predictor.predict_indices(optima)
            unit = predictor.noise
        one_hot = one_hot_of(space, optima)
        found[centre] = errors / unit, (predictor.upper(one_hot, LEVEL) - predictor.predict(one_hot)) / unit
    return found


def by_share(space: Space, kind: str, draw: int) -> dict[float, tuple[Array, Array]]:
    """Share of frontier networks -> as `at_optima`, in units of the noise of measuring, with as many networks measured in all."""
    generator = np.random.default_rng([32, draw, KINDS.index(kind)])
    truth, typical = simulated(space, kind, generator)
    noise = typical * 0.001 * 10 ** generator.uniform(0, 1)
    networks = random_networks(space, int(generator.integers(40, 121)), generator)
    found = {}
    for share in SHARES:
        measuring = np.random.default_rng([33, draw])

        def measured(indices: Indices, measuring: np.random.Generator = measuring) -> Array:
            return truth(indices) + noise * measuring.normal(size=len(indices))

        first = networks[: len(networks) - round(share * len(networks))]
        seen = Observations(space, first, measured(first), np.full(len(first), noise), {})
        predictor = fit_additive(space, None, seen)
        if share:
            chosen = frontier_networks(predictor, len(networks) - len(first), seed=draw)
            indices = np.concatenate([first, np.stack([network.indices(space) for network in chosen])])
            value = np.concatenate([seen.value, measured(indices[len(first) :])])
            seen = Observations(space, indices, value, np.full(len(indices), noise), {})
            predictor = fit_additive(space, None, seen)
        limits = np.quantile(predictor.predict_indices(networks), LIMITS)
        optima = np.concatenate(
            [best_within_limits(predictor, limits, score) for score in scores(space, measuring).values()]
        )
        predicted = predictor.predict_indices(optima)
        bound = predictor.upper(one_hot_of(space, optima), LEVEL) - predicted
        found[share] = (measured(optima) - predicted) / noise, bound / noise
    return found


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.predict_simulated", description=__doc__.splitlines()[0])
    parser.add_argument("space", nargs="?", default="tiny")
    parser.add_argument("--draws", type=int, default=5, help="boards of each kind, default: 5")
    parser.add_argument("--shares", action="store_true", help="compare plans of measuring instead of centres")
    arguments = parser.parse_args(argv)
    space = load_space(arguments.space)
    rows = []
    measure, columns, what = (
        (by_share, SHARES, "share of frontier networks") if arguments.shares else (at_optima, CENTRES, "centre")
    )
    with threadpool_limits(1):
        drawn = {kind: [measure(space, kind, draw) for draw in range(arguments.draws)] for kind in KINDS}
    for kind, boards in [*drawn.items(), ("all", list(itertools.chain(*drawn.values())))]:
        shown = []
        for column in columns:
            error, bound = (np.concatenate([board[column][place] for board in boards]) for place in (0, 1))
            over = error - bound
            loss = np.where(over > 0, LEVEL * over, (LEVEL - 1) * over).mean()
            shown.append(f"{100 * np.mean(over <= 0):.0f} %; {loss:.3f}")
        rows.append([kind, *shown])
    print_table([f"{space.name}: bound holds; loss, by {what}", *(f"{column:g}" for column in columns)], rows)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

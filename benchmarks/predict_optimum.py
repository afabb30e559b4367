"""Predictors where a search uses them: networks of the highest score within a predicted latency.

    python -m benchmarks.predict_optimum                        the published predictor, and the table of nasbench-macro
    python -m benchmarks.predict_optimum --draws 5 board        a quick look
    python -m benchmarks.predict_optimum --measure tiny         this machine, measured now

A draw measures networks by each plan, fits a predictor, chooses one network for each of several limits, and measures it. Plans, with the same
number of networks: all of them random, or some of them as `sample --frontier` chooses them. On the published predictor one more: all random,
and then, for each limit, up to eight finalists of the search itself (`search --confirm 8`); another measurement of the network handed over is
held against its estimate. A search's score is not known before, so networks are chosen by several: the multiplications, these with a random factor
for each operator, the sum over layers of their logarithm, and random numbers.

What an interval needs is known after all draws: the half-width that 90 % of the errors lie within. A perfectly calibrated interval of one
width for all has a ratio of 1.

On this machine all networks of a fit are random, and the scores are those that a search begins with (more multiplications in a layer count less
and less): with scores that are parallel to the latencies, nearly every network at a limit is the best, and proving which one takes minutes. The
networks within the 95 % bound are found by local search there, for the same reason: a wide bound of few and scattered measurements
keeps the solver busy for minutes.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from benchmarks import recorded
from benchmarks.figures import Drawing
from benchmarks.macro import latency_observations
from benchmarks.macro_latency import TABLE, distinct_networks, latencies, measure
from benchmarks.measured_finalists import MEASURED, Confirmed, confirmed
from benchmarks.notes import note
from benchmarks.verdicts import Row, Section, at_least, reported
from lightnas_edge.cli._console import print_table
from lightnas_edge.measuring import sample_architectures
from lightnas_edge.predictor import (
    AdditivePredictor,
    CountedPredictor,
    Observations,
    fit_additive,
    read_published_predictor,
)
from lightnas_edge.predictor.base import one_hot_of
from lightnas_edge.predictor.frontier import FRONTIER_SHARE, frontier_networks
from lightnas_edge.search.constraints import Constraint
from lightnas_edge.search.evidence import PathLosses
from lightnas_edge.search.local_search import select_by_steps
from lightnas_edge.search.posterior import OperatorPosterior
from lightnas_edge.search.problem import Problem
from lightnas_edge.search.selection import select
from lightnas_edge.space import Architecture, Space, load_space

Array = NDArray[np.float64]
Indices = NDArray[np.int64]

DRAWS, NETWORKS, NOISE_MS = 50, 100, 0.03
HOLDS, WIDTH = 93.0, 1.3  # wanted: of the 95 % bounds, in %; half-width over what is needed
RANDOM = 200  # networks of each draw that are not chosen, to compare with
ROUNDS = 4
CONFIRMED = f"all random, then {MEASURED} finalists"
LIMITS = (0.1, 0.3, 0.5, 0.7, 0.9)  # quantiles of the predictions of the measured networks
MACRO_NETWORKS = 60
LOCAL = {
    "tiny": (120, 30, 50),
    "lightnas": (40, 20, 10),
}  # space -> networks measured, those that a draw fits to, draws
LOCAL_REFERENCE = 20  # random networks measured again with the chosen ones: what the machine's state changed in between
LOCAL_LIMITS = (0.25, 0.5, 0.75)


@dataclass
class _Errors:
    """Of networks of one kind over all draws."""

    error: list[float] = field(default_factory=list)  # measured less predicted
    half: list[float] = field(default_factory=list)  # of the 90 % interval, the distance to the 95 % bound too
    flagged: list[bool] = field(default_factory=list)

    def add(self, predictor: AdditivePredictor, networks: Indices, measured: Array) -> None:
        one_hot = one_hot_of(predictor.space, networks)
        predicted = predictor.predict(one_hot)
        self.error += (measured - predicted).tolist()
        self.half += (predictor.upper(one_hot, 0.95) - predicted).tolist()
        self.flagged += predictor.extrapolated(one_hot).tolist()

    def add_confirmed(self, ended: Confirmed, measure: Callable[[Indices], Array]) -> None:
        """Another measurement of a network that was measured is expected around its estimate."""
        network = ended.chosen.indices(ended.predictor.space)[None]
        if ended.estimate is None:
            self.add(ended.predictor, network, measure(network))
            return
        expected, std = ended.estimate
        self.error += (measure(network) - expected).tolist()
        self.half.append(ended.predictor.quantile(0.95) * float(np.hypot(std, NOISE_MS)))
        self.flagged.append(False)

    def row(self, what: str, chosen: bool, percent_of: float | None = None) -> Row:
        """One line; the target is that of chosen networks."""
        error, half = np.array(self.error), np.array(self.half)
        holds = 100 * float(np.mean(error <= half))
        width = float(half.mean() / np.quantile(np.abs(error), 0.9))
        scale, unit = (1.0, "ms") if percent_of is None else (100 / percent_of, "%")
        shown = (
            f"error {scale * np.sqrt(np.mean(error**2)):.3f} {unit}; 90 % PI {100 * np.mean(np.abs(error) <= half):.1f} %; 95 % bound holds "
            f"{holds:.1f} %; half-width {scale * half.mean():.3f} {unit}, {width:.2f} of what is needed; extrapolated {100 * np.mean(self.flagged):.0f} %"
        )
        if not chosen:
            return Row(what, shown)
        return Row(what, shown, f">= {HOLDS:.0f} %, <= {WIDTH}", bool(holds >= HOLDS and width <= WIDTH), holds)


def scores(space: Space, generator: np.random.Generator) -> dict[str, Array]:
    """Name -> (L, K)."""
    macs = CountedPredictor(space, "macs_m").cost
    return {
        "MACs": macs,
        "MACs x random factors": macs * np.exp(0.5 * generator.normal(size=macs.shape)),
        "log MACs": np.log1p(10 * macs / macs.mean()),
        "random scores": generator.exponential(size=macs.shape),
    }


@dataclass
class _Plan:
    """What was found with one plan of measuring."""

    share: float  # of the networks, as `sample --frontier` chooses them
    rounds: int = 1  # in which these are chosen, each by the predictor of all earlier ones
    finalists: int = 0  # of each limit, measured before one is handed over
    random: _Errors = field(default_factory=_Errors)
    chosen: dict[str, _Errors] = field(default_factory=lambda: defaultdict(_Errors))
    kept: list[bool] = field(default_factory=list)

    def rows(self, name: str, percent_of: float | None = None) -> list[Row]:
        return [
            *([] if self.finalists else [self.random.row(f"{name}: random networks", False, percent_of)]),
            *(errors.row(f"{name}: chosen by {by}", True, percent_of) for by, errors in self.chosen.items()),
            _kept(self.kept, f"{name}: "),
        ]


def plans() -> dict[str, _Plan]:
    share = FRONTIER_SHARE
    mixed = f"{100 * (1 - share):.0f} % random, {100 * share:.0f} % frontier"
    return {
        "all random": _Plan(0.0),
        mixed: _Plan(share),
        f"{mixed} in {ROUNDS} rounds": _Plan(share, ROUNDS),
        CONFIRMED: _Plan(0.0, finalists=MEASURED),
    }


def board(drawing: Drawing | None = None, draws: int = DRAWS) -> Section:
    """The published predictor is the board; a measurement has normal noise."""
    title = f"Optimum of the published AGX Xavier predictor, {NETWORKS} networks, noise {NOISE_MS} ms, {draws} draws"
    if skipped := recorded.missing("lightnas_xavier/lightnas_predictor.npz"):
        return Section(title, skipped=skipped)
    space = load_space("lightnas")
    published = read_published_predictor(recorded.folder() / "lightnas_xavier" / "lightnas_predictor.npz", space)

    def measured(networks: Indices, generator: np.random.Generator) -> Array:
        return published.predict_indices(networks) + NOISE_MS * generator.normal(size=len(networks))

    found = plans()
    with threadpool_limits(1):
        for draw, plan in itertools.product(range(draws), found.values()):
            generator = np.random.default_rng([7, draw])
            random = _random(space, NETWORKS, generator)
            measure = partial(measured, generator=generator)
            everything = Observations(
                space, random, measured(random, generator), np.full(NETWORKS, NOISE_MS), published.fingerprint, batch=8
            )  # fmt: skip
            seen = everything.take(np.arange(NETWORKS - round(plan.share * NETWORKS)))
            predictor = fit_additive(space, None, seen)
            for left in range(plan.rounds if plan.share else 0, 0, -1):
                frontier = frontier_networks(predictor, (NETWORKS - len(seen)) // left, seed=100 * draw + left)
                indices = np.stack([network.indices(space) for network in frontier])
                value = np.concatenate([seen.value, measured(indices, generator)])
                indices = np.concatenate([seen.indices, indices])
                seen = replace(everything, indices=indices, value=value, standard_error=np.full(len(value), NOISE_MS))
                predictor = fit_additive(space, None, seen)
            limits = np.quantile(predictor.predict_indices(random), LIMITS)
            for name, score in scores(space, np.random.default_rng([10, draw])).items():
                if plan.finalists:
                    for ended in _each_confirmed(predictor, limits, score, measure):
                        plan.chosen[name].add_confirmed(ended, measure)
                    continue
                optima = best_within_limits(predictor, limits, score)
                plan.chosen[name].add(predictor, optima, measured(optima, generator))
            macs = CountedPredictor(space, "macs_m").cost
            if plan.finalists:
                handed_over = _each_confirmed(predictor, limits[::2], macs, measure, 0.95)
                within = np.stack([each.chosen.indices(space) for each in handed_over])
                # What is promised of a measured network is its own latency, not each measurement of it.
                plan.kept += (published.predict_indices(within) <= limits[::2]).tolist()
            else:
                others = _random(space, RANDOM, generator)
                plan.random.add(predictor, others, measured(others, generator))
                within, within_ms = _confident(predictor, limits[::2], macs)
                plan.kept += (measured(within, generator) <= within_ms).tolist()
    return Section(title, tuple(row for name, plan in found.items() for row in plan.rows(name)))


def macro(drawing: Drawing | None = None, draws: int = DRAWS) -> Section:
    """Every network of nasbench-macro was measured on one machine: fitted to some, compared with all others."""
    title = f"Optimum of nasbench-macro as measured, {MACRO_NETWORKS} networks, {draws} draws"
    if not TABLE.exists():
        return Section(title, skipped=f"no {TABLE}: python -m benchmarks.macro_latency measures it")
    every = latency_observations()
    space, one_hot, typical = every.space, every.one_hot, float(np.median(every.value))
    layers = np.arange(len(space.layers))
    macs = CountedPredictor(space, "macs_m").predict_indices(every.indices)
    found = plans()
    del found[CONFIRMED]  # a network has one measurement there, which cannot confirm it and be predicted
    with threadpool_limits(1):
        for draw, plan in itertools.product(range(draws), found.values()):
            dealt = np.random.default_rng([8, draw]).permutation(len(every))
            rows = macro_rows(every, dealt, MACRO_NETWORKS, plan.share, plan.rounds, seed=draw)
            predictor = fit_additive(space, None, every.take(rows))
            limits = np.quantile(predictor.predict_indices(every.indices[dealt[:MACRO_NETWORKS]]), LIMITS)
            free = np.ones(len(every), dtype=bool)
            free[rows] = False

            def best(bound: Array, score: Array, limits: Array = limits, free: NDArray[np.bool_] = free) -> Indices:
                return np.array([np.where((bound <= limit) & free, score, -1.0).argmax() for limit in limits])

            predicted, upper = predictor.predict(one_hot), predictor.upper(one_hot, 0.95)
            for name, score in scores(space, np.random.default_rng([10, draw])).items():
                optima = best(predicted, score[layers, every.indices].sum(axis=1))
                plan.chosen[name].add(predictor, every.indices[optima], every.value[optima])
            others = np.flatnonzero(free[dealt])[-RANDOM:]
            plan.random.add(predictor, every.indices[dealt[others]], every.value[dealt[others]])
            plan.kept += (every.value[best(upper, macs)] <= limits).tolist()
    repeatability = reported("repeatability", 100 * every.repeatability, "{:.2f} %")
    return Section(title, (repeatability, *(row for name, plan in found.items() for row in plan.rows(name, typical))))


def macro_rows(every: Observations, dealt: Indices, count: int, share: float, rounds: int = 1, *, seed: int) -> Indices:
    """(count,) rows of the table by a plan: the first dealt ones, and a share as `sample --frontier` chooses them."""
    space = every.space
    rows = dict.fromkeys(dealt[: count - round(share * count)].tolist())
    number = {tuple(indices): row for row, indices in enumerate(every.indices.tolist())}
    place = {each: number[equal[-1]] for equal in distinct_networks(space).values() for each in equal}
    for left in range(rounds if share else 0, 0, -1):
        predictor = fit_additive(space, None, every.take(np.array(list(rows))))
        wanted = len(rows) + (count - len(rows)) // left
        for network in frontier_networks(predictor, 3 * count, seed=100 * seed + left):
            if len(rows) < wanted:
                rows[place[tuple(network.indices(space).tolist())]] = None
    return np.array(list(rows))


def local(drawing: Drawing | None = None, draws: int = DRAWS, spaces: Sequence[str] = tuple(LOCAL)) -> Section:
    """This machine: random networks, then the chosen ones with some of the random ones, by the method of `macro_latency`."""
    return Section("Optimum on this machine", tuple(row for name in spaces for row in _local(name, draws)))


def _local(name: str, draws: int) -> list[Row]:
    space = load_space(name)
    count, fitted, most_draws = LOCAL[name]
    draws = min(draws, most_draws)
    networks = [tuple(each.indices(space).tolist()) for each in sample_architectures(space, count, seed=3)]
    before, error_ms = latencies(*measure(space, networks, seed=0))
    everything = Observations(space, np.array(networks), before, error_ms, {})
    score = PathLosses(space).posterior().mean
    fits = []
    for draw in range(draws):
        dealt = np.random.default_rng([9, draw]).permutation(len(everything))
        seen, held = everything.take(dealt[:fitted]), everything.take(dealt[fitted:])
        with threadpool_limits(1):
            predictor = fit_additive(space, None, seen)
        limits = np.quantile(predictor.predict_indices(seen.indices), LOCAL_LIMITS)
        fits.append(
            (
                predictor,
                held,
                best_within_limits(predictor, limits, score),
                *_confident(predictor, limits[::2], score, exact=False),
            )
        )
    wanted = list(dict.fromkeys(tuple(row.tolist()) for _, _, *rows, _ in fits for each in rows for row in each))
    again = list(dict.fromkeys([*networks[:LOCAL_REFERENCE], *wanted]))
    value = dict(zip(again, latencies(*measure(space, again, seed=1))[0].tolist(), strict=True))
    changes = np.log([before[place] / value[network] for place, network in enumerate(networks) if network in value])
    value = {network: latency * float(np.exp(np.median(changes))) for network, latency in value.items()}
    repeatability = float(np.std(changes, ddof=1)) / np.sqrt(2)
    chosen, random, kept = _Errors(), _Errors(), []
    for predictor, held, optima, within, limits in fits:
        random.add(predictor, held.indices, held.value)
        chosen.add(predictor, optima, np.array([value[tuple(row)] for row in optima.tolist()]))
        kept += [value[tuple(row)] <= limit for row, limit in zip(within.tolist(), limits, strict=True)]
    typical = float(np.median(everything.value))
    return [
        reported(f"{name}: networks measured, those that a draw fits to", count, f"{{:.0f}}, {fitted}"),
        reported(f"{name}: draws, networks chosen in all", draws, f"{{:.0f}}, {len(wanted)}"),
        reported(f"{name}: repeatability", 100 * repeatability, "{:.2f} %"),
        random.row(f"{name}: random networks", False, typical), chosen.row(f"{name}: chosen", True, typical),
        _kept(kept, f"{name}: "),
    ]  # fmt: skip


def best_within_limits(predictor: AdditivePredictor, limits: Array, score: Array) -> Indices:
    """(n, L) networks of the highest score within each predicted limit."""
    space = predictor.space
    return np.stack([
        select(space, score, [Constraint(predictor, limit)]).architecture.indices(space) for limit in limits.tolist()
    ])  # fmt: skip


def _each_confirmed(
    predictor: AdditivePredictor,
    limits: Array,
    score: Array,
    measure: Callable[[Indices], Array],
    confidence: float | None = None,
) -> list[Confirmed]:
    """For each limit, what a search ends with that measures finalists; limits do not learn from each other."""
    posterior = OperatorPosterior(score, np.zeros((score.size, 1)))

    def ended(limit: float) -> Confirmed:
        found: dict[Architecture, float] = {}

        def observe(architectures: Sequence[Architecture]) -> Observations:
            indices = np.stack([each.indices(predictor.space) for each in architectures])
            new = [row for row, each in enumerate(architectures) if each not in found]
            found.update(zip([architectures[row] for row in new], measure(indices[new]).tolist(), strict=True))
            value = np.array([found[each] for each in architectures])
            return Observations(
                predictor.space, indices, value, np.full(len(value), NOISE_MS), predictor.fingerprint, batch=8
            )

        return confirmed(predictor, observe, posterior, limit, confidence)

    return [ended(limit) for limit in limits.tolist()]


def _confident(
    predictor: AdditivePredictor, limits: Array, score: Array, *, exact: bool = True
) -> tuple[Indices, Array]:
    """Networks of the highest score within limits at 95 %, and these limits; none where no network is within.

    Args:
        exact: prove that no network has a higher score.
    """
    space = predictor.space

    def confident(limit: float) -> Indices | None:
        constraint = Constraint(predictor, limit)
        if exact:
            return select(space, score, [constraint], 0.95).architecture.indices(space)
        return select_by_steps(score, Problem(space, (constraint,), 0.95))

    within = [(found, limit) for limit in limits.tolist() if (found := confident(limit)) is not None]
    return (
        np.array([found for found, _ in within], dtype=np.int64).reshape(-1, len(space.layers)),
        np.array([limit for _, limit in within]),
    )


def _kept(kept: Sequence[bool], what: str = "") -> Row:
    return at_least(
        f"{what}most MACs with --confidence 0.95, limit kept", 100 * float(np.mean(kept)), HOLDS, "{:.1f} %"
    )


def _random(space: Space, count: int, generator: np.random.Generator) -> Indices:
    return generator.integers(len(space.operators), size=(count, len(space.layers)))


SETS: dict[str, Callable[[int], Section]] = {
    "board": lambda draws: board(draws=draws),
    "macro": lambda draws: macro(draws=draws),
    "tiny": lambda draws: local(draws=draws, spaces=("tiny",)),
    "lightnas": lambda draws: local(draws=draws, spaces=("lightnas",)),
}


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.predict_optimum", description=__doc__.splitlines()[0])
    parser.add_argument("sets", nargs="*", metavar="SET", help=f"of {', '.join(SETS)} (default: board and macro)")
    parser.add_argument("--draws", type=int, default=DRAWS, help=f"default: {DRAWS}")
    parser.add_argument("--measure", action="store_true", help="this machine too: tiny and lightnas")
    arguments = parser.parse_args(argv)
    names = arguments.sets or [name for name in SETS if name not in LOCAL or arguments.measure]
    if unknown := sorted(set(names) - set(SETS)):
        note(f"no such set: {', '.join(unknown)}; choose from: {', '.join(SETS)}")
        return 2
    if not arguments.measure and (asked := [name for name in names if name in LOCAL]):
        note(f"{', '.join(asked)}: measures this machine, add --measure")
        return 2
    for name in names:
        section = SETS[name](arguments.draws)
        if section.skipped:
            print(f"{name}: {section.skipped}\n")
            continue
        print_table(
            [section.title, "found", "target", "met"],
            [[row.what, row.shown, row.target, row.verdict] for row in section.rows],
        )
        print(flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

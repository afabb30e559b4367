"""Predictors where a search uses them: networks of the most multiplications within a predicted latency.

    python -m benchmarks.predict_optimum                        the published predictor, and the table of nasbench-macro
    python -m benchmarks.predict_optimum --draws 5 board        a quick look
    python -m benchmarks.predict_optimum --measure tiny         this machine, measured now

A draw fits a predictor to random networks, chooses one network for each of several limits, and measures it. What an
interval needs is known after all draws: the half-width that 90 % of the errors lie within, or the distance above the
prediction that 95 % of the measurements stay below. A perfectly calibrated interval of one width for all has a ratio of 1.

On this machine the scores are those that a search begins with (more multiplications in a layer count less and less): with scores that are
parallel to the latencies, nearly every network at a limit is the best, and proving which one takes minutes. The networks within the
95 % bound are found by local search there, for the same reason: a wide bound of few and scattered measurements keeps the solver busy for minutes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from benchmarks import recorded
from benchmarks.figures import Drawing
from benchmarks.macro import latency_observations
from benchmarks.macro_latency import TABLE, latencies, measure
from benchmarks.notes import note
from benchmarks.verdicts import Row, Section, at_least, at_most, covered, reported
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
from lightnas_edge.search.constraints import Constraint
from lightnas_edge.search.evidence import PathLosses
from lightnas_edge.search.local_search import select_by_steps
from lightnas_edge.search.problem import Problem
from lightnas_edge.search.selection import select
from lightnas_edge.space import Space, load_space

Array = NDArray[np.float64]
Indices = NDArray[np.int64]

DRAWS, NETWORKS, NOISE_MS = 50, 100, 0.03
RANDOM = 200  # networks of each draw that are not chosen, to compare with
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
    half: list[float] = field(default_factory=list)  # of the 90 % interval
    above: list[float] = field(default_factory=list)  # of the 95 % upper bound
    flagged: list[bool] = field(default_factory=list)

    def add(self, predictor: AdditivePredictor, networks: Indices, measured: Array) -> None:
        one_hot = one_hot_of(predictor.space, networks)
        predicted = predictor.predict(one_hot)
        self.error += (measured - predicted).tolist()
        self.half += (predictor.interval(one_hot, 0.9)[1] - predicted).tolist()
        self.above += (predictor.upper(one_hot, 0.95) - predicted).tolist()
        self.flagged += predictor.extrapolated(one_hot).tolist()

    def rows(self, what: str, chosen: bool, percent_of: float | None = None) -> list[Row]:
        error, half, above = np.array(self.error), np.array(self.half), np.array(self.above)
        flagged = np.array(self.flagged)
        scale, form = (1.0, "{:.3f} ms") if percent_of is None else (100 / percent_of, "{:.2f} %")
        inside, below = np.abs(error) <= half, error <= above
        width = float(half.mean() / np.quantile(np.abs(error), 0.9))
        needed = float(np.quantile(error, 0.95))  # below 0 where the chosen networks are faster than predicted
        rows = [
            reported(f"{what}: RMS error", scale * float(np.sqrt(np.mean(error**2))), form),
            reported(f"{what}: 90 % PI coverage", 100 * float(inside.mean()), "{:.1f} %") if chosen else covered(f"{what}: 90 % PI coverage", float(inside.mean())),
            at_least(f"{what}: 95 % bound holds", 100 * float(below.mean()), 93.0, "{:.1f} %") if chosen else reported(f"{what}: 95 % bound holds", 100 * float(below.mean()), "{:.1f} %"),
            at_most(f"{what}: half-width over what is needed", width, 1.3, "{:.2f}"),
            *([reported(f"{what}: bound over what is needed", float(above.mean() / needed), "{:.2f}")] if needed > 0 else []),
            reported(f"{what}: extrapolated", 100 * float(flagged.mean()), "{:.1f} %"),
        ]  # fmt: skip
        if not flagged.all() and flagged.any():
            rows.append(
                reported(f"{what}: 90 % PI coverage of the others", 100 * float(inside[~flagged].mean()), "{:.1f} %")
            )
        return rows


def board(drawing: Drawing | None = None, draws: int = DRAWS) -> Section:
    """The published predictor is the board; a measurement has normal noise."""
    title = (
        f"Optimum of the published AGX Xavier predictor, {NETWORKS} random networks, noise {NOISE_MS} ms, {draws} draws"
    )
    if skipped := recorded.missing("lightnas_xavier/lightnas_predictor.npz"):
        return Section(title, skipped=skipped)
    space = load_space("lightnas")
    published = read_published_predictor(recorded.folder() / "lightnas_xavier" / "lightnas_predictor.npz", space)

    def measured(networks: Indices, generator: np.random.Generator) -> Array:
        return published.predict_indices(networks) + NOISE_MS * generator.normal(size=len(networks))

    chosen, random, kept = _Errors(), _Errors(), []
    with threadpool_limits(1):
        for draw in range(draws):
            generator = np.random.default_rng([7, draw])
            networks = _random(space, NETWORKS, generator)
            observations = Observations(
                space,
                networks,
                measured(networks, generator),
                np.full(NETWORKS, NOISE_MS),
                published.fingerprint,
                batch=8,
            )
            predictor = fit_additive(space, None, observations)
            optima, within, limits = _chosen(predictor, observations, LIMITS, CountedPredictor(space, "macs_m").cost)
            chosen.add(predictor, optima, measured(optima, generator))
            others = _random(space, RANDOM, generator)
            random.add(predictor, others, measured(others, generator))
            kept += (measured(within, generator) <= limits).tolist()
    return Section(title, (*random.rows("random", False), *chosen.rows("optimum", True), _kept(kept)))


def macro(drawing: Drawing | None = None, draws: int = DRAWS) -> Section:
    """Every network of nasbench-macro was measured on one machine: fitted to some, compared with all others."""
    title = f"Optimum of nasbench-macro as measured, {MACRO_NETWORKS} random networks, {draws} draws"
    if not TABLE.exists():
        return Section(title, skipped=f"no {TABLE}: python -m benchmarks.macro_latency measures it")
    return _section_of_table(title, latency_observations(), MACRO_NETWORKS, draws)


def _section_of_table(title: str, every: Observations, count: int, draws: int) -> Section:
    """Of a space of which every network was measured."""
    space, one_hot = every.space, every.one_hot
    macs = CountedPredictor(space, "macs_m").predict_indices(every.indices)
    chosen, random, kept = _Errors(), _Errors(), []
    with threadpool_limits(1):
        for draw in range(draws):
            dealt = np.random.default_rng([8, draw]).permutation(len(every))
            rows, others = dealt[:count], dealt[count:]
            seen = every.take(rows)
            predictor = fit_additive(space, None, seen)
            limits = np.quantile(predictor.predict_indices(seen.indices), LIMITS)
            free = np.ones(len(every), dtype=bool)
            free[rows] = False

            def most(bound: Array, limit: float, free: NDArray[np.bool_] = free) -> int:
                return int(np.where((bound <= limit) & free, macs, -1.0).argmax())

            predicted, upper = predictor.predict(one_hot), predictor.upper(one_hot, 0.95)
            optima = [most(predicted, limit) for limit in limits]
            within = [most(upper, limit) for limit in limits]
            chosen.add(predictor, every.indices[optima], every.value[optima])
            random.add(predictor, every.indices[others[:RANDOM]], every.value[others[:RANDOM]])
            kept += (every.value[within] <= limits).tolist()
    typical = float(np.median(every.value))
    return Section(title, (
        reported("repeatability", 100 * every.repeatability, "{:.2f} %"), *random.rows("random", False, typical),
        *chosen.rows("optimum", True, typical), _kept(kept),
    ))  # fmt: skip


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
        fits.append((predictor, held, *_chosen(predictor, seen, LOCAL_LIMITS, score, exact=False)))
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
        *random.rows(f"{name}: random", False, typical), *chosen.rows(f"{name}: optimum", True, typical),
        _kept(kept, f"{name}: "),
    ]  # fmt: skip


def _chosen(
    predictor: AdditivePredictor,
    observations: Observations,
    quantiles: Sequence[float],
    score: Array,
    *,
    exact: bool = True,
) -> tuple[Indices, Indices, Array]:
    """Networks of the highest score within the predicted limits; those within every other limit at 95 %, and these limits.

    Args:
        exact: prove that no network within the 95 % bound has a higher score.
    """
    space = predictor.space
    limits = np.quantile(predictor.predict_indices(observations.indices), quantiles)
    optima = [select(space, score, [Constraint(predictor, limit)]).architecture.indices(space) for limit in limits]

    def confident(limit: float) -> Indices | None:
        constraint = Constraint(predictor, limit)
        if exact:
            return select(space, score, [constraint], 0.95).architecture.indices(space)
        return select_by_steps(score, Problem(space, (constraint,), 0.95))

    within = [(found, limit) for limit in limits[::2] if (found := confident(limit)) is not None]
    return (
        np.stack(optima),
        np.array([found for found, _ in within], dtype=np.int64).reshape(-1, len(space.layers)),
        np.array([limit for _, limit in within]),
    )


def _kept(kept: Sequence[bool], what: str = "") -> Row:
    return at_least(f"{what}chosen with --confidence 0.95: limit kept", 100 * float(np.mean(kept)), 93.0, "{:.1f} %")


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

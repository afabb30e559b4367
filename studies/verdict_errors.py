"""How often a verdict is wrong, in simulated machines of which the true statistics are known. docs/verdicts.md has the table.

    python -m studies.verdict_errors            the full table, about five minutes on one core
    python -m studies.verdict_errors --quick    a fifth of the verifications
    python -m studies.verdict_errors --only mean_ms --times 4    one statistic, four times the verifications, other seeds

A verification is a number of rounds about 0.4 s apart, each with 20 inferences within 10 ms. "Wrong met" is the share of
verifications that say "met" of a target immediately below the true statistic. A burst, or a change of mode, is a random event: the
true statistic is that of all bursts that could have happened. Drift has happened: it is that of the time that was measured.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from lightnas_edge.cli._console import print_result, print_table, progress
from lightnas_edge.deploy.statistics import (
    LATENCY_STATISTICS,
    against,
    corrected_interval,
    day_deviation,
    estimate,
    least_rounds,
)

Array = NDArray[np.float64]
Generator = np.random.Generator
# Simulated inferences in ms and the true statistic of each of LATENCY_STATISTICS, for each verification.
Draw = Callable[[Generator, int, int], tuple[Array, dict[str, Array]]]

SPACING_S, WINDOW_S, INFERENCES = 0.4, 0.010, 20
NOISE = 0.01  # relative standard deviation of one inference, half of its variance between rounds
SENTINELS, DAY = 12, 0.01
MOST_WRONG, COVERAGE, LEAST_POWER = 0.025, (0.93, 0.97), 0.90
# metric, rounds, verifications of the full table
CELLS = (
    ("latency_ms", 5, 100), ("latency_ms", 8, 100), ("latency_ms", 15, 1000), ("latency_ms", 40, 1000),
    ("mean_ms", 40, 100), ("mean_ms", 80, 1000), ("p90_ms", 40, 1000), ("p95_ms", 40, 100), ("p95_ms", 80, 1000), ("p99_ms", 400, 400),
)  # fmt: skip


@dataclass(frozen=True)
class World:
    """A kind of machine."""

    name: str
    draw: Draw


def times_s(rng: Generator, verifications: int, rounds: int) -> Array:
    """(verifications, rounds, inferences) of the inferences."""
    gaps = SPACING_S * rng.uniform(0.85, 1.15, (verifications, rounds))
    starts = np.cumsum(gaps, axis=1) - gaps[:, :1]
    found: Array = starts[:, :, None] + WINDOW_S * np.arange(INFERENCES) / INFERENCES
    return found


def quiet(rng: Generator, verifications: int, rounds: int) -> Array:
    between = rng.standard_normal((verifications, rounds, 1))
    within = rng.standard_normal((verifications, rounds, INFERENCES))
    found: Array = 1 + NOISE * math.sqrt(0.5) * (between + within)
    return found


def one_sided(between: float) -> Callable[[Generator, int, int], Array]:
    """Inferences are late by 1 % on average, exponentially distributed, and so are rounds by `between`."""

    def draw(rng: Generator, verifications: int, rounds: int) -> Array:
        of_round = rng.exponential(between, (verifications, rounds, 1))
        found: Array = 1 + of_round + rng.exponential(NOISE, (verifications, rounds, INFERENCES))
        return found

    return draw


def bursty(hit: float, *, of_time: bool = False) -> Callable[[Generator, int, int], Array]:
    """Other work for 20 to 300 ms at random times slows all inferences meanwhile by 10 to 50 %.

    Args:
        hit: share of the rounds that a burst hits; of the time, with `of_time`.
    """
    mean_s = 0.16 if of_time else 0.16 + WINDOW_S
    rate = -math.log(1 - hit) / mean_s

    def draw(rng: Generator, verifications: int, rounds: int) -> Array:
        at = times_s(rng, verifications, rounds)
        end = float(at.max()) + 1.0  # of one verification; all are put one after the other
        counts = rng.poisson(rate * (end + 0.3), verifications)
        which = np.repeat(np.arange(verifications), counts)
        start = rng.uniform(-0.3, end, len(which))
        stop = np.minimum(start + rng.uniform(0.02, 0.3, len(which)), end)
        offset = (end + 1.0) * np.arange(verifications)
        flat = (at + offset[:, None, None]).ravel()
        height = rng.uniform(0.1, 0.5, len(which))
        change = np.zeros(len(flat) + 1)
        np.add.at(change, np.searchsorted(flat, start + offset[which]), height)
        np.add.at(change, np.searchsorted(flat, stop + offset[which]), -height)
        slower = np.cumsum(change)[:-1].reshape(at.shape)
        return quiet(rng, verifications, rounds) * (1 + slower)

    return draw


def bimodal(share: float) -> Callable[[Generator, int, int], Array]:
    """Two speeds, 20 % apart; `share` of the time the slow one. What the speed is now says little about it 0.4 s later."""

    def draw(rng: Generator, verifications: int, rounds: int) -> Array:
        at = times_s(rng, verifications, rounds)
        flat = at.reshape(verifications, -1)
        memory = np.exp(-np.diff(flat, axis=1) / 0.4)
        chance = rng.random(flat.shape)
        slow = np.empty(flat.shape, dtype=bool)
        slow[:, 0] = chance[:, 0] < share
        for index in range(1, flat.shape[1]):
            slow[:, index] = chance[:, index] < share + (slow[:, index - 1] - share) * memory[:, index - 1]
        return quiet(rng, verifications, rounds) * (1 + 0.2 * slow.reshape(at.shape))

    return draw


def stationary(draw: Callable[[Generator, int, int], Array]) -> Draw:
    """With the true statistics from 2.4 million inferences of 40 000 short verifications."""
    known: dict[str, float] = {}

    def with_truth(rng: Generator, verifications: int, rounds: int) -> tuple[Array, dict[str, Array]]:
        if not known:
            many = np.concatenate([draw(np.random.default_rng([99, part]), 10_000, 3).ravel() for part in range(4)])
            known.update({metric: _statistic(many, quantile) for metric, quantile in LATENCY_STATISTICS.items()})
        truth = {metric: np.full(verifications, value) for metric, value in known.items()}
        return draw(rng, verifications, rounds), truth

    return with_truth


def drifting(total: float) -> Draw:
    """A ramp of random slope, up to `total` over the verification, and a slow wave of random phase of up to half of that."""

    def draw(rng: Generator, verifications: int, rounds: int) -> tuple[Array, dict[str, Array]]:
        ramp, wave = rng.uniform(-1, 1, (verifications, 1)), rng.uniform(0, 0.25, (verifications, 1))
        period, phase = rng.uniform(1, 2, (verifications, 1)), rng.uniform(0, 2 * math.pi, (verifications, 1))

        def factor(part: Array) -> Array:
            found: Array = 1 + total * (ramp * (part - 0.5) + wave * np.sin(2 * math.pi * part / period + phase))
            return found

        at = times_s(rng, verifications, rounds)
        span = at[:, -1:, 0] + SPACING_S
        part = (at.reshape(verifications, -1) + SPACING_S / 2) / span
        samples = quiet(rng, verifications, rounds) * factor(part).reshape(at.shape)
        speed = factor(np.linspace(0, 1, 201)[None, :])
        truth = {metric: _of_mixture(speed, quantile) for metric, quantile in LATENCY_STATISTICS.items()}
        return samples, truth

    return draw


WORLDS = (
    World("quiet", stationary(quiet)),
    World("one-sided", stationary(one_sided(0.005))),
    World("one-sided, rounds as uneven as inferences", stationary(one_sided(0.01))),
    World("bursts, 15 % of the rounds", stationary(bursty(0.15))),
    World("bursts, 5 % of the time (p95 at their edge)", stationary(bursty(0.05, of_time=True))),
    World("bimodal, slow 40 % of the time", stationary(bimodal(0.4))),
    World("bimodal, slow 50 % of the time", stationary(bimodal(0.5))),
    World("drift of 2 %", drifting(0.02)),
    World("drift of 5 %", drifting(0.05)),
)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a fifth of the verifications")
    parser.add_argument("--only", choices=tuple(LATENCY_STATISTICS), help="this statistic, without the other tables")
    parser.add_argument("--times", type=int, default=1, metavar="N", help="as many verifications")
    arguments = parser.parse_args(argv)
    part = 5 if arguments.quick else 1
    cells = [
        (metric, rounds, count * arguments.times) for metric, rounds, count in CELLS if arguments.only in (None, metric)
    ]
    rows = []
    with progress("simulating") as bar:
        for number, world in enumerate(WORLDS):
            for index, (metric, rounds, verifications) in enumerate(cells):
                bar(number * len(cells) + index, len(WORLDS) * len(cells), f"{world.name}, {metric}", None)
                rows.append([world.name, metric, str(rounds), *errors(world, metric, rounds, verifications // part)])
    print_table(
        ["machine", "statistic", "rounds", "wrong met", "wrong missed", "interval holds", "wanted"],
        rows,
        title="95 % intervals; wrong met at most 2.5 %, intervals that hold 93 to 97 %",
    )
    if arguments.only is not None:
        return 0
    print_result("")
    print_table(["1 % of noise, 15 rounds", "share", "wanted"], power(2000 // part))
    print_result("")
    print_table(["with a table, corrected for drift", "interval holds", "wanted"], with_table(20_000 // part))
    print_result("")
    print_table(
        ["a true p50 of 0.25 % above the target, 15 rounds", "p50", "first decile, bootstrap"], contrast(1000 // part)
    )
    return 0


def errors(world: World, metric: str, rounds: int, verifications: int) -> list[str]:
    """Wrong met, wrong missed, coverage, and whether they are as wanted."""
    if rounds < least_rounds(metric):
        samples, _ = world.draw(np.random.default_rng(0), verifications, rounds)
        if any(estimate(list(verification), metric).interval is not None for verification in samples):
            return ["-", "-", "-", "NO: guessed"]
        return ["-", "-", "-", f"refused: needs {least_rounds(metric)} rounds"]
    met = missed = 0
    for each, truth in _verifications(world, metric, rounds, verifications):
        interval = estimate(each, metric).interval
        assert interval is not None
        met += interval[1] < truth
        missed += interval[0] > truth
    wrong_met, wrong_missed = met / verifications, missed / verifications
    holds = 1 - wrong_met - wrong_missed
    # Two standard errors of the simulation are allowed for.
    error = 2 * math.sqrt(MOST_WRONG * (1 - MOST_WRONG) / verifications)
    remarks = ["wrong met"] * (wrong_met > MOST_WRONG + error)
    remarks += ["too narrow"] * (holds < COVERAGE[0] - error) + ["wide"] * (holds > COVERAGE[1] + error)
    return [*(f"{100 * value:.1f} %" for value in (wrong_met, wrong_missed, holds)), ", ".join(remarks) or "yes"]


def power(verifications: int) -> list[list[str]]:
    found = []
    for what, factor, wanted in (("p50 2 % below the target: met", 1.02, "met"), ("2 % above: missed", 0.98, "missed")):
        said = sum(
            against(samples, "latency_ms", factor * truth) == wanted
            for samples, truth in _verifications(WORLDS[0], "latency_ms", 15, verifications)
        )
        found.append([what, f"{100 * said / verifications:.1f} %", f">= {100 * LEAST_POWER:.0f} %"])
    return found


def with_table(verifications: int) -> list[list[str]]:
    """The corrected latency against the truth under the conditions of the table.

    The drift between the days is 3 %. Each of the sentinels and the network differ by 1 % more on their own; a ratio of
    a sentinel is measured to 0.3 %, the network to 0.3 %. The ratio and its interval are those of `luts.drift_ratio`:
    the median, with the scatter of the sentinels over the root of their number.
    """
    rng = np.random.default_rng(5)
    inside = without = 0
    for _ in range(verifications):
        logs = math.log(1.03) + DAY * rng.standard_normal(SENTINELS) + 0.003 * rng.standard_normal(SENTINELS)
        centre = float(np.median(logs))
        among = 1.4826 * float(np.median(np.abs(logs - centre)))
        half = float(stats.t.ppf(0.975, SENTINELS - 1)) * max(among, 0.003) * 1.2533 / math.sqrt(SENTINELS)
        drift = (math.exp(centre - half), math.exp(centre + half))
        network = 10.0 * 1.03 * math.exp(DAY * rng.standard_normal() + 0.003 * rng.standard_normal())
        corrected = network / math.exp(centre)
        deviation = day_deviation(np.exp(logs), np.full(SENTINELS, 0.003))
        interval = corrected_interval(corrected, 0.003 * corrected, drift, 0.95, deviation)
        narrow = corrected_interval(corrected, 0.003 * corrected, drift, 0.95, 0.0)
        assert interval is not None and narrow is not None
        inside += interval[0] <= 10.0 <= interval[1]
        without += narrow[0] <= 10.0 <= narrow[1]
    return [
        ["with the deviation of one network by day", f"{100 * inside / verifications:.1f} %", "93 to 97 %"],
        ["without it", f"{100 * without / verifications:.1f} %", ""],
    ]


def contrast(verifications: int) -> list[list[str]]:
    """How often a target that is 0.25 % below the true median is called met: by the median, and by the first decile."""
    found = []
    for world in (WORLDS[0], WORLDS[5]):
        by_median = by_decile = 0
        for samples, truth in _verifications(world, "latency_ms", 15, verifications):
            target = truth / 1.0025
            by_median += against(samples, "latency_ms", target) == "met"
            by_decile += _high_of_decile(np.stack(samples)) <= target
        found.append([world.name, *(f"{100 * count / verifications:.1f} % met" for count in (by_median, by_decile))])
    return found


def _high_of_decile(samples: Array) -> float:
    """Upper end of the 95 % interval of the first decile when whole rounds are resampled."""
    chosen = np.random.default_rng(0).integers(len(samples), size=(400, len(samples)))
    return float(np.quantile(np.quantile(samples[chosen].reshape(400, -1), 0.1, axis=1), 0.975))


def _verifications(world: World, metric: str, rounds: int, count: int) -> Iterator[tuple[list[Array], float]]:
    """(rounds of one verification, its true statistic), `count` times."""
    rng = np.random.default_rng([rounds, count])
    for start in range(0, count, 100):
        samples, truth = world.draw(rng, min(100, count - start), rounds)
        for each, value in zip(samples, truth[metric], strict=True):
            yield list(each), float(value)


def _statistic(samples: Array, quantile: float | None) -> float:
    return float(samples.mean() if quantile is None else np.quantile(samples, quantile))


def _of_mixture(speed: Array, quantile: float | None) -> Array:
    """(verifications,) statistic of normal inferences at each of the speeds, (verifications, times)."""
    if quantile is None:
        mean: Array = speed.mean(axis=1)
        return mean
    low, high = 0.9 * speed.min(axis=1), 1.1 * speed.max(axis=1)
    for _ in range(30):
        middle = (low + high) / 2
        below = stats.norm.cdf((middle[:, None] / speed - 1) / NOISE).mean(axis=1) < quantile
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    found: Array = (low + high) / 2
    return found


if __name__ == "__main__":
    sys.exit(main())

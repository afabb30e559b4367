"""From measured samples to a verdict: a pure function of numbers. The rules are in docs/measuring.md, "Verdicts"."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Any, Literal

import numpy as np

import luts
from lightnas_edge.errors import BudgetError, VerifyError
from luts.table import QUANTILE

Verdict = Literal["met", "missed", "inconclusive"]

CONFIDENCE = 0.95
LEAST_ROUNDS = 5  # resampling fewer blocks than this gives intervals that are too narrow by far
NOISE_LIMIT = 0.10  # the median above the low quantile: beyond it other work, not the network, shapes the samples
MOST_DRIFT = 0.10  # beyond it the sentinels no longer stand for the network: caches and clocks differ, not just speed
_RESAMPLES = 4000


@dataclass(frozen=True)
class Estimate:
    """A centre with its interval; None where there were too few rounds to know one."""

    latency_ms: float
    interval_ms: tuple[float, float] | None

    @property
    def half_width_ms(self) -> float | None:
        return None if self.interval_ms is None else (self.interval_ms[1] - self.interval_ms[0]) / 2

    def against(self, target_ms: float) -> Verdict:
        if self.interval_ms is None or self.interval_ms[0] <= target_ms < self.interval_ms[1]:
            return "inconclusive"
        return "met" if self.interval_ms[1] <= target_ms else "missed"

    def to_json(self) -> dict[str, Any]:
        return {
            "latency_ms": self.latency_ms,
            "interval_ms": None if self.interval_ms is None else list(self.interval_ms),
        }


@dataclass(frozen=True)
class Judgement:
    """The verdict and everything it rests on."""

    verdict: Verdict
    reason: str
    remedy: str  # what to do next; empty when met
    target_ms: float
    confidence: float
    measured: Estimate  # the median of all samples, as the machine was
    corrected: Estimate | None  # the table's estimator at the speed of the day the table was measured
    drift: luts.Ratio | None
    p95_ms: float
    n: int
    rounds: int

    @property
    def decisive(self) -> Estimate:
        """The estimate whose verdict counts."""
        return self.measured if self.corrected is None else self.corrected

    @property
    def violation(self) -> float:
        return self.decisive.latency_ms / self.target_ms - 1

    def to_json(self) -> dict[str, Any]:
        """The part of a verification record that is about latency (docs/formats.md)."""
        drift = self.drift
        return {
            "verdict": self.verdict,
            "reason": self.reason,
            "remedy": self.remedy,
            "target": {"latency_ms": self.target_ms},
            "violation": self.violation,
            "confidence": self.confidence,
            "measured": {**self.measured.to_json(), "p95_ms": self.p95_ms, "n": self.n, "rounds": self.rounds},
            "drift": drift
            and {
                "ratio": drift.value,
                "interval": list(drift.interval),
                "confidence": drift.confidence,
                "sentinels": drift.per_key,
            },
            "corrected": self.corrected and self.corrected.to_json(),
        }


def judge(
    entry: luts.Entry,
    *,
    target_ms: float,
    drift: luts.Ratio | None = None,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> Judgement:
    """Whether a network keeps its budget.

    Two numbers are computed. `measured`: the median of all samples, as they came. `corrected`: the estimator of the
    table (a low quantile of the samples with the drift of each round divided out), divided by the drift since the
    table was measured; it is what the predictor predicts, and its verdict counts.

    Samples of one round share the state of the machine, so whole rounds are resampled: samples treated as
    independent would make the intervals too narrow.

    Args:
        entry: the network's visits, one for each round, with the drift of each round.
        drift: how much slower (above 1) the sentinels ran than when the table was measured; None without a table:
            then there is no correction and the median is judged.
        confidence: of the two-sided intervals.

    Raises:
        BudgetError: the target is no positive number.
        VerifyError: there is nothing to judge, or the drift is no ratio.
    """
    if not (math.isfinite(target_ms) and target_ms > 0):
        raise BudgetError(f"a budget is a positive number of milliseconds, not {target_ms!r}")
    if drift is not None and not (0 < drift.interval[0] <= drift.value <= drift.interval[1] < math.inf):
        raise VerifyError(f"a drift ratio lies within its interval and above 0: {drift.value} in {drift.interval}")
    rounds = [np.asarray(visit.samples_ms, dtype=float) for visit in entry.visits]
    if not sum(map(len, rounds)):
        raise VerifyError(f"{entry.key} was not measured: the table holds no sample of it")
    samples = np.concatenate(rounds)

    measured = _estimate(rounds, 0.5, np.ones(1), confidence, seed)
    corrected = None
    if drift is not None:
        steadied = [samples / factor for samples, factor in zip(rounds, entry.drift, strict=True)]
        corrected = _estimate(steadied, QUANTILE, _resampled_ratios(drift, seed), confidence, seed)
        corrected = replace(corrected, latency_ms=entry.latency_ms / drift.value)
    verdict, reason, remedy = _decide(measured, corrected, drift, target_ms, len(rounds))
    return Judgement(
        verdict=verdict,
        reason=reason,
        remedy=remedy,
        target_ms=target_ms,
        confidence=confidence,
        measured=measured,
        corrected=corrected,
        drift=drift,
        p95_ms=float(np.percentile(samples, 95)),
        n=len(samples),
        rounds=len(rounds),
    )


def result_line(record: Mapping[str, Any]) -> str:
    """One line that tells the whole truth of a verification record.

    `predicted 0.840 ms, measured 0.860 ± 0.020 ms (n=200), target 0.900 ms: met`
    """
    target_ms = record["target"]["latency_ms"]
    digits = max(_digits(target_ms), _digits(record["measured"]["latency_ms"]))
    predicted, measured, corrected = record.get("predicted"), record["measured"], record.get("corrected")
    parts = [f"predicted {predicted['latency_ms']:.{digits}f} ms"] if predicted else []
    verb = "SIMULATED" if record.get("simulated") else "measured"
    parts.append(f"{verb} {_plus_minus(measured, digits)} (n={measured['n']})")
    if corrected:
        parts.append(f"drift-corrected {_plus_minus(corrected, digits)}")
    line = f"{', '.join(parts)}, target {target_ms:.{_digits(target_ms)}f} ms: {record['verdict']}"
    if record["verdict"] == "missed":
        line += f" by {100 * ((corrected or measured)['latency_ms'] / target_ms - 1):.1f} %"
    if record["verdict"] == "inconclusive":
        line += f" ({record['reason']})"
    return line


def _decide(
    measured: Estimate, corrected: Estimate | None, drift: luts.Ratio | None, target_ms: float, rounds: int
) -> tuple[Verdict, str, str]:
    digits = _digits(target_ms)
    raw = measured.against(target_ms)
    decisive = measured if corrected is None else corrected
    verdict = decisive.against(target_ms)
    if decisive.interval_ms is None:
        return (
            "inconclusive",
            f"{_counted(rounds, 'round')} measured, and an interval needs at least {LEAST_ROUNDS}",
            "measure again with more rounds: `lightnas-edge verify --rounds 25`",
        )
    agreed = raw == verdict != "inconclusive"
    if drift is not None and abs(drift.value - 1) > MOST_DRIFT and not agreed:
        return (
            "inconclusive",
            f"the machine runs {_slower(drift.value)} than on the table's day, beyond the limit of "
            f"{100 * MOST_DRIFT:.0f} %",
            "make the machine quiet, lock its clocks and verify again, or measure the table anew in today's state",
        )
    if {raw, verdict} == {"met", "missed"}:
        return (
            "inconclusive",
            f"as measured the budget is {raw}, at the speed of the table's day it is {verdict}",
            "the drift of the machine decides: lock its clocks and verify again, or measure the table anew",
        )
    if corrected is not None and drift is not None and raw != verdict:
        restless = measured.latency_ms / (corrected.latency_ms * drift.value) - 1
        if restless > NOISE_LIMIT:
            return (
                "inconclusive",
                f"the machine was restless: the median is {100 * restless:.0f} % above the table's estimator, beyond "
                f"the limit of {100 * NOISE_LIMIT:.0f} %, and as measured the budget is {_stands(raw)}",
                "stop other work on the machine and verify again",
            )
    low, high = decisive.interval_ms
    interval = f"{'' if corrected is None else 'drift-corrected '}interval {low:.{digits}f} to {high:.{digits}f} ms"
    target = f"target {target_ms:.{digits}f} ms"
    if verdict == "met":
        return "met", f"the upper end of the {interval} is within the {target}", ""
    if verdict == "missed":
        return (
            "missed",
            f"the lower end of the {interval} is above the {target}",
            "search again with this network in the predictor's samples, or with a tighter target",
        )
    return (
        "inconclusive",
        f"the {interval} contains the {target}",
        "measure again with more rounds, on a quieter machine, or search with a slightly tighter target",
    )


def _estimate(rounds: list[np.ndarray], quantile: float, ratios: np.ndarray, confidence: float, seed: int) -> Estimate:
    """The quantile of all samples, and the interval that follows from drawing rounds and ratios anew."""
    centre = float(np.quantile(np.concatenate(rounds), quantile))
    if len(rounds) < LEAST_ROUNDS:
        return Estimate(centre, None)
    table = np.full((len(rounds), max(map(len, rounds))), np.nan)
    for row, samples in enumerate(rounds):
        table[row, : len(samples)] = samples
    chosen = np.random.default_rng(seed).integers(len(rounds), size=(_RESAMPLES, len(rounds)))
    of_each = np.nanquantile if np.isnan(table).any() else np.quantile  # the first is fifty times slower
    draws = of_each(table[chosen].reshape(_RESAMPLES, -1), quantile, axis=1) / ratios
    low, high = np.quantile(draws, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Estimate(centre, (float(low), float(high)))


def _resampled_ratios(drift: luts.Ratio, seed: int) -> np.ndarray:
    """(resamples,) ratios as uncertain as their interval says, normal in the logarithm."""
    low, high = np.log(drift.interval)
    deviation = (high - low) / (2 * NormalDist().inv_cdf((1 + drift.confidence) / 2))
    normal = np.random.default_rng([seed, 1]).standard_normal(_RESAMPLES)
    ratios: np.ndarray = drift.value * np.exp(deviation * normal)
    return ratios


def _plus_minus(part: Mapping[str, Any], digits: int) -> str:
    """An uncertainty is never printed as zero."""
    if not part.get("interval_ms"):
        return f"{part['latency_ms']:.{digits}f} ms"
    low, high = part["interval_ms"]
    return f"{part['latency_ms']:.{digits}f} ± {max((high - low) / 2, 10.0**-digits):.{digits}f} ms"


def _digits(value_ms: float) -> int:
    """Decimals that show about three significant digits, and at least one."""
    return min(6, max(1, 2 - math.floor(math.log10(value_ms))))


def _stands(verdict: Verdict) -> str:
    return "neither met nor missed" if verdict == "inconclusive" else verdict


def _slower(ratio: float) -> str:
    return f"{100 * abs(ratio - 1):.1f} % {'slower' if ratio > 1 else 'faster'}"


def _counted(count: int, what: str) -> str:
    return f"only {count} {what}{'' if count == 1 else 's'}"

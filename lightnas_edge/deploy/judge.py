"""From measured samples to a verdict: a pure function of numbers. The rules are in docs/measuring.md, "Verdicts"."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np

import luts
from lightnas_edge.errors import BudgetError, VerifyError
from lightnas_edge.records.deployment import DriftRecord, LatencyEstimate, Verdict, VerificationRecord
from luts.table import QUANTILE

CONFIDENCE = 0.95
MIN_ROUNDS = 5  # resampling fewer blocks than this gives intervals that are too narrow by far
NOISE_LIMIT = 0.10  # of the median above the low quantile: beyond it other work, not the network, shapes the samples
MAX_DRIFT = 0.10  # beyond it the sentinels no longer represent the network: caches and clocks differ, not speed alone
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

    @property
    def record(self) -> LatencyEstimate:
        return LatencyEstimate(latency_ms=self.latency_ms, interval_ms=self.interval_ms)


@dataclass(frozen=True)
class Judgement:
    """The verdict and everything it rests on."""

    verdict: Verdict
    reason: str
    remedy: str  # what to do next; empty when met
    target_ms: float
    confidence: float
    measured: Estimate  # the median of all samples, as the machine was
    corrected: Estimate | None  # used for the verdict; normalised to the conditions of profiling
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

    @property
    def drift_record(self) -> DriftRecord | None:
        if self.drift is None:
            return None
        return DriftRecord(
            ratio=self.drift.value,
            interval=self.drift.interval,
            confidence=self.drift.confidence,
            sentinels=self.drift.per_key,
        )


def judge(
    entry: luts.Entry,
    *,
    target_ms: float,
    drift: luts.Ratio | None = None,
    confidence: float = CONFIDENCE,
    seed: int = 0,
    command: str = "lightnas-edge verify RUN",
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
        command: that measured, without its number of rounds; a remedy repeats it.

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
    verdict, reason, remedy = _decide(measured, corrected, drift, target_ms, len(rounds), command)
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


def result_line(record: VerificationRecord) -> str:
    """A verification in one line.

    `predicted 0.840 ms, measured 0.860 ± 0.020 ms (n=200), target 0.900 ms: met`
    """
    target_ms = record.target.latency_ms
    digits = max(_digits(target_ms), _digits(record.measured.latency_ms))
    parts = [f"predicted {record.predicted.latency_ms:.{digits}f} ms"] if record.predicted else []
    verb = "SIMULATED" if record.simulated else "measured"
    parts.append(f"{verb} {_plus_minus(record.measured, digits)} (n={record.measured.n})")
    if record.corrected:
        parts.append(f"drift-corrected {_plus_minus(record.corrected, digits)}")
    line = f"{', '.join(parts)}, target {target_ms:.{_digits(target_ms)}f} ms: {record.verdict}"
    if record.verdict == "missed":
        line += f" by {100 * record.violation:.1f} %"
    if record.verdict == "inconclusive":
        line += f" ({record.reason})"
    return line


def _decide(
    measured: Estimate,
    corrected: Estimate | None,
    drift: luts.Ratio | None,
    target_ms: float,
    rounds: int,
    command: str,
) -> tuple[Verdict, str, str]:
    digits = _digits(target_ms)
    raw = measured.against(target_ms)
    decisive = measured if corrected is None else corrected
    verdict = decisive.against(target_ms)
    if decisive.interval_ms is None:
        return (
            "inconclusive",
            f"{_counted(rounds, 'round')} measured, and an interval needs at least {MIN_ROUNDS}",
            f"measure again with more rounds: `{command} --rounds 25`",
        )
    agreed = raw == verdict != "inconclusive"
    if drift is not None and abs(drift.value - 1) > MAX_DRIFT and not agreed:
        return (
            "inconclusive",
            f"the machine runs {_slower(drift.value)} than in the reference session of the LUT, beyond the limit of "
            f"{100 * MAX_DRIFT:.0f} %",
            "make the machine quiet, lock its clocks and verify again, or re-profile the LUT",
        )
    if {raw, verdict} == {"met", "missed"}:
        return (
            "inconclusive",
            f"as measured the budget is {raw}, normalised to profiling conditions it is {verdict}",
            "the verdict depends on the drift of the machine: lock its clocks and verify again, or re-profile the LUT",
        )
    if corrected is not None and drift is not None and raw != verdict:
        noise = measured.latency_ms / (corrected.latency_ms * drift.value) - 1
        if noise > NOISE_LIMIT:
            return (
                "inconclusive",
                f"unstable host: the median is {100 * noise:.0f} % above the low quantile of the samples, beyond the limit "
                f"of {100 * NOISE_LIMIT:.0f} %, and as measured the budget is {_verdict_in_words(raw)}",
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
        f"measure again with more rounds, on a quieter machine: `{command} --rounds {2 * rounds}`; or search with a slightly "
        "tighter target",
    )


def _estimate(rounds: list[np.ndarray], quantile: float, ratios: np.ndarray, confidence: float, seed: int) -> Estimate:
    """The quantile of all samples, and the interval that follows from resampling rounds and ratios."""
    centre = float(np.quantile(np.concatenate(rounds), quantile))
    if len(rounds) < MIN_ROUNDS:
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


def _plus_minus(estimate: LatencyEstimate, digits: int) -> str:
    """An uncertainty is never printed as zero."""
    if estimate.interval_ms is None:
        return f"{estimate.latency_ms:.{digits}f} ms"
    low, high = estimate.interval_ms
    return f"{estimate.latency_ms:.{digits}f} ± {max((high - low) / 2, 10.0**-digits):.{digits}f} ms"


def _digits(value_ms: float) -> int:
    """Decimals that show about three significant digits, and at least one."""
    return min(6, max(1, 2 - math.floor(math.log10(value_ms))))


def _verdict_in_words(verdict: Verdict) -> str:
    return "neither met nor missed" if verdict == "inconclusive" else verdict


def _slower(ratio: float) -> str:
    return f"{100 * abs(ratio - 1):.1f} % {'slower' if ratio > 1 else 'faster'}"


def _counted(count: int, what: str) -> str:
    return f"only {count} {what}{'' if count == 1 else 's'}"

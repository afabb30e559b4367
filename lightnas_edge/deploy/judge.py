"""From evidence to verdicts, one for each budget: a pure function of numbers. The rules are in docs/verdicts.md."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import luts
from lightnas_edge.deploy.statistics import CONFIDENCE, least_rounds
from lightnas_edge.errors import BudgetError
from lightnas_edge.records.deployment import (
    LATENCY_FIELDS,
    AccuracyRecord,
    Agreement,
    BudgetVerdict,
    EnergyRecord,
    Interval,
    MeasuredLatency,
    Outcome,
    Verdict,
    VerificationRecord,
)

NOISE_LIMIT = 0.10  # of the median above the low quantile: beyond it other work, not the network, shapes the samples
# Half precision keeps the cosine of logits above 0.999, int8 usually above 0.99.
MIN_COSINE = 0.99
AT_LEAST = ("accuracy", "throughput_per_s")
COUNTED = ("params_m", "macs_m", "peak_memory_mb")  # without an interval
# Every budget that can be judged: its unit and its name in text.
UNITS = {
    "latency_ms": "ms", "mean_ms": "ms", "p90_ms": "ms", "p95_ms": "ms", "p99_ms": "ms", "energy_mj": "mJ", "net_energy_mj": "mJ",
    "throughput_per_s": "per s", "peak_memory_mb": "MB", "params_m": "M", "macs_m": "M", "accuracy": "", "accuracy_drop": "",
}  # fmt: skip
LABELS = {
    "latency_ms": "p50 latency", "mean_ms": "mean latency", "p90_ms": "p90 latency", "p95_ms": "p95 latency", "p99_ms": "p99 latency",
    "energy_mj": "energy", "net_energy_mj": "net energy", "throughput_per_s": "throughput", "peak_memory_mb": "peak memory", "params_m": "parameters",
    "macs_m": "multiply-accumulates", "accuracy": "top-1 accuracy", "accuracy_drop": "loss of top-1 accuracy",
}  # fmt: skip
_OF_THE_FILE = (
    "--model",
    "--host",
    "--shape",
    "--precision",
    "--backend",
    "--threads",
    "--streams",
    "--power-mode",
)  # options with a value that `profile-device` takes too
TIMED = (*LATENCY_FIELDS, "throughput_per_s")  # budgets with one value for each round
_RANK: dict[Outcome, int] = {"met": 0, "not judged": 1, "inconclusive": 2, "missed": 3}


@dataclass(frozen=True)
class Predicted:
    """What a predictor says about one metric."""

    value: float
    interval: Interval | None


@dataclass(frozen=True)
class Evidence:
    """What is known of a network: measured, counted, predicted. What is None was not measured, and `why_not` says why."""

    measured: MeasuredLatency
    energy: EnergyRecord | None = None
    accuracy: AccuracyRecord | None = None
    peak_memory_mb: float | None = None
    params_m: float | None = None  # millions
    macs_m: float | None = None  # millions, of one image
    predicted: Mapping[str, Predicted] = field(default_factory=dict)
    why_not: Mapping[str, str] = field(default_factory=dict)  # metric -> reason
    failed: str = ""  # what became of visits that failed, with their number; empty: none did


@dataclass(frozen=True)
class Judgement:
    """The verdict of the whole, which is the worst of its budgets."""

    verdict: Verdict
    reason: str
    remedy: str  # what to do next; empty when met
    budgets: tuple[BudgetVerdict, ...]


def judge(
    asked: Mapping[str, float],
    evidence: Evidence,
    *,
    agreement: Agreement | None = None,
    command: str = "lightnas-edge verify RUN",
    export_again: str = "",
) -> Judgement:
    """Whether a network keeps every budget that was asked.

    A latency is judged by the interval of its own statistic, as the machine was: met when the upper end is within the
    target, missed when the lower end is above it. A network that computes something else keeps no budget, however
    fast it is, and one that crashed or hung in a visit keeps no budget of time.

    Args:
        asked: metric -> target, at least one; `accuracy` at least, everything else at most.
        agreement: of the outputs with the reference; None where they were not compared.
        command: that measured, without its number of rounds; a remedy repeats it.
        export_again: what to do when the outputs differ.

    Raises:
        BudgetError: no budget, one that nobody can judge, or a target that is no positive number.
    """
    check_targets(asked)
    budgets = tuple(_judged(metric, target, evidence, command) for metric, target in asked.items())
    if agreement is not None and agreement.cosine < MIN_COSINE:
        return Judgement(
            "inconclusive",
            f"the engine does not compute what the reference does: cosine {agreement.cosine:.4f} (limit {MIN_COSINE})",
            export_again or "measure with another precision, or export again for this runtime",
            budgets,
        )
    return Judgement(*overall(budgets), budgets)


def check_targets(asked: Mapping[str, float]) -> None:
    """Raises BudgetError, as `judge`."""
    if not asked:
        raise BudgetError("no budget was asked", hint="for example --latency-ms 20")
    for metric, target in asked.items():
        if metric not in UNITS:
            raise BudgetError(f"no such budget: {metric!r}", hint=f"choose from: {', '.join(UNITS)}")
        if not (math.isfinite(target) and (target > 0 or (metric == "accuracy_drop" and target == 0))):
            raise BudgetError(f"a budget is a positive number of {UNITS[metric] or 'a share'}, not {target!r}")


def overall(budgets: Sequence[BudgetVerdict]) -> tuple[Verdict, str, str]:
    """Verdict, reason and remedy of all budgets together: those of the worst. One that is not judged cannot be met."""
    worst = max(budgets, key=lambda each: _RANK[each.verdict])
    verdict: Verdict = "inconclusive" if worst.verdict == "not judged" else worst.verdict
    alike = [each for each in budgets if each.verdict == worst.verdict]
    reason = "; ".join(f"{LABELS[each.metric]}: {each.reason}" if len(budgets) > 1 else each.reason for each in alike)
    remedies = dict.fromkeys(each.remedy for each in alike if each.remedy)
    return verdict, reason, "; ".join(remedies)


def result_line(record: VerificationRecord) -> str:
    """A verification in one line.

    `measured p50 0.860 ms, mean 0.866, p95 0.905, p99 0.951 (n=400 inferences); p50 latency 0.860 ± 0.020 ms, predicted
    0.840, at most 0.900: met`
    """
    measured = record.measured
    digits = decimals(measured.median.latency_ms)
    parts = [f"p50 {measured.median.latency_ms:.{digits}f} ms"]
    parts += [
        f"{name} {measured.statistic(metric).latency_ms:.{digits}f}"
        for metric, name in (("mean_ms", "mean"), ("p95_ms", "p95"), ("p99_ms", "p99"))
    ]
    what = "inferences" if measured.inferences_per_sample == 1 else f"means of {measured.inferences_per_sample}"
    what += f"; of {len(measured.streams)} streams the slowest" if measured.streams else ""
    verb = "SIMULATED" if record.simulated else "measured"
    line = f"{verb} {', '.join(parts)} (n={measured.n} {what}); "
    line += "; ".join(budget_line(each) for each in record.budgets)
    if record.verdict == "inconclusive" and (
        computes_otherwise(record) or all(each.verdict == "met" for each in record.budgets)
    ):
        line += f"; {record.verdict}: {record.reason}"
    return line


def computes_otherwise(record: VerificationRecord) -> bool:
    """The engine does not compute what the reference does, so that no budget is kept."""
    return record.outputs is not None and record.outputs.cosine < MIN_COSINE


def budget_line(budget: BudgetVerdict) -> str:
    """`p50 latency 0.860 ± 0.020 ms, predicted 0.840, at most 0.900: met`"""
    name, unit = LABELS[budget.metric], UNITS[budget.metric]
    bound = f"at {'least' if budget.metric in AT_LEAST else 'most'} {_shown(budget.target, budget.metric)}"
    if budget.value is None:
        return f"{name} {bound}{f' {unit}' if unit else ''}: {budget.verdict} ({budget.reason})"
    if unit:
        digits = max(decimals(budget.target), decimals(budget.value))
        value = f"{budget.value:.{digits}f}{_half_width(budget.interval, digits)} {unit}"
    else:
        value = _shown(budget.value, budget.metric)
        if budget.interval is not None:
            value += f" ({_shown(budget.interval[0], budget.metric)} to {_shown(budget.interval[1], budget.metric)})"
    predicted = "" if budget.predicted is None else f", predicted {_shown(budget.predicted, budget.metric)}"
    line = f"{name} {value}{predicted}, {bound}: {budget.verdict}"
    if budget.verdict == "missed" and budget.violation is not None:
        line += f" by {100 * budget.violation:.1f} %"
    return line


def decimals(value: float) -> int:
    """That show about three significant digits, and at least one."""
    return min(6, max(1, 2 - math.floor(math.log10(abs(value))))) if value else 1


def _judged(metric: str, target: float, evidence: Evidence, command: str) -> BudgetVerdict:
    value, interval = _known(metric, evidence)
    predicted = evidence.predicted.get(metric)
    verdict, reason, remedy = _decide(metric, target, value, interval, evidence, command)
    return BudgetVerdict(
        metric=metric,
        unit=UNITS[metric] or "share",
        target=float(target),
        verdict=verdict,
        value=value,
        interval=interval,
        violation=_violation(metric, value, target),
        predicted=None if predicted is None else predicted.value,
        predicted_interval=None if predicted is None else predicted.interval,
        reason=reason,
        remedy=remedy,
    )


def _known(metric: str, evidence: Evidence) -> tuple[float | None, Interval | None]:
    """Value and interval of a metric; None where it is not known."""
    if metric in LATENCY_FIELDS:
        estimate = evidence.measured.statistic(metric)
        return estimate.latency_ms, estimate.interval_ms
    if metric == "throughput_per_s":
        rate = evidence.measured.throughput
        return (None, None) if rate is None else (rate.per_s, rate.interval_per_s)
    energy, accuracy = evidence.energy, evidence.accuracy
    if metric == "energy_mj":
        return (None, None) if energy is None else (energy.gross_mj, energy.gross_interval_mj)
    if metric == "net_energy_mj":
        return (None, None) if energy is None else (energy.net_mj, energy.net_interval_mj)
    if metric == "accuracy":
        return (None, None) if accuracy is None else (accuracy.top1, accuracy.interval)
    if metric == "accuracy_drop":
        return (None, None) if accuracy is None else (accuracy.drop, accuracy.drop_interval)
    counted: dict[str, float | None] = {
        "peak_memory_mb": evidence.peak_memory_mb, "params_m": evidence.params_m, "macs_m": evidence.macs_m,
    }  # fmt: skip
    return counted[metric], None


def _violation(metric: str, value: float | None, target: float) -> float | None:
    if value is None or target == 0 or (metric in AT_LEAST and value <= 0):
        return None
    return (target / value if metric in AT_LEAST else value / target) - 1


def _decide(
    metric: str, target: float, value: float | None, interval: Interval | None, evidence: Evidence, command: str
) -> tuple[Outcome, str, str]:
    """Verdict, reason and remedy."""
    if value is None:
        return (
            "not judged",
            evidence.why_not.get(metric, "it was not measured"),
            evidence.why_not.get(f"{metric}.remedy", ""),
        )
    bound = "least" if metric in AT_LEAST else "most"
    known = [each for each in (target, value, *(interval or ())) if each is not None]
    digits = digits_apart(known, metric)
    asked = f"at {bound} {_shown(target, metric, digits)}{f' {UNITS[metric]}' if UNITS[metric] else ''}"
    if metric in COUNTED:
        if value <= target:
            return "met", f"{_shown(value, metric, digits)} is within {asked}", ""
        return "missed", f"{_shown(value, metric, digits)} is above {asked}", "search with this limit"
    if interval is None:
        if metric in TIMED:
            return _too_few_rounds(metric, evidence.measured.rounds, command)
        return "inconclusive", "its interval is not known", "measure it in more visits"
    low, high = interval if metric not in AT_LEAST else (-interval[1], -interval[0])
    limit = target if metric not in AT_LEAST else -target
    shown = f"interval {_shown(interval[0], metric, digits)} to {_shown(interval[1], metric, digits)}"
    if high <= limit:
        if evidence.failed and metric in TIMED:
            return (
                "inconclusive",
                f"{evidence.failed}; a visit that failed keeps no budget, though the whole {shown} of the others is {asked}",
                f"remove the cause, then verify again: `{command}`",
            )
        return "met", f"the whole {shown} is {asked}", ""
    if low > limit:
        measured = evidence.measured
        if metric in LATENCY_FIELDS and measured.noise is not None and measured.noise > NOISE_LIMIT:
            quiet_ms = measured.median.latency_ms / (1 + measured.noise)
            if quiet_ms <= target:
                return (
                    "inconclusive",
                    f"unstable host: the median is {100 * measured.noise:.0f} % above the low quantile of the samples, beyond "
                    f"the limit of {100 * NOISE_LIMIT:.0f} %, and without the other work the budget may be met",
                    "stop other work on the machine and verify again",
                )
        return "missed", f"the whole {shown} is beyond {asked}", _after_a_miss(metric, command)
    return "inconclusive", f"the {shown} contains the target, {asked}", _to_narrow(metric, evidence, command)


def rounds_needed(metric: str) -> int:
    """For an interval of a latency or of the throughput, which is a mean over rounds."""
    return least_rounds("mean_ms" if metric == "throughput_per_s" else metric)


def _too_few_rounds(metric: str, rounds: int, command: str) -> tuple[Outcome, str, str]:
    needed = rounds_needed(metric)
    if rounds < needed:
        why = f"only {rounds} round{'s'[: rounds != 1]} measured, and an interval of the {LABELS[metric]} needs at least {needed}"
        return "inconclusive", why, f"measure again with more rounds: `{command} --rounds {math.ceil(1.1 * needed)}`"
    return (
        "inconclusive",
        f"the samples of {rounds} rounds vary too much for an interval of the {LABELS[metric]}",
        f"measure again with more rounds: `{command} --rounds {min(2 * rounds, luts.MOST_ROUNDS)}`",
    )


def _after_a_miss(metric: str, command: str) -> str:
    if metric in ("accuracy", "accuracy_drop"):
        return "train for longer, or choose a larger network"
    if metric == "throughput_per_s":
        return "run it in more --streams or in larger batches, which lengthens the latency of each; or choose a smaller network"
    if " --model " in command:
        return (
            f"`{_profile_command(command)}` shows the slowest layers; or choose another precision or a smaller network"
        )
    return "search again with this network in the predictor's samples, or with a tighter target"


def _profile_command(command: str) -> str:
    """That times the layers of the model file which `command` measures, on the same board."""
    words = shlex.split(command)
    kept = [
        word for option, value in pairwise([*words, ""]) if option in _OF_THE_FILE and (option, "," in value) != ("--precision", True)
        for word in (option, value)
    ]  # fmt: skip
    kept += [word for word in words if word in ("--cuda-graph", "--lock-clocks")]
    return shlex.join(["profile-device", *kept])


def _to_narrow(metric: str, evidence: Evidence, command: str) -> str:
    if metric in TIMED:
        return (
            f"measure again with more rounds, on a quieter machine: `{command} --rounds {min(2 * evidence.measured.rounds, luts.MOST_ROUNDS)}`; or search "
            "with a slightly tighter target"
        )
    if metric in ("accuracy", "accuracy_drop"):
        return "score more images"
    return "measure energy in more visits, with locked clocks"


def _shown(value: float, metric: str, digits: int | None = None) -> str:
    """Without its unit; a share as per cent."""
    if UNITS[metric]:
        return f"{value:.{decimals(value) if digits is None else digits}f}"
    return f"{100 * value:.{1 if digits is None else digits}f} %"


def digits_apart(values: Sequence[float], metric: str) -> int:
    """Decimals with which different values look different, where six are enough for it."""
    digits = max(map(decimals, values)) if UNITS[metric] else 1
    while digits < 6 and len({_shown(value, metric, digits) for value in values}) < len(set(values)):
        digits += 1
    return digits


def _half_width(interval: Interval | None, digits: int) -> str:
    """An uncertainty is never printed as zero."""
    return "" if interval is None else f" ± {max((interval[1] - interval[0]) / 2, 10.0**-digits):.{digits}f}"


__all__ = [
    "AT_LEAST",
    "CONFIDENCE",
    "LABELS",
    "MIN_COSINE",
    "TIMED",
    "UNITS",
    "Evidence",
    "Judgement",
    "Predicted",
    "budget_line",
    "check_targets",
    "computes_otherwise",
    "decimals",
    "digits_apart",
    "judge",
    "overall",
    "result_line",
    "rounds_needed",
]  # fmt: skip

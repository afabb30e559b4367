"""Which precision to deploy: a pure function of verifications, passes and answers.

The most accurate that keeps all budgets. Of precisions that are equally accurate, as far as a paired comparison on the
same images shows, the fastest. Of those that are equally fast, the one with most bits: it needs no calibration.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean, stdev

import numpy as np
from numpy.typing import NDArray

from lightnas_edge.deploy.evidence import paired_interval
from lightnas_edge.deploy.judge import LABELS, MIN_COSINE
from lightnas_edge.deploy.statistics import CONFIDENCE
from lightnas_edge.records.deployment import Interval, VerificationRecord
from lightnas_edge.records.precision import AccuracyDifference, PrecisionChoice, PrecisionName, Speedup

BITS: dict[PrecisionName, int] = {"fp32": 32, "fp16": 16, "int8": 8}
_LEAST_PASSES = 3  # with fewer there is no interval of a ratio


@dataclass(frozen=True)
class Contender:
    """One precision that was measured."""

    precision: PrecisionName
    record: VerificationRecord
    passes_ms: tuple[float | None, ...]  # p50 by pass, None without a visit; equal numbers are neighbours in time
    right: NDArray[np.bool_] | None  # (images,) of the scored images; None where none was

    @property
    def p50_ms(self) -> float:
        return self.record.measured.median.latency_ms

    @property
    def met(self) -> bool:
        return self.record.verdict == "met"


def speedup(
    ours: Sequence[float | None], reference: Sequence[float | None], confidence: float = CONFIDENCE
) -> Speedup | None:
    """How many times as fast `ours` is as the reference, from p50 by pass: the geometric mean of the ratios.

    Both sides of a ratio are of one pass, so that what slows the machine for minutes slows both. A pass that lacks one
    side is left out; None where no pass has both.
    """
    pairs = zip(ours, reference, strict=True)
    logs = [math.log(theirs / our) for our, theirs in pairs if our is not None and theirs is not None]
    if not logs:
        return None
    centre = fmean(logs)
    if len(logs) < _LEAST_PASSES:
        return Speedup(ratio=math.exp(centre), interval=None)
    from scipy import stats  # takes a second to import

    half = float(stats.t.ppf((1 + confidence) / 2, len(logs) - 1)) * stdev(logs) / math.sqrt(len(logs))
    return Speedup(ratio=math.exp(centre), interval=(math.exp(centre - half), math.exp(centre + half)))


def accuracy_difference(
    ours: NDArray[np.bool_], reference: NDArray[np.bool_], confidence: float = CONFIDENCE
) -> AccuracyDifference:
    """Top-1 accuracy of ours less that of the reference. Args: (images,) which images are classified as labelled."""
    lost, gained, count = int(np.sum(reference & ~ours)), int(np.sum(ours & ~reference)), len(ours)
    low, high = paired_interval(lost, gained, count, NormalDist().inv_cdf((1 + confidence) / 2))
    return AccuracyDifference(difference=(gained - lost) / count, interval=(-high, -low), images=count)


def choose(contenders: Sequence[Contender], confidence: float = CONFIDENCE) -> PrecisionChoice:
    """Which of the precisions to deploy, and what else was found. At least one contender."""
    ordered = sorted(contenders, key=lambda each: -BITS[each.precision])
    findings = tuple(
        finding for each in ordered for finding in (*_speed_findings(each, ordered, confidence), *_other_findings(each))
    )
    keeping = [each for each in ordered if each.met]
    if not keeping:
        reason = "no precision is shown to keep all budgets: " + "; ".join(map(_failing, ordered))
        return PrecisionChoice(precision=None, reason=reason, findings=findings)
    alike, reasons = _most_accurate(keeping, confidence)
    chosen, passed_over = alike[0], []
    for each in alike[1:]:  # with fewer bits: only where it is faster beyond the error
        gain = speedup(each.passes_ms, chosen.passes_ms, confidence)
        if gain is not None and gain.interval is not None and gain.interval[0] > 1:
            passed_over.append(chosen)
            chosen = each
        else:
            shown = "no pass has both" if gain is None else f"{_times(gain)} its speed"
            reasons.append(f"{each.precision} is not measurably faster than {chosen.precision} ({shown})")
    for other in passed_over:
        gain = speedup(chosen.passes_ms, other.passes_ms, confidence)
        if gain is not None:
            reasons.append(f"{chosen.precision} has {_times(gain)} the speed of {other.precision}")
    reasons += [_failing(each) for each in ordered if not each.met]
    only = "it is the only precision that is shown to keep all budgets" if len(keeping) == 1 else "it keeps all budgets"
    return PrecisionChoice(precision=chosen.precision, reason="; ".join([only, *reasons]), findings=findings)


def _most_accurate(keeping: Sequence[Contender], confidence: float) -> tuple[list[Contender], list[str]]:
    """Those that the best is not more accurate than beyond the error, most bits first, and the reasons.

    One that was not scored stays: nothing says that it is less accurate.
    """
    scored = [(each, each.right) for each in keeping if each.right is not None]
    unknown = [each for each in keeping if each.right is None]
    less_accurate, reasons = set[PrecisionName](), list[str]()
    if len(scored) > 1:
        best, best_right = max(scored, key=lambda pair: float(pair[1].mean()))
        for each, right in scored:
            loss = accuracy_difference(right, best_right, confidence)
            if each is not best and loss.interval[1] < 0:
                less_accurate.add(each.precision)
                reasons.append(f"{each.precision} is less accurate than {best.precision}: {_points(loss)}")
        alike = [each.precision for each, _ in scored if each.precision not in less_accurate]
        if len(alike) > 1:
            reasons.append(
                f"of {_listed(alike)} none differs significantly in accuracy from the best, {best.precision} "
                f"(n={len(best_right)})"
            )
    if unknown and len(keeping) > 1:
        reasons.append(f"accuracy is not known for {_listed([each.precision for each in unknown])}")
    return [each for each in keeping if each.precision not in less_accurate], reasons


def _speed_findings(contender: Contender, others: Sequence[Contender], confidence: float) -> list[str]:
    """Against every precision with more bits: fewer bits are expected to be faster."""
    found = []
    for other in others:
        if BITS[other.precision] <= BITS[contender.precision]:
            continue
        slower = speedup(other.passes_ms, contender.passes_ms, confidence)  # its latency over that of the other
        name = f"{contender.precision} is"
        if slower is None:
            found.append(f"{name} not compared in speed with {other.precision}: no pass has both")
        elif slower.interval is not None and slower.interval[0] > 1:
            found.append(
                f"{name} slower than {other.precision} here: {_times(slower)} the latency{_why_slower(contender)}"
            )
        elif slower.interval is None or slower.interval[1] >= 1:
            found.append(f"{name} not measurably faster than {other.precision} here: {_times(slower)} the latency")
    return found


def _why_slower(contender: Contender) -> str:
    """What the measurement knows that may be the cause."""
    record = contender.record
    causes = []
    if record.fell_back:
        causes.append(f"{len(record.fell_back)} layers ran in more bits")
    if contender.precision == "int8" and record.fingerprint.get("int8_instructions") == "none":
        causes.append("this CPU has no instructions for int8 products")
    if record.measured.launch_bound:
        causes.append("it is launch-bound: the time of an inference is that of handing it over")
    if causes:
        return f"; possible cause{'s' * (len(causes) > 1)}: " + ", ".join(causes)
    none = "; no layer fell back" if record.ran_in is not None else ""
    return f"{none}; `profile-device --model FILE --precision {contender.precision}` shows the time by layer"


def _other_findings(contender: Contender) -> list[str]:
    record = contender.record
    found = []
    if record.fell_back:
        total = sum(record.ran_in.values()) if record.ran_in else None
        of = f" of {total} convolutions and matrix products" if total else " layers"
        found.append(f"{contender.precision}: {len(record.fell_back)}{of} ran in more bits than {contender.precision}")
    if contender.right is None:
        found.append(f"{contender.precision}: accuracy is not known, no labelled images were scored")
    return found


def _failing(contender: Contender) -> str:
    """`int8: p95 latency is missed`"""
    record = contender.record
    failing = [f"{LABELS[each.metric]} is {each.verdict}" for each in record.budgets if each.verdict != "met"]
    if record.outputs is not None and record.outputs.cosine < MIN_COSINE:
        failing.insert(0, f"the engine does not compute what the file says (cosine {record.outputs.cosine:.4f})")
    return f"{contender.precision}: {', '.join(failing)}"


def _listed(names: Sequence[str]) -> str:
    """`fp32, fp16 and int8`"""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _times(gain: Speedup) -> str:
    """`1.12x (1.08 to 1.16)`"""
    return f"{gain.ratio:.2f}x" + _between(gain.interval)


def _points(loss: AccuracyDifference) -> str:
    """`-2.1 percentage points (-3.2 to -1.0, n=359)`"""
    low, high = loss.interval
    return f"{100 * loss.difference:+.1f} percentage points ({100 * low:+.1f} to {100 * high:+.1f}, n={loss.images})"


def _between(interval: Interval | None) -> str:
    return "" if interval is None else f" ({interval[0]:.2f} to {interval[1]:.2f})"

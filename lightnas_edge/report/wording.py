"""Numbers and names as people read them: one form for all three formats."""

from __future__ import annotations

import math

from lightnas_edge.deploy.judge import AT_LEAST, LABELS, decimals
from lightnas_edge.deploy.judge import UNITS as JUDGED
from lightnas_edge.predictor.metrics import UNITS
from lightnas_edge.records.deployment import Interval
from lightnas_edge.records.run import PredictedEnergy

MOST_DIGITS = 6
# Metric -> what exactly is asked. `{inference}` is what one sample is.
_DESCRIPTIONS = {
    "latency_ms": "latency, median (p50) of {inference}",
    "mean_ms": "latency, mean of {inference}",
    "p90_ms": "latency, 90th percentile (p90) of {inference}",
    "p95_ms": "latency, 95th percentile (p95) of {inference}",
    "p99_ms": "latency, 99th percentile (p99) of {inference}",
    "energy_mj": "energy of one batch, total of the board",
    "net_energy_mj": "energy of one batch, above that of the idle board",
    "throughput_per_s": "inferences per second of all streams together",
    "peak_memory_mb": "peak memory of the engine",
    "params_m": "number of parameters in millions",
    "macs_m": "multiply-accumulates of one image in millions",
    "accuracy": "top-1 accuracy on the board",
    "accuracy_drop": "loss of top-1 accuracy against the reference, same images",
}


def label(metric: str) -> str:
    """`p50 latency`"""
    return LABELS.get(metric, metric)


def unit(metric: str) -> str:
    """`share` for accuracies."""
    return (JUDGED[metric] or "share") if metric in JUDGED else UNITS.get(metric, "unknown unit")


def description(metric: str, inferences_per_sample: int = 1) -> str:
    """`latency, median (p50) of one inference`"""
    sample = "one inference" if inferences_per_sample == 1 else f"means of {inferences_per_sample} inferences"
    return _DESCRIPTIONS.get(metric, metric).format(inference=sample)


def bound(metric: str) -> str:
    return "at least" if metric in AT_LEAST else "at most"


def number(value: float | None, digits: int | None = None) -> str:
    """Three significant digits or more; never a zero in place of the unknown."""
    if value is None or not math.isfinite(value):
        return "unknown"
    if abs(value) >= 1e9 or 0 < abs(value) < 1e-6:
        return f"{value:.3g}"
    return f"{value:.{decimals(value) if digits is None else digits}f}"


def quantity(value: float | None, unit: str, digits: int | None = None) -> str:
    """`0.846 ms`; a share as `98.1 %`."""
    if value is None:
        return "unknown"
    return percent(value, digits or 1) if unit == "share" else f"{number(value, digits)} {unit}"


def span(interval: Interval, unit: str, digits: int | None = None) -> str:
    """`0.821 to 0.871 ms`"""
    low, high = (quantity(end, unit, digits) for end in interval)
    return f"{low} to {high}" if unit == "share" else f"{number(interval[0], digits)} to {high}"


def energy(value_mj: float, interval_mj: Interval | None) -> str:
    """`12.3 mJ (11.8 to 12.8 mJ)`"""
    text = quantity(value_mj, "mJ")
    return text if interval_mj is None else f"{text} ({span(interval_mj, 'mJ')})"


def predicted_energy(found: PredictedEnergy, *, confidence: bool = True) -> str:
    """`12.3 mJ (11.8 to 12.8 mJ with probability 90 %), extrapolated`

    Args:
        confidence: name it; a table names it once, in its caption.
    """
    text = energy(found.energy_mj, found.interval_mj)
    if confidence:
        text = text.replace(")", f" with probability {percent(found.confidence, 0)})")
    return f"{text}, extrapolated" if found.extrapolated else text


def digits_apart(target: float, values: tuple[float, ...], unit: str) -> int:
    """Decimals at which a value that differs from its target is printed differently: rounding must not hide on which
    side of the budget it is.
    """
    factor = 100.0 if unit == "share" else 1.0
    digits = 1 if unit == "share" else max(decimals(each) for each in (target, *values))
    while digits < MOST_DIGITS and any(
        value != target and f"{factor * value:.{digits}f}" == f"{factor * target:.{digits}f}" for value in values
    ):
        digits += 1
    return digits


def percent(value: float | None, digits: int = 1) -> str:
    if value is None or not math.isfinite(value):
        return "unknown"
    return f"{100 * value:.{digits}f} %" if abs(value) < 1e6 else f"{100 * value:.3g} %"


def signed_percent(value: float, digits: int = 1) -> str:
    """`+2.1 %`"""
    return f"{'+' if value >= 0 else ''}{percent(value, digits)}"


def counted(count: int, noun: str) -> str:
    """`1 round`, `40 rounds`"""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def duration(seconds: float) -> str:
    """`10 min`, `45 s`"""
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min" if not rest else f"{minutes} min {rest} s"

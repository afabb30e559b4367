"""From a journal and outputs to the evidence that is judged: the parts of a verification record."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Sequence
from dataclasses import asdict
from statistics import NormalDist, median
from typing import Any

import numpy as np
from numpy.typing import NDArray

import luts
from lightnas_edge.deploy.statistics import CONFIDENCE, Estimate, corrected_interval, day_deviation, estimate, noise
from lightnas_edge.files import finite
from lightnas_edge.records.deployment import (
    LATENCY_FIELDS,
    AccuracyRecord,
    ComparisonRecord,
    DriftRecord,
    EnergyRecord,
    Interval,
    LatencyEstimate,
    MeasuredLatency,
    StreamLatency,
    SustainedRecord,
    SustainedWindow,
    ThroughputEstimate,
)
from lightnas_edge.records.lut import Visit

Array = NDArray[np.float64]
_PART_S = 60.0  # of a sustained load: its first and its last minute
_MOST_NAMED = 5  # layers that fell back
_FEW_WINDOWS = 5  # a slope through fewer says nothing


def measured_latency(entry: luts.Entry, confidence: float = CONFIDENCE, *, batch: int | None = 1) -> MeasuredLatency:
    """All statistics of a network's samples, as the machine was. Every round weighs equally.

    Args:
        batch: of one inference; None where the model has no such side, and it counts as one.
    """
    rounds = [np.asarray(visit.samples_ms, dtype=float) for visit in entry.visits]
    samples = np.concatenate(rounds)
    by_stream = _by_stream(entry, rounds)
    streams = [_latencies(stream, confidence) for stream in by_stream]
    slowest = {
        field: max((stream[field] for stream in streams), key=lambda each: each.latency_ms)
        for field in LATENCY_FIELDS.values()
    }
    return MeasuredLatency(
        min_ms=float(samples.min()),
        max_ms=float(samples.max()),
        **slowest,
        throughput=_throughput(entry, rounds, batch or 1, confidence),
        streams=tuple(
            StreamLatency(n=sum(map(len, rounds_of)), **stream)
            for rounds_of, stream in zip(by_stream, streams, strict=True)
        )
        if len(streams) > 1
        else (),
        n=len(samples),
        rounds=len(rounds),
        inferences_per_sample=max((visit.repeats or 1) for visit in entry.visits),
        spread=finite(entry.spread),
        noise=max(0.0, noise(max(by_stream, key=lambda each: float(np.median(np.concatenate(each)))))),
        samples_ms=tuple(tuple(float(value) for value in samples) for samples in rounds),
        enqueue_ms=entry.enqueue_ms,
        gpu_ms=entry.gpu_ms,
    )


def _by_stream(entry: luts.Entry, rounds: Sequence[Array]) -> list[list[Array]]:
    """The samples of each stream, in one array for each round."""
    parts = [
        [samples]
        if visit.streams is None
        else np.split(samples, np.cumsum([each.samples for each in visit.streams])[:-1])
        for visit, samples in zip(entry.visits, rounds, strict=True)
    ]
    return [list(stream) for stream in zip(*parts, strict=True)]


def _latencies(rounds: Sequence[Array], confidence: float) -> dict[str, LatencyEstimate]:
    """Every statistic of LATENCY_FIELDS, by field."""

    def of(found: Estimate) -> LatencyEstimate:
        return LatencyEstimate(latency_ms=found.value, interval_ms=found.interval)

    return {field: of(estimate(rounds, metric, confidence)) for metric, field in LATENCY_FIELDS.items()}


def _throughput(entry: luts.Entry, rounds: Sequence[Array], batch: int, confidence: float) -> ThroughputEstimate:
    """Each stream runs back to back, so its rate is that of its samples; rates of streams add up."""
    rates = []
    for visit, samples in zip(entry.visits, rounds, strict=True):
        if visit.streams is None:
            per_ms = 1 / samples.mean()
        else:
            per_ms = sum(each.samples * (visit.repeats or 1) / each.span_ms for each in visit.streams)
        rates.append(np.array([1e3 * batch * per_ms]))
    found = estimate(rates, "mean_ms", confidence)  # a mean, of whatever unit
    return ThroughputEstimate(per_s=found.value, interval_per_s=found.interval)


def comparison(
    entry: luts.Entry,
    metric: str,
    measured: MeasuredLatency,
    predicted: LatencyEstimate,
    drift: luts.Ratio | None,
    confidence: float = CONFIDENCE,
) -> ComparisonRecord:
    """The prediction and the measurement under the conditions of the table.

    Args:
        drift: how much slower (above 1) the sentinels ran than when the table was measured; None without a table.
    """
    raw_ms = measured.statistic(metric).latency_ms
    corrected, deviation = None, None
    quantity = entry.quantity(metric)
    if drift is not None and quantity is not None:
        centre_ms = quantity.value / drift.value
        known = bool(drift.errors) and all(map(math.isfinite, drift.errors.values()))
        deviation = day_deviation(drift.per_key.values(), drift.errors.values() if known else None)
        std_ms = quantity.standard_error / drift.value
        interval = corrected_interval(centre_ms, std_ms, drift.interval, drift.confidence, deviation, confidence)
        corrected = LatencyEstimate(latency_ms=centre_ms, interval_ms=interval)
    shown_ms = raw_ms if corrected is None else corrected.latency_ms
    return ComparisonRecord(
        metric=metric,
        predicted=predicted,
        corrected=corrected,
        drift=None
        if drift is None
        else DriftRecord(
            ratio=drift.value, interval=drift.interval, confidence=drift.confidence, sentinels=drift.per_key
        ),
        day_deviation=deviation,
        gap=shown_ms / predicted.latency_ms - 1,
    )


def energy(entry: luts.Entry) -> EnergyRecord | None:
    return None if entry.energy_mj is None else EnergyRecord(**asdict(entry.energy_mj))


def accuracy(
    labels: NDArray[np.int64],
    outputs: NDArray[np.float32],
    reference: NDArray[np.float32],
    confidence: float = CONFIDENCE,
    *,
    inputs: NDArray[Any] | None = None,
) -> AccuracyRecord:
    """Top-1 accuracy of the engine and of the reference on the same images.

    Args:
        labels: (N,). outputs, reference: (N, classes).
        inputs: the images; with them, later verifications on the same ones can be compared image by image.
    """
    ours = (outputs.argmax(axis=1) == labels) & np.isfinite(outputs).all(axis=1)  # numbers that are none answer nothing
    theirs = reference.argmax(axis=1) == labels
    count, z = len(labels), NormalDist().inv_cdf((1 + confidence) / 2)
    lost, gained = int(np.sum(theirs & ~ours)), int(np.sum(ours & ~theirs))
    return AccuracyRecord(
        top1=float(ours.mean()),
        interval=wilson_interval(int(ours.sum()), count, z),
        images=count,
        reference_top1=float(theirs.mean()),
        drop=(lost - gained) / count,
        drop_interval=paired_interval(lost, gained, count, z),
        images_sha256=None if inputs is None else _images_sha256(inputs, labels),
        right=None if inputs is None else np.packbits(ours).tobytes().hex(),
    )


def _images_sha256(inputs: NDArray[Any], labels: NDArray[np.int64]) -> str:
    digest = hashlib.sha256(np.ascontiguousarray(inputs).data)
    digest.update(np.ascontiguousarray(labels).data)
    return digest.hexdigest()


def wilson_interval(successes: int, count: int, z: float) -> Interval:
    """Score interval of a share (Wilson 1927)."""
    share = successes / count
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return max(0.0, centre - half), min(1.0, centre + half)


def paired_interval(lost: int, gained: int, count: int, z: float) -> Interval:
    """Of a difference of two shares on the same images, from those on which only one is right.

    Half an image is added to each of the four cells (Agresti and Min 2005), so that no difference in few images does not
    pass for no difference at all.
    """
    one, other, total = lost + 0.5, gained + 0.5, count + 2.0
    difference = (one - other) / total
    half = z * math.sqrt(one + other - (one - other) ** 2 / total) / total
    return difference - half, difference + half


def sustained(visits: Sequence[Visit], asked_s: float) -> SustainedRecord | None:
    """The load before the rounds: the first minute against the last, or thirds where it was shorter."""
    if not visits:
        return None
    start_s = visits[0].t_s or 0.0
    windows = tuple(_window(visit, start_s) for visit in visits)
    elapsed_s = windows[-1].t_s
    part_s = min(_PART_S, elapsed_s / 3)
    first = [each for each in windows if each.t_s <= part_s] or [windows[0]]
    last = [each for each in windows if each.t_s >= elapsed_s - part_s]
    return SustainedRecord(
        asked_s=asked_s,
        elapsed_s=elapsed_s,
        windows=windows,
        first_ms=median(each.median_ms for each in first),
        last_ms=median(each.median_ms for each in last),
        trend_per_minute=_trend_per_minute(last),
    )


def one_of_each_kind(warnings: Sequence[str]) -> list[str]:
    """Warnings that differ in their numbers alone are shown once and counted."""
    kinds: dict[str, list[str]] = {}
    for warning in warnings:
        kinds.setdefault(re.sub(r"[0-9.]+", "#", warning), []).append(warning)
    return [f"{alike[0]}{f' (and {len(alike) - 1} times more)' if len(alike) > 1 else ''}" for alike in kinds.values()]


def about_fallbacks(nodes: Sequence[str], precision: str) -> list[str]:
    """A warning where layers ran in more bits than were asked for, in words."""
    if not nodes:
        return []
    shown = ", ".join(nodes[:_MOST_NAMED])
    more = len(nodes) - _MOST_NAMED
    what = f"{len(nodes)} layers fell back and do" if len(nodes) > 1 else "1 layer fell back and does"
    return [
        f"{what} not run in {precision}, but in more bits: {shown}{f' and {more} more' if more > 0 else ''}; "
        "`profile-device --model FILE` shows what that takes"
    ]


def _window(visit: Visit, start_s: float) -> SustainedWindow:
    after = visit.after
    return SustainedWindow(
        t_s=max(0.0, (visit.t_s or 0.0) - start_s),
        median_ms=float(np.median(visit.samples_ms)),
        p95_ms=float(np.quantile(visit.samples_ms, 0.95)),
        temperature_c=None if after is None else after.temperature_c,
        gpu_mhz=None if after is None else after.gpu_mhz,
        cpu_mhz=None if after is None else after.cpu_mhz,
        throttled_by=None if after is None else after.throttled_by,
    )


def _trend_per_minute(windows: Sequence[SustainedWindow]) -> float | None:
    """Relative slope of the medians, by Theil and Sen: the median of the slopes of all pairs."""
    if len(windows) < _FEW_WINDOWS:
        return None
    slopes = [
        (b.median_ms - a.median_ms) / (b.t_s - a.t_s)
        for i, a in enumerate(windows)
        for b in windows[i + 1 :]
        if b.t_s > a.t_s
    ]
    return 60 * median(slopes) / median(each.median_ms for each in windows) if slopes else None

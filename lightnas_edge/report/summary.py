"""The first screen of a report: what was asked, what was found, whether it holds, how sure that is, and what to do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from lightnas_edge.deploy.judge import NOISE_LIMIT, computes_otherwise
from lightnas_edge.fleet.tolerance import FEWEST_UNITS
from lightnas_edge.records.base import Fingerprint
from lightnas_edge.records.deployment import (
    BudgetVerdict,
    EnergyRecord,
    MeasuredLatency,
    SustainedRecord,
    VerificationRecord,
)
from lightnas_edge.records.fleet import FleetGuarantee
from lightnas_edge.records.plain_text import clean_text
from lightnas_edge.records.report import BudgetRow, StatisticRow, SummaryReport
from lightnas_edge.records.run import MeasuredNetwork, PredictedEnergy, PredictedRecord
from lightnas_edge.report import wording

SIMULATED_NEXT = "verify on a real board: a simulated result says nothing about any machine"
NO_GUARANTEE = f"A statement about all units of this model takes {FEWEST_UNITS} verified units and a budget of time, energy or memory."
_MARK = "SIMULATED: "
# trtexec's name -> metric; None where it cannot be a budget.
_STATISTICS = (
    ("min", None), ("mean", "mean_ms"), ("median (p50)", "latency_ms"), ("percentile 90 % (p90)", "p90_ms"),
    ("percentile 95 % (p95)", "p95_ms"), ("percentile 99 % (p99)", "p99_ms"), ("max", None),
)  # fmt: skip


def budget_rows(record: VerificationRecord, also_asked: Mapping[str, float]) -> tuple[BudgetRow, ...]:
    """Every budget of a verification, and those of the run that it does not contain: silence is no verdict."""
    rows = [_row(budget, record.measured.inferences_per_sample) for budget in record.budgets]
    judged = {row.metric for row in rows}
    reason = "the verification was made without this budget"
    rows += [
        _without_value(metric, target, None, "not judged", reason, "verify again")
        for metric, target in also_asked.items()
        if metric not in judged
    ]
    return tuple(rows)


def unverified_rows(
    targets: Mapping[str, float], predicted: PredictedRecord | None, reason: str
) -> tuple[BudgetRow, ...]:
    """The budgets of a run without a verification."""
    metrics = predicted.metrics if predicted else {}
    asked = {**targets, **{metric: each.target for metric, each in metrics.items()}}
    values = {metric: each.value for metric, each in metrics.items()}
    return tuple(
        _without_value(metric, target, values.get(metric), "not verified", reason, "")
        for metric, target in asked.items()
    )


def statistic_rows(measured: MeasuredLatency, budgets: Iterable[BudgetRow]) -> tuple[StatisticRow, ...]:
    """Every statistic with its own budget, so that none stands next to the verdict about another."""
    asked = {row.metric: row for row in budgets}
    rows = []
    for name, metric in _STATISTICS:
        if metric is None:
            value_ms, interval_ms = measured.min_ms if name == "min" else measured.max_ms, None
        else:
            estimate = measured.statistic(metric)
            value_ms, interval_ms = estimate.latency_ms, estimate.interval_ms
        row = StatisticRow(
            name=name, metric=metric, value_ms=value_ms, interval_ms=interval_ms,
            budget=asked.get(metric) if metric else None,
        )  # fmt: skip
        rows.append(row)
    for name, part_ms in (("enqueue time", measured.enqueue_ms), ("GPU compute time", measured.gpu_ms)):
        if part_ms is not None:
            rows.append(StatisticRow(name=name, metric=None, value_ms=part_ms, interval_ms=None, budget=None))
    return tuple(rows)


def verified_summary(
    record: VerificationRecord,
    rows: tuple[BudgetRow, ...],
    where: str,
    warnings: int,
    file: str,
    predicted_energy: PredictedEnergy | None = None,
    guarantees: tuple[FleetGuarantee, ...] = (),
    no_guarantee: str = NO_GUARANTEE,
) -> SummaryReport:
    """Args:
    where: the machine and the runtime, in words.
    warnings: how many the report lists.
    file: that was measured.
    guarantees: of all units of the model.
    no_guarantee: why there is none, a sentence.
    """
    mark = _MARK if record.simulated else ""
    holds = {
        "met": "Yes: every budget is met.",
        "missed": "No: {missed} missed{also}.",
        "inconclusive": "Not decided: {open}.",
    }[record.verdict]
    missed = [row for row in rows if row.verdict == "missed"]
    undecided = [row for row in rows if row.verdict in ("inconclusive", "not judged", "not verified")]
    if record.verdict == "inconclusive" and (computes_otherwise(record) or not undecided):
        undecided_text = record.reason
    else:
        undecided_text = "; ".join(f"{wording.label(row.metric)} is {row.verdict}" for row in undecided)
    also = f". Not decided: {undecided_text}" if undecided else ""
    holds = holds.format(missed=_are([wording.label(row.metric) for row in missed]), open=undecided_text, also=also)
    if record.verdict == "met" and record.simulated:
        holds = "On the simulated board, every budget is met. This is no statement about a real one."
    return SummaryReport(
        asked=tuple(asked_text(row) for row in rows),
        found=tuple(
            clean_text(mark + text)
            for text in [*_found(record, where), _measured_energy(record.energy, predicted_energy)]
        ),
        holds=clean_text(holds),
        certainty=tuple(
            clean_text(text) for text in [*_certainty(record), *_all_units(guarantees, no_guarantee), _warned(warnings)]
        ),
        next=clean_text(_next(record, rows, file)),
    )


def unverified_summary(
    rows: tuple[BudgetRow, ...],
    simulated: bool,
    network: PredictedRecord | None,
    reason: str,
    finalist: MeasuredNetwork | None = None,
) -> SummaryReport:
    """Args:
    network: what was predicted of it; None before there is one.
    finalist: what was measured of it before it was handed over; None where nothing was.
    """
    mark = _MARK if simulated else ""
    confidence = network.confidence if network else None
    energy = network.energy if network else None
    predicted = [row for row in rows if row.predicted is not None and not (energy and row.metric == "energy_mj")]
    found = [
        f"{mark}predicted {wording.label(row.metric)} {wording.quantity(row.predicted, row.unit)}; {_of_finalist(finalist, row)}"
        for row in predicted
    ]
    if network is not None:
        found.append((mark if energy else "") + _predicted_energy(energy))
    certainty = ["A prediction is no proof."]
    if finalist is not None:
        bound = "" if confidence is None else f", with its upper bound at {wording.percent(confidence, 0)} confidence,"
        certainty.append(
            f"The network was measured as a finalist, before it was trained: the measurement and the estimate of it{bound} are within "
            "the budgets. `verify` measures the file that is deployed."
        )
    elif confidence is not None:
        certainty.append(
            f"The search kept the upper bounds at {wording.percent(confidence, 0)} confidence within the budgets."
        )
    cause, separator, remedy = reason.removeprefix("not available: ").rpartition("; ")
    return SummaryReport(
        asked=tuple(asked_text(row) for row in rows),
        found=tuple(found) or ("No network with a prediction yet.",),
        holds=f"Not verified: {clean_text(cause if separator else remedy)}.",
        certainty=tuple(certainty),
        next=clean_text(remedy if separator else "run the next step of the pipeline, then `lightnas-edge verify`"),
    )


def _of_finalist(finalist: MeasuredNetwork | None, row: BudgetRow) -> str:
    if finalist is None or row.metric not in finalist.metrics:
        return "not measured"
    found = finalist.metrics[row.metric]
    error = wording.number(found.standard_error)
    return f"as a finalist of the search measured {wording.quantity(found.measured, row.unit)} ± {error}"


def _measured_energy(measured: EnergyRecord | None, predicted: PredictedEnergy | None) -> str:
    """`energy of one batch 12.3 mJ (12.1 to 12.5 mJ), predicted 12.0 mJ (11.5 to 12.5 mJ with probability 90 %)`"""
    value = "not measured" if measured is None else wording.energy(measured.gross_mj, measured.gross_interval_mj)
    text = f"energy of one batch{_batch(predicted)} {value}"
    return text if predicted is None else f"{text}, predicted {wording.predicted_energy(predicted)}"


def _predicted_energy(energy: PredictedEnergy | None) -> str:
    """`predicted energy of one batch 12.0 mJ (11.5 to 12.5 mJ with probability 90 %); not measured`"""
    if energy is None:
        return "energy of one batch not available"
    return f"predicted energy of one batch{_batch(energy)} {wording.predicted_energy(energy)}; not measured"


def _batch(energy: PredictedEnergy | None) -> str:
    return "" if energy is None or energy.batch == 1 else f" of {energy.batch}"


def asked_text(row: BudgetRow) -> str:
    """`latency, median (p50) of one inference: at most 20.0 ms`"""
    return f"{row.description}: {row.bound} {wording.quantity(row.target, row.unit)}"


def board_state(fingerprint: Fingerprint) -> str:
    """`power mode MAXN, clocks locked`"""
    parts = []
    for name in ("power_mode", "clocks"):
        value = fingerprint.get(name)
        words = name.replace("_", " ")
        parts.append(f"{words} not known" if value is None else f"{words} {value}")
    return ", ".join(parts)


def sampled(measured: MeasuredLatency) -> str:
    """`400 single inferences in 40 rounds`; of several streams also the throughput, p50 and p95 of each."""
    rounds = wording.counted(measured.rounds, "round") + _in_streams(measured)
    if measured.inferences_per_sample == 1:
        return f"{measured.n} single inferences in {rounds}"
    return (
        f"{measured.n} samples in {rounds}, each the mean of {measured.inferences_per_sample} inferences, because one "
        "inference is too short for the timer"
    )


def _in_streams(measured: MeasuredLatency) -> str:
    """Empty for one stream."""
    if not measured.streams:
        return ""
    each = "; ".join(
        f"stream {number}: p50 {wording.quantity(stream.median.latency_ms, 'ms')}, p95 {wording.quantity(stream.p95.latency_ms, 'ms')}"
        for number, stream in enumerate(measured.streams, 1)
    )
    rate = "" if measured.throughput is None else f"throughput {wording.quantity(measured.throughput.per_s, 'per s')}; "
    return f" of {len(measured.streams)} streams at the same time ({rate}{each}; each statistic is that of the slowest)"


def sustained_text(record: SustainedRecord) -> str:
    """First part of the load against the last."""
    minutes = record.elapsed_s >= 180
    part = "minute" if minutes else "third"
    first, last = (wording.quantity(value, "ms") for value in (record.first_ms, record.last_ms))
    change = record.change
    how = (
        "the same" if abs(change) < 0.0005 else f"{wording.percent(abs(change))} {'slower' if change > 0 else 'faster'}"
    )
    text = f"Under load for {wording.duration(record.elapsed_s)}: median {first} in the first {part}, {last} in the last {part}, {how}."
    temperatures = [each.temperature_c for each in record.windows if each.temperature_c is not None]
    if temperatures:
        text += f" Temperature {temperatures[0]:.0f} °C at the start, {temperatures[-1]:.0f} °C at the end, at most {max(temperatures):.0f} °C."
    else:
        text += " The temperature is not known."
    for name, clock in (("GPU", "gpu_mhz"), ("CPU", "cpu_mhz")):
        clocks = [value for each in record.windows if (value := getattr(each, clock)) is not None]
        if clocks:
            low, high = f"{min(clocks):.0f}", f"{max(clocks):.0f}"
            text += f" {name} clock {low if low == high else f'{low} to {high}'} MHz."
    known = [each.throttled_by for each in record.windows if each.throttled_by is not None]
    throttled = sorted({name for names in known for name in names})
    if throttled:
        count = sum(bool(names) for names in known)
        text += f" Throttled in {count} of {len(known)} windows, by {', '.join(throttled)}."
    else:
        text += " No throttling was seen." if known else " Throttling cannot be read on this board."
    if record.trend_per_minute is not None and abs(record.trend_per_minute) >= 0.005:
        way = "rising" if record.trend_per_minute > 0 else "falling"
        text += (
            f" The latency was still {way} by {wording.percent(abs(record.trend_per_minute))} per minute at the end."
        )
    return text


def _row(budget: BudgetVerdict, inferences_per_sample: int) -> BudgetRow:
    return BudgetRow(
        metric=budget.metric,
        unit=clean_text(budget.unit),
        description=wording.description(budget.metric, inferences_per_sample),
        bound="at least" if wording.bound(budget.metric) == "at least" else "at most",
        target=budget.target,
        predicted=budget.predicted,
        predicted_interval=budget.predicted_interval,
        value=budget.value,
        interval=budget.interval,
        verdict=budget.verdict,
        reason=clean_text(budget.reason),
        remedy=clean_text(budget.remedy),
    )


def _without_value(
    metric: str, target: float, predicted: float | None, verdict: str, reason: str, remedy: str
) -> BudgetRow:
    return BudgetRow.model_validate({
        "metric": metric, "unit": wording.unit(metric), "description": wording.description(metric),
        "bound": wording.bound(metric), "target": target, "predicted": predicted, "predicted_interval": None,
        "value": None, "interval": None, "verdict": verdict, "reason": clean_text(reason), "remedy": remedy,
    })  # fmt: skip


def _found(record: VerificationRecord, where: str) -> list[str]:
    measured = record.measured
    median, p95 = measured.median.latency_ms, measured.p95.latency_ms
    found = [
        f"half of the inferences take at most {wording.quantity(median, 'ms')}, 95 % take at most {wording.quantity(p95, 'ms')}, "
        f"the slowest took {wording.quantity(measured.max_ms, 'ms')}, on {where}"
    ]
    if measured.inferences_per_sample != 1:
        found[0] = found[0].replace(
            "of the inferences", f"of the means of {measured.inferences_per_sample} inferences", 1
        )
    if record.accuracy is not None:
        found.append(
            f"top-1 accuracy on the board {wording.percent(record.accuracy.top1)} (n={record.accuracy.images} images), "
            f"{record.accuracy_reference or 'the reference'} {wording.percent(record.accuracy.reference_top1)} on the same images"
        )
    return found


def _all_units(guarantees: tuple[FleetGuarantee, ...], otherwise: str) -> list[str]:
    """What the verified units say about all units of their model, for each budget."""
    return [f"All units of this model: {_MARK if found.simulated else ''}{found.reason}." for found in guarantees] or [
        otherwise
    ]


def _certainty(record: VerificationRecord) -> list[str]:
    measured = record.measured
    texts = [
        f"Confidence {wording.percent(record.confidence, 0)}: a budget is met or missed when the whole interval says so.",
        f"Measured: {sampled(measured)}." if not record.simulated else f"SIMULATED: {sampled(measured)}.",
        f"Board state: {board_state(record.fingerprint)}.",
    ]
    if measured.noise is not None:
        verdict = "quiet" if measured.noise <= NOISE_LIMIT else "unstable"
        texts.append(
            f"Noise: the median is {wording.percent(measured.noise)} above the fastest tenth of the samples "
            f"({verdict}; limit {wording.percent(NOISE_LIMIT, 0)})."
        )
    else:
        texts.append("Noise: not known.")
    if record.sustained is not None:
        texts.append(f"The verdict is about the machine after {wording.duration(record.sustained.elapsed_s)} of load.")
    if record.outputs is None:
        texts.append("The outputs were not compared with a reference.")
    return texts


def _warned(warnings: int) -> str:
    return "No warnings." if not warnings else f"{wording.counted(warnings, 'warning')}, listed below."


def _next(record: VerificationRecord, rows: tuple[BudgetRow, ...], file: str) -> str:
    remedies = dict.fromkeys(
        text for text in (record.remedy, *(row.remedy for row in rows if row.verdict != "met")) if text
    )
    joined = "; ".join(text for text in remedies if not any(text != other and text in other for other in remedies))
    if record.simulated:
        return f"{joined}; then {SIMULATED_NEXT}" if joined else SIMULATED_NEXT
    if record.verdict == "met":
        return f"deploy {file}; verify again when the board, its power mode, its runtime or the model changes"
    return joined or "see the reason of each budget"


def _are(names: list[str]) -> str:
    """`p95 latency is`, `energy and p95 latency are`"""
    if not names:
        return "a budget is"
    return f"{names[0]} is" if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]} are"

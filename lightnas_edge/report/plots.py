"""Which plots a report has. One that cannot be drawn is left out and named."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
from markupsafe import Markup

from lightnas_edge.records.deployment import LATENCY_FIELDS, VerificationRecord
from lightnas_edge.records.plain_text import clean_text
from lightnas_edge.report import figures, wording
from lightnas_edge.report.snapshot import RunSnapshot


class Plots:
    """Drawn so far."""

    def __init__(self, missing: dict[str, str]) -> None:
        self.drawn: dict[str, Markup] = {}
        self._missing = missing

    def draw(self, name: str, plot: Callable[[], Markup]) -> None:
        try:
            with np.errstate(all="ignore"), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # a glyph that the font of this machine lacks is no fault of the run
                self.drawn[name] = plot()
        except Exception as error:  # matplotlib raises anything for numbers near the limits of a float
            self._missing[f"plot of {name}"] = (
                f"not available: the plot of these records failed ({type(error).__name__}: {clean_text(str(error), 200)})"
            )


def verification_plots(record: VerificationRecord, missing: dict[str, str]) -> dict[str, Markup]:
    plots = Plots(missing)
    _of_verification(plots, record)
    return plots.drawn


def run_plots(snapshot: RunSnapshot) -> dict[str, Markup]:
    plots = Plots(snapshot.missing)
    trace = snapshot.search
    if trace:
        plots.draw("search", lambda: figures.search_plot(trace))
        if not trace.epochs:
            snapshot.missing["probabilities"] = "not available: the search has not finished an epoch yet"
        elif not trace.first:
            snapshot.missing["probabilities"] = (
                "not available: the search writes them for the first of its budgets only"
            )
        else:
            operators = [operator.name for operator in snapshot.space.operators]
            chosen = snapshot.architecture.names if snapshot.architecture else None
            plots.draw("probabilities", lambda: figures.probability_map(trace.epochs, operators, chosen))
    if len(snapshot.front) > 1:
        plots.draw("front", lambda: figures.front_plot(snapshot.front))
    if snapshot.epochs:
        plots.draw("training", lambda: figures.training_plot(snapshot.epochs))
    if any(block.latency_ms is not None for block in snapshot.blocks):
        plots.draw("breakdown", lambda: figures.breakdown_plot(snapshot.blocks, _table_is_simulated(snapshot)))
    predictor = snapshot.predictor
    if predictor and predictor.fit.points:
        points = [(point.predicted, point.measured) for point in predictor.fit.points]
        final = _final_point(snapshot.verification, predictor.metric)
        plots.draw(
            "scatter",
            lambda: figures.predicted_measured_plot(
                points, final, predictor.metric, clean_text(predictor.unit), simulated=predictor.simulated
            ),
        )
    if snapshot.verification:
        _of_verification(plots, snapshot.verification)
    return plots.drawn


def _of_verification(plots: Plots, record: VerificationRecord) -> None:
    measured, simulated = record.measured, record.simulated
    latencies = [budget for budget in record.budgets if budget.metric in LATENCY_FIELDS]
    marks = {metric: measured.statistic(metric).latency_ms for metric in ("latency_ms", "p95_ms")}
    marks |= {budget.metric: measured.statistic(budget.metric).latency_ms for budget in latencies}
    targets = {budget.metric: budget.target for budget in latencies}
    samples = [value for samples in measured.samples_ms for value in samples]
    plots.draw("latency", lambda: figures.latency_plot(samples, marks, targets, simulated=simulated))
    bars = _bars(record)
    if len(bars) > 1:
        plots.draw("intervals", lambda: figures.intervals_plot(bars, simulated=simulated))
    sustained = record.sustained
    if sustained is not None and sustained.windows:
        plots.draw(
            "sustained",
            lambda: figures.sustained_plot(sustained.windows, targets.get("latency_ms"), simulated=simulated),
        )


def _bars(record: VerificationRecord) -> list[figures.Bar]:
    """Predicted and measured of every latency with a budget; the drift-corrected one stands next to its prediction."""
    verb = "SIMULATED" if record.simulated else "measured"
    bars = []
    for budget in record.budgets:
        if budget.metric not in LATENCY_FIELDS:
            continue
        short = wording.label(budget.metric).removesuffix(" latency")
        if budget.predicted is not None and budget.predicted > 0:
            bars.append(
                figures.Bar(f"{short}, predicted", budget.predicted, budget.predicted_interval, False, budget.target)
            )
        estimate = record.measured.statistic(budget.metric)
        bars.append(figures.Bar(f"{short}, {verb}", estimate.latency_ms, estimate.interval_ms, True, budget.target))
    compared = record.comparison
    if compared is not None and compared.corrected is not None:
        short = wording.label(compared.metric).removesuffix(" latency")
        corrected = compared.corrected
        bars.append(figures.Bar(f"{short}, drift-corrected", corrected.latency_ms, corrected.interval_ms, True, None))
    return bars


def _final_point(record: VerificationRecord | None, metric: str) -> tuple[float, float] | None:
    """The pair that the comparison's gap belongs to."""
    if record is None or record.comparison is None or record.comparison.metric != metric:
        return None
    compared = record.comparison
    return compared.predicted.latency_ms, (compared.corrected or record.measured.statistic(metric)).latency_ms


def _table_is_simulated(snapshot: RunSnapshot) -> bool:
    return snapshot.lut is not None and snapshot.lut.simulated

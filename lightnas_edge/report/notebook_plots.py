"""Plots of measurements, predictions and searches as matplotlib figures, for a notebook or a file of your own.

Each function returns a `Figure`: a notebook shows it, `figure.savefig(PATH)` writes it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

import luts
from lightnas_edge.deploy import Verification
from lightnas_edge.errors import PredictorError, RunError
from lightnas_edge.predictor import Predictor
from lightnas_edge.records.deployment import LATENCY_FIELDS, VerificationRecord
from lightnas_edge.report import drawing
from lightnas_edge.runs import Run
from lightnas_edge.search import read_front

MOST_OPERATORS = 40  # bars of one plot


def plot_latency(measured: Verification | VerificationRecord | luts.Entry) -> Figure:
    """Every raw sample of a network or an operator as a histogram, in milliseconds, with the statistics that were read from it.

    A verification shows its budgets too.
    """
    targets: Mapping[str, float] = {}
    if isinstance(measured, luts.Entry):
        samples, simulated = measured.samples_ms, False
        marks = {"latency_ms": measured.latency_ms, **({"p95_ms": measured.p95_ms} if measured.is_network else {})}
    else:
        record = measured.record if isinstance(measured, Verification) else measured
        simulated = record.simulated
        samples = tuple(value for visit in record.measured.samples_ms for value in visit)
        targets = {budget.metric: budget.target for budget in record.budgets if budget.metric in LATENCY_FIELDS}
        shown = dict.fromkeys(["latency_ms", "p95_ms", *targets])
        marks = {metric: record.measured.statistic(metric).latency_ms for metric in shown}
    return _on_paper(drawing.draw_latency(samples, marks, targets, drawing.LIGHT, simulated=simulated))


def plot_predictions(predictor: Predictor, verification: Verification | None = None) -> Figure:
    """Predicted against measured values of whole networks while they were held out of the fit; the network found, if verified.

    Raises:
        PredictorError: no whole network was measured.
    """
    points = [(point.predicted, point.measured) for point in predictor.fit.points]
    if not points:
        raise PredictorError(
            "the predictor has no held-out networks to show",
            hint="measure whole networks, and fit the predictor to them too",
        )
    return _on_paper(
        drawing.draw_predicted_measured(
            points, _final(predictor, verification), predictor.metric, predictor.unit, drawing.LIGHT,
            simulated=predictor.simulated,
        )
    )  # fmt: skip


def plot_front(run: Run | str | Path) -> Figure:
    """All networks of a search: prediction and budget against top-1 accuracy in the supernet.

    Raises:
        RunError: the run holds no network yet.
    """
    run = run if isinstance(run, Run) else Run.open(run)
    networks = read_front(run).networks
    if not networks:
        raise RunError(f"{run.folder} holds no network yet", hint="the search has not ended: run it again")
    return _on_paper(drawing.draw_front(networks, drawing.LIGHT))


def plot_operator_costs(lut: luts.Lut, keys: Sequence[str] | None = None) -> Figure:
    """Latency of operators, each alone, with its standard error, in milliseconds, the slowest first.

    Args:
        keys: of the operators to show; by default the slowest MOST_OPERATORS.

    Raises:
        LutMissError: the table lacks a key.
    """
    if keys is not None:
        lut.latencies_ms(keys)
    entries = [lut.entries[key] for key in keys] if keys is not None else list(lut.entries.values())
    if not entries:
        raise luts.LutMissError(f"{lut.path} holds no operators", hint="measure the operators of a space first")
    slowest = sorted(entries, key=lambda entry: -entry.latency_ms)[: None if keys is not None else MOST_OPERATORS]
    return _on_paper(
        drawing.draw_operator_costs(
            [entry.key for entry in slowest], [entry.latency_ms for entry in slowest],
            [entry.standard_error_ms for entry in slowest], drawing.LIGHT, simulated=lut.simulated,
        )
    )  # fmt: skip


def _on_paper(drawn: drawing.Drawn) -> Figure:
    drawn.figure.set_facecolor(drawing.LIGHT.paper)
    drawn.figure.set_label(drawn.description)
    return drawn.figure


def _final(predictor: Predictor, verification: Verification | None) -> tuple[float, float] | None:
    """Prediction and measurement of the network found; under the conditions of the table where they are known."""
    compared = None if verification is None else verification.record.comparison
    if verification is None or compared is None or compared.metric != predictor.metric:
        return None
    measured = compared.corrected or verification.record.measured.statistic(predictor.metric)
    return compared.predicted.latency_ms, measured.latency_ms

"""From a run directory to `report.html`, `report.md` and `report.json`: one content, three formats."""

from __future__ import annotations

import functools
import html
import math
import re
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup

from lightnas_edge._version import __version__
from lightnas_edge.deploy import result_line
from lightnas_edge.errors import ArchitectureError, PredictorError
from lightnas_edge.files import finite, write_atomic, write_json
from lightnas_edge.predictor.files import predictor_from_record
from lightnas_edge.predictor.metrics import UNITS
from lightnas_edge.records.base import Fingerprint, Record
from lightnas_edge.records.deployment import LatencyEstimate
from lightnas_edge.records.plain_text import clean_text
from lightnas_edge.records.predictor import COMPONENTS
from lightnas_edge.records.report import (
    Budget,
    NetworkReport,
    PredictorReport,
    Provenance,
    QuestionReport,
    ReportRecord,
    TableReport,
    Target,
)
from lightnas_edge.report import figures
from lightnas_edge.report.snapshot import RunSnapshot, read_snapshot

_TEMPLATES = Path(__file__).parent / "templates"
_COMMAND = re.compile(r"`((?:lightnas-edge|profile-device) [^`<>&|]*)`")


@dataclass(frozen=True)
class Report:
    """Where the report was written, and what it lacks."""

    html: Path
    markdown: Path
    json: Path
    line: str  # the result in one line
    missing: dict[str, str]


def build_report(run_dir: Path) -> Report:
    """Write the report of a run. It names the parts of the run that are missing, damaged or made from other files.

    Raises:
        RunError: the folder is no run directory.
        SpaceError: the space of the run is none.
        OSError: the report cannot be written.
    """
    snapshot = read_snapshot(run_dir)
    plots = _plots(snapshot)
    record = _record(snapshot)
    values = {"report": record, "steps": snapshot.search, "components": COMPONENTS, "units": _unit}
    page = _environment(html_page=True).get_template("report.html")
    text = _environment(html_page=False).get_template("report.md")
    paths = {suffix: run_dir / f"report.{suffix}" for suffix in ("html", "md", "json")}
    write_atomic(paths["html"], page.render(plots=plots, epochs=snapshot.epochs, **values))
    write_atomic(paths["md"], text.render(**values))
    write_json(paths["json"], finite(record.to_json()))
    return Report(paths["html"], paths["md"], paths["json"], record.line, dict(record.missing))


def _record(snapshot: RunSnapshot) -> ReportRecord:
    """Everything the page shows but the plots."""
    run, found = snapshot.run.record, snapshot.found
    fingerprint = _fingerprint(snapshot)
    board = clean_text(str(fingerprint.get("board") or run.board or run.host or "an unknown board"), 100)
    return ReportRecord(
        version=__version__,
        run=snapshot.run.folder.resolve().name,
        title=f"{clean_text(snapshot.space.name, 100)} on {board}",
        verdict=snapshot.verification.verdict if snapshot.verification else None,
        line=clean_text(_line(snapshot)),
        simulated=snapshot.simulated,
        question=_question(snapshot),
        network=_network(snapshot),
        refined=snapshot.refined,
        confidence=found.predicted.confidence if found else None,
        budgets=_budgets(snapshot),
        choice=found.choice if found else None,
        front=snapshot.front,
        predictor=_predictor(snapshot),
        training=snapshot.training,
        export=snapshot.export,
        verification=snapshot.verification,
        provenance=Provenance(
            fingerprint=fingerprint,
            table=_table(snapshot),
            config=run.config,
            written_by=run.version,
            created=run.created,
        ),
        warnings=tuple(clean_text(text) for text in _warnings(snapshot)),
        missing=snapshot.missing,
    )


def _line(snapshot: RunSnapshot) -> str:
    """The result in one line."""
    if snapshot.verification is not None:
        return result_line(snapshot.verification)
    if len(snapshot.front) > 1 and snapshot.found is None:
        return f"{len(snapshot.front)} networks of one search: each has a report of its own"
    predicted = (
        "no prediction yet" if snapshot.predicted_ms is None else f"predicted {_number(snapshot.predicted_ms)} ms"
    )
    target = "no latency target" if snapshot.target_ms is None else f"target {_number(snapshot.target_ms)} ms"
    return f"{predicted}, not measured, {target}: not verified"


def _question(snapshot: RunSnapshot) -> QuestionReport:
    run, space = snapshot.run.record, snapshot.space
    return QuestionReport(
        targets=tuple(
            Target(metric=metric, unit=_unit(metric), value=target) for metric, target in run.targets.items()
        ),
        budgets=max(1, len(run.budgets)),
        space=space.name,
        layers=len(space.layers),
        operators=tuple(operator.name for operator in space.operators),
        input_size=space.input_size,
        data=run.data,
        seed=run.seed,
        host=run.host,
        refined_from=run.refined_from.run if run.refined_from else None,
    )


def _network(snapshot: RunSnapshot) -> NetworkReport | None:
    if snapshot.architecture is None or snapshot.cost is None:
        return None
    return NetworkReport(
        operators=snapshot.architecture.names,
        macs_m=snapshot.cost[0],
        parameters_m=snapshot.cost[1],
        table_sum_ms=snapshot.table_sum_ms,
        blocks=snapshot.blocks,
    )


def _budgets(snapshot: RunSnapshot) -> tuple[Budget, ...]:
    if snapshot.found is None:
        return ()
    predicted = snapshot.found.predicted
    return tuple(
        Budget(
            metric=metric,
            unit=_unit(metric),
            value=each.target,
            predicted=each.value,
            upper=each.upper,
            used=finite(each.used),
            multiplier=each.multiplier,
            binding=metric == predicted.binding,
        )
        for metric, each in predicted.metrics.items()
    )


def _predictor(snapshot: RunSnapshot) -> PredictorReport | None:
    record = snapshot.predictor
    if record is None:
        return None
    return PredictorReport(type=record.type, metric=record.metric, unit=record.unit, batch=record.batch, fit=record.fit)


def _table(snapshot: RunSnapshot) -> TableReport | None:
    if snapshot.lut is None:
        return None
    header = snapshot.lut.header
    return TableReport(
        created=header.created,
        entries=len(snapshot.lut.entries),
        visits=len(snapshot.lut.visits),
        board=header.board,
        runtime=header.runtime,
        protocol=header.protocol,
    )


def _fingerprint(snapshot: RunSnapshot) -> Fingerprint:
    """Of the verification, or else of what the prediction comes from."""
    for part in (snapshot.verification, snapshot.predictor, snapshot.lut, snapshot.run.record):
        if part is not None and part.fingerprint:
            return dict(part.fingerprint)
    return {}


def _warnings(snapshot: RunSnapshot) -> list[str]:
    found = list(snapshot.verification.warnings) if snapshot.verification else []
    if snapshot.training and snapshot.training.data.sha256 != snapshot.run.data.sha256:
        found.append(
            f"the network was trained on other images than it was searched on: {snapshot.training.data.source}, "
            f"not {snapshot.run.data.source}"
        )
    if _extrapolated(snapshot):
        found.append("extrapolated: the network found is outside the applicability domain of the predictor")
    if snapshot.lut:
        keys = dict.fromkeys(block.key for block in snapshot.blocks if block.latency_ms is not None)
        found += [f"{key}: {text}" for key in keys for text in snapshot.lut.entries[key].warnings[:1]]
    return [*found, *snapshot.faults]


def _extrapolated(snapshot: RunSnapshot) -> bool:
    """Whether the network is unlike those that the predictor was fitted to; false where no predictor can be used."""
    if snapshot.predictor is None or snapshot.architecture is None:
        return False
    try:
        predictor = predictor_from_record(snapshot.predictor, str(snapshot.predictor_path))
        return bool(predictor.extrapolated(snapshot.architecture.one_hot(predictor.space)[None])[0])
    except (PredictorError, ArchitectureError) as error:
        snapshot.missing.setdefault("applicability", f"not available: {clean_text(str(error))}")
        return False


# -- plots -------------------------------------------------------------------------------------------------------------


def _plots(snapshot: RunSnapshot) -> dict[str, Markup]:
    """Every plot with data. One that cannot be drawn is left out and named."""
    plots: dict[str, Markup] = {}

    def draw(name: str, plot: Callable[[], Markup]) -> None:
        try:
            with np.errstate(all="ignore"), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # a glyph that the font of this machine lacks is no fault of the run
                plots[name] = plot()
        except Exception as error:  # matplotlib raises anything for numbers near the limits of a float
            snapshot.missing[f"plot of {name}"] = (
                f"not available: the plot of these records failed ({type(error).__name__}: {clean_text(str(error), 200)})"
            )

    trace = snapshot.search
    if trace:
        draw("search", lambda: figures.search_plot(trace))
        if not trace.epochs:
            snapshot.missing["probabilities"] = "not available: the search has not finished an epoch yet"
        elif not trace.first:
            snapshot.missing["probabilities"] = (
                "not available: the search writes them for the first of its budgets only"
            )
        else:
            operators = [operator.name for operator in snapshot.space.operators]
            chosen = snapshot.architecture.names if snapshot.architecture else None
            draw("probabilities", lambda: figures.probability_map(trace.epochs, operators, chosen))
    if len(snapshot.front) > 1:
        draw("front", lambda: figures.front_plot(snapshot.front))
    if snapshot.epochs:
        draw("training", lambda: figures.training_plot(snapshot.epochs))
    if any(block.latency_ms is not None for block in snapshot.blocks):
        draw("breakdown", lambda: figures.breakdown_plot(snapshot.blocks))
    bars = _bars(snapshot)
    if bars:
        draw("intervals", lambda: figures.intervals_plot(bars, snapshot.target_ms))
    predictor = snapshot.predictor
    if predictor and predictor.fit.points:
        points = [(point.predicted, point.measured) for point in predictor.fit.points]
        final = _final_point(snapshot) if predictor.metric == "latency_ms" else None
        draw(
            "scatter",
            lambda: figures.predicted_measured_plot(points, final, predictor.metric, clean_text(predictor.unit)),
        )
    check = snapshot.verification
    if check:
        measured, target_ms = check.measured, check.target.latency_ms
        draw(
            "latency",
            lambda: figures.latency_plot(measured.samples_ms, target_ms, measured.latency_ms, measured.p95_ms),
        )
    return plots


def _bars(snapshot: RunSnapshot) -> list[figures.Bar]:
    bars = []
    check = snapshot.verification
    if snapshot.table_sum_ms is not None:
        bars.append(figures.Bar("sum of the table", snapshot.table_sum_ms, None, False))
    if snapshot.predicted_ms is not None:
        interval_ms = check.predicted.interval_ms if check and check.predicted else None
        bars.append(figures.Bar("predicted", snapshot.predicted_ms, interval_ms, False))
    if check:
        estimates = (("measured, median", check.measured), ("drift-corrected", check.corrected))
        bars += [figures.Bar(name, each.latency_ms, each.interval_ms, True) for name, each in estimates if each]
    return bars


def _final_point(snapshot: RunSnapshot) -> tuple[float, float] | None:
    check = snapshot.verification
    if check is None or snapshot.predicted_ms is None:
        return None
    return snapshot.predicted_ms, (check.corrected or check.measured).latency_ms


# -- words and numbers -------------------------------------------------------------------------------------------------


@functools.cache
def _environment(*, html_page: bool) -> jinja2.Environment:
    """Names in a run's files are text of unknown origin: no control character of them is written, and no markup."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=html_page,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_printable,
    )
    environment.filters.update(
        number=_number,
        percent=_percent,
        plain=_plain,
        short=_short,
        plus_minus=_plus_minus,
        quantity=_quantity,
        label=figures.label,
        md=_markdown,
        message=_html_message if html_page else _markdown_message,
        sentence=_sentence,
        when=_when,
    )
    return environment


def _printable(value: Any) -> Any:
    return clean_text(value) if type(value) is str and not value.isprintable() else value


def _unit(metric: str) -> str:
    return UNITS.get(metric, "unknown unit")


def _number(value: float | None) -> str:
    """Three significant digits or more; never a zero in place of the unknown."""
    if value is None or not math.isfinite(value):
        return "unknown"
    if abs(value) >= 1e9:
        return f"{value:.3g}"
    digits = min(6, max(1, 2 - math.floor(math.log10(abs(value))))) if value else 1
    return f"{value:.{digits}f}"


def _quantity(value: float | None, unit: str) -> str:
    """`0.846 ms`"""
    return "unknown" if value is None else f"{_number(value)} {unit}"


def _percent(value: float | None, digits: int = 1) -> str:
    if value is None or not math.isfinite(value):
        return "unknown"
    return f"{100 * value:.{digits}f} %" if abs(value) < 1e6 else f"{100 * value:.3g} %"


def _plus_minus(part: LatencyEstimate) -> str:
    """`0.86 ± 0.02 ms`; the uncertainty is never printed as zero."""
    centre, interval = _number(part.latency_ms), part.interval_ms
    if interval is None:
        return f"{centre} ms"
    digits = len(centre.partition(".")[2])
    return f"{centre} ± {max((interval[1] - interval[0]) / 2, 10.0**-digits):.{digits}f} ms"


def _short(value: float | None, unknown: str = "unknown") -> str:
    """Three digits, since a decomposition knows no more."""
    return unknown if value is None else f"{value:.3g}"


def _plain(value: Any, unknown: str = "unknown") -> str:
    """A value from a record as people write it."""
    if value is None or value == "":
        return unknown
    if isinstance(value, Record):
        return _plain(value.to_json(), unknown)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(_plain(item, unknown) for item in value) or "none"
    if isinstance(value, dict):
        return "; ".join(f"{name} {_plain(item, unknown)}" for name, item in value.items()) or "none"
    return clean_text(str(value)) or unknown


def _sentence(text: str) -> str:
    """With a capital letter at its begin and one full stop at its end."""
    text = clean_text(text).rstrip(".")
    return f"{text[:1].upper()}{text[1:]}."


def _when(text: str) -> str:
    """`2026-11-23 19:20 UTC` of an ISO date; unchanged when it is none."""
    try:
        return datetime.fromisoformat(text).astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")
    except (ValueError, OverflowError):
        return _plain(text)


def _html_message(text: str) -> Markup:
    """A message with its `commands` set as code; everything is escaped first."""
    escaped = str(Markup.escape(clean_text(text)))
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", escaped))


def _markdown(value: Any) -> str:
    """Text for a Markdown table or paragraph, shown as it is: no HTML, no emphasis, no link, no column break."""
    text = html.escape(_plain(value), quote=False)
    text = re.sub(r"([\\`*\[\]|~!#$])|(?<![0-9A-Za-z])_|_(?![0-9A-Za-z])", lambda match: "\\" + match[0], text)
    return text.replace("://", "\\://")


def _markdown_message(text: str) -> str:
    """The same with our own commands as code."""
    pieces: Iterable[str] = _COMMAND.split(clean_text(text))
    return "".join(f"`{piece}`" if index % 2 else _markdown_piece(piece) for index, piece in enumerate(pieces))


def _markdown_piece(piece: str) -> str:
    """Escaped, with the blanks at its ends, which separate it from a command."""
    body = piece.strip()
    if not body:
        return piece
    before, _, after = piece.partition(body)
    return before + _markdown(body) + after

"""From a run directory to `report.html`, `report.md` and `report.json`: the same content, thrice."""

from __future__ import annotations

import html
import json
import math
import os
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from lightnas_edge._version import __version__
from lightnas_edge.deploy import result_line
from lightnas_edge.errors import ArchitectureError, PredictorError
from lightnas_edge.predictor import CAUSES, load_predictor
from lightnas_edge.report import figures
from lightnas_edge.report.snapshot import Record, RunSnapshot, read_snapshot
from lightnas_edge.runs import write_json

SCHEMA = 1
_TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Report:
    """Where the report was written, and what it could not tell."""

    html: Path
    markdown: Path
    json: Path
    line: str  # the one that tells the whole truth
    missing: dict[str, str]


def build_report(run_dir: Path) -> Report:
    """Write the report of a run; parts of the run that are not there are named in it.

    Raises:
        RunError: the folder is no run directory.
    """
    snapshot = read_snapshot(run_dir)
    record = _record(snapshot)
    values = {"snapshot": snapshot, "record": record, "version": __version__, "causes": CAUSES}
    page = _environment(html_page=True).get_template("report.html").render(plots=_plots(snapshot), **values)
    text = _environment(html_page=False).get_template("report.md").render(**values)
    paths = {suffix: run_dir / f"report.{suffix}" for suffix in ("html", "md", "json")}
    _replace(paths["html"], page)
    _replace(paths["md"], text)
    write_json(paths["json"], record)
    return Report(paths["html"], paths["md"], paths["json"], record["line"], dict(snapshot.missing))


def _record(snapshot: RunSnapshot) -> Record:
    """Everything the page tells, as plain JSON."""
    lut = snapshot.lut
    fit = (snapshot.predictor or {}).get("fit") or {}
    verification = dict(snapshot.verification) if snapshot.verification else None
    if verification:
        verification["measured"] = {k: v for k, v in verification["measured"].items() if k != "samples_ms"}
    record = {
        "kind": "report",
        "schema": SCHEMA,
        "version": __version__,
        "run": snapshot.folder.resolve().name,
        "title": f"{snapshot.space.name} on {_board(snapshot)}",
        "verdict": verification["verdict"] if verification else None,
        "line": _line(snapshot),
        "simulated": snapshot.simulated,
        "asked": _asked(snapshot),
        "network": {
            "operators": [operator.name for operator in snapshot.architecture.operators],
            "macs_m": snapshot.cost[0] if snapshot.cost else None,
            "parameters_m": snapshot.cost[1] if snapshot.cost else None,
            "table_sum_ms": snapshot.table_sum_ms,
            "blocks": [asdict(row) for row in snapshot.rows],
        }
        if snapshot.architecture
        else None,
        "refined": snapshot.refined,
        "predicted_ms": snapshot.predicted_ms,
        "budgets": _budgets(snapshot),
        "choice": snapshot.choice,
        "front": snapshot.front or None,
        "fit": fit or None,
        "trained": _last(snapshot),
        "export": snapshot.export,
        "verification": verification,
        "provenance": {
            "fingerprint": _fingerprint(snapshot),
            "board": lut.header.get("board") if lut else None,
            "runtime": lut.header.get("runtime") if lut else None,
            "protocol": lut.header.get("protocol") if lut else None,
            "table": {"created": lut.header.get("created"), "entries": len(lut.entries), "visits": len(lut.visits)}
            if lut
            else None,
            "seed": snapshot.run.get("seed"),
            "config": snapshot.run.get("config"),
            "written_by": snapshot.run.get("version"),
            "created": snapshot.run.get("created"),
        },
        "warnings": _warnings(snapshot),
        "missing": snapshot.missing,
    }
    finite: Record = _finite(record)
    return finite


def _line(snapshot: RunSnapshot) -> str:
    """The one line that tells the whole truth."""
    if snapshot.verification is not None:
        return result_line(snapshot.verification)
    if snapshot.front and snapshot.architecture is None:
        return f"{len(snapshot.front)} networks of one search: each has a report of its own"
    predicted = (
        "nothing predicted yet" if snapshot.predicted_ms is None else f"predicted {_ms(snapshot.predicted_ms)} ms"
    )
    target = "no target" if snapshot.target_ms is None else f"target {_ms(snapshot.target_ms)} ms"
    return f"{predicted}, not measured, {target}: not verified"


def _plots(snapshot: RunSnapshot) -> dict[str, Markup]:
    """Every plot that there is data for. A record too odd to be drawn costs its plot alone, and is named."""
    plots: dict[str, Markup] = {}

    def draw(name: str, plot: Callable[[], Markup]) -> None:
        try:
            plots[name] = plot()
        except (KeyError, TypeError, ValueError, IndexError) as error:
            snapshot.missing.setdefault(
                name, f"not available: its records cannot be drawn ({type(error).__name__}: {error})"
            )

    if snapshot.steps:
        draw("search", lambda: figures.search_plot(snapshot.steps, snapshot.epochs, snapshot.target_ms))
    if any(line.get("probabilities") for line in snapshot.epochs):
        operators = [operator.name for operator in snapshot.space.operators]
        chosen = [operator.name for operator in snapshot.architecture.operators] if snapshot.architecture else None
        draw("probabilities", lambda: figures.probability_map(snapshot.epochs, operators, chosen))
    if len(snapshot.front) > 1:
        draw("front", lambda: figures.front_plot(snapshot.front))
    if snapshot.training:
        draw("training", lambda: figures.training_plot(snapshot.training))
    if any(row.latency_ms is not None for row in snapshot.rows):
        draw("breakdown", lambda: figures.breakdown_plot(snapshot.rows))
    bars = _bars(snapshot)
    if bars:
        draw("intervals", lambda: figures.intervals_plot(bars, snapshot.target_ms))
    points = _points(snapshot)
    if points:
        draw("scatter", lambda: figures.predicted_measured_plot(points, _final_point(snapshot)))
    verification = snapshot.verification
    if verification:
        measured = verification["measured"]
        draw(
            "latency",
            lambda: figures.latency_plot(
                measured["samples_ms"], verification["target"]["latency_ms"], measured["latency_ms"], measured["p95_ms"]
            ),
        )
    return plots


def _bars(snapshot: RunSnapshot) -> list[tuple[str, float, list[float] | None, bool]]:
    bars: list[tuple[str, float, list[float] | None, bool]] = []
    if snapshot.table_sum_ms is not None:
        bars.append(("sum of the table", snapshot.table_sum_ms, None, False))
    if snapshot.predicted_ms is not None:
        bars.append(
            (
                "predicted",
                snapshot.predicted_ms,
                ((snapshot.verification or {}).get("predicted") or {}).get("interval_ms"),
                False,
            )
        )
    for name, key in (("measured, median", "measured"), ("drift-corrected", "corrected")):
        part = (snapshot.verification or {}).get(key)
        if part:
            bars.append((name, part["latency_ms"], part.get("interval_ms"), True))
    return bars


def _points(snapshot: RunSnapshot) -> list[tuple[float, float]]:
    """(predicted, measured) of networks held out of the fit, where the predictor's file lists them."""
    points = ((snapshot.predictor or {}).get("fit") or {}).get("points") or []
    return [
        (float(point["predicted"]), float(point["measured"]))
        for point in points
        if isinstance(point, dict) and "predicted" in point and "measured" in point
    ]


def _final_point(snapshot: RunSnapshot) -> tuple[float, float] | None:
    if snapshot.verification is None or snapshot.predicted_ms is None:
        return None
    return snapshot.predicted_ms, float(
        (snapshot.verification["corrected"] or snapshot.verification["measured"])["latency_ms"]
    )


def _asked(snapshot: RunSnapshot) -> Record:
    data = snapshot.run.get("data") or {}
    classes = data.get("classes") or []
    targets = snapshot.run.get("targets") or {}
    return {
        "latency_ms": targets.get("latency_ms"),
        "targets": targets,
        "space": snapshot.space.name,
        "layers": len(snapshot.space.layers),
        "operators": [operator.name for operator in snapshot.space.operators],
        "input_size": snapshot.space.input_size,
        "data": data.get("source"),
        "classes": len(classes) if isinstance(classes, list) else classes,
        "train_images": data.get("train_images", data.get("train")),
        "validation_images": data.get("validation_images", data.get("validation")),
        "seed": snapshot.run.get("seed"),
        "host": snapshot.run.get("host"),
    }


def _budgets(snapshot: RunSnapshot) -> list[Record]:
    """Every budget of the network: what is predicted, and how much of the target that takes."""
    predicted = snapshot.predicted or {}
    metrics = predicted.get("metrics")
    if not isinstance(metrics, dict):
        return []
    rows = []
    for metric, held in metrics.items():
        value = held["value"] if held["upper"] is None else held["upper"]
        rows.append({"metric": metric, **held, "used": value / held["target"], "binds": metric == predicted["binding"]})
    return rows


def _last(snapshot: RunSnapshot) -> Record | None:
    if snapshot.trained:
        return snapshot.trained
    return snapshot.training[-1] if snapshot.training else None


def _fingerprint(snapshot: RunSnapshot) -> Record:
    for record in (snapshot.verification, snapshot.predictor):
        if record and record.get("fingerprint"):
            return dict(record["fingerprint"])
    return dict(snapshot.lut.fingerprint) if snapshot.lut else {}


def _board(snapshot: RunSnapshot) -> str:
    fingerprint = _fingerprint(snapshot)
    return str(fingerprint.get("board") or snapshot.run.get("host") or "an unknown board")


def _warnings(snapshot: RunSnapshot) -> list[str]:
    warnings = list((snapshot.verification or {}).get("warnings") or [])
    if snapshot.predictor and snapshot.architecture:
        try:
            predictor = load_predictor(snapshot.folder / "predictor.json")
            outside = bool(predictor.outside(snapshot.architecture.one_hot(predictor.space)[None])[0])
        except (PredictorError, ArchitectureError):
            outside = False  # a predictor that cannot be used is told of elsewhere
        if outside:
            warnings.append(
                "the network found is outside what was measured to fit the predictor: its prediction is a guess"
            )
    if snapshot.lut:
        warnings += [f"{snapshot.lut.path.name}, line {fault.line}: {fault.what}" for fault in snapshot.lut.faults]
        keys = [row.key for row in snapshot.rows if row.latency_ms is not None]
        warnings += [f"{key}: {text}" for key in dict.fromkeys(keys) for text in snapshot.lut.entries[key].warnings[:1]]
    return warnings


# -- words and numbers ---------------------------------------------------------------------------------------


def _environment(*, html_page: bool) -> jinja2.Environment:
    """Everything that is not marked as safe is escaped: names in a run's files are somebody else's text."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=html_page,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        ms=_ms,
        percent=_percent,
        plain=_plain,
        short=_short,
        plus_minus=_plus_minus,
        md=_markdown,
        code=_code,
        when=_when,
    )
    return environment


def _ms(value: Any) -> str:
    """Three significant digits or more; never a zero in place of the unknown."""
    if not isinstance(value, (int, float)) or not math.isfinite(value):
        return "unknown"
    digits = min(6, max(1, 2 - math.floor(math.log10(abs(value))))) if value else 1
    return f"{value:.{digits}f}"


def _percent(value: Any, digits: int = 1) -> str:
    return f"{100 * value:.{digits}f} %" if isinstance(value, (int, float)) and math.isfinite(value) else "unknown"


def _plus_minus(part: Record) -> str:
    """`0.86 ± 0.02 ms`; the uncertainty is never printed as zero."""
    centre, interval = _ms(part["latency_ms"]), part.get("interval_ms")
    if not interval:
        return f"{centre} ms"
    digits = len(centre.partition(".")[2])
    return f"{centre} ± {max((interval[1] - interval[0]) / 2, 10.0**-digits):.{digits}f} ms"


def _short(value: Any, unknown: str = "unknown") -> str:
    """Three digits, since a decomposition knows no more."""
    return f"{value:.3g}" if isinstance(value, float) else _plain(value, unknown)


def _plain(value: Any, unknown: str = "unknown") -> str:
    """A value from a record as people write it."""
    if value is None or value == "":
        return unknown
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(_plain(item, unknown) for item in value) or "none"
    if isinstance(value, dict):
        return "; ".join(f"{name} {_plain(item, unknown)}" for name, item in value.items()) or "none"
    return str(value)


def _code(text: Any) -> Markup:
    """Text with `commands` set as code; everything is escaped first."""
    escaped = str(Markup.escape(str(text)))
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", escaped))


def _when(text: Any) -> str:
    """`2026-11-23 19:20 UTC` of an ISO date; as it stands when it is none."""
    try:
        return datetime.fromisoformat(str(text)).astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")
    except ValueError:
        return _plain(text)


def _markdown(value: Any) -> str:
    """Text for a Markdown table or paragraph: no HTML, no column breaks, one line."""
    return html.escape(_plain(value), quote=False).replace("|", "\\|").replace("\n", " ")


def _finite(value: Any) -> Any:
    """Plain JSON: what is not a finite number becomes null."""
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return (
        value
        if isinstance(value, (str, int, float, bool)) or value is None
        else json.loads(json.dumps(value, default=str))
    )


def _replace(path: Path, content: str) -> None:
    part = path.with_name(path.name + ".part")
    part.write_text(content, encoding="utf-8")
    os.replace(part, path)

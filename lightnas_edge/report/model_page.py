"""The report of one profiled model: profile.html, profile.md, profile.json, and profile.csv with a row per layer."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from lightnas_edge.files import write_atomic
from lightnas_edge.records.deployment import LATENCY_FIELDS
from lightnas_edge.records.model_profile import LayerTensor, ModelProfileRecord
from lightnas_edge.report import wording
from lightnas_edge.report.model_figures import layers_plot
from lightnas_edge.report.plots import Plots
from lightnas_edge.report.rendering import environment

LARGEST = 20  # layers in the picture
_STATISTICS = {
    "median": "median_ms", "mean": "mean_ms", "p90": "p90_ms", "p95": "p95_ms", "p99": "p99_ms", "min": "min_ms", "max": "max_ms",
}  # fmt: skip
_TIMES = {
    "latency": "latency", "gpu": "GPU compute", "enqueue": "enqueue", "h2d": "copy to the GPU", "d2h": "copy from the GPU",
}  # fmt: skip
_SOURCES = {
    "onnxruntime": "ONNX Runtime", "tensorrt": "TensorRT", "simulated": "a virtual board", "trtexec": "trtexec (TensorRT)",
}  # fmt: skip


@dataclass(frozen=True)
class ModelReport:
    html: Path
    json: Path
    csv: Path
    markdown: Path


@dataclass(frozen=True)
class _Times:
    """A table of statistics: a column for each kind of time."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[str, ...]], ...]


def write_model_report(record: ModelProfileRecord, folder: Path) -> ModelReport:
    """Raises OSError where the folder cannot be written to."""
    folder.mkdir(parents=True, exist_ok=True)
    files = ModelReport(*(folder / f"profile.{ending}" for ending in ("html", "json", "csv", "md")))
    missing: dict[str, str] = {}
    plots = Plots(missing)
    largest = sorted((layer for layer in record.layers if layer.share), key=lambda layer: -(layer.share or 0.0))[
        :LARGEST
    ]
    if largest:
        plots.draw("layers", lambda: layers_plot(largest, of=len(record.layers), simulated=record.simulated))
    for path, name in ((files.html, "model.html"), (files.markdown, "model.md")):
        page = environment(html_page=name.endswith(".html")).get_template(name)
        write_atomic(
            path,
            page.render(
                record=record,
                headline=headline(record),
                source=_SOURCES[record.source],
                times=_times(record),
                picture=plots.drawn.get("layers", Markup("")),
                missing=missing,
                largest=len(largest),
                has_times=record.layers_sum_ms is not None,
                statistic="median" if any(layer.median_ms is not None for layer in record.layers) else "mean",
                shape=_shape,
                machine=_machine(record),
            ),
        )
    record.save(files.json)
    write_atomic(files.csv, _csv(record))
    return files


def headline(record: ModelProfileRecord) -> str:
    """`median 0.926 ms (0.924 to 0.929), p95 0.932 ms, p99 0.936 ms, 1130 inferences/s`"""
    parts = []
    if record.measured is not None:
        measured = record.measured
        median = measured.median
        ends = f" ({wording.span(median.interval_ms, 'ms')})" if median.interval_ms else ""
        parts.append(f"median {wording.quantity(median.latency_ms, 'ms')}{ends}")
        parts += [
            f"{name} {wording.quantity(measured.statistic(metric).latency_ms, 'ms')}"
            for name, metric in (("p95", "p95_ms"), ("p99", "p99_ms"))
        ]
    else:
        found = record.reported.get("latency") or record.reported.get("gpu")
        if found is not None:
            values = {"median": found.median_ms, "p95": found.p95_ms, "p99": found.p99_ms}
            parts += [f"{name} {wording.quantity(value, 'ms')}" for name, value in values.items() if value is not None]
    if record.throughput_per_s is not None:
        parts.append(f"{_rate(record.throughput_per_s)} inferences/s")
    if not parts and record.layers_sum_ms is not None:
        parts.append(f"sum of the layers {wording.quantity(record.layers_sum_ms, 'ms')}")
    return f"{'SIMULATED: ' if record.simulated and parts else ''}{', '.join(parts) or 'no times'}"


def _rate(value: float) -> str:
    return f"{value:.0f}" if value >= 1000 else f"{value:.3g}"


def _times(record: ModelProfileRecord) -> _Times:
    if record.measured is not None:
        measured = record.measured
        by_name = {field: measured.statistic(metric) for metric, field in LATENCY_FIELDS.items()}
        rows = []
        for name in _STATISTICS:
            found = by_name.get(name)
            if found is None:
                value = measured.min_ms if name == "min" else measured.max_ms
                rows.append((name, (wording.quantity(value, "ms"), "")))
            else:
                ends = found.interval_ms
                interval = wording.span(ends, "ms") if ends else "needs more rounds"
                rows.append((name, (wording.quantity(found.latency_ms, "ms"), interval)))
        return _Times(("one inference", "95 % interval"), tuple(rows))
    kinds = [kind for kind in _TIMES if kind in record.reported]
    found_rows = []
    for name, field in _STATISTICS.items():
        values = [getattr(record.reported[kind], field) for kind in kinds]
        if any(value is not None for value in values):
            found_rows.append(
                (name, tuple(wording.quantity(value, "ms") if value is not None else "" for value in values))
            )
    return _Times(tuple(_TIMES[kind] for kind in kinds), tuple(found_rows))


def _machine(record: ModelProfileRecord) -> str:
    """`Orin, TensorRT 10.3.0`"""
    known = record.fingerprint
    parts = [record.host, known.get("board"), known.get("device")]
    if known.get("tensorrt"):
        parts.append(f"TensorRT {known['tensorrt']}")
    return ", ".join(dict.fromkeys(str(part) for part in parts if part))


def _shape(tensors: Sequence[LayerTensor]) -> str:
    """`1x3x224x224`, of each tensor."""
    shapes = ["x".join(map(str, tensor.shape)) or "scalar" for tensor in tensors if tensor.shape is not None]
    more = len(shapes) - 3
    return ", ".join(shapes[:3]) + (f" and {more} more" if more > 0 else "")


def _csv(record: ModelProfileRecord) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([
        "layer", "type", "precision", "device", "median_ms", "mean_ms", "share_of_layers", "spread", "is_reformat", "onnx_nodes",
        "inputs", "outputs", "simulated",
    ])  # fmt: skip
    for layer in record.layers:
        writer.writerow([
            _cell(layer.name), _cell(layer.type), _cell(layer.precision), layer.device, layer.median_ms, layer.mean_ms, layer.share,
            layer.spread, layer.is_reformat, _cell("; ".join(layer.onnx_nodes)), _shape(layer.inputs), _shape(layer.outputs),
            "SIMULATED" if record.simulated else "",
        ])  # fmt: skip
    return buffer.getvalue()


def _cell(text: str | None) -> str:
    """A spreadsheet runs a cell that starts with one of these signs as a formula."""
    return f"'{text}" if text and text[0] in "=+-@\t\r" else text or ""

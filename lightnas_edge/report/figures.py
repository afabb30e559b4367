"""Plots as SVG that takes its colours from the page, so that it is legible on a light and on a dark one.

Matplotlib draws with placeholder colours (drawing.py); each is then replaced by a variable of the page's style sheet. Text stays
text: it can be searched, selected, and read by a screen reader. Nothing is rasterised.
"""

from __future__ import annotations

import html
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lightnas_edge.files import write_atomic
from lightnas_edge.records.deployment import SustainedWindow
from lightnas_edge.records.metrics import SearchEpoch, SearchStep, TrainingEpoch
from lightnas_edge.records.plain_text import clean_text
from lightnas_edge.records.report import BlockReport
from lightnas_edge.records.run import FrontNetwork
from lightnas_edge.report import drawing
from lightnas_edge.report.drawing import LIGHT, PLACEHOLDERS, WIDTH, label_box, legend_above, new_figure, room, style
from lightnas_edge.report.snapshot import SearchTrace
from lightnas_edge.report.wording import duration, label

MOST_POINTS = 600  # per series: more cannot be distinguished, and the page stays small
MOST_COLUMNS = 30  # of the map of probabilities

INK, MUTED, RULE, PAPER, MEASURED, PREDICTED, TARGET, SECOND = astuple(PLACEHOLDERS)
_VARIABLES = {colour: f"--{name}" for name, colour in asdict(PLACEHOLDERS).items()}  # of templates/report.html
STYLE = style(PLACEHOLDERS)
LABEL = label_box(PLACEHOLDERS)


@dataclass(frozen=True)
class Bar:
    """One latency of a network."""

    name: str
    latency_ms: float
    interval_ms: tuple[float, float] | None
    measured: bool  # and not predicted
    target_ms: float | None  # its own budget


def search_plot(trace: SearchTrace) -> Markup:
    """Prediction against the target, multiplier, loss and accuracy over the epochs of a search."""
    steps, epochs = trace.steps, trace.epochs
    position = _positions(steps)
    with mpl.rc_context(STYLE):
        figure = new_figure(WIDTH, 7.2, hspace=0.3)
        panels = figure.subplots(4, 1, sharex=True, height_ratios=(2.6, 1.1, 1.4, 1.4))
        value, multiplier, loss, accuracy = panels
        shown = _thinned(len(steps))
        value.plot(
            position[shown], _numbers(trace.sampled)[shown], ".", color=PREDICTED, alpha=0.5, markersize=5,
            markeredgewidth=0, label="network sampled in a step, predicted",
        )  # fmt: skip
        derived = _numbers(trace.derived)[shown]
        value.plot(position[shown], derived, color=PREDICTED, label="most probable network, predicted")
        if trace.target is not None:
            value.axhline(trace.target, color=TARGET, linestyle=(0, (5, 3)), linewidth=1.3, label="target")
        value.set_ylabel(f"{label(trace.metric)} in {trace.unit}")
        legend_above(value, 3)
        multiplier.plot(position[shown], _numbers(trace.multipliers)[shown], color=SECOND)
        multiplier.axhline(0, color=MUTED, linewidth=0.8)
        multiplier.set_ylabel("multiplier λ")
        _learning_curves(loss, accuracy, epochs)
        legend_above(loss, 2)
        accuracy.set_xlabel("epoch")
        accuracy.xaxis.set_major_locator(MaxNLocator(integer=True))
        accuracy.set_xlim(0, float(np.ceil(np.nanmax(position))))
        warmup = [epoch.epoch for epoch in epochs if epoch.phase == "warmup"]
        if warmup:
            for panel in panels:
                panel.axvspan(0, max(warmup) + 1, color=RULE, alpha=0.35, linewidth=0)
            value.annotate(
                "warm-up: weights only", (0, 1), xycoords=("data", "axes fraction"), xytext=(4, -4),
                textcoords="offset points", ha="left", va="top", fontsize=8.5, color=MUTED, bbox=LABEL,
            )  # fmt: skip
        for panel in panels:
            panel.yaxis.set_label_coords(-0.066, 0.5)
        description = f"Predicted {label(trace.metric)}, multiplier, loss and accuracy over the epochs of the search"
        return as_svg(figure, "search", description)


def front_plot(networks: Sequence[FrontNetwork]) -> Markup:
    """Networks of one search; see `drawing.draw_front`."""
    drawn = drawing.draw_front(networks)
    return as_svg(drawn.figure, "front", drawn.description)


def draw_front(path: Path, networks: Sequence[FrontNetwork]) -> None:
    """The same as a file of its own, with the light colours of the report."""
    text = str(front_plot(networks))
    for name, colour in asdict(LIGHT).items():
        text = text.replace(f"var(--{name})", colour)
    head = '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
    write_atomic(path, text.replace("<svg ", head + 'font-family="sans-serif" ', 1))


def training_plot(epochs: Sequence[TrainingEpoch]) -> Markup:
    """Loss and accuracy of the found network, trained from scratch."""
    with mpl.rc_context(STYLE):
        figure = new_figure(WIDTH, 2.7, wspace=0.26)
        panels = figure.subplots(1, 2)
        _learning_curves(panels[0], panels[1], epochs)
        for panel in panels:
            panel.set_xlabel("epoch")
            panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        legend_above(panels[0], 2)
        return as_svg(figure, "training", "Loss and top-1 accuracy over the epochs of training")


def latency_plot(
    samples_ms: Sequence[float], marks: Mapping[str, float], targets: Mapping[str, float], *, simulated: bool
) -> Markup:
    """Every timed sample of a verification; see `drawing.draw_latency`."""
    drawn = drawing.draw_latency(samples_ms, marks, targets, simulated=simulated)
    return as_svg(drawn.figure, "latency", drawn.description)


def sustained_plot(windows: Sequence[SustainedWindow], target_ms: float | None, *, simulated: bool) -> Markup:
    """Latency, temperature and clocks under load. Windows in which the board throttled are shaded."""
    minutes = np.array([window.t_s for window in windows]) / 60
    series = [
        ("temperature in °C", [("temperature", SECOND, [window.temperature_c for window in windows])]),
        ("clock in MHz", [
            ("GPU", PREDICTED, [window.gpu_mhz for window in windows]),
            ("CPU", MUTED, [window.cpu_mhz for window in windows]),
        ]),
    ]  # fmt: skip
    known = [
        (name, lines)
        for name, every in series
        if (lines := [line for line in every if any(value is not None for value in line[2])])
    ]
    shaded = [index for index, window in enumerate(windows) if window.throttled_by]
    with mpl.rc_context(STYLE):
        figure = new_figure(WIDTH, 2.7 + 1.5 * len(known), hspace=0.28)
        panels = figure.subplots(1 + len(known), 1, sharex=True, squeeze=False, height_ratios=[2, *[1.2] * len(known)])
        latency, *others = panels[:, 0]
        latency.plot(
            minutes, [window.p95_ms for window in windows], color=MUTED, linewidth=1.0, label="p95 of each window"
        )
        latency.plot(minutes, [window.median_ms for window in windows], color=MEASURED, label="median of each window")
        if target_ms is not None:
            latency.axhline(target_ms, color=TARGET, linestyle=(0, (5, 3)), linewidth=1.3, label="budget of p50")
        latency.set_ylabel(f"{'SIMULATED ' if simulated else ''}latency in ms")
        for panel, (name, lines) in zip(others, known, strict=True):
            for label_, colour, values in lines:
                panel.plot(minutes, _numbers(values), color=colour, label=label_)
            panel.set_ylabel(name)
            if len(lines) > 1:
                legend_above(panel, 2)
        width = float(np.median(np.diff(minutes))) if len(minutes) > 1 else 1 / 60
        for panel in panels[:, 0]:
            panel.yaxis.set_label_coords(-0.066, 0.5)
            for index in shaded:
                panel.axvspan(minutes[index] - width, minutes[index], color=TARGET, alpha=0.13, linewidth=0)
        if shaded:
            latency.plot([], [], color=TARGET, alpha=0.2, linewidth=6, label="throttled")
        legend_above(latency, 4)
        panels[-1, 0].set_xlabel("minutes under load")
        parts = ["latency", *(name.partition(" in ")[0] for name, _ in known)]
        description = f"{'SIMULATED: ' if simulated else ''}{', '.join(parts)} over {duration(windows[-1].t_s)} of load"
        return as_svg(figure, "sustained", f"{description}; throttled in {len(shaded)} of {len(windows)} windows")


def breakdown_plot(blocks: Sequence[BlockReport], simulated: bool) -> Markup:
    """Latency of each block of the network by the table, with its spread."""
    known = [(block, block.latency_ms) for block in blocks if block.latency_ms is not None]
    with mpl.rc_context(STYLE | {"axes.grid.axis": "x"}):
        names = [_name(block) for block, _ in known]
        figure = new_figure(WIDTH, 0.8 + 0.26 * len(known), top=0.08, left=room(names))
        axes = figure.subplots()
        height = np.arange(len(known))
        values = np.array([latency_ms for _, latency_ms in known])
        errors = values * np.array([block.spread or 0.0 for block, _ in known])
        axes.barh(height, values, color=MEASURED, alpha=0.8, height=0.68)
        axes.errorbar(values, height, xerr=errors, fmt="none", color=INK, ecolor=INK, elinewidth=1.1, capsize=2.5)
        axes.set_yticks(height, names)
        axes.tick_params(axis="y", length=0, labelcolor=INK)
        axes.invert_yaxis()
        axes.set_ylim(len(known) - 0.4, -0.6)
        axes.set_xlim(0, float((values + errors).max()) * 1.04)
        verb = "SIMULATED" if simulated else "measured"
        axes.set_xlabel(f"latency by the table in ms ({verb}); the line shows the spread between rounds")
        return as_svg(figure, "breakdown", f"{verb} latency of the {len(known)} blocks of the network, each alone")


def intervals_plot(bars: Sequence[Bar], *, simulated: bool) -> Markup:
    """Latencies of one network with their intervals, each with its own budget."""
    with mpl.rc_context(STYLE | {"axes.grid.axis": "x"}):
        figure = new_figure(WIDTH, 0.85 + 0.36 * len(bars), left=room([bar.name for bar in bars]))
        axes = figure.subplots()
        for height, bar in enumerate(bars):
            colour = MEASURED if bar.measured else PREDICTED
            interval = bar.interval_ms
            if interval:
                axes.plot(interval, [height, height], color=colour, linewidth=5, alpha=0.4, solid_capstyle="butt")
            marker = "D" if bar.measured else "o"
            axes.plot(bar.latency_ms, height, marker, color=colour, markersize=8, markeredgewidth=0)
            end = max(interval) if interval else bar.latency_ms
            axes.annotate(
                f"{bar.latency_ms:.4g}", (end, height), xytext=(9, 0), textcoords="offset points", va="center",
                fontsize=9, bbox=LABEL,
            )  # fmt: skip
            if bar.target_ms is not None:
                axes.plot([bar.target_ms] * 2, [height - 0.42, height + 0.42], color=TARGET, linewidth=2)
        axes.set_yticks(range(len(bars)), [bar.name for bar in bars])
        axes.tick_params(axis="y", length=0, labelcolor=INK)
        axes.set_ylim(len(bars) - 0.5, -0.6)
        axes.margins(x=0.13)
        mark = "SIMULATED " if simulated else ""
        axes.set_xlabel(f"{mark}latency in ms; bars are intervals, vertical marks are budgets")
        names = ", ".join(f"{bar.name} {bar.latency_ms:.3g} ms" for bar in bars)
        return as_svg(figure, "intervals", f"Latencies and their budgets: {names}")


def predicted_measured_plot(
    points: Sequence[tuple[float, float]],
    final: tuple[float, float] | None,
    metric: str,
    unit: str,
    *,
    simulated: bool,
) -> Markup:
    """Whole networks; see `drawing.draw_predicted_measured`."""
    drawn = drawing.draw_predicted_measured(points, final, metric, unit, simulated=simulated)
    return as_svg(drawn.figure, "predicted-measured", drawn.description, width="60%")


def probability_map(epochs: Sequence[SearchEpoch], operators: Sequence[str], chosen: Sequence[str] | None) -> Markup:
    """For every layer a map: one row per operator, one column per epoch, darker for more probable.

    Args:
        operators: K names, in the order of the space.
        chosen: L names of the network found; None where there is none yet.
    """
    columns = np.unique(np.linspace(0, len(epochs) - 1, min(len(epochs), MOST_COLUMNS)).round().astype(int))
    cube = np.array([epochs[column].probabilities for column in columns], dtype=float)  # (E, L, K)
    _, layers, count = cube.shape
    if count != len(operators) or (chosen is not None and layers != len(chosen)):
        raise ValueError(f"{layers} layers of {count} operators are not those of the space")
    names = [operator.replace("mbconv_", "") for operator in operators]
    names_w, cell_h, title_h, gap = 52, 11, 16, 14
    across = 3
    panel_w = (780 - gap * (across - 1)) / across
    cell_w = (panel_w - names_w) / len(columns)
    panel_h = title_h + cell_h * count + gap
    parts = []
    for layer in range(layers):
        left, top = (layer % across) * (panel_w + gap), (layer // across) * panel_h
        picked = chosen[layer] if chosen else None
        parts.append(f'<g transform="translate({left:.1f} {top:.1f})">')
        heading = f"layer {layer}" + (f": {picked}" if picked else "")
        parts.append(f'<text class="map-title" x="{names_w}" y="11">{html.escape(heading)}</text>')
        for row, name in enumerate(names):
            y = title_h + row * cell_h
            bold = ' font-weight="700"' if picked == operators[row] else ""
            parts.append(
                f'<text x="{names_w - 5}" y="{y + 8.6:.1f}" text-anchor="end"{bold}>{html.escape(name)}</text>'
            )
            for column, value in enumerate(cube[:, layer, row]):
                x, opacity = names_w + column * cell_w, max(0.0, min(1.0, float(value)))
                size = f'width="{cell_w:.1f}" height="{cell_h - 1}"'
                parts.append(f'<rect x="{x:.1f}" y="{y}" {size} fill-opacity="{opacity:.2g}"/>')
        size = f'width="{panel_w - names_w:.1f}" height="{cell_h * count}"'
        parts.append(f'<rect class="frame" x="{names_w}" y="{title_h - 0.5}" {size}/></g>')
    height = -(-layers // across) * panel_h
    description = f"Probability of every operator in every layer over {len(epochs)} epochs"
    head = f'<svg class="map" role="img" viewBox="0 0 780 {height:.0f}" aria-label="{description}">'
    return Markup(head + "".join(parts) + "</svg>")


# -- helpers -------------------------------------------------------------------------------------------------


def as_svg(figure: Figure, name: str, description: str, *, width: str = "100%") -> Markup:
    buffer = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):  # equal plots give equal bytes
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    for placeholder, variable in _VARIABLES.items():
        text = text.replace(placeholder, f"var({variable})")
    # Names must be unique on the page; the page brings its own font.
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'href="#', f'href="#{name}-', text).replace("url(#", f"url(#{name}-")
    text = re.sub(r"font: ((?:\d+ )?[\d.]+px) [^;\"]*", r"font-size: \1", text)
    text = re.sub(r"\n\s*", "\n", text)
    view_box = re.search(r'viewBox="[^"]+"', text)
    assert view_box is not None
    head = f'<svg class="plot" role="img" aria-label="{html.escape(description)}" style="width:{width}" {view_box[0]}>'
    return Markup(head + text[text.index(">") + 1 :])


def _learning_curves(loss: Axes, accuracy: Axes, epochs: Sequence[SearchEpoch] | Sequence[TrainingEpoch]) -> None:
    at = np.array([epoch.epoch for epoch in epochs], dtype=float) + 1  # an epoch's line is written at its end
    loss.plot(at, _numbers(epoch.train_loss for epoch in epochs), color=MUTED, label="training")
    loss.plot(at, _numbers(epoch.validation_loss for epoch in epochs), color=SECOND, label="validation")
    loss.set_ylabel("loss")
    accuracy.plot(at, 100 * _numbers(epoch.train_accuracy for epoch in epochs), color=MUTED)
    accuracy.plot(at, 100 * _numbers(epoch.validation_accuracy for epoch in epochs), color=SECOND)
    accuracy.set_ylabel("top-1 accuracy in %")


def _name(block: BlockReport) -> str:
    return clean_text(f"{block.place} {block.operator}" if block.operator != block.place else block.place)


def _positions(steps: Sequence[SearchStep]) -> np.ndarray:
    """Position of each step in epochs: its epoch, and its place within it."""
    counts: dict[int, int] = {}
    order = []
    for step in steps:
        order.append(counts.get(step.epoch, 0))
        counts[step.epoch] = order[-1] + 1
    return np.array([step.epoch + (place + 0.5) / counts[step.epoch] for step, place in zip(steps, order, strict=True)])


def _thinned(count: int) -> np.ndarray:
    return np.unique(np.linspace(0, max(0, count - 1), min(count, MOST_POINTS)).round().astype(int))


def _numbers(values: Iterable[float | None]) -> np.ndarray:
    """With nan in place of None, which leaves a gap."""
    return np.array([float("nan") if value is None else value for value in values], dtype=float)

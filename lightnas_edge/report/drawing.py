"""Plots as matplotlib figures: for a notebook in the light colours, for the report's page with placeholders for its own."""

from __future__ import annotations

import io
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lightnas_edge.records.plain_text import clean_text
from lightnas_edge.records.run import FrontNetwork
from lightnas_edge.report.wording import label
from lightnas_edge.report.wording import unit as unit_of

WIDTH = 8.0  # inches


@dataclass(frozen=True)
class Colours:
    """By meaning: the same in every plot."""

    ink: str
    muted: str
    rule: str
    paper: str
    measured: str
    predicted: str
    target: str
    second: str


# Of a plot that stands alone: the light colours of templates/report.html.
LIGHT = Colours(
    ink="#1a1e23", muted="#57616c", rule="#d3d9df", paper="#ffffff",
    measured="#c04a00", predicted="#0067a8", target="#1a1e23", second="#7a3fa0",
)  # fmt: skip
# Each is replaced by a variable of the page's style sheet, of the same name.
PLACEHOLDERS = Colours(
    ink="#010101", muted="#010102", rule="#010103", paper="#010104",
    measured="#010105", predicted="#010106", target="#010107", second="#010108",
)  # fmt: skip


class ShownFigure(Figure):
    """A figure that a notebook shows without pyplot."""

    def __repr__(self) -> str:
        return f"<Figure: {self.get_label()}>"

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", dpi=110)
        return buffer.getvalue()


@dataclass(frozen=True)
class Drawn:
    """A figure, and what it shows in a sentence for those who cannot see it."""

    figure: Figure
    description: str


def style(colours: Colours) -> dict[str, Any]:
    """Matplotlib's settings for `rc_context`."""
    return {
        "svg.fonttype": "none",
        "text.parse_math": False,
        "font.size": 10,
        "axes.edgecolor": colours.rule,
        "axes.labelcolor": colours.muted,
        "axes.facecolor": "none",
        "axes.grid": True,
        "axes.axisbelow": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "grid.color": colours.rule,
        "grid.linewidth": 0.6,
        "text.color": colours.ink,
        "xtick.color": colours.rule,
        "ytick.color": colours.rule,
        "xtick.labelcolor": colours.muted,
        "ytick.labelcolor": colours.muted,
        "legend.frameon": False,
        "legend.fontsize": 9,
        "lines.linewidth": 1.6,
    }


def label_box(colours: Colours) -> dict[str, Any]:
    """Keeps text legible on lines."""
    return {"facecolor": colours.paper, "edgecolor": "none", "pad": 1.0, "alpha": 0.85}


def draw_front(networks: Sequence[FrontNetwork], colours: Colours = PLACEHOLDERS) -> Drawn:
    """Networks of one search: the first metric's prediction against the supernet's accuracy on held-out images, in the
    network's precision. A line for each board and precision.

    Args:
        networks: those without a score are left out.
    """
    scored = [
        (network, 100 * network.supernet.deployed_accuracy)
        for network in networks
        if network.supernet is not None and network.supernet.deployed_accuracy is not None
    ]
    metric = next(iter(networks[0].metrics))
    boards = list(dict.fromkeys(_board(network) for network in networks))
    with mpl.rc_context(style(colours)):
        figure = new_figure(WIDTH, 3.8, top=0.28 + 0.2 * (len(boards) // 3))
        axes = figure.subplots()
        for board, colour, marker in zip(
            boards, itertools.cycle((colours.predicted, colours.second, colours.muted)), itertools.cycle("osD^v")
        ):
            mine = [(each, y) for each, y in scored if _board(each) == board and metric in each.metrics]
            origin = "SIMULATED" if any(each.simulated for each, _ in mine) else "predicted"
            axes.plot(
                [each.metrics[metric].value for each, _ in mine], [y for _, y in mine], marker + "-", color=colour,
                linewidth=1.0, label=f"{board}, {origin}",
            )  # fmt: skip
            for each, y in mine:
                prediction = each.metrics[metric]
                axes.plot([prediction.value, prediction.target], [y, y], color=colours.target, linewidth=0.8)
                axes.plot([prediction.target], [y], "|", color=colours.target, markersize=9)
        axes.plot([], [], "|", color=colours.target, label="budget of the network")
        simulated = " (SIMULATED boards)" if any(each.simulated for each in networks) else ""
        axes.set_xlabel(f"predicted {label(metric)} in {unit_of(metric)}{simulated}")
        axes.set_ylabel("top-1 accuracy in the supernet in %")
        legend_above(axes, 3)
        return Drawn(figure, f"{len(scored)} networks of one search: predicted {label(metric)} and top-1 accuracy")


def draw_latency(
    samples_ms: Sequence[float],
    marks: Mapping[str, float],
    targets: Mapping[str, float],
    colours: Colours = PLACEHOLDERS,
    *,
    simulated: bool,
) -> Drawn:
    """Every timed sample of a network as a histogram.

    Args:
        marks: metric -> measured statistic.
        targets: metric -> its budget.
    """
    samples = np.asarray(samples_ms, dtype=float)
    values = [*marks.values(), *targets.values()]
    low, high = (
        min(samples.min(), *values),
        max(values),
    )  # slower samples are counted at the edge, or they compress the others
    margin = 0.12 * (high - low) or 0.01 * high
    shown = samples[samples <= high + margin]
    named = [(value, _statistic(metric), colours.measured, "-") for metric, value in marks.items()]
    named += [(value, f"budget of {_statistic(metric)}", colours.target, "--") for metric, value in targets.items()]
    with mpl.rc_context(style(colours)):
        figure = new_figure(WIDTH, 3.0 + 0.16 * len(named), top=0.08)
        axes = figure.subplots()
        counts, _, _ = axes.hist(
            shown,
            bins=min(60, max(8, len(shown) // 5)),
            color=colours.measured,
            alpha=0.75,
            edgecolor=colours.paper,
            linewidth=0.5,
        )
        axes.set_xlim(low - margin, high + margin)
        axes.set_ylim(0, float(np.max(counts)) * (1.15 + 0.13 * len(named)))  # room for the names
        axes.set_xlabel(f"{'SIMULATED ' if simulated else ''}latency of one sample in ms")
        axes.set_ylabel("samples")
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        decimals = max(1, 2 - int(np.floor(np.log10(min(values)))))
        for row, (value, name, colour, dashes) in enumerate(sorted(named)):
            axes.axvline(value, color=colour, linestyle=dashes, linewidth=1.5)
            to_the_left = value > (low + high) / 2
            axes.annotate(
                f"{name} {value:.{decimals}f}", (value, 1), xycoords=("data", "axes fraction"),
                xytext=(-5 if to_the_left else 5, -4 - 14 * row), textcoords="offset points",
                ha="right" if to_the_left else "left", va="top", fontsize=9, bbox=label_box(colours),
            )  # fmt: skip
        beyond = len(samples) - len(shown)
        verb = "SIMULATED" if simulated else "measured"
        texts = ", ".join(f"{name} {value:.3g} ms" for value, name, *_ in sorted(named))
        description = f"Histogram of {len(samples)} {verb} samples: {texts}"
        if beyond:
            axes.annotate(
                f"{beyond} slower, up to {samples.max():.3g} ms →", (1, 0.3), xycoords="axes fraction", ha="right",
                fontsize=8.5, color=colours.muted, bbox=label_box(colours),
            )  # fmt: skip
        return Drawn(figure, description)


def draw_predicted_measured(
    points: Sequence[tuple[float, float]],
    final: tuple[float, float] | None,
    metric: str,
    unit: str,
    colours: Colours = PLACEHOLDERS,
    *,
    simulated: bool,
) -> Drawn:
    """Predicted against measured values of whole networks; on the line both are equal.

    Args:
        points: (predicted, measured) of networks while they were held out of the fit.
        final: the same of the network found.
    """
    everything = np.array([*points, *([final] if final else [])], dtype=float)
    low, high = float(everything.min()), float(everything.max())
    margin = 0.06 * (high - low) or 0.05 * high
    with mpl.rc_context(style(colours)):
        figure = new_figure(WIDTH * 0.6, WIDTH * 0.58)
        axes = figure.subplots()
        span = (low - margin, high + margin)
        axes.plot(span, span, color=colours.muted, linewidth=1, linestyle=(0, (5, 3)))
        axes.plot(
            *np.array(points, dtype=float).T, "o", color=colours.second, markersize=5.5, alpha=0.75, markeredgewidth=0,
            label="networks held out of the fit",
        )  # fmt: skip
        if final:
            axes.plot(*final, "D", color=colours.ink, markersize=8, label="the network found", markeredgewidth=0)
        axes.set(xlim=span, ylim=span, aspect="equal")
        axes.set_xlabel(f"predicted {label(metric)} in {unit}", color=colours.predicted)
        verb = "SIMULATED" if simulated else "measured"
        axes.set_ylabel(f"{verb} {label(metric)} in {unit}", color=colours.measured)
        legend_above(axes, 2)
        description = f"Predicted against {verb} {label(metric)} of whole networks"
        return Drawn(figure, description)


def draw_operator_costs(
    names: Sequence[str],
    latencies_ms: Sequence[float],
    errors_ms: Sequence[float],
    colours: Colours = PLACEHOLDERS,
    *,
    simulated: bool,
) -> Drawn:
    """Operators of a table, each alone, with the standard error where it is known (nan: it is not)."""
    with mpl.rc_context(style(colours) | {"axes.grid.axis": "x"}):
        figure = new_figure(WIDTH, 0.8 + 0.24 * len(names), top=0.08, left=0.25 + 0.083 * max(map(len, names)))
        axes = figure.subplots()
        height = np.arange(len(names))
        axes.barh(height, latencies_ms, color=colours.measured, alpha=0.8, height=0.68)
        axes.errorbar(
            latencies_ms,
            height,
            xerr=np.nan_to_num(errors_ms),
            fmt="none",
            ecolor=colours.ink,
            elinewidth=1.1,
            capsize=2,
        )
        axes.set_yticks(height, [clean_text(name, 60) for name in names])
        axes.tick_params(axis="y", length=0, labelcolor=colours.ink, labelsize=9)
        axes.set_ylim(len(names) - 0.4, -0.6)
        axes.set_xlim(0, None)
        verb = "SIMULATED" if simulated else "measured"
        axes.set_xlabel(f"{verb} latency of one operator in ms; the line shows the standard error")
        return Drawn(figure, f"{verb} latency of {len(names)} operators, each alone")


# -- helpers -------------------------------------------------------------------------------------------------


def new_figure(
    width: float,
    height: float,
    *,
    left: float = 0.68,
    right: float = 0.12,
    top: float = 0.28,
    bottom: float = 0.5,
    **spaces: float,
) -> Figure:
    """A figure with margins in inches. Measuring the text to find them would take half of the report's time."""
    figure = ShownFigure(figsize=(width, height), facecolor="none")
    figure.subplots_adjust(
        left=left / width, right=1 - right / width, top=1 - top / height, bottom=bottom / height, **spaces
    )
    return figure


def room(names: Sequence[str]) -> float:
    """Inches that the longest name takes."""
    return 0.15 + 0.08 * max(map(len, names))


def legend_above(axes: Axes, columns: int) -> None:
    axes.legend(
        loc="lower left", bbox_to_anchor=(0, 1.0), ncols=columns, borderaxespad=0.2, borderpad=0, handlelength=1.6,
        columnspacing=1.4,
    )  # fmt: skip


def _statistic(metric: str) -> str:
    """`p50`"""
    return label(metric).removesuffix(" latency")


def _board(network: FrontNetwork) -> str:
    return clean_text(" ".join(filter(None, (network.board or "unknown board", network.precision))), 60)

"""The picture of a profiled model: its largest layers."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from markupsafe import Markup

from lightnas_edge.records.model_profile import DLA_COPY, DLA_WAIT, LayerRecord
from lightnas_edge.report.drawing import WIDTH, legend_above, new_figure
from lightnas_edge.report.figures import INK, MEASURED, MUTED, PREDICTED, STYLE, as_svg

_LONGEST_NAME = 34
_OVERHEAD = "reformats, copies, waiting"


def layers_plot(layers: Sequence[LayerRecord], *, of: int, simulated: bool) -> Markup:
    """Bars of the given layers, largest first. `of`: how many layers the model has."""
    times = np.array([layer.time_ms or 0.0 for layer in layers])
    other = [bool(layer.is_reformat) or layer.type in (DLA_COPY, DLA_WAIT) for layer in layers]
    names = [shortened(layer.name) for layer in layers]
    with mpl.rc_context(STYLE | {"axes.grid.axis": "x"}):
        room = 0.2 + 0.075 * max(map(len, names))
        figure = new_figure(WIDTH, 0.95 + 0.27 * len(layers), top=0.32, left=room, right=0.6)
        axes = figure.subplots()
        height = np.arange(len(layers))
        for is_other, colour, label in ((False, MEASURED, "computing"), (True, PREDICTED, _OVERHEAD)):
            chosen = np.array(other) == is_other
            if chosen.any():
                axes.barh(height[chosen], times[chosen], color=colour, alpha=0.85, height=0.68, label=label)
        for place, layer in enumerate(layers):
            axes.annotate(
                f"{layer.share or 0:.1%}", (times[place], place), xytext=(4, 0), textcoords="offset points",
                va="center", color=MUTED, fontsize=9,
            )  # fmt: skip
        axes.set_yticks(height, names)
        axes.tick_params(axis="y", length=0, labelcolor=INK)
        axes.set_ylim(len(layers) - 0.4, -0.6)
        axes.set_xlim(0, float(times.max()) * 1.02 or 1.0)
        axes.set_xlabel(f"{'SIMULATED ' if simulated else ''}ms per inference; share of the sum of layers")
        if any(other):
            legend_above(axes, 2)
        first = f"{layers[0].name[:200]} takes {layers[0].share or 0:.1%}"
        description = f"Time of the {len(layers)} largest of {of} layers; the largest, {first} of their sum"
        return as_svg(figure, "layers", f"{'SIMULATED: ' if simulated else ''}{description}")


def shortened(name: str) -> str:
    """Begin and end: the names of fused layers have their first and last node there."""
    if len(name) <= _LONGEST_NAME:
        return name
    return f"{name[: _LONGEST_NAME // 2 - 1]}...{name[-(_LONGEST_NAME // 2 - 2) :]}"

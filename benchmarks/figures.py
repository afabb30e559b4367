"""The pictures of docs/prediction.md: predicted against measured with intervals, and errors against measurements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from numpy.typing import NDArray

Array = NDArray[np.float64]
MOST_POINTS = 80  # of one panel: more points overlap and make large files
_STYLE = {
    "svg.fonttype": "none", "path.simplify": False, "svg.hashsalt": "lightnas-edge", "font.size": 9, "axes.grid": True, "axes.axisbelow": True,
    "axes.spines.top": False, "axes.spines.right": False, "grid.color": "#dddddd", "grid.linewidth": 0.6,
    "axes.edgecolor": "#999999", "legend.frameon": False, "legend.fontsize": 8, "savefig.facecolor": "white",
}  # fmt: skip
_INSIDE, _MISSED, _LINE = "#1f6f8b", "#c8553d", "#888888"
_CURVES = ("#1f6f8b", "#c8553d", "#6a994e", "#7d5ba6", "#b08900", "#555555")


@dataclass(frozen=True, eq=False)
class Panel:
    """(n,) each; one panel of predictions."""

    title: str
    unit: str
    measured: Array
    predicted: Array
    low: Array
    high: Array


def _strokes(left: Array, right: Array, height: Array) -> tuple[Array, Array]:
    """Many horizontal strokes as one line with gaps, which keeps the file small."""
    gap = np.full(len(left), np.nan)
    return np.stack([left, right, gap], axis=1).ravel(), np.stack([height, height, gap], axis=1).ravel()


def _logarithmic(axes: Axes) -> None:
    axes.set_xscale("log")
    axes.set_yscale("log")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_formatter(NullFormatter())


class Drawing:
    """Draws into a folder, or nothing without one."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    def predicted(self, name: str, panels: Sequence[Panel], *, log: bool = False, raster: bool = False) -> None:
        """Predicted against measured, with the stated 90 % intervals; those that do not contain the measurement in another colour.

        Args:
            raster: pixels instead of lines, for data that may be shown but not published as numbers.
        """
        if self._folder is None or not panels:
            return
        with mpl.rc_context(_STYLE):
            figure = Figure(figsize=(3.4 * len(panels), 3.3), layout="constrained")
            for axes, panel in zip(np.atleast_1d(figure.subplots(1, len(panels))), panels, strict=True):
                shown = np.random.default_rng(0).permutation(len(panel.measured))[:MOST_POINTS]
                measured, predicted, low, high = (
                    values[shown] for values in (panel.measured, panel.predicted, panel.low, panel.high)
                )
                inside = (low <= measured) & (measured <= high)
                for chosen, colour, label in ((inside, _INSIDE, "inside its interval"), (~inside, _MISSED, "outside")):
                    axes.plot(*_strokes(low[chosen], high[chosen], measured[chosen]), color=colour, linewidth=0.7)
                    axes.plot(
                        predicted[chosen],
                        measured[chosen],
                        ".",
                        color=colour,
                        markersize=4,
                        markeredgewidth=0,
                        label=label,
                    )
                ends = [float(min(measured.min(), predicted.min())), float(max(measured.max(), predicted.max()))]
                axes.plot(ends, ends, color=_LINE, linewidth=0.8, zorder=0)
                axes.set_title(panel.title, fontsize=9)
                axes.set_xlabel(f"predicted, {panel.unit}")
                axes.set_ylabel(f"measured, {panel.unit}")
                if log:
                    _logarithmic(axes)
            axes.legend(loc="upper left")
            self._save(figure, name, raster)

    def curves(
        self,
        name: str,
        panels: Mapping[str, Mapping[str, tuple[Sequence[float], Sequence[float]]]],
        what: str,
        count: str,
    ) -> None:
        """Panel -> curve -> (number of measurements, error)."""
        if self._folder is None or not panels:
            return
        with mpl.rc_context(_STYLE):
            figure = Figure(figsize=(3.8 * len(panels), 3.2), layout="constrained")
            for axes, (title, curves) in zip(
                np.atleast_1d(figure.subplots(1, len(panels))), panels.items(), strict=True
            ):
                for colour, (label, (counts, errors)) in zip(_CURVES, curves.items(), strict=False):
                    axes.plot(counts, errors, marker="o", markersize=3, linewidth=1.2, color=colour, label=label)
                _logarithmic(axes)
                axes.set_title(title, fontsize=9)
                axes.set_xlabel(count)
                axes.set_ylabel(what)
                axes.legend()
            self._save(figure, name)

    def _save(self, figure: Any, name: str, raster: bool = False) -> None:
        assert self._folder is not None
        self._folder.mkdir(parents=True, exist_ok=True)
        if raster:
            figure.savefig(self._folder / f"{name}.png", dpi=110)
        else:
            figure.savefig(self._folder / f"{name}.svg", metadata={"Date": None})

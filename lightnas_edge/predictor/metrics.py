"""Metrics of a network: their names in files, and their units."""

from __future__ import annotations

import luts
from lightnas_edge.errors import PredictorError

COUNTED = {"params_m": "M", "macs_m": "M"}  # millions, counted from the space and not measured
UNITS = {**luts.METRICS, **COUNTED}


def checked(metric: str) -> str:
    """Raises PredictorError where no board can measure it."""
    if metric not in luts.METRICS:
        raise PredictorError(f"no such metric: {metric!r}", hint=f"choose from: {', '.join(luts.METRICS)}")
    return metric

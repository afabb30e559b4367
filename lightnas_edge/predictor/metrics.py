"""What can be predicted of a network: names as they stand in files, and their units."""

from __future__ import annotations

import luts
from lightnas_edge.errors import PredictorError

UNITS = dict(luts.METRICS)


def checked(metric: str) -> str:
    """Raises PredictorError when there is no such metric."""
    if metric not in UNITS:
        raise PredictorError(f"no such metric: {metric!r}", hint=f"choose from: {', '.join(UNITS)}")
    return metric

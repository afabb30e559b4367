"""Layers on their way into a record: shares, sums, and what they have in common whatever their source."""

from __future__ import annotations

from collections.abc import Sequence

from lightnas_edge.records.model_profile import LayerRecord


def with_shares(layers: Sequence[LayerRecord]) -> tuple[tuple[LayerRecord, ...], float | None]:
    """The layers with their share of the sum, and the sum in ms; None where no layer has a time."""
    times = [layer.time_ms for layer in layers if layer.time_ms is not None]
    if not times:
        return tuple(layers), None
    total = sum(times)
    return tuple(
        layer
        if layer.time_ms is None or total <= 0
        else layer.model_copy(update={"share": min(1.0, layer.time_ms / total)})
        for layer in layers
    ), total


def ratio(layers_sum_ms: float | None, inference_ms: float | None) -> float | None:
    return None if not layers_sum_ms or not inference_ms else layers_sum_ms / inference_ms

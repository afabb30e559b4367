"""What a table knows of an operator or a network: names as in files, units, one value with its error."""

from __future__ import annotations

from dataclasses import dataclass

METRICS = {
    "latency_ms": "ms",
    "mean_ms": "ms",
    "p95_ms": "ms",
    "p99_ms": "ms",
    "energy_mj": "mJ",
    "net_energy_mj": "mJ",
    "peak_memory_mb": "MB",
}
# Statistics of a network's single inferences: the quantile; None for the mean. `latency_ms` is the median.
LATENCY_METRICS: dict[str, float | None] = {"latency_ms": 0.5, "mean_ms": None, "p95_ms": 0.95, "p99_ms": 0.99}
# Of whole networks alone: a sum of operators' robust costs says nothing about them.
NETWORK_METRICS = ("mean_ms", "p95_ms", "p99_ms")
HOW_TO_MEASURE = {
    "energy_mj": "measure energy too: add --energy to the same command; existing visits are reused",
    "net_energy_mj": "measure energy too: add --energy to the same command; existing visits are reused",
    "peak_memory_mb": "TensorRT and virtual boards report the memory of an engine, ONNX Runtime does not: docs/measuring.md",
}


@dataclass(frozen=True)
class Quantity:
    """`standard_error` is nan where it is not known."""

    value: float
    standard_error: float

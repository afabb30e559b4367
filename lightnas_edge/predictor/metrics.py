"""What can be predicted of a network: names as they stand in files, and their units."""

from __future__ import annotations

UNITS = {
    "latency_ms": "ms",
    "p95_ms": "ms",
    "energy_mj": "mJ",
    "net_energy_mj": "mJ",
    "peak_memory_mb": "MB",
}

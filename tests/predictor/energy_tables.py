"""Tables with energy, made from tables of latency."""

from __future__ import annotations

import json
from pathlib import Path

import luts
from tests.luts.journals import write

WATTS = 5.0  # of every operator


def with_energy(table: luts.Lut, path: Path, *, without: int = 0) -> luts.Lut:
    """The same table in which every operator draws 5 W, known to 1 %; the last `without` operators have no energy."""
    header, *visits = (json.loads(line) for line in table.path.read_bytes().splitlines())
    lacking = list(table.entries)[len(table.entries) - without :]
    for visit in visits:
        if visit["key"] not in lacking:
            energy_mj = WATTS * min(visit["samples_ms"])
            visit["energy"] = {
                "gross_mj": energy_mj, "gross_interval_mj": [0.99 * energy_mj, 1.01 * energy_mj],
                "gross_error": {"random_mj": 0.005 * energy_mj, "freedom": 30.0, "shared_mj": []},
                "rails": ["VDD_IN"], "windows": None,
            }  # fmt: skip
    lines = [{name: value for name, value in each.items() if name != "crc32"} for each in (header, *visits)]
    return luts.read(write(path, *lines))

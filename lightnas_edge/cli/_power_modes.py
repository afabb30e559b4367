"""`verify --power-modes`: one verdict for each power mode of a board, and which mode that keeps the budget needs the least energy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import devices
from lightnas_edge.cli._console import UsageError, print_result, print_table
from lightnas_edge.records.deployment import VerificationRecord


def chosen_modes(text: str, host: str) -> list[str]:
    """The names of the power modes that were asked; `all`: every one of the board's.

    Raises:
        UsageError: the board has no power modes, or none of that name.
    """
    known = [mode.name for mode in devices.probe(devices.connect(host)).power_modes]
    if not known:
        raise UsageError(f"{host} has no power modes", hint="leave out --power-modes")
    if text == "all":
        return known
    names = list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        raise UsageError(
            f"--power-modes: {host} has no mode {', '.join(unknown) or text}",
            hint=f"its modes: all, {', '.join(known)}",
        )
    return names


def lowest(records: Mapping[str, VerificationRecord]) -> str | None:
    """The mode that meets every budget with the least energy for an inference; None where no such mode has an energy."""
    known = {
        mode: record.energy.gross_mj
        for mode, record in records.items()
        if record.verdict == "met" and record.energy is not None
    }
    return min(known, key=lambda mode: known[mode]) if known else None


def show_modes(records: Mapping[str, VerificationRecord]) -> str:
    """A row for each mode, and the result in a sentence."""
    rows = [
        [
            mode, f"{record.measured.median.latency_ms:.4g}",
            "unknown" if record.energy is None else f"{record.energy.gross_mj:.4g}", record.verdict,
        ]
        for mode, record in records.items()
    ]  # fmt: skip
    simulated = " SIMULATED" if any(record.simulated for record in records.values()) else ""
    print_table(["power mode", f"median ms{simulated}", f"energy mJ{simulated}", "verdict"], rows)
    line = _sentence(records)
    print_result(line)
    return line


def _sentence(records: Mapping[str, VerificationRecord]) -> str:
    met = [mode for mode, record in records.items() if record.verdict == "met"]
    best = lowest(records)
    if best is not None:
        return f"{best} needs the least energy of the {len(met)} modes that keep the budget"
    return (
        "no energy was measured in the modes that keep the budget: " + ", ".join(met)
        if met
        else "no mode keeps the budget"
    )


def modes_json(records: Mapping[str, VerificationRecord]) -> dict[str, Any]:
    """As one document."""
    return {
        "kind": "power-modes", "lowest_energy": lowest(records),
        "modes": [{"power_mode": mode, "verification": record.to_json()} for mode, record in records.items()],
    }  # fmt: skip

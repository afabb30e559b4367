"""`verify --power-modes`: one verdict for each power mode of a board, and which mode that keeps the budget needs the least energy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import devices
from lightnas_edge.cli._console import UsageError, print_result, print_table
from lightnas_edge.cli._verdicts import EXIT
from lightnas_edge.records.deployment import VerificationRecord
from lightnas_edge.records.fleet import FleetRecord


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


@dataclass(frozen=True)
class MeasuredMode:
    """One mode: a verification of each unit. `units`: that were asked. `about`: all units of the model, where several were asked."""

    records: tuple[VerificationRecord, ...]
    units: int
    about: FleetRecord | None = None

    @property
    def exit_code(self) -> int:
        return max([int(len(self.records) < self.units), *(EXIT[record.verdict] for record in self.records)])

    @property
    def is_met(self) -> bool:
        """Every unit that was asked keeps every budget."""
        return self.exit_code == 0

    @property
    def slowest_ms(self) -> float:
        """Median of the slowest unit."""
        return max(record.measured.median.latency_ms for record in self.records)

    @property
    def energy_mj(self) -> float | None:
        """Of the unit that needs the most; None where that of a unit is not known."""
        known = [record.energy.gross_mj for record in self.records if record.energy is not None]
        return max(known) if len(known) == len(self.records) else None


def lowest(modes: Mapping[str, MeasuredMode]) -> str | None:
    """The mode that meets every budget with the least energy for an inference; None where no such mode has an energy."""
    known = {mode: each.energy_mj for mode, each in modes.items() if each.is_met and each.energy_mj is not None}
    return min(known, key=lambda mode: known[mode]) if known else None


def chosen_mode(modes: Mapping[str, MeasuredMode]) -> str:
    """The mode with the least energy of those that keep the budget; where there is none, the one with the best verdict."""
    return lowest(modes) or min(modes, key=lambda mode: (modes[mode].exit_code, modes[mode].slowest_ms))


def show_modes(modes: Mapping[str, MeasuredMode]) -> str:
    """A row for each mode, and the result in a sentence."""
    several = any(each.units > 1 for each in modes.values())
    rows = [
        [
            mode, f"{each.slowest_ms:.4g}", "unknown" if each.energy_mj is None else f"{each.energy_mj:.4g}",
            f"{sum(record.verdict == 'met' for record in each.records)} of {each.units} met"
            if several else each.records[0].verdict,
        ]
        for mode, each in modes.items()
    ]  # fmt: skip
    simulated = " SIMULATED" if any(record.simulated for each in modes.values() for record in each.records) else ""
    of = " of the worst unit" if several else ""
    columns = ["power mode", f"median ms{of}{simulated}", f"energy mJ{of}{simulated}", "verdict"]
    print_table(columns, rows)
    line = _sentence(modes, several)
    print_result(line)
    return line


def _sentence(modes: Mapping[str, MeasuredMode], several: bool) -> str:
    met = [mode for mode, each in modes.items() if each.is_met]
    best = lowest(modes)
    on = " on every unit" if several else ""
    if best is not None:
        return f"{best} needs the least energy of the {len(met)} modes that keep the budget{on}"
    return (
        "no energy was measured in the modes that keep the budget: " + ", ".join(met)
        if met
        else f"no mode keeps the budget{on}"
    )


def modes_json(modes: Mapping[str, MeasuredMode]) -> dict[str, Any]:
    """As one document. Of one unit a mode has `verification`; of several `verifications` and `fleet`."""
    return {
        "kind": "power-modes", "lowest_energy": lowest(modes),
        "modes": [{"power_mode": mode, **_mode_json(each)} for mode, each in modes.items()],
    }  # fmt: skip


def _mode_json(mode: MeasuredMode) -> dict[str, Any]:
    if mode.about is None:
        return {"verification": mode.records[0].to_json()}
    return {"fleet": mode.about.to_json(), "verifications": [record.to_json() for record in mode.records]}

"""From what the user typed to the units: `--host orin1,orin2`, or a group of boards.toml."""

from __future__ import annotations

from collections.abc import Sequence

import devices
from devices import Connection
from lightnas_edge.errors import FleetError
from lightnas_edge.records.board import ProbeResult
from lightnas_edge.records.differences import UNIT, fingerprint_differences


def chosen_hosts(text: str) -> list[str]:
    """The hosts of a list with commas, in which a group's name stands for its boards; each once, in that order.

    Raises:
        InventoryError: the text names no board, or boards.toml has errors.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise devices.InventoryError(
            f"--host {text!r} names no board", hint="for example --host localhost, or --host orin1,orin2"
        )
    needs_groups = any(name != "localhost" and not name.startswith("virtual:") for name in names)
    groups = devices.read_groups() if needs_groups else {}
    return list(dict.fromkeys(host for name in names for host in groups.get(name, (name,))))


def units_of(probed: Sequence[tuple[Connection, ProbeResult]], *, sets_state: bool = False) -> dict[str, str | None]:
    """The unit behind each host, where all of them may work on one job.

    Args:
        sets_state: the job sets power mode and clocks, so that those of now do not count.

    Raises:
        FleetError: two hosts are one unit, or they are not of one model and state.
    """
    found: dict[str, str | None] = {}
    first, about = probed[0]
    ignored = ("power_mode", "clocks") if sets_state else ()
    for connection, probe in probed:
        differing = fingerprint_differences(
            {name: value for name, value in about.fingerprint.items() if name not in ignored},
            {name: value for name, value in probe.fingerprint.items() if name not in ignored},
        )
        if about.board.l4t != probe.board.l4t:
            differing.append(f"L4T {about.board.l4t} and {probe.board.l4t}")
        if differing:
            raise FleetError(
                f"{first.name} and {connection.name} are of different models or states: {'; '.join(differing)}",
                hint="boards share a job only with the same model, JetPack, engine, power mode and clocks; measure them apart",
            )
        unit = probe.fingerprint.get(UNIT)
        same = [host for host, other in found.items() if unit is not None and other == unit]
        if same:
            raise FleetError(
                f"{same[0]} and {connection.name} are the same unit, {unit}", hint="name each board once in --host"
            )
        found[connection.name] = unit if isinstance(unit, str) else None
    return found
